"""Rows and columns of a page, in inches: how much room nodes, frames and the lines between columns take.

A long graph is cut into columns where few edges run and few modules are open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from covergraph.report.columns import cut
from covergraph.report.layout import Arrangement, Edge, Point
from covergraph.report.modules import Module
from covergraph.report.routing import Jump, Trunk, jumps_of, ports

HEIGHT, GAP, ASIDE = 0.42, 0.28, 0.2
"""Height of a node, distance between layers, distance between the nodes of a layer."""

TITLE, PAD, LANE = 0.2, 0.08, 0.1
"""Height of a frame's title, distance between a frame and what is in it, distance of parallel lines."""

GUTTER, ARROW = 3, 0.06
"""Free lanes beside the edges in a gutter; room for an arrow's tip below the lines that enter a row."""

CROSSING, DIVIDED = 2.0, 4.0
"""What each further edge, and each open module, counts against a cut into columns."""


@dataclass(frozen=True)
class Part:
    """What stands of a module in one column: first and last layer, left and right end relative to height 0."""

    module: Module
    first: int
    last: int
    left: float
    right: float


@dataclass(frozen=True)
class Grid:
    """A plan on a page of about `number` columns, or of these; `width` is that of a node."""

    plan: Arrangement
    modules: tuple[Module, ...]
    width: float
    number: int
    chosen: tuple[range, ...] = ()

    @cached_property
    def pitch(self) -> float:
        """Distance of the nodes of a layer, with room for frames around both."""
        depth = 1 + max((module.level for module in self.modules), default=-1)
        return self.width + ASIDE + 2 * PAD * depth

    @cached_property
    def _crossing(self) -> Counter[int]:
        """How many lines leave each layer downwards."""
        starts = {start for route in self.plan.routes.values() for start in route[:-1]}
        return Counter(int(layer) for layer, _ in starts)

    @cached_property
    def columns(self) -> tuple[range, ...]:
        """The layers of each column."""
        if self.chosen:
            return self.chosen
        layers = range(len(self.plan.columns))
        opened = [chain([m for m in self.modules if m.layers[0] == layer]) for layer in layers]
        rows = [HEIGHT + GAP + TITLE * number for number in opened]
        spans = [sum(m.layers[0] <= layer < m.layers[1] for m in self.modules) for layer in layers]
        costs = [CROSSING * max(0, self._crossing[i] - 1) + DIVIDED * spans[i] for i in layers]
        return cut(rows, costs, self.number)

    @cached_property
    def column_of(self) -> tuple[int, ...]:
        return tuple(i for i, layers in enumerate(self.columns) for _ in layers)

    @cached_property
    def jumps(self) -> dict[Edge, Jump]:
        return jumps_of(self.plan, self.columns)

    @cached_property
    def ports(self) -> tuple[dict[Edge, float], dict[Edge, float]]:
        """How far from the middle of its ends each edge leaves and arrives."""
        return ports(self.plan, self.jumps, self.width)

    @cached_property
    def ways(self) -> Mapping[str, list[Point]]:
        """The way points of the edges to each node."""
        found: dict[str, list[Point]] = {}
        for (tail, head), route in self.plan.routes.items():
            found.setdefault(head, []).extend(() if (tail, head) in self.jumps else route[1:-1])
        return found

    def across(self, height: float) -> float:
        """Heights of the plan grow to the left."""
        return -height * self.pitch

    def leaves(self, edge: Edge) -> float:
        """Where an edge leaves its tail, relative to height 0."""
        return self.across(self.plan.positions[edge[0]][1]) + self.ports[0][edge]

    def arrives(self, edge: Edge) -> float:
        """Where an edge arrives at its head, relative to height 0."""
        return self.across(self.plan.positions[edge[1]][1]) + self.ports[1][edge]

    @cached_property
    def exits(self) -> Mapping[int, list[Trunk]]:
        """The lines that leave each layer for the gutter, from the top down; those from the right end on."""
        found: dict[int, dict[Trunk, float]] = {}
        for edge, jump in self.jumps.items():
            found.setdefault(jump.layers[0], {})[jump.trunk] = self.leaves(edge)
        return {layer: sorted(lines, key=lambda line: -lines[line]) for layer, lines in found.items()}

    @cached_property
    def entries(self) -> Mapping[int, list[Edge]]:
        """The lines that enter each layer from the gutter, from the top down; those to the right end come first."""
        found: dict[int, list[Edge]] = {}
        for edge, jump in self.jumps.items():
            found.setdefault(jump.layers[1], []).append(edge)
        return {layer: sorted(edges, key=lambda edge: -self.arrives(edge)) for layer, edges in found.items()}

    def highway(self, side: str) -> list[Trunk]:
        """The lines over or under the columns, the outermost first."""
        jumps = sorted((jump for jump in self.jumps.values() if jump.highway == side), key=lambda jump: jump.layers)
        return list(dict.fromkeys(jump.trunk for jump in jumps))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Each module in each column, the outer ones first."""
        found = []
        for module in self.modules:
            own = sorted({int(self.plan.positions[name][0]) for name in module.members})
            for layers in self.columns:
                inside = [layer for layer in own if layer in layers]
                found += [self._part(module, inside[0], inside[-1])] if inside else []
        return tuple(found)

    def _part(self, module: Module, first: int, last: int) -> Part:
        nodes = [(x, self.across(y)) for x, y in (self.plan.positions[name] for name in module.members)]
        ways = [(x, self.across(y)) for head in module.members for x, y in self.ways.get(head, ())]
        ends = [(x, z + side) for x, z in nodes for side in (-self.width / 2, self.width / 2)]
        ends += [(x, z + side) for x, z in ways for side in (-LANE, LANE)]
        inside = [z for x, z in ends if first <= x <= last]
        side = PAD * (module.level + 1)
        return Part(module, first, last, min(inside) - side, max(inside) + side)

    def _span(self, layers: range) -> tuple[float, float]:
        """The left and the right end of some layers, relative to height 0."""
        nodes = [self.across(y) for x, y in self.plan.positions.values() if x in layers]
        ways = [self.across(y) for x, y in set().union(*self.ways.values()) if x in layers]
        framed = [part for part in self.parts if part.first in layers]
        left = min([z - self.width / 2 for z in nodes] + [z - LANE for z in ways] + [part.left for part in framed])
        right = max([z + self.width / 2 for z in nodes] + [z + LANE for z in ways] + [part.right for part in framed])
        return left, right

    @cached_property
    def spans(self) -> tuple[tuple[float, float], ...]:
        return tuple(map(self._span, self.columns))

    def lanes(self, gutter: int) -> int:
        """How many lines run in the gutter after a column."""
        return len({jump.trunk for jump in self.jumps.values() if gutter in jump.gutters})

    @cached_property
    def lefts(self) -> tuple[float, ...]:
        """The left end of each column on the page, then the right end of the page."""
        gutters = [(GUTTER + self.lanes(i)) * LANE for i in range(len(self.columns) - 1)] + [0.0]
        widths = (right - left + gutter for (left, right), gutter in zip(self.spans, gutters, strict=True))
        return tuple(accumulate(widths, initial=0.0))

    def opening(self, layer: int) -> list[Module]:
        return [part.module for part in self.parts if part.first == layer]

    def closing(self, layer: int) -> list[Module]:
        return [part.module for part in self.parts if part.last == layer]

    @cached_property
    def tops(self) -> tuple[float, ...]:
        """The upper end of each layer's nodes."""
        found: list[float] = []
        for layers in self.columns:
            y = LANE * len(self.highway("above"))
            for layer in layers:
                y += self._entrance(layer) + TITLE * chain(self.opening(layer))
                found.append(y)
                y += HEIGHT + PAD * chain(self.closing(layer)) + LANE * len(self.exits.get(layer, ())) + GAP
        return tuple(found)

    def _entrance(self, layer: int) -> float:
        """The room above the titles of a layer for the lines that enter it."""
        number = len(self.entries.get(layer, ()))
        return LANE * number + ARROW if number else 0.0

    def above(self, layer: int) -> float:
        """The upper end of the room for the lines that enter a layer; what leaves the layer before ends there."""
        return self.tops[layer] - TITLE * chain(self.opening(layer)) - self._entrance(layer)

    def below(self, layer: int) -> float:
        """The lower end of a layer with its frames."""
        return self.tops[layer] + HEIGHT + PAD * chain(self.closing(layer))

    @cached_property
    def end(self) -> float:
        """The lower end of the longest column with the lines that leave it."""
        last = [layers[-1] for layers in self.columns]
        return max(self.below(layer) + LANE * len(self.exits.get(layer, ())) for layer in last)

    @cached_property
    def size(self) -> tuple[float, float]:
        return self.lefts[-1], self.end + LANE * (2 + len(self.highway("below")))

    def on_page(self, column: int, across: float) -> float:
        return self.lefts[column] + across - self.spans[column][0]


def chain(modules: Sequence[Module]) -> int:
    """How many of these modules lie within each other, at most."""
    return max((1 + sum(other.holds(module) for other in modules) for module in modules), default=0)
