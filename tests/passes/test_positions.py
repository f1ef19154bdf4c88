"""Layers between two views of the positions work on the positions' own axes."""

from __future__ import annotations

from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.rearrange import Permute, Slice, View
from covergraph.passes.positions import restore_positions
from covergraph.passes.prune import prune
from covergraph.passes.rearrangements import compose_rearrangements


def canonical(rows: Rows, output: str) -> str:
    after = prune(compose_rearrangements(restore_positions(rows.graph(output))))
    rows.assert_same(after, output)
    return after.text()


def flat_linear(rows: Rows) -> None:
    rows.input("x", 2, 3, 4)
    rows.add("flat", op.Reshape(), "x", shape=(6, 4))
    rows.add("f", op.Linear(False), "flat", shape=(6, 5), weight=(5, 4))


def test_addmm_and_view_are_a_token_wise_layer() -> None:
    rows = Rows()
    flat_linear(rows)
    rows.add("y", op.Reshape(), "f", shape=(2, 3, 5))
    assert canonical(rows, "y") == "x = input() : 2x3x4\nf = linear(x) : 2x3x5 {weight=f.weight}\nreturn f"


def test_a_whole_branch_is_lifted() -> None:
    """Function, shift of the last axis, product, norm and softmax between the two views."""
    rows = Rows()
    flat_linear(rows)
    rows.row("t", TANH, "f")
    rows.add("s", op.Affine(scale=False, shift=True), "t", shift=(5,))
    rows.add("p", op.Product(), "s", "f")
    rows.add("n", op.Normalize(5, 1e-5), "p")
    rows.add("q", op.Softmax(1), "n")
    rows.map("y", "q", View((2, 3, 5)), Permute((1, 0, 2)))
    assert canonical(rows, "y") == (
        "x = input() : 2x3x4\n"
        "f = linear(x) : 2x3x5 {weight=f.weight}\n"
        "t = tanh(f) : 2x3x5\n"
        "s = shift(t) : 2x3x5 {shift=s.shift}\n"
        "p = product(s, f) : 2x3x5\n"
        "n = normalize(p; groups of 5, eps 1e-05) : 2x3x5\n"
        "q = softmax(n; axis 2) : 2x3x5\n"
        "y = permute(q; permute 1 0 2) : 3x2x5\n"
        "return y"
    )


def test_a_split_that_is_undone() -> None:
    """(6, 4) seen as (2, 3, 4), and back."""
    rows = Rows()
    rows.input("x", 6, 4)
    rows.add("split", op.Reshape(), "x", shape=(2, 3, 4))
    rows.add("f", op.Linear(False), "split", shape=(2, 3, 5), weight=(5, 4))
    rows.add("y", op.Reshape(), "f", shape=(6, 5))
    assert canonical(rows, "y") == "x = input() : 6x4\nf = linear(x) : 6x5 {weight=f.weight}\nreturn f"


def test_two_layers_in_a_row_with_views_each() -> None:
    """The view between them is both the end of one group and the beginning of another."""
    rows = Rows()
    flat_linear(rows)
    rows.add("up", op.Reshape(), "f", shape=(2, 3, 5))
    rows.add("down", op.Reshape(), "up", shape=(6, 5))
    rows.add("g", op.Linear(False), "down", shape=(6, 2), weight=(2, 5))
    rows.add("y", op.Reshape(), "g", shape=(2, 3, 2))
    assert canonical(rows, "y") == (
        "x = input() : 2x3x4\n"
        "f = linear(x) : 2x3x5 {weight=f.weight}\n"
        "g = linear(f) : 2x3x2 {weight=g.weight}\n"
        "return g"
    )


def test_views_of_views_take_several_rounds() -> None:
    """(2, 3, 2) positions as 6 x 2, then as 12: each round takes one view away, and no shape gets lost."""
    rows = Rows()
    rows.input("x", 2, 3, 2, 4)
    rows.add("some", op.Reshape(), "x", shape=(6, 2, 4))
    rows.add("f", op.Linear(False), "some", shape=(6, 2, 5), weight=(5, 4))
    rows.add("all", op.Reshape(), "f", shape=(12, 5))
    rows.add("g", op.Linear(False), "all", shape=(12, 2), weight=(2, 5))
    rows.add("y", op.Reshape(), "g", shape=(2, 3, 2, 2))
    graph = rows.graph("y")
    for _ in range(2):
        graph = prune(compose_rearrangements(restore_positions(graph)))
        rows.assert_same(graph, "y")
    assert [(node.name, node.shape) for node in graph.nodes] == [
        ("x", (2, 3, 2, 4)), ("f", (2, 3, 2, 5)), ("g", (2, 3, 2, 2))
    ]  # fmt: skip


def stays(rows: Rows, output: str) -> None:
    graph = rows.graph(output)
    assert restore_positions(graph) == graph


def test_a_split_that_is_not_undone_stays() -> None:
    """(6, 4) seen as (2, 3, 4), where the axes trade places: one view is needed anyway."""
    rows = Rows()
    rows.input("x", 6, 4)
    rows.add("split", op.Reshape(), "x", shape=(2, 3, 4))
    rows.add("f", op.Linear(False), "split", shape=(2, 3, 5), weight=(5, 4))
    rows.map("y", "f", Permute((1, 0, 2)))
    stays(rows, "y")


def test_a_flat_output_stays_flat() -> None:
    rows = Rows()
    flat_linear(rows)
    stays(rows, "f")


def test_another_reader_of_the_flat_list_forbids_it() -> None:
    """A maximum over all positions would need a new view."""
    rows = Rows()
    flat_linear(rows)
    rows.add("up", op.Reshape(), "f", shape=(2, 3, 5))
    rows.add("m", op.Maximum((0,)), "f", shape=(5,))
    rows.map("first", "up", View((6, 5)), Slice(0, 0, 1), View((5,)))
    rows.add("y", op.Add(), "m", "first")
    stays(rows, "y")


def test_a_view_that_changes_the_last_axis_is_no_list_of_positions() -> None:
    rows = Rows()
    rows.input("x", 2, 3, 4)
    rows.add("flat", op.Reshape(), "x", shape=(2, 12))
    rows.add("f", op.Linear(False), "flat", shape=(2, 12), weight=(12, 12))
    rows.add("y", op.Reshape(), "f", shape=(2, 3, 4))
    stays(rows, "y")


def test_what_mixes_positions_is_not_lifted() -> None:
    """A softmax over the flat list, and a shift that differs between positions."""
    for operation, roles in ((op.Softmax(0), {}), (op.Affine(False, True), {"shift": (6, 1)})):
        rows = Rows()
        flat_linear(rows)
        rows.add("m", operation, "f", **roles)
        rows.add("y", op.Reshape(), "m", shape=(2, 3, 5))
        stays(rows, "y")
