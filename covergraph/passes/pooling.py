"""Max-pooling before ReLU: the order in which fewer entries are computed."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import UNARY
from covergraph.graph.node import Node
from covergraph.graph.operations import Elementwise, MaxPool, Operation
from covergraph.passes.rewriting import resolved, rewired, uses


def pool_before_relu(graph: ComputationGraph) -> ComputationGraph:
    """maxpool(relu(x)) becomes relu(maxpool(x)), which is equal as ReLU does not decrease.

    Nothing else may read relu(x). Both nodes keep their names; who read the pool reads the ReLU.
    """
    count = uses(graph)
    names: dict[str, str] = {}
    made: dict[str, Node] = {}
    for given in graph.nodes:
        node = rewired(given, names)
        before = made[node.inputs[0]] if node.inputs else node
        if covers(node.operation) and _is_relu(before) and count[before.name] == 1:
            made[node.name] = replace(node, inputs=before.inputs)
            del made[before.name]
            node = replace(before, inputs=(node.name,), shape=node.shape)
            names[given.name] = before.name
            count[before.name] = count[given.name]
        made[node.name] = node
    return graph.replaced(made.values(), resolved(graph.output, names))


def covers(operation: Operation) -> bool:
    """True for a max-pool each of whose windows holds an entry: with dilation, all of a window may be padding."""
    return isinstance(operation, MaxPool) and (not any(operation.padding) or set(operation.dilation) == {1})


def _is_relu(node: Node) -> bool:
    return isinstance(node.operation, Elementwise) and node.operation.function == UNARY["relu"]
