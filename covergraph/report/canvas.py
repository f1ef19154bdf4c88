"""A graph on paper, in inches, x to the right and y downwards: in one row, or in columns with frames for modules.

A long graph is cut into columns where few edges run and few modules are open. An edge from one column to the next
runs below its column, up the gutter, and enters the next column from above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from covergraph.report.columns import TALLEST, cut, guess
from covergraph.report.layout import Arrangement, Point
from covergraph.report.modules import Module

HEIGHT, GAP, ASIDE = 0.42, 0.28, 0.2
"""Height of a node, distance between layers, distance between the nodes of a layer."""

TITLE, PAD, LANE = 0.2, 0.08, 0.1
"""Height of a frame's title, distance between a frame and what is in it, distance of lines in a gutter."""

GUTTER = 3
"""Free lanes beside the edges in a gutter."""

CROSSING, DIVIDED = 2.0, 4.0
"""What each further edge, and each open module, counts against a cut into columns."""

Segment = tuple[Point, ...]
"""Two points: a smooth curve. More: a line with corners."""


@dataclass(frozen=True)
class Frame:
    """The frame of a module, or of the part of it that stands in one column."""

    path: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Placement:
    """Where the centers of nodes, the segments of each edge and the frames are; `sideways` if edges run that way."""

    size: tuple[float, float]
    centers: Mapping[str, Point]
    edges: tuple[tuple[Segment, ...], ...]
    frames: tuple[Frame, ...]
    sideways: bool


def strip(plan: Arrangement, width: float) -> Placement:
    """Layers from the left to the right; `width` is that of a node."""
    points = [*plan.positions.values(), *(point for route in plan.routes.values() for point in route)]
    high, low = max(y for _, y in points), min(y for _, y in points)

    def place(point: Point) -> Point:
        return (point[0] + 0.5) * (width + GAP), (high - point[1] + 0.5) * (HEIGHT + ASIDE)

    half = width / 2
    edges = tuple(
        tuple(((a + half, b), (c - half, d)) for (a, b), (c, d) in pairwise(map(place, route)))
        for route in plan.routes.values()
    )
    size = (len(plan.columns) * (width + GAP), (high - low + 1) * (HEIGHT + ASIDE))
    return Placement(size, {name: place(point) for name, point in plan.positions.items()}, edges, (), sideways=True)


def page(plan: Arrangement, modules: Sequence[Module], width: float) -> Placement:
    """Layers from the top down, in as many columns as make a readable page."""
    grid = _Grid(plan, tuple(modules), width, 1)
    if grid.size[1] > TALLEST:
        number = guess(grid.size)
        grid = replace(grid, number=number)
        while grid.size[0] < grid.size[1] and len(grid.columns) >= number:
            number += 1
            grid = replace(grid, number=number)
    centers = {name: grid.place(point) for name, point in plan.positions.items()}
    edges = tuple(tuple(map(grid.segment, pairwise(route))) for route in plan.routes.values())
    return Placement(grid.size, centers, edges, grid.frames, sideways=False)


@dataclass(frozen=True)
class _Part:
    """What stands of a module in one column: first and last layer, left and right end relative to height 0."""

    module: Module
    first: int
    last: int
    left: float
    right: float


