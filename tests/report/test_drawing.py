"""Layouts are layered, ordered and deterministic; drawings show every node once, or say what they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest
from certificates import branching, figure_2
from handmade import linear_node, unary, weights
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as DrawnPath
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from strategies import examples

import covergraph.report
from covergraph.bound.certificate import Certificate
from covergraph.errors import GraphError
from covergraph.graph import operations as op
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import NEGATE, TANH
from covergraph.graph.node import Node
from covergraph.passes.augment import augment
from covergraph.passes.coarsen import coarsen
from covergraph.report import styles
from covergraph.report.canvas import Segment, page
from covergraph.report.columns import cut
from covergraph.report.drawing import draw, layout, size_of
from covergraph.report.grid import HEIGHT
from covergraph.report.layout import NODE_GAP, arrange, crossings, spaced
from covergraph.report.lettering import fitting, text_width
from covergraph.report.modules import framed
from covergraph.report.styles import FIXED, STYLES, label_of, shortened, style_of

GOLDEN = Path(__file__).parent / "golden" / "figure2.txt"


def golden_lines(*starts: str) -> list[str]:
    lines = [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return [line for line in lines if line.startswith(starts) == bool(starts)] if starts else lines


@pytest.fixture(scope="module")
def augmented() -> AugmentedGraph:
    return augment(figure_2(), mode="paper")


@st.composite
def dags(drawer: st.DrawFn) -> ComputationGraph:
    """Any graph of sums and activations whose later nodes read earlier ones."""
    nodes = [Node("n0", op.Input(), (), (2,))]
    for i in range(1, drawer(st.integers(2, 12))):
        sources = drawer(st.lists(st.integers(0, i - 1), min_size=1, max_size=3))
        operation = op.Add() if len(sources) > 1 else op.Elementwise(TANH)
        nodes.append(Node(f"n{i}", operation, tuple(f"n{j}" for j in sources), (2,)))
    return ComputationGraph(nodes, nodes[-1].name)


def test_text_of_figure_2_is_the_golden_text(augmented: AugmentedGraph) -> None:
    text = [line for line in golden_lines() if not line.startswith(("layer ", "height "))]
    assert augmented.text().splitlines() == text


def test_layout_of_figure_2_is_the_golden_layout(augmented: AugmentedGraph) -> None:
    plan = arrange(augmented.graph)
    shown = [[key for key in column if isinstance(key, str)] for column in plan.columns]
    assert [f"layer {i}: {' '.join(column)}" for i, column in enumerate(shown)] == golden_lines("layer ")
    heights = {name: y for name, (_, y) in layout(augmented.graph).items()}
    for line in golden_lines("height "):
        start, names = line.split(": ")
        assert {heights[name] for name in names.split()} == {float(start.split()[1])}, line


def test_figure_2_has_no_crossing(augmented: AugmentedGraph) -> None:
    pieces = [piece for route in arrange(augmented.graph).routes.values() for piece in pairwise(route)]
    assert len(pieces) == 22  # the 19 edges of the golden text, 3 of which pass one layer
    for (start, end), (other_start, other_end) in combinations(pieces, 2):
        if start[0] == other_start[0]:
            assert (start[1] - other_start[1]) * (end[1] - other_end[1]) >= 0


def test_crossings_of_known_orders() -> None:
    columns = (("a", "b", "c"), ("x", "y"))
    assert crossings(columns, [[("a", "x"), ("b", "y")]]) == 0
    assert crossings(columns, [[("a", "y"), ("b", "x")]]) == 1
    assert crossings(columns, [[("a", "y"), ("b", "y"), ("c", "x")]]) == 2


def test_spaced_keeps_what_fits_and_pools_what_does_not() -> None:
    assert spaced([3.0, 1.0], [1.0, 1.0], [1.0]) == [3.0, 1.0]
    assert spaced([0.0, 0.0], [1.0, 1.0], [1.0]) == [0.5, -0.5]
    assert spaced([0.0, 0.0], [3.0, 1.0], [1.0]) == [0.25, -0.75]


@given(dags())
@examples(40)
def test_layout_is_layered_and_spaced(graph: ComputationGraph) -> None:
    places = layout(graph)
    assert layout(graph) == places
    assert list(places) == [node.name for node in graph.nodes]
    for node in graph.nodes:
        assert places[node.name][0] == 1 + max((places[u][0] for u in node.inputs), default=-1)
    for name, (x, y) in places.items():
        others = [b for other, (a, b) in places.items() if other != name and a == x]
        assert all(abs(y - b) >= NODE_GAP - 0.011 for b in others)


def test_a_skip_connection_leaves_the_network_straight() -> None:
    chain = [Node("x", op.Input(), (), (2,))]
    chain += [Node(f"t{i}", op.Elementwise(TANH), (chain[-1].name if i == 0 else f"t{i - 1}",), (2,)) for i in range(5)]
    graph = ComputationGraph([*chain, Node("sum", op.Add(), ("t4", "x"), (2,))], "sum")
    plan = arrange(graph)
    assert {y for _, y in plan.positions.values()} == {0.0}
    assert len(plan.routes["x", "sum"]) == 7
    assert all(abs(y) >= 0.5 for _, y in plan.routes["x", "sum"][1:-1])


def test_every_node_and_edge_of_a_small_graph_is_drawn(augmented: AugmentedGraph) -> None:
    (ax,) = draw(augmented).axes
    texts = [text.get_text() for text in ax.texts]
    assert {label_of(node, augmented.graph) for node in augmented.graph.nodes} <= set(texts)
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == sum(len(node.predecessors) for node in augmented.graph.nodes)
    legend = ax.get_legend()
    assert legend is not None
    entries = {text.get_text() for text in legend.get_texts()}
    assert {"edge Jacobian J", "total derivative D", "soft indicator", "loss", "sink: augmented loss"} <= entries


def test_labels_use_the_paper_s_letters(augmented: AugmentedGraph) -> None:
    labels = {node.name: label_of(node, augmented.graph) for node in augmented.graph.nodes}
    assert labels["V1"] == "V1\n$h_{1}$: linear 2"
    assert labels["J[V2,V1]"] == "$J_{2,1}$"
    assert labels["D[V2,x]"] == r"$D_{2 \leftarrow 0}$"
    assert labels["1[V2]"] == r"$\mathbf{1}(\|h_{2}\|)$"


def test_a_large_augmented_graph_shows_its_base_marks_S_and_counts_the_pairs(dag: Certificate) -> None:
    graph = dag.bound.augmented
    (ax,) = draw(graph, limit=10).axes
    texts = [text.get_text() for text in ax.texts]
    assert not any("D_{" in text for text in texts)
    assert (len(graph.hidden), int(graph.pairs.sum())) == (1, 7)
    assert any("indicators on 1 norm and 7 pairs (not drawn)" in text for text in texts)
    legend = ax.get_legend()
    assert legend is not None
    assert "norm under an indicator" in [text.get_text() for text in legend.get_texts()]


def test_draw_uses_given_axes_and_leaves_others_alone() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert draw(figure_2(), left) is figure
    assert left.texts and not right.texts


def test_boxes_stay_inside_the_picture() -> None:
    nodes = branching()
    graph = ComputationGraph(nodes, nodes[-1].name)
    width, height = size_of(graph)
    (ax,) = draw(graph).axes
    assert ax.get_xlim() == (0, width) and ax.get_ylim() == (0, height)
    for patch in ax.patches:
        box = patch.get_path().transformed(patch.get_patch_transform()).get_extents()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height


def test_styles_tell_kinds_apart() -> None:
    looks = [(style.shape, style.face) for _, style in STYLES]
    assert len(set(looks)) == len(looks)
    assert style_of(Node("n", op.Elementwise(NEGATE), ("x",), (2,))) is FIXED


def test_no_part_of_the_report_touches_the_global_state_of_matplotlib() -> None:
    for path in Path(covergraph.report.__path__[0]).glob("*.py"):
        assert "pyplot" not in path.read_text(), path.name


def chain(length: int) -> ComputationGraph:
    nodes = [Node("x", op.Input(), (), (2,))]
    nodes += [unary(f"t{i}", TANH, nodes[-1].name if i == 0 else f"t{i - 1}", (2,)) for i in range(length)]
    return ComputationGraph(nodes, nodes[-1].name)


def residual_stages(stages: int = 3) -> ComputationGraph:
    """Stages of two residual blocks each, as in a ResNet; the first block's skip is a layer of its own."""
    nodes, shape = [Node("x", op.Input(), (), (8, 4, 4))], (8, 4, 4)
    convolution = op.Convolution((1, 1), (1, 1), (1, 1), 1, (3, 3), bias=False)
    for path in (f"layer{i}.{j}" for i in range(1, stages + 1) for j in range(2)):
        source = last = nodes[-1].name
        for k in (1, 2):
            for name, operation, roles in (
                (f"conv{k}", convolution, ("weight",)),
                (f"bn{k}", op.Affine(True, True), ("scale", "shift")),
                (f"relu{k}", op.Elementwise(TANH), ()),
            ):
                full = f"{path}.{name}"
                nodes.append(Node(full, operation, (last,), shape, weights(*roles, of=full), full))
                last = full
        if path.endswith("0"):
            full, source = f"{path}.downsample.0", f"{path}.downsample.1"
            nodes.append(Node(full, convolution, (nodes[-7].name,), shape, weights("weight", of=full), full))
            nodes.append(Node(source, op.Affine(True, False), (full,), shape, weights("scale", of=source), source))
        nodes.append(Node(f"{path}.add", op.Add(), (last, source), shape, origin=path))
    nodes.append(Node("flat", op.Reshape(), (nodes[-1].name,), (128,)))
    nodes.append(linear_node("fc", "flat", (10,)))
    return ComputationGraph(nodes, "fc")


