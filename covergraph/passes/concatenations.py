"""Joined parts: of one node they are an index map; a join of joins is one join."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Concatenate
from covergraph.graph.rearrange import Join, Steps
from covergraph.passes.rearrangements import rearranged, steps_of
from covergraph.passes.rewriting import renamed, rewired, uses
from covergraph.passes.simplification import simplify


def join_concatenations(graph: ComputationGraph) -> ComputationGraph:
    """A concatenation of rearrangements of one node (torch.roll, un-stacking) becomes one rearrangement of it.

    It vanishes where it puts all parts back. A concatenation in a slot of another along the same axis, used there
    only, gives its slots to it.
    """
    count = uses(graph)
    made: dict[str, Node] = {}
    names: dict[str, str] = {}
    for given in graph.nodes:
        node = rewired(given, names)
        if isinstance(node.operation, Concatenate):
            axis = node.operation.axis
            node = _flat(node, axis, made, count)
            source, steps = _of_one(graph, node, axis, made)
            if source and not steps:
                names[node.name] = source
                continue
            node = rearranged(node, source, steps) if source else node
        made[node.name] = node
    return renamed(graph, made.values(), names)


def _flat(node: Node, axis: int, made: Mapping[str, Node], count: Counter[str]) -> Node:
    """The concatenation with the slots of its own concatenations."""
    inputs: list[str] = []
    for u in node.inputs:
        inner = made[u]
        inputs += inner.inputs if inner.operation == Concatenate(axis) and count[u] == 1 else (u,)
    return node if len(inputs) == len(node.inputs) else replace(node, inputs=tuple(inputs))


def _of_one(graph: ComputationGraph, node: Node, axis: int, made: Mapping[str, Node]) -> tuple[str, Steps]:
    """The node that all slots rearrange, and the steps to the concatenation; the name is empty if there is none."""
    sources = [_source(made[u]) for u in node.inputs]
    if len({source for source, _ in sources}) > 1:
        return "", ()
    source, branches = sources[0][0], tuple(steps for _, steps in sources)
    return source, simplify((Join(axis, branches),), graph[source].shape)


def _source(node: Node) -> tuple[str, Steps]:
    """What a node rearranges and how; itself, if it is no rearrangement."""
    steps = steps_of(node)
    return (node.name, ()) if steps is None else (node.inputs[0], steps)
