"""Draw a graph: each kind of node has its own shape and color, edges run through their own room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Patch, Polygon
from matplotlib.path import Path

from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.report.layout import Arrangement, Point, arrange, layout
from covergraph.report.styles import MARKED, Style, label_of, length_of, style_of

__all__ = ["draw", "layout", "size_of"]

LIMIT = 60
"""Augmented graphs with more nodes are drawn without Jacobians and pairs."""

CHARACTER, HEIGHT, GAP, MARGIN = 0.075, 0.42, 0.3, 0.25
"""Inches: width of a character, height of a node, distance between nodes, margin."""

LEGEND = (1.75, 0.19)
"""Inches: width and height of an entry of the legend."""

PAGE = 6.9
"""Drawings whose layers would be wider than this (in inches) run from the top down."""


def draw(graph: ComputationGraph, ax: Axes | None = None, limit: int = LIMIT) -> Figure:
    """Draw a graph with a legend; without `ax` on a new figure of fitting size.

    An augmented graph of more than `limit` nodes is drawn as its base graph, with S marked and |P| in the title.
    """
    if ax is None:
        ax = Figure(figsize=size_of(graph, limit)).add_axes((0, 0, 1, 1))
    _draw(ax, graph, limit)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def size_of(graph: ComputationGraph, limit: int = LIMIT) -> tuple[float, float]:
    """Width and height of the drawing in inches."""
    return _Canvas.of(graph, limit).size


def _draw(ax: Axes, graph: ComputationGraph, limit: int) -> None:
    """Draw a graph into given axes, whose unit becomes the inch."""
    canvas = _Canvas.of(graph, limit)
    width, height = canvas.size
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_axis_off()
    for route in canvas.routes:
        ax.add_patch(_arrow(route, canvas))
    for node in canvas.shown.nodes:
        center = canvas.centers[node.name]
        ax.add_patch(_shape(style_of(node), center, canvas.width, node.name in canvas.marked))
        ax.text(*center, canvas.labels[node.name], ha="center", va="center", size=8, zorder=4)
    handles = [_sample(style) for style in _used(canvas.shown)]
    if canvas.marked:
        handles.append(Patch(facecolor="white", edgecolor=MARKED, linewidth=2, label="norm under an indicator"))
    columns = canvas.legend_columns
    ax.legend(handles=handles, loc="lower center", ncols=columns, fontsize=7.5, frameon=False, borderaxespad=0.4)
    ax.text(width / 2, height - 0.12, canvas.title, ha="center", va="top", size=8.5, style="italic")


def _used(graph: ComputationGraph) -> list[Style]:
    return list(dict.fromkeys(style_of(node) for node in graph.nodes))


@dataclass(frozen=True)
class _Canvas:
    """A graph placed on paper, all lengths in inches; `width` is that of a node."""

    shown: ComputationGraph
    marked: frozenset[str]
    title: str
    labels: Mapping[str, str]
    width: float
    size: tuple[float, float]
    legend_columns: int
    centers: Mapping[str, Point]
    routes: tuple[tuple[Point, ...], ...]
    sideways: bool

    @staticmethod
    def of(graph: ComputationGraph, limit: int) -> _Canvas:
        shown, marked, title = _shown(graph, limit)
        labels = {node.name: label_of(node, shown) for node in shown.nodes}
        width = CHARACTER * max(length_of(line) for text in labels.values() for line in text.split("\n")) + 0.16
        plan = arrange(shown)
        sideways = len(plan.columns) * (width + GAP) <= PAGE or isinstance(shown, AugmentedGraph)
        pitch = (width + GAP, HEIGHT + 0.2) if sideways else (HEIGHT + GAP, width + 0.2)
        top, inner = _extent(plan, pitch, sideways)
        columns = max(1, min(3, int((max(inner[0], 3.4) + 0.2) // LEGEND[0])))
        lines = -(-(len(_used(shown)) + bool(marked)) // columns)
        above = 0.43 if title else 0.08
        size = (max(inner[0], LEGEND[0] * columns) + 2 * MARGIN, above + inner[1] + LEGEND[1] * lines + 0.27)

        def place(point: Point) -> Point:
            along, across = (point[0] + 0.5) * pitch[0], (top - point[1] + 0.5) * pitch[1]
            left, down = (along, across) if sideways else (across, along)
            return left + (size[0] - inner[0]) / 2, size[1] - above - down

        centers = {name: place(point) for name, point in plan.positions.items()}
        routes = tuple(tuple(map(place, route)) for route in plan.routes.values())
        return _Canvas(shown, marked, title, labels, width, size, columns, centers, routes, sideways)


def _extent(plan: Arrangement, pitch: Point, sideways: bool) -> tuple[float, tuple[float, float]]:
    """The largest height of the plan, and how wide and high it is in inches."""
    heights = [y for route in plan.routes.values() for _, y in route] + [y for _, y in plan.positions.values()]
    along, across = len(plan.columns) * pitch[0], (max(heights) - min(heights) + 1) * pitch[1]
    return max(heights), (along, across) if sideways else (across, along)


def _shown(graph: ComputationGraph, limit: int) -> tuple[ComputationGraph, frozenset[str], str]:
    """What is drawn, which nodes are marked, and the title."""
    if not isinstance(graph, AugmentedGraph):
        return graph, frozenset(), ""
    pairs = int(graph.pairs.sum())
    if len(graph.base) + 2 * pairs <= limit and len(graph) <= limit:
        return graph, frozenset(), ""
    title = (
        f"{graph.mode} mode: indicators on {_count(len(graph.hidden), 'norm')} and {_count(pairs, 'pair')} (not drawn)"
    )
    return graph.base, frozenset(graph.hidden), title


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shape(style: Style, center: Point, width: float, marked: bool) -> Patch:
    x, y = center
    w, h = width / 2, HEIGHT / 2
    patch: Patch
    match style.shape:
        case "ellipse":
            patch = Ellipse((x, y), width, HEIGHT)
        case "hexagon":
            sides = [(x - w, y), (x - w + 0.12, y + h), (x + w - 0.12, y + h), (x + w, y)]
            patch = Polygon([*sides, (x + w - 0.12, y - h), (x - w + 0.12, y - h)])
        case _:
            form = "round,pad=0,rounding_size=0.09" if style.shape == "round" else "square,pad=0"
            patch = FancyBboxPatch((x - w, y - h), width, HEIGHT, boxstyle=form)
    patch.set(
        facecolor=style.face, edgecolor=MARKED if marked else style.edge, linewidth=2 if marked else 0.8, zorder=3
    )
    return patch


def _sample(style: Style) -> Patch:
    return Patch(facecolor=style.face, edgecolor=style.edge, linewidth=0.8, label=style.legend)


def _arrow(route: tuple[Point, ...], canvas: _Canvas) -> FancyArrowPatch:
    """A smooth arrow from border to border through the route's points."""
    axis, half = (0, canvas.width / 2) if canvas.sideways else (1, -HEIGHT / 2)
    points = [[*point] for point in route for _ in range(2)][1:-1]
    for i, point in enumerate(points):  # leave a node and enter a way point's room, then the reverse
        point[axis] += half if i % 2 == 0 else -half
    path, codes = [tuple(points[0])], [Path.MOVETO]
    for i, (start, end) in enumerate(pairwise(points)):
        if i % 2:
            path, codes = [*path, tuple(end)], [*codes, Path.LINETO]
            continue
        middle = (start[axis] + end[axis]) / 2
        near, far = list(start), list(end)
        near[axis] = far[axis] = middle
        path += [tuple(near), tuple(far), tuple(end)]
        codes += [Path.CURVE4] * 3
    return FancyArrowPatch(
        path=Path(path, codes), arrowstyle="-|>", mutation_scale=8, linewidth=0.8, color="#777777", zorder=2
    )