def encoder_block() -> ComputationGraph:
    """A transformer encoder block with an additive mask and a torch operation that has no rule."""
    attention, norm = "self_attn", "norm1.normalize"
    slots = tuple(f"self_attn.split_{name}" for name in "qkv")
    nodes = [
        Node("tokens", op.Input(), (), (16,), kind="integer"),
        Node("embed", op.Embedding(), ("tokens",), (16, 64), weights("weight", of="embed"), "embed"),
        Node("positions", op.Affine(False, True), ("embed",), (16, 64), weights("shift", of="positions")),
        *(linear_node(f"self_attn.{name}", "positions", (16, 64)) for name in "qkv"),
        *(Node(slot, op.Rearrange(()), (f"self_attn.{slot[-1]}",), (4, 16, 16)) for slot in slots),
        Node("mask", op.Constant(), (), (16, 16)),
        Node("self_attn.attention", op.Attention(0.25), (*slots, "mask"), (4, 16, 16)),
        Node("self_attn.merge", op.Rearrange(()), ("self_attn.attention",), (16, 64)),
        linear_node("self_attn.out_proj", "self_attn.merge", (16, 64)),
        Node("add", op.Add(), ("self_attn.out_proj", "positions"), (16, 64)),
        Node(norm, op.Normalize(64, 1e-5), ("add",), (16, 64), origin="norm1"),
        Node("norm1.scale", op.Affine(True, True), (norm,), (16, 64), weights("scale", of="norm1"), "norm1"),
        Node("fft", op.Call("aten._fft_r2c.default", (), (), ()), ("norm1.scale",), (16, 64)),
        Node("out", op.Add(), ("fft", "norm1.scale"), (16, 64)),
    ]
    placed = [
        Node(n.name, n.operation, n.inputs, n.shape, n.parameters, attention, kind=n.kind)
        if n.name.startswith(attention) else n
        for n in nodes
    ]
    return ComputationGraph(placed, "out")


