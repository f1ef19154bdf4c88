"""One node for nodes that compute the same."""

from __future__ import annotations

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Input
from covergraph.passes.rewriting import renamed, rewired


def merge_duplicates(graph: ComputationGraph) -> ComputationGraph:
    """Nodes that differ in name and origin only become the first of them; inputs stay."""
    first: dict[object, Node] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for given in graph.nodes:
        node = rewired(given, names)
        same = node if isinstance(node.operation, Input) else first.setdefault(_content(node), node)
        if same is node:
            nodes.append(node)
        else:
            names[node.name] = same.name
    return renamed(graph, nodes, names) if names else graph


def _content(node: Node) -> object:
    return node.operation, node.inputs, node.shape, node.parameters, node.constants, node.kind
