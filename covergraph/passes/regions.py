"""Regions of a graph that become one node: their connected parts, the values that leave them, their cones.

A region with one value that leaves it, in a graph where every node reaches the output, is convex: a path that left
it and came back would leave at that value and end there again. So one question decides whether it can be one node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Composite, Constant, Parameter


@dataclass(frozen=True)
class Region:
    """Nodes in topological order that become one; the last one's value is the only one used elsewhere."""

    members: tuple[Node, ...]
    name: str
    origin: str


def users_of(graph: ComputationGraph) -> Mapping[str, tuple[str, ...]]:
    """The nodes that read each node."""
    users: dict[str, list[str]] = {name: [] for name in graph.by_name}
    for node in graph.nodes:
        for u in node.predecessors:
            users[u].append(node.name)
    return {name: tuple(readers) for name, readers in users.items()}


def contract(graph: ComputationGraph, regions: Iterable[Region]) -> ComputationGraph:
    """The graph with each region of two nodes or more as one `Composite`, called like the node that leaves it.

    So every node of the result has the value that the node of this name has in `graph`.
    """
    regions = [region for region in regions if len(region.members) > 1]
    made = {region.members[-1].name: _composite(graph, region) for region in regions}
    inside = {node.name for region in regions for node in region.members[:-1]}
    return graph.replaced(made.get(node.name, node) for node in graph.nodes if node.name not in inside)


def _composite(graph: ComputationGraph, region: Region) -> Node:
    members, last = region.members, region.members[-1]
    names = {node.name for node in members}
    inputs = tuple(dict.fromkeys(u for node in members for u in node.inputs if u not in names))
    parameters = tuple((f"{node.name}.{role}", name) for node in members for role, name in node.parameters)
    constants = tuple((f"{node.name}.{role}", name) for node in members for role, name in node.constants)
    shapes = tuple(graph[u].shape for u in inputs)
    operation = Composite(region.name, members, inputs, last.name, shapes)
    return Node(last.name, operation, inputs, last.shape, parameters, region.origin, constants, last.kind)


def components(graph: ComputationGraph, names: Collection[str]) -> list[tuple[Node, ...]]:
    """The connected parts of a set of nodes, in topological order: the calls of a module.

    Parameters and constants used as values connect nothing, since several calls share them; each belongs to the
    part that alone uses it, or to none.
    """
    users, chosen = users_of(graph), set(names)
    sources = {name for name in names if isinstance(graph[name].operation, Parameter | Constant)}
    parts = [set(part) for part in nx.weakly_connected_components(graph.digraph.subgraph(chosen - sources))]
    for part in parts:
        part |= {source for source in sources if part.issuperset(users[source])}
    ordered = [tuple(sorted((graph[name] for name in part), key=lambda node: graph.index[node.name])) for part in parts]
    return sorted(ordered, key=lambda part: graph.index[part[0].name])


def leaving(graph: ComputationGraph, members: Sequence[Node]) -> list[str]:
    """The values of a region that are used outside it, or are the output."""
    users, names = users_of(graph), {node.name for node in members}
    return [name for name in (n.name for n in members) if name == graph.output or not names.issuperset(users[name])]


def cones(graph: ComputationGraph, members: Sequence[Node]) -> list[tuple[Node, ...]]:
    """The fewest parts of a region with one value that leaves each: a node joins the part that alone reads it."""
    users, ends = users_of(graph), set(leaving(graph, members))
    end_of: dict[str, str] = {}
    for node in reversed(members):
        found = {end_of.get(user, "") for user in users[node.name]}
        end_of[node.name] = node.name if node.name in ends or len(found) != 1 else found.pop()
    parts: dict[str, list[Node]] = {}
    for node in members:
        parts.setdefault(end_of[node.name], []).append(node)
    return [tuple(part) for part in parts.values()]