def extents(ax: Axes, texts: list[Text]) -> list[Bbox]:
    """What texts cover, in inches."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer).transformed(ax.transData.inverted()) for text in texts]


def boxes_of(graph: ComputationGraph) -> tuple[Axes, dict[str, Bbox]]:
    """The axes of a drawing, and the box around each node's label."""
    (ax,) = draw(graph).axes
    centers = [text for text in ax.texts if text.get_zorder() == 4]
    assert len(centers) == len(graph)
    nodes = [p for p in ax.patches if p.get_zorder() == 3]
    outlines = [p.get_path().transformed(p.get_patch_transform()).get_extents() for p in nodes]
    found = {}
    for node, text in zip(graph.nodes, centers, strict=True):
        x, y = text.get_position()
        (found[node.name],) = (b for b in outlines if np.allclose([b.x0 + b.x1, b.y0 + b.y1], [2 * x, 2 * y]))
    return ax, found


def lines(ax: Axes) -> list[DrawnPath]:
    """The paths of the edges as they are drawn, without what the tip of the arrow covers."""
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    return [arrow._path_original for arrow in arrows]  # type: ignore[attr-defined]


def unet(levels: int = 3) -> ComputationGraph:
    """Downwards by pools, upwards again, each level with a skip connection that is concatenated."""
    nodes = [Node("x", op.Input(), (), (2, 8, 8))]

    def follow(name: str, *others: str, operation: op.Operation) -> None:
        inputs = (*others, nodes[-1].name)
        nodes.append(Node(name, operation, inputs, (2, 8, 8), origin=name.split(".")[0]))

    for i in range(levels):
        for j in range(2):
            follow(f"down{i}.{j}", operation=op.Elementwise(TANH))
        follow(f"pool{i}", operation=op.Elementwise(TANH))
    for i in reversed(range(levels)):
        follow(f"grow{i}", operation=op.Elementwise(TANH))
        follow(f"cat{i}", f"down{i}.1", operation=op.Add())
        for j in range(2):
            follow(f"up{i}.{j}", operation=op.Elementwise(TANH))
    return ComputationGraph(nodes, nodes[-1].name)


