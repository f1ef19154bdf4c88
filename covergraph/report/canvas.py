"""A graph on paper, in inches, x to the right and y downwards: in one row, or in columns with frames for modules.

An edge from one column to another runs below its tail to the gutter, then up or down, over or under the columns
between, to the gutter before its head and above it to the head. No line crosses the title of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from covergraph.report.columns import TALLEST, guess
from covergraph.report.grid import ARROW, ASIDE, GAP, HEIGHT, LANE, PAD, TITLE, Grid, Part, chain
from covergraph.report.layout import Arrangement, Edge, Point
from covergraph.report.modules import Module
from covergraph.report.routing import Jump, Trunk, ports

Segment = tuple[Point, ...]
"""Two points: a smooth curve. More: a line with corners."""


@dataclass(frozen=True)
class Frame:
    """The frame of a module, or of the part of it in one column.

    `rooms` are left ends and widths of the places for its title: no line comes down there.
    """

    path: str
    left: float
    top: float
    right: float
    bottom: float
    rooms: tuple[Point, ...]


@dataclass(frozen=True)
class Placement:
    """Where the centers of nodes, the segments of each edge and the frames are; `sideways` if edges run that way."""

    size: tuple[float, float]
    centers: Mapping[str, Point]
    edges: Mapping[Edge, tuple[Segment, ...]]
    frames: tuple[Frame, ...]
    sideways: bool


def strip(plan: Arrangement, width: float, spread: bool = False) -> Placement:
    """Layers from the left to the right; `width` is that of a node. Lines end at places of their own if `spread`."""
    points = [*plan.positions.values(), *(point for route in plan.routes.values() for point in route)]
    high, low = max(y for _, y in points), min(y for _, y in points)

    def place(point: Point) -> Point:
        return (point[0] + 0.5) * (width + GAP), (high - point[1] + 0.5) * (HEIGHT + ASIDE)

    half = width / 2
    leaving, arriving = ports(plan, {}, HEIGHT if spread else 0.0)
    edges = {}
    for edge, route in plan.routes.items():
        (x, y), *middle, (z, t) = map(place, route)
        stops = [(x, y + leaving[edge]), *middle, (z, t + arriving[edge])]
        edges[edge] = tuple(((a + half, b), (c - half, d)) for (a, b), (c, d) in pairwise(stops))
    size = (len(plan.columns) * (width + GAP), (high - low + 1) * (HEIGHT + ASIDE))
    return Placement(size, {name: place(point) for name, point in plan.positions.items()}, edges, (), sideways=True)


def divided(plan: Arrangement, modules: Sequence[Module], width: float) -> tuple[range, ...]:
    """The layers of as many columns as make a readable page."""
    grid = Grid(plan, tuple(modules), width, 1)
    if grid.size[1] > TALLEST:
        number = guess(grid.size)
        grid = replace(grid, number=number)
        while grid.size[0] < grid.size[1] and len(grid.columns) >= number:
            number += 1
            grid = replace(grid, number=number)
    return grid.columns


def page(plan: Arrangement, modules: Sequence[Module], width: float, columns: tuple[range, ...] = ()) -> Placement:
    """Layers from the top down, in these columns, or in as many as make a readable page."""
    columns = columns or divided(plan, modules, width)
    grid = Grid(plan, tuple(modules), width, len(columns), columns)
    lines = _Lines(grid)
    edges = {edge: lines.segments(edge) for edge in plan.routes}
    return Placement(grid.size, lines.centers, edges, tuple(map(lines.frame, grid.parts)), sideways=False)


@dataclass(frozen=True)
class _Lines:
    """Edges and frames on a grid."""

    grid: Grid

    @cached_property
    def centers(self) -> dict[str, Point]:
        grid = self.grid
        return {
            name: (self._across(int(layer), grid.across(height)), grid.tops[int(layer)] + HEIGHT / 2)
            for name, (layer, height) in grid.plan.positions.items()
        }

    def _across(self, layer: int, across: float) -> float:
        return self.grid.on_page(self.grid.column_of[layer], across)

    def _stops(self, edge: Edge) -> list[tuple[int, float]]:
        """The layers that an edge within a column passes, and where it does."""
        grid = self.grid
        middle = [(x, grid.across(y)) for x, y in grid.plan.routes[edge][1:-1]]
        (first, _), (last, _) = grid.plan.routes[edge][0], grid.plan.routes[edge][-1]
        stops = [(first, grid.leaves(edge)), *middle, (last, grid.arrives(edge))]
        return [(int(layer), self._across(int(layer), across)) for layer, across in stops]

    def segments(self, edge: Edge) -> tuple[Segment, ...]:
        """The line of an edge from border to border."""
        jump = self.grid.jumps.get(edge)
        if jump is not None:
            return (self._jump(edge, jump),)
        return tuple(piece for one, other in pairwise(self._stops(edge)) for piece in self._link(one, other))

    def _link(self, one: tuple[int, float], other: tuple[int, float]) -> tuple[Segment, ...]:
        """From one layer to the next: aside only between the frames, straight past their titles."""
        grid, (layer, x), (after, z) = self.grid, one, other
        start, end = (x, grid.tops[layer] + HEIGHT), (z, grid.tops[after])
        if abs(x - z) < 1e-6:
            return ((start, end),)
        bend, bent = (x, grid.above(after) - GAP), (z, grid.above(after) - ARROW)
        return (start, bend), (bend, bent), (bent, end)

    def _jump(self, edge: Edge, jump: Jump) -> Segment:
        grid, (layer, after) = self.grid, jump.layers
        x, z = self._across(layer, grid.leaves(edge)), self._across(after, grid.arrives(edge))
        low, high = self._exit(jump), self._entry(edge, jump)
        first, last = self._lane(jump.gutters[0], jump.trunk), self._lane(jump.gutters[-1], jump.trunk)
        points = [(x, grid.tops[layer] + HEIGHT), (x, low), (first, low)]
        if jump.highway:
            lane = grid.highway(jump.highway).index(jump.trunk)
            y = LANE * (lane + 0.5) if jump.highway == "above" else grid.end + LANE * (lane + 1)
            points += [(first, y), (last, y)]
        return (*points, (last, high), (z, high), (z, grid.tops[after]))

    def _exit(self, jump: Jump) -> float:
        layer = jump.layers[0]
        return self.grid.below(layer) + LANE * (self.grid.exits[layer].index(jump.trunk) + 0.8)

    def _entry(self, edge: Edge, jump: Jump) -> float:
        layer = jump.layers[1]
        return self.grid.above(layer) + LANE * (self.grid.entries[layer].index(edge) + 0.3)

    def _lane(self, gutter: int, trunk: Trunk) -> float:
        """Where a line runs up or down in the gutter after a column."""
        right = self.grid.on_page(gutter, self.grid.spans[gutter][1])
        return right + LANE * (1.5 + self._gutters[gutter].index(trunk))

    @cached_property
    def _gutters(self) -> Mapping[int, list[Trunk]]:
        """The lines in each gutter from the left to the right."""
        found: dict[int, dict[Trunk, tuple[float, ...]]] = {}
        for edge, jump in self.grid.jumps.items():
            for gutter in jump.gutters:
                key = self._order(gutter, edge, jump)
                lines = found.setdefault(gutter, {})
                lines[jump.trunk] = min(key, lines.get(jump.trunk, key))
        return {gutter: sorted(lines, key=lambda line: lines[line]) for gutter, lines in found.items()}

    def _order(self, gutter: int, edge: Edge, jump: Jump) -> tuple[float, ...]:
        """Lines that rise before those that fall; those that turn off first are further on the side they turn to."""
        outside = -1.0 if jump.highway == "above" else self.grid.end + 1.0
        start = self._exit(jump) if gutter == jump.columns[0] else outside
        end = self._entry(edge, jump) if gutter == jump.columns[1] - 1 else outside
        return (0, start, end) if end < start else (1, -start, -end)

    def frame(self, part: Part) -> Frame:
        """The frame around a part of a module."""
        grid, module, layer = self.grid, part.module, part.first
        above = chain([m for m in grid.opening(layer) if module.holds(m)])
        below = chain([m for m in grid.closing(part.last) if module.holds(m)])
        left, right = self._across(layer, part.left), self._across(layer, part.right)
        top = grid.tops[layer] - TITLE * (1 + above)
        bottom = grid.tops[part.last] + HEIGHT + PAD * (1 + below)
        return Frame(module.path, left, top, right, bottom, self._rooms(layer, left + PAD, right - PAD))

    def _rooms(self, layer: int, left: float, right: float) -> tuple[Point, ...]:
        """The places between the lines that come down to a layer."""
        inside = sorted(x for x in self._arrivals.get(layer, ()) if left < x < right)
        return tuple((a + PAD / 2, b - a - PAD) for a, b in pairwise([left - PAD / 2, *inside, right + PAD / 2]))

    @cached_property
    def _arrivals(self) -> Mapping[int, set[float]]:
        """Where lines come down to each layer."""
        found: dict[int, set[float]] = {}
        for edge in self.grid.plan.routes:
            jump = self.grid.jumps.get(edge)
            end = [(jump.layers[1], self._across(jump.layers[1], self.grid.arrives(edge)))] if jump else []
            for layer, x in end or self._stops(edge)[1:]:
                found.setdefault(layer, set()).add(x)
        return found
