"""Draw a graph: each kind of node has its own shape and color, modules are framed, edges run through their own room."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Patch, Polygon
from matplotlib.path import Path

from covergraph.errors import GraphError
from covergraph.graph.augmented import AugmentedGraph, is_augmented
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.report.canvas import Frame, Placement, Segment, divided, page, strip
from covergraph.report.grid import GAP, HEIGHT, TITLE
from covergraph.report.layout import Arrangement, Point, arrange, layout
from covergraph.report.lettering import LETTERS, SMALL, fitting, text_width
from covergraph.report.modules import Module, framed
from covergraph.report.styles import MARKED, OUTPUT, SINK, Style, label_of, style_of

__all__ = ["draw", "layout", "size_of"]

LIMIT = 60
"""Augmented graphs with more nodes are drawn without Jacobians and pairs."""

LARGE, LARGEST, WIDEST = 150, 1500, 90
"""Graphs with more nodes are drawn with the advice to coarsen them; with still more, or on wider paper, not at all."""

ADVICE = "coarsen(graph, blocks=...) makes one node of each module"

MARGIN, LEGEND = 0.25, (2.0, 0.19)
"""Inches: margin, width and height of an entry of the legend."""

PAGE = 6.9
"""Drawings whose layers would be wider than this (in inches) run from the top down."""

CORNER = 0.09
"""Radius in inches of the corners of edges."""


def draw(graph: ComputationGraph | AugmentedGraph, ax: Axes | None = None, limit: int = LIMIT) -> Figure:
    """Draw a graph with a legend; without `ax` on a new figure of fitting size.

    A module whose nodes stand together has a frame with its path; long graphs run in several columns. An augmented
    graph of more than `limit` nodes is drawn as its base graph, with S marked and |P| in the title.
    Raises `GraphError` above 1500 nodes or 90 inches: `coarsen` first.
    """
    canvas = _Canvas.of(graph, limit)
    if ax is None:
        ax = Figure(figsize=canvas.size).add_axes((0, 0, 1, 1))
    _draw(ax, canvas)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def size_of(graph: ComputationGraph | AugmentedGraph, limit: int = LIMIT) -> tuple[float, float]:
    """Width and height of the drawing in inches."""
    return _Canvas.of(graph, limit).size


@dataclass(frozen=True)
class _Canvas:
    """A graph placed on paper, all lengths in inches; `width` is that of a node, `corner` the drawing's upper left."""

    shown: ComputationGraph
    marked: frozenset[str]
    title: str
    labels: Mapping[str, str]
    width: float
    placement: Placement
    size: tuple[float, float]
    corner: Point
    legend_columns: int

    @staticmethod
    def of(graph: ComputationGraph | AugmentedGraph, limit: int) -> _Canvas:
        shown, marked, title = _shown(graph, limit)
        labels, width, placement = _placed(shown)
        inner = placement.size
        if max(inner) > WIDEST and not is_augmented(shown):
            raise GraphError(f"draw: {inner[0]:.0f} by {inner[1]:.0f} inches, expected at most {WIDEST}; {ADVICE}")
        columns = max(1, min(6, int((max(inner[0], 3.4) + 0.4) // LEGEND[0])))
        lines = -(-(len(_used(shown)) + bool(marked) + _has_output(shown)) // columns)
        above = 0.43 if title else 0.12
        across = max(inner[0], LEGEND[0] * columns, text_width(title, LETTERS)) + 2 * MARGIN
        size = (across, above + inner[1] + LEGEND[1] * lines + 0.3)
        return _Canvas(
            shown, marked, title, labels, width, placement, size, ((across - inner[0]) / 2, size[1] - above), columns
        )

    def point(self, place: Point) -> Point:
        """From the placement, whose y runs downwards, to the axes."""
        return self.corner[0] + place[0], self.corner[1] - place[1]


def _shown(graph: ComputationGraph | AugmentedGraph, limit: int) -> tuple[ComputationGraph, frozenset[str], str]:
    """What is drawn, which nodes are marked, and the title."""
    base = graph.base if isinstance(graph, AugmentedGraph) else graph
    if len(base) > LARGEST:
        raise GraphError(f"draw: the graph has {len(base)} nodes, expected at most {LARGEST}; {ADVICE}")
    hint = f"{len(base)} nodes; {ADVICE}" if len(base) > LARGE else ""
    if not isinstance(graph, AugmentedGraph):
        return graph, frozenset(), hint
    pairs = int(graph.pairs.sum())
    if len(base) + 2 * pairs <= limit and len(graph.graph) <= limit:
        return graph.graph, frozenset(), ""
    counts = [_count(len(graph.hidden), "norm"), _count(pairs, "pair")]
    if graph.conditions:
        counts = [f"{counts[0]}, {counts[1]}", _count(len(graph.conditions), "condition")]
    title = f"{graph.mode} mode: indicators on {' and '.join(counts)} (not drawn)"
    return base, frozenset(graph.hidden), f"{title}; {hint}" if hint else title


def _placed(shown: ComputationGraph) -> tuple[Mapping[str, str], float, Placement]:
    """Labels, the width that they need, and the places; where a page breaks, long edges do not need the layout."""
    plan = arrange(shown)
    modules, labels, width = _written(shown, plan)
    if is_augmented(shown) or (not modules and len(plan.columns) * (width + GAP) <= PAGE):
        return labels, width, strip(plan, width, spread=not is_augmented(shown))
    columns = divided(plan, modules, width)
    plan = arrange(shown, [layers[0] for layers in columns[1:]])
    modules, labels, width = _written(shown, plan)
    return labels, width, page(plan, modules, width, columns)


def _written(shown: ComputationGraph, plan: Arrangement) -> tuple[tuple[Module, ...], dict[str, str], float]:
    """The modules with frames, what is written on the nodes, and how wide that is."""
    modules = () if is_augmented(shown) else framed(shown, plan)
    labels = {node.name: label_of(node, shown, _around(node.name, modules)) for node in shown.nodes}
    lines = [line for text in labels.values() for line in text.split("\n")]
    return modules, labels, max(text_width(line, LETTERS) for line in lines) + 0.2


def _has_output(graph: ComputationGraph) -> bool:
    """True if the output is marked: what the sink is needs no mark."""
    return style_of(graph[graph.output]) is not SINK


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _around(name: str, modules: tuple[Module, ...]) -> str:
    """The path of the innermost frame around a node; modules come from the outermost on."""
    return next((module.path for module in reversed(modules) if name in module.members), "")


def _used(graph: ComputationGraph) -> list[Style]:
    return list(dict.fromkeys(style_of(node) for node in graph.nodes))


def _draw(ax: Axes, canvas: _Canvas) -> None:
    """Draw into given axes, whose unit becomes the inch."""
    width, height = canvas.size
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_axis_off()
    for frame in canvas.placement.frames:
        _frame(ax, frame, canvas)
    for edge in canvas.placement.edges.values():
        ax.add_artist(_arrow(edge, canvas))
    for node in canvas.shown.nodes:
        center = canvas.point(canvas.placement.centers[node.name])
        patches = _shapes(style_of(node), center, canvas.width, node.name in canvas.marked)
        for patch in patches:
            ax.add_artist(patch)
        if node.name == canvas.shown.output and _has_output(canvas.shown):
            ax.add_artist(_rim(patches[0]))
        ax.text(*center, canvas.labels[node.name], ha="center", va="center", size=LETTERS, zorder=4)
    handles = [_sample(style) for style in _used(canvas.shown)]
    if canvas.marked:
        handles.append(Patch(facecolor="white", edgecolor=MARKED, linewidth=2, label="norm under an indicator"))
    if _has_output(canvas.shown):
        handles.append(Patch(facecolor="white", edgecolor=OUTPUT, linewidth=2, label="output"))
    columns = canvas.legend_columns
    ax.legend(handles=handles, loc="lower center", ncols=columns, fontsize=SMALL, frameon=False, borderaxespad=0.4)
    ax.text(width / 2, height - 0.12, canvas.title, ha="center", va="top", size=LETTERS, style="italic")


def _frame(ax: Axes, frame: Frame, canvas: _Canvas) -> None:
    """A shaded rectangle with the module's path beside the lines, the path cut from the left where it is long."""
    left, bottom = canvas.point((frame.left, frame.bottom))
    right, top = canvas.point((frame.right, frame.top))
    form = "round,pad=0,rounding_size=0.06"
    box = FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle=form, linewidth=0.6, zorder=1)
    box.set(facecolor=(0.25, 0.35, 0.55, 0.06), edgecolor="#a9b4c4")
    ax.add_artist(box)
    wanted = text_width(frame.path, SMALL)
    start, room = next((room for room in frame.rooms if room[1] >= wanted), max(frame.rooms, key=_wide))
    place = (canvas.point((start, 0.0))[0], top - TITLE / 2)
    ax.text(*place, fitting(frame.path, room), ha="left", va="center", size=SMALL, color="#41506b", zorder=2.5)


def _wide(room: Point) -> float:
    """Rooms that differ by less than a letter are as wide as each other."""
    return round(room[1], 1)


def _shapes(style: Style, center: Point, width: float, marked: bool) -> list[Patch]:
    """A node's outline; a stack has a second one behind it."""
    x, y = center
    w, h = width / 2, HEIGHT / 2
    patches: list[Patch]
    match style.shape:
        case "ellipse":
            patches = [Ellipse((x, y), width, HEIGHT)]
        case "hexagon":
            sides = [(x - w, y), (x - w + 0.12, y + h), (x + w - 0.12, y + h), (x + w, y)]
            patches = [Polygon([*sides, (x + w - 0.12, y - h), (x - w + 0.12, y - h)])]
        case shape:
            form = "square,pad=0" if shape in ("box", "broken") else "round,pad=0,rounding_size=0.09"
            steps = (0.04, 0.0) if shape == "stack" else (0.0,)
            patches = [FancyBboxPatch((x - w + d, y - h - d), width, HEIGHT, boxstyle=form) for d in steps]
    for patch in patches:
        patch.set(facecolor=style.face, edgecolor=style.edge, linewidth=0.8, zorder=3)
    if style.shape == "broken":
        patches[-1].set(linestyle="--", linewidth=1.2)
    if marked:
        patches[-1].set(edgecolor=MARKED, linewidth=2)
    return patches


def _rim(patch: Patch) -> Patch:
    """The thick border of the output, behind the node, whose own border may be marked."""
    rim = copy(patch)
    rim.set(linewidth=4, linestyle="-", edgecolor=OUTPUT, zorder=2.9)
    return rim


def _sample(style: Style) -> Patch:
    patch = Patch(facecolor=style.face, edgecolor=style.edge, linewidth=0.8, label=style.legend)
    if style.shape == "broken":
        patch.set(linestyle="--", linewidth=1.2)
    elif style.shape == "stack":
        patch.set(linewidth=1.6)
    return patch


def _arrow(edge: tuple[Segment, ...], canvas: _Canvas) -> FancyArrowPatch:
    """An arrow along the segments, straight where it passes a layer."""
    path, codes = [canvas.point(edge[0][0])], [int(Path.MOVETO)]
    for segment in edge:
        points = [canvas.point(point) for point in segment]
        if points[0] != path[-1]:
            path, codes = [*path, points[0]], [*codes, int(Path.LINETO)]
        more, kinds = _curve(points[0], points[1], canvas) if len(points) == 2 else _corners(points)
        path, codes = [*path, *more], [*codes, *kinds]
    return FancyArrowPatch(
        path=Path(path, codes), arrowstyle="-|>", mutation_scale=8, linewidth=0.8, color="#777777", zorder=2
    )


def _curve(start: Point, end: Point, canvas: _Canvas) -> tuple[list[Point], list[int]]:
    """A smooth curve that leaves and arrives in the direction of the drawing."""
    if canvas.placement.sideways:
        middle = (start[0] + end[0]) / 2
        return [(middle, start[1]), (middle, end[1]), end], [int(Path.CURVE4)] * 3
    middle = (start[1] + end[1]) / 2
    return [(start[0], middle), (end[0], middle), end], [int(Path.CURVE4)] * 3


def _corners(points: list[Point]) -> tuple[list[Point], list[int]]:
    """A line through points with rounded corners."""
    path: list[Point] = []
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path += [_towards(corner, before), corner, _towards(corner, after)]
    codes = [int(Path.LINETO), int(Path.CURVE3), int(Path.CURVE3)] * (len(points) - 2)
    return [*path, points[-1]], [*codes, int(Path.LINETO)]


def _towards(corner: Point, other: Point) -> Point:
    """The point at the corner's radius on the way to another point, at most half of the way."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = abs(dx) + abs(dy)
    part = min(CORNER / length, 0.5) if length else 0.0
    return corner[0] + part * dx, corner[1] + part * dy