PICTURES = {
    "unet": unet,
    "residual": residual_stages,
    "encoder": encoder_block,
    "coarse": lambda: coarsen(residual_stages(), "layer*.*"),
    "chain": lambda: chain(60),
    "branching": lambda: ComputationGraph(branching(), branching()[-1].name),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_overlaps_and_every_label_fits_its_node(name: str) -> None:
    graph = PICTURES[name]()
    ax, boxes = boxes_of(graph)
    for one, other in combinations(boxes.values(), 2):
        assert one.x1 < other.x0 or other.x1 < one.x0 or one.y1 < other.y0 or other.y1 < one.y0
    labels = extents(ax, [text for text in ax.texts if text.get_zorder() == 4])
    for label, box in zip(labels, boxes.values(), strict=True):
        assert box.x0 < label.x0 and label.x1 < box.x1 and box.y0 < label.y0 and label.y1 < box.y1
    titles = [text for text in ax.texts if text.get_zorder() == 2.5]
    for title, text in zip(extents(ax, titles), titles, strict=True):
        for node, box in boxes.items():
            apart = title.x1 < box.x0 or box.x1 < title.x0 or title.y1 < box.y0 or box.y1 < title.y0
            assert apart, (text.get_text(), node)


@pytest.mark.parametrize("name", PICTURES)
def test_all_is_on_the_page_and_every_edge_ends_at_its_nodes(name: str) -> None:
    graph = PICTURES[name]()
    ax, boxes = boxes_of(graph)
    width, height = size_of(graph)
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    edges = [(u, node.name) for node in graph.nodes for u in node.predecessors]
    assert len(arrows) == len(edges)
    for patch in ax.patches:
        box = patch.get_path().transformed(patch.get_patch_transform()).get_extents()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
    ends = np.array([line.vertices[[0, -1]] for line in lines(ax)])
    tails, heads = ([boxes[edge[i]] for edge in edges] for i in (0, 1))
    middles = np.array([[(a.y0 + a.y1) / 2, (b.y0 + b.y1) / 2] for a, b in zip(tails, heads, strict=True)])
    sides = np.array([[a.x1, b.x0] for a, b in zip(tails, heads, strict=True)])
    borders = np.array([[a.y0, b.y1] for a, b in zip(tails, heads, strict=True)])
    inside = [a.x0 < x < a.x1 and b.x0 < z < b.x1 for (x, z), a, b in zip(ends[..., 0], tails, heads, strict=True)]
    sideways = np.allclose(ends[..., 0], sides) and np.allclose(ends[..., 1], middles)
    assert sideways or (np.allclose(ends[..., 1], borders) and all(inside))


@pytest.mark.parametrize("name", PICTURES)
def test_no_edge_crosses_the_title_of_a_frame(name: str) -> None:
    (ax,) = draw(PICTURES[name]()).axes
    titles = [text for text in ax.texts if text.get_zorder() == 2.5]
    assert len(titles) > 1 or name in ("chain", "branching")
    paths = [line.to_polygons(closed_only=False)[0] for line in lines(ax)]
    points = np.concatenate([np.linspace(a, b, 40) for path in paths for a, b in pairwise(path)])
    for title, text in zip(extents(ax, titles), titles, strict=True):
        crossed = (points > [title.x0, title.y0]) & (points < [title.x1, title.y1])
        assert not crossed.all(axis=1).any(), text.get_text()


Piece = tuple[int, float, float, float]


def straight_pieces(line: Sequence[Segment]) -> list[Piece]:
    """The parts along an axis: the axis, the other coordinate, and from where to where."""
    found = []
    for a, b in (piece for segment in line for piece in pairwise(segment)):
        for axis in (0, 1):
            if abs(a[1 - axis] - b[1 - axis]) < 1e-9 < abs(a[axis] - b[axis]):
                found.append((axis, a[1 - axis], min(a[axis], b[axis]), max(a[axis], b[axis])))
    return found


def shared_length(one: Sequence[Segment], other: Sequence[Segment]) -> float:
    """How far two lines run on each other, or nearer than 0.05 inches."""
    pairs = product(straight_pieces(one), straight_pieces(other))
    return sum(
        max(0.0, min(end, stop) - max(begin, start))
        for (axis, across, begin, end), (direction, along, start, stop) in pairs
        if axis == direction and abs(across - along) < 0.05
    )


@pytest.mark.parametrize("breaks", [(), (8,), (5, 9, 14), (6, 13, 17, 21)])
def test_skip_connections_have_lines_of_their_own(breaks: tuple[int, ...]) -> None:
    graph = unet()
    plan = arrange(graph, breaks)
    columns = tuple(range(a, b) for a, b in pairwise([0, *breaks, len(plan.columns)]))
    placement = page(plan, framed(graph, plan), 2.0, columns)
    assert set(placement.edges) == {(u, node.name) for node in graph.nodes for u in node.predecessors}
    for one, other in combinations(placement.edges.values(), 2):
        assert shared_length(one, other) == 0
    ends = {edge: line[-1][-1][0] for edge, line in placement.edges.items()}
    starts = {edge: line[0][0][0] for edge, line in placement.edges.items()}
    for i in range(3):
        assert abs(ends[f"down{i}.1", f"cat{i}"] - ends[f"grow{i}", f"cat{i}"]) > 0.2
        assert abs(starts[f"down{i}.1", f"cat{i}"] - starts[f"down{i}.1", f"pool{i}"]) > 0.2


def test_lines_of_the_right_length_are_found_to_be_shared() -> None:
    one, other = (((0.0, 0.0), (0.0, 2.0), (3.0, 2.0)),), (((0.01, 1.0), (0.01, 4.0)),)
    assert shared_length(one, other) == 1.0
    assert shared_length(one, (((0.5, 1.0), (0.5, 4.0)),)) == 0


def test_the_output_has_a_thick_border_and_an_entry_in_the_legend(augmented: AugmentedGraph) -> None:
    graph = residual_stages(1)
    ax, boxes = boxes_of(graph)
    (rim,) = (patch for patch in ax.patches if patch.get_zorder() == 2.9)
    assert rim.get_linewidth() > 2
    box = rim.get_path().transformed(rim.get_patch_transform()).get_extents()
    assert np.allclose(box.get_points(), boxes["fc"].get_points())
    for shown, entries in ((graph, 1), (augmented, 0)):
        legend = draw(shown).axes[0].get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()].count("output") == entries


