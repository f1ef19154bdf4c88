"""Layouts are layered, ordered and deterministic; drawings show every node once, or say what they leave out."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import pytest
from certificates import branching, figure_2
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

import covergraph.report
from covergraph.bound.certificate import Certificate
from covergraph.graph import operations as op
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import NEGATE, TANH
from covergraph.graph.node import Node
from covergraph.passes.augment import augment
from covergraph.report.drawing import draw, layout, size_of
from covergraph.report.layout import NODE_GAP, arrange, crossings, spaced
from covergraph.report.styles import FIXED, STYLES, label_of, style_of

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
    plan = arrange(augmented)
    shown = [[key for key in column if isinstance(key, str)] for column in plan.columns]
    assert [f"layer {i}: {' '.join(column)}" for i, column in enumerate(shown)] == golden_lines("layer ")
    heights = {name: y for name, (_, y) in layout(augmented).items()}
    for line in golden_lines("height "):
        start, names = line.split(": ")
        assert {heights[name] for name in names.split()} == {float(start.split()[1])}, line


def test_figure_2_has_no_crossing(augmented: AugmentedGraph) -> None:
    pieces = [piece for route in arrange(augmented).routes.values() for piece in pairwise(route)]
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
@settings(max_examples=40)
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
    assert {label_of(node, augmented) for node in augmented.nodes} <= set(texts)
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == sum(len(node.predecessors) for node in augmented.nodes)
    legend = ax.get_legend()
    assert legend is not None
    entries = {text.get_text() for text in legend.get_texts()}
    assert {"edge Jacobian J", "total derivative D", "soft indicator", "loss", "sink: augmented loss"} <= entries


def test_labels_use_the_paper_s_letters(augmented: AugmentedGraph) -> None:
    labels = {node.name: label_of(node, augmented) for node in augmented.nodes}
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
