"""Remove what does not reach the output, and put the inputs first."""

from __future__ import annotations

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.operations import Input


def prune(graph: ComputationGraph) -> ComputationGraph:
    """The inputs, then the output's other ancestors in the given order, in linear time.

    Inputs that the output does not use stay: `run` takes one tensor per input.
    """
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = [node for node in graph.nodes if node.name in needed or isinstance(node.operation, Input)]
    return graph.replaced(sorted(kept, key=lambda node: not isinstance(node.operation, Input)))