def test_what_a_module_does_with_a_second_input_stands_beside_its_frame() -> None:
    nodes = [
        Node("x", op.Input(), (), (2,)),
        Node("mask", op.Input(), (), (2,)),
        unary("m.a", TANH, "x", (2,)),
        unary("other", TANH, "mask", (2,)),
        *(unary(f"m.{name}", TANH, "m.a", (2,)) for name in "qkv"),
        unary("m.shift", TANH, "other", (2,)),
        Node("m.sum", op.Add(), ("m.q", "m.k", "m.v", "m.shift"), (2,)),
    ]
    placed = [Node(n.name, n.operation, n.inputs, n.shape, origin="m" if n.name[:2] == "m." else "") for n in nodes]
    graph = ComputationGraph(placed, "m.sum")
    (module,) = framed(graph, arrange(graph))
    assert module.members == {"m.a", "m.q", "m.k", "m.v", "m.sum"}
    texts = {text.get_text().split("\n")[0] for text in draw(graph).axes[0].texts}
    assert {"m", "a", "q", "k", "v", "sum", "m.shift"} <= texts


def test_long_names_keep_their_end() -> None:
    assert shortened("transformer.h.0.attn.rearrange_2") == "…h.0.attn.rearrange_2"
    assert shortened("attn.rearrange_2") == "attn.rearrange_2"
    assert shortened("a" * 30 + "end") == "…" + "a" * 22 + "end"