@dataclass(frozen=True)
class _Grid:
    plan: Arrangement
    modules: tuple[Module, ...]
    width: float
    number: int

    @cached_property
    def pitch(self) -> float:
        """Distance of the nodes of a layer, with room for frames around both."""
        depth = 1 + max((module.level for module in self.modules), default=-1)
        return self.width + ASIDE + 2 * PAD * depth

    @cached_property
    def links(self) -> tuple[tuple[tuple[Point, Point], ...], ...]:
        """For each layer the pieces of edges that leave it downwards, from the right to the left."""
        found: list[set[tuple[Point, Point]]] = [set() for _ in self.plan.columns]
        for route in self.plan.routes.values():
            for piece in pairwise(route):
                found[int(piece[0][0])].add(piece)
        return tuple(tuple(sorted(pieces, key=lambda p: (p[0][1], p[1][1]))) for pieces in found)

    def starts(self, layer: int) -> list[Point]:
        """Where those pieces begin; edges of one node share a line in a gutter."""
        return list(dict.fromkeys(start for start, _ in self.links[layer]))

    @cached_property
    def columns(self) -> tuple[range, ...]:
        """The layers of each column."""
        layers = range(len(self.plan.columns))
        opened = [_chain([m for m in self.modules if m.layers[0] == layer]) for layer in layers]
        rows = [HEIGHT + GAP + TITLE * number for number in opened]
        spans = [sum(m.layers[0] <= layer < m.layers[1] for m in self.modules) for layer in layers]
        costs = [CROSSING * max(0, len(self.starts(i)) - 1) + DIVIDED * spans[i] for i in layers]
        return cut(rows, costs, self.number)

    @cached_property
    def column_of(self) -> tuple[int, ...]:
        return tuple(i for i, layers in enumerate(self.columns) for _ in layers)

    @cached_property
    def ways(self) -> Mapping[str, list[Point]]:
        """The way points of the edges to each node."""
        found: dict[str, list[Point]] = {}
        for (_, head), route in self.plan.routes.items():
            found.setdefault(head, []).extend(route[1:-1])
        return found

    def across(self, height: float) -> float:
        """Heights of the plan grow to the left."""
        return -height * self.pitch

    @cached_property
    def parts(self) -> tuple[_Part, ...]:
        """Each module in each column, the outer ones first."""
        found = []
        for module in self.modules:
            own = sorted({int(self.plan.positions[name][0]) for name in module.members})
            for layers in self.columns:
                inside = [layer for layer in own if layer in layers]
                found += [self._part(module, inside[0], inside[-1])] if inside else []
        return tuple(found)

    def _part(self, module: Module, first: int, last: int) -> _Part:
        nodes = [(x, self.across(y)) for x, y in (self.plan.positions[name] for name in module.members)]
        ways = [(x, self.across(y)) for head in module.members for x, y in self.ways.get(head, ())]
        ends = [(x, z + side) for x, z in nodes for side in (-self.width / 2, self.width / 2)]
        ends += [(x, z + side) for x, z in ways for side in (-LANE, LANE)]
        inside = [z for x, z in ends if first <= x <= last]
        side = PAD * (module.level + 1)
        return _Part(module, first, last, min(inside) - side, max(inside) + side)

    def span(self, layers: range, parts: Sequence[_Part] = ()) -> tuple[float, float]:
        """The left and the right end of some layers, relative to height 0."""
        nodes = [self.across(y) for x, y in self.plan.positions.values() if x in layers]
        ways = [self.across(y) for x, y in set().union(*self.ways.values()) if x in layers]
        framed = [part for part in parts if part.first in layers]
        left = min([z - self.width / 2 for z in nodes] + [z - LANE for z in ways] + [part.left for part in framed])
        right = max([z + self.width / 2 for z in nodes] + [z + LANE for z in ways] + [part.right for part in framed])
        return left, right

    @cached_property
    def spans(self) -> tuple[tuple[float, float], ...]:
        return tuple(self.span(layers, self.parts) for layers in self.columns)

    @cached_property
    def lanes(self) -> tuple[int, ...]:
        """How many lines run in the gutter after each column."""
        return (*(len(self.starts(layers[-1])) for layers in self.columns[:-1]), 0)

    @cached_property
    def lefts(self) -> tuple[float, ...]:
        """The left end of each column on the page, then the right end of the page."""
        gutters = [(GUTTER + number) * LANE for number in self.lanes[:-1]] + [0.0]
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
            y = (1 + max(self.lanes)) * LANE if len(self.columns) > 1 else 0.0
            for layer in layers:
                y += TITLE * _chain(self.opening(layer))
                found.append(y)
                y += HEIGHT + GAP + PAD * _chain(self.closing(layer))
        return tuple(found)

    def end(self, column: int) -> float:
        """The lower end of a column."""
        last = self.columns[column][-1]
        return self.tops[last] + HEIGHT + PAD * _chain(self.closing(last))

    @cached_property
    def size(self) -> tuple[float, float]:
        return self.lefts[-1], max(self.end(i) + self.lanes[i] * LANE for i in range(len(self.columns))) + 2 * LANE

    def on_page(self, column: int, across: float) -> float:
        return self.lefts[column] + across - self.spans[column][0]

    def place(self, point: Point) -> Point:
        layer = int(point[0])
        return self.on_page(self.column_of[layer], self.across(point[1])), self.tops[layer] + HEIGHT / 2

    def segment(self, piece: tuple[Point, Point]) -> Segment:
        """A link from one layer to the next, from border to border."""
        (a, b), (c, d) = self.place(piece[0]), self.place(piece[1])
        start, end = (a, b + HEIGHT / 2), (c, d - HEIGHT / 2)
        layer = int(piece[0][0])
        column = self.column_of[layer]
        if self.column_of[layer + 1] == column:
            return start, end
        lane = (1 + self.starts(layer).index(piece[0])) * LANE
        low, gutter = self.end(column) + lane, self.on_page(column, self.spans[column][1]) + lane
        return start, (a, low), (gutter, low), (gutter, lane - LANE / 2), (c, lane - LANE / 2), end

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The frames, outer ones first."""
        return tuple(map(self._frame, self.parts))

    def _frame(self, part: _Part) -> Frame:
        module, column = part.module, self.column_of[part.first]
        above = _chain([m for m in self.opening(part.first) if module.holds(m)])
        below = _chain([m for m in self.closing(part.last) if module.holds(m)])
        left, right = self.on_page(column, part.left), self.on_page(column, part.right)
        top, bottom = self.tops[part.first] - TITLE * (1 + above), self.tops[part.last] + HEIGHT + PAD * (1 + below)
        return Frame(module.path, left, top, right, bottom)


def _chain(modules: Sequence[Module]) -> int:
    """How many of these modules lie within each other, at most."""
    return max((1 + sum(other.holds(module) for other in modules) for module in modules), default=0)
