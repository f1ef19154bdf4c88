"""Blocks of a coarsened graph become the nodes that they were made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Composite
from covergraph.passes.rewriting import fresh


def open_composites(graph: ComputationGraph, keep: Callable[[Node], bool]) -> ComputationGraph:
    """Composite nodes, and those within them, become their inner nodes, under the names that these have inside.

    Chains without parameters stay if `keep` says so, and what depends on the data alone stays.
    """
    taken = {*graph.by_name}
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += [node] if node.name in graph.data_only else _opened(node, keep, taken)
    return graph.replaced(nodes)


def _opened(node: Node, keep: Callable[[Node], bool], taken: set[str]) -> list[Node]:
    """The inner nodes of a composite node, opened in their turn; the last one takes its name."""
    operation = node.operation
    if not isinstance(operation, Composite) or keep(node):
        return [node]
    names = dict(zip(operation.inputs, node.inputs, strict=True))
    found: list[Node] = []
    for inner in operation.nodes:
        read = replace(inner, inputs=tuple(names.get(u, u) for u in inner.inputs))
        name = node.name if inner.name == operation.output else _name(inner.name, node.name, taken)
        names[inner.name] = name
        taken.add(name)
        found += _opened(read if name == read.name else replace(read, name=name), keep, taken)
    return found


def _name(inner: str, outer: str, taken: set[str]) -> str:
    """The inner name; behind the outer one if another node is called so."""
    return inner if inner not in taken else fresh(f"{outer}.{inner}", taken)