def test_frames_hold_exactly_the_nodes_of_their_modules() -> None:
    graph = residual_stages()
    plan = arrange(graph)
    placement = page(plan, framed(graph, plan), 2.0)
    paths = [frame.path for frame in placement.frames]
    assert set(paths) == {
        *(f"layer{i}" for i in (1, 2, 3)),
        *(f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)),
        *(f"layer{i}.0.downsample" for i in (1, 2, 3)),
    }
    for path in set(paths):
        inside = {
            name
            for frame in placement.frames
            for name, (x, y) in placement.centers.items()
            if frame.path == path
            and frame.left <= x - 1.0 and x + 1.0 <= frame.right
            and frame.top <= y - HEIGHT / 2 and y + HEIGHT / 2 <= frame.bottom
        }
        assert inside == {node.name for node in graph.nodes if f"{node.origin}.".startswith(f"{path}.")}


def test_a_module_with_foreign_nodes_between_its_own_has_no_frame() -> None:
    nodes = [
        Node("x", op.Input(), (), (2,)),
        Node("t0", op.Elementwise(TANH), ("x",), (2,), origin="a"),
        Node("t1", op.Elementwise(TANH), ("t0",), (2,), origin="b"),
        Node("t2", op.Elementwise(TANH), ("t1",), (2,), origin="a"),
        Node("t3", op.Elementwise(TANH), ("t2",), (2,), origin="b"),
        Node("sum", op.Add(), ("t0", "t2", "t3"), (2,), origin="a"),
    ]
    graph = ComputationGraph(nodes, "sum")
    assert framed(graph, arrange(graph)) == ()


def test_labels_in_a_frame_leave_out_its_path() -> None:
    graph = residual_stages()
    (ax,) = draw(graph).axes
    texts = [text.get_text().split("\n")[0] for text in ax.texts]
    assert {"conv1", "bn2", "0", "add", "fc", "layer1", "layer2.1"} <= set(texts)
    coarse = coarsen(graph, "layer*.*")
    labels = [text.get_text().split("\n") for text in draw(coarse).axes[0].texts]
    assert ["0", "$h_{5}$: 9 nodes, 8×4×4"] in labels


def test_long_graphs_run_in_columns() -> None:
    width, height = size_of(chain(60))
    assert 0.7 < width / height < 2.5
    tall = size_of(chain(8))
    assert tall[0] < 4 or tall[1] < 2
    rows, costs = [1.0] * 12, [5.0] * 12
    assert cut(rows, costs, 1) == (range(12),)
    assert cut(rows, [0.0] * 12, 3) == (range(4), range(4, 8), range(8, 12))
    costs[4] = costs[8] = 0.0
    assert cut(rows, costs, 3) == (range(5), range(5, 9), range(9, 12))


