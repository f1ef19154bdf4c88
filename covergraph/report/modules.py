"""Which modules a drawing frames: those whose nodes fill a rectangle of the layout with nothing else in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import networkx as nx

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.operations import Input
from covergraph.report.layout import Arrangement

LEVELS = 3
"""Frames within frames; more would hide the nodes."""

REACH, THIN = 0.95, 0.37
"""Heights of a layout that are nearer than this belong to nodes that overlap; how much nearer lines may be to nodes."""


@dataclass(frozen=True)
class Module:
    """The nodes of one call of a module, as a rectangle of layers and heights of the layout.

    `level` is 0 for a frame without frames in it; `path` is the module path.
    """

    path: str
    members: frozenset[str]
    layers: tuple[int, int]
    heights: tuple[float, float]
    level: int = 0

    def holds(self, other: Module) -> bool:
        """True if the other's nodes are some of these."""
        return other.members < self.members

    def meets(self, other: Module) -> bool:
        """True if the rectangles overlap."""
        apart = self.layers[1] < other.layers[0] or other.layers[1] < self.layers[0]
        return not apart and self.covers(other.heights)

    def covers(self, heights: tuple[float, float]) -> bool:
        """True if a rectangle with these heights, in the same layers, would overlap."""
        return self.heights[0] - REACH < heights[1] and heights[0] < self.heights[1] + REACH


def framed(graph: ComputationGraph, plan: Arrangement) -> tuple[Module, ...]:
    """The modules that are framed, the outer before the inner ones.

    A module that fills no rectangle has a frame around what depends on its first node, if that fills one.
    """
    chosen: list[Module] = []
    for module in sorted(_calls(graph, plan), key=lambda m: len(m.members)):
        for part in (module, _main(module, graph, plan)):
            inner = [other.level for other in chosen if part.holds(other)]
            crossed = any(not part.holds(other) and part.meets(other) for other in chosen)
            level = 1 + max(inner, default=-1)
            if len(part.members) > 1 and level < LEVELS and not crossed and not _foreign(part, plan):
                chosen.append(replace(part, level=level))
                break
    return tuple(sorted(chosen, key=lambda m: -len(m.members)))


def _main(module: Module, graph: ComputationGraph, plan: Arrangement) -> Module:
    """The nodes that depend on the module's first node; what it does with a second input, as a mask, stands aside."""
    own = graph.digraph.subgraph(module.members)
    first = next(node.name for node in graph.nodes if node.name in module.members)
    return _module(module.path, frozenset({first, *nx.descendants(own, first)}), plan)


def _calls(graph: ComputationGraph, plan: Arrangement) -> Iterator[Module]:
    """Connected sets of two nodes or more below one path; of paths with the same nodes the longest."""
    below: dict[str, list[str]] = {}
    for node in graph.nodes:
        parts = node.origin.split(".") if node.origin and not isinstance(node.operation, Input) else []
        for i in range(len(parts)):
            below.setdefault(".".join(parts[: i + 1]), []).append(node.name)
    found: dict[frozenset[str], str] = {}
    for path in sorted(below, key=len):
        for part in nx.weakly_connected_components(graph.digraph.subgraph(below[path])):
            if len(part) > 1:
                found[frozenset(part)] = path
    return (_module(path, members, plan) for members, path in found.items())


def _module(path: str, members: frozenset[str], plan: Arrangement) -> Module:
    """The rectangle of the nodes and of the edges that end in them."""
    places = [plan.positions[name] for name in members]
    first, last = min(x for x, _ in places), max(x for x, _ in places)
    ways = [p for (_, head), route in plan.routes.items() if head in members for p in route[1:-1] if p[0] >= first]
    low = min([y for _, y in places] + [y + THIN for _, y in ways])
    high = max([y for _, y in places] + [y - THIN for _, y in ways])
    return Module(path, members, (int(first), int(last)), (low, high))


def _foreign(module: Module, plan: Arrangement) -> bool:
    first, last = module.layers
    return any(
        first <= x <= last and module.covers((y, y)) and name not in module.members
        for name, (x, y) in plan.positions.items()
    )
