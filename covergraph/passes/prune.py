"""Remove what does not reach the output, and put the inputs first."""

from __future__ import annotations

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.operations import Input


def prune(graph: ComputationGraph) -> ComputationGraph:
    """The graph of the output's ancestors, inputs first, else in the given order.

    Inputs that the output does not use stay: `run` takes one tensor per input.
    """
    output = graph.index[graph.output]
    kept = [
        node
        for i, node in enumerate(graph.nodes)
        if i == output or graph.reach[output, i] or isinstance(node.operation, Input)
    ]
    ordered = sorted(kept, key=lambda node: not isinstance(node.operation, Input))
    return ComputationGraph(ordered, graph.output, graph.fingerprint)