def test_parameters_and_constants_stand_right_before_their_use() -> None:
    nodes = chain(5).nodes
    late = [Node("p", op.Parameter(), (), (2,), (("value", "p"),)), Node("q", op.Reshape(), ("p",), (2,))]
    places = layout(ComputationGraph([*nodes, *late, Node("sum", op.Add(), ("t4", "q"), (2,))], "sum"))
    assert (places["p"][0], places["q"][0], places["sum"][0]) == (4, 5, 6)


def test_edges_past_many_layers_are_straight() -> None:
    graph = residual_stages(1)
    routes = arrange(graph).routes
    for edge in (("layer1.0.downsample.1", "layer1.0.add"), ("layer1.0.add", "layer1.1.add")):
        assert len({y for _, y in routes[edge][1:-1]}) == 1, edge


def test_a_chain_of_nodes_is_straight_below_a_node_of_many_slots() -> None:
    places = layout(encoder_block())
    lines = (("attention", "merge", "out_proj"), ("q", "split_q"), ("k", "split_k"), ("v", "split_v"))
    for line in lines:
        assert len({places[f"self_attn.{name}"][1] for name in line}) == 1, line
    assert len({places[f"self_attn.{name}"][1] for name in "qkv"}) == 3


def test_large_graphs_come_with_advice_and_larger_ones_are_refused() -> None:
    advice = "coarsen(graph, blocks=...)"
    assert not any(advice in text.get_text() for text in draw(chain(149)).axes[0].texts)
    assert any(f"151 nodes; {advice}" in text.get_text() for text in draw(chain(150)).axes[0].texts)
    with pytest.raises(GraphError, match=r"1501 nodes, expected at most 1500; coarsen\(graph, blocks=\.\.\.\)"):
        draw(chain(1500))
    inputs = [Node(f"x{i}", op.Input(), (), (2,)) for i in range(149)]
    wide = ComputationGraph([*inputs, Node("sum", op.Add(), tuple(node.name for node in inputs), (2,))], "sum")
    with pytest.raises(GraphError, match=r"inches, expected at most 90; coarsen"):
        draw(wide)


@pytest.mark.parametrize(
    ("operation", "parameters", "style"),
    [
        (op.Linear(True), ("weight",), styles.LEARNED),
        (op.Embedding(), ("weight",), styles.LEARNED),
        (op.Recurrent("lstm"), ("weight_ih",), styles.LEARNED),
        (op.Affine(True, True), ("scale",), styles.LEARNED_AFFINE),
        (op.Affine(False, True), (), styles.FIXED),
        (op.Parameter(), ("value",), styles.LEARNED_VALUE),
        (op.Constant(), (), styles.CONSTANT),
        (op.Rearrange(()), (), styles.FIXED),
        (op.Sum((0,), True), (), styles.FIXED),
        (op.Normalize(2, 0.1), (), styles.NORM),
        (op.Softmax(0), (), styles.MIXER),
        (op.Attention(1.0), (), styles.MIXER),
        (op.MaxPool((2,), (2,), (0,), (1,)), (), styles.MAXIMUM),
        (op.MatrixProduct(), (), styles.PRODUCT),
        (op.Elementwise(TANH), (), styles.CURVED),
        (op.Call("aten.sort.default", (), (), ()), (), styles.NO_RULE),
        (op.Composite("b", (), (), "n"), ("weight",), styles.BLOCK),
        (op.Composite("b", (), (), "n"), (), styles.CHAIN),
    ],
)
def test_each_operation_has_the_style_of_its_kind(
    operation: op.Operation, parameters: tuple[str, ...], style: styles.Style
) -> None:
    assert style_of(Node("n", operation, ("x",), (2,), weights(*parameters, of="n"))) is style


def test_a_title_that_is_too_long_keeps_its_end() -> None:
    path = "encoder.layer.3.attention"
    assert fitting(path, 10) == path
    assert fitting(path, text_width("…layer.3.attention", 7.5)) == "…layer.3.attention"
    assert fitting(path, text_width("…attention", 7.5) - 0.01).startswith("…ttention")
    assert text_width(fitting(path, 0.4), 7.5) <= 0.4
