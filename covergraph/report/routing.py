"""Edges between the columns of a page, and the places on a node's border where its lines leave and arrive."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from covergraph.report.layout import Arrangement, Edge, Point

Trunk = tuple[str, str]
"""What lines share: the tail, and the head of an edge to the very next layer, which has a line of its own."""

FAR = 1e6
"""More than any layer or height: the side of lines to and from a gutter."""

SPREAD = 0.8
"""The part of a node's border where lines may leave and arrive."""


@dataclass(frozen=True)
class Jump:
    """An edge to another column: down into the gutter after its column, then over or under the columns between.

    `layers` and `columns` are those of tail and head; `highway` is "above", "below" or, for neighbors, "".
    """

    trunk: Trunk
    layers: tuple[int, int]
    columns: tuple[int, int]
    highway: str

    @property
    def gutters(self) -> tuple[int, ...]:
        """The gutters in which it runs up or down."""
        first, last = self.columns
        return (first,) if last == first + 1 else (first, last - 1)


def jumps_of(plan: Arrangement, columns: Sequence[range]) -> dict[Edge, Jump]:
    """The edges between different columns of layers."""
    column_of = [i for i, layers in enumerate(columns) for _ in layers]
    found = {}
    for (u, v), route in plan.routes.items():
        first, last = int(route[0][0]), int(route[-1][0])
        ends = column_of[first], column_of[last]
        if ends[0] != ends[1]:
            trunk = (u, v if last == first + 1 else "")
            found[u, v] = Jump(trunk, (first, last), ends, _highway((first, last), ends, columns))
    return found


def _highway(layers: tuple[int, int], ends: tuple[int, int], columns: Sequence[range]) -> str:
    """Over the columns between, or under them where that is nearer."""
    if ends[1] == ends[0] + 1:
        return ""
    depth = sum(layer - columns[column].start for layer, column in zip(layers, ends, strict=True))
    return "below" if depth > max(map(len, columns)) else "above"


def ports(plan: Arrangement, jumps: Mapping[Edge, Jump], width: float) -> tuple[dict[Edge, float], dict[Edge, float]]:
    """How far from the middle of its tail each edge leaves, and from the middle of its head it arrives."""
    leaving: dict[str, dict[Hashable, float]] = {}
    arriving: dict[str, dict[Hashable, float]] = {}
    lines: dict[Edge, tuple[Hashable, Hashable]] = {}
    direct = {jump.trunk[1] for jump in jumps.values()}  # what comes from the layer before rises right of all others
    for (u, v), route in plan.routes.items():
        jump = jumps.get((u, v))
        after, before = (jump.trunk, jump.trunk) if jump else (route[1], route[-2])
        lines[u, v] = after, before
        leaving.setdefault(u, {})[after] = _side(route[0], route[1], jump, FAR)
        arriving.setdefault(v, {})[before] = _side(route[-1], route[-2], jump, FAR if v in direct else -FAR)
    outs = {name: _offsets(sides, width) for name, sides in leaving.items()}
    ins = {name: _offsets(sides, width) for name, sides in arriving.items()}
    return {e: outs[e[0]][line[0]] for e, line in lines.items()}, {e: ins[e[1]][line[1]] for e, line in lines.items()}


def _side(node: Point, other: Point, jump: Jump | None, far: float) -> float:
    """How far to the right the line goes, or comes from; 0 for the straight one. Heights grow to the left.

    Of lines from a gutter those from earlier layers arrive further to the right, where they cross no other.
    """
    if jump is None:
        return round(node[1] - other[1], 6)
    return 0.0 if jump.trunk[1] else far - jump.layers[0]


def _offsets(sides: Mapping[Hashable, float], width: float) -> dict[Hashable, float]:
    """The straight line in the middle, the others on their sides; all spread evenly if there is no straight one."""
    half = SPREAD * width / 2
    order = sorted(sides, key=lambda line: sides[line])
    straight = [line for line in order if sides[line] == 0]
    if not straight:
        return {line: half * (2 * (i + 1) / (len(order) + 1) - 1) for i, line in enumerate(order)}
    middle = order.index(straight[0])
    left, right = middle + 1, len(order) - middle
    return {line: half * (i - middle) / (left if i < middle else right) for i, line in enumerate(order)}
