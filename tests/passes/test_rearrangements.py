"""Chains of index maps become one."""

from __future__ import annotations

from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.rearrange import Expand, Permute, Slice, View
from covergraph.passes.prune import prune
from covergraph.passes.rearrangements import compose_rearrangements


def heads() -> Rows:
    rows = Rows()
    rows.input("x", 5, 12)
    rows.map("split", "x", View((5, 3, 2, 2)))
    rows.map("move", "split", Permute((1, 2, 0, 3)))
    rows.map("query", "move", Slice(0, 0, 1))
    rows.map("q", "query", View((2, 5, 2)))
    rows.map("key", "move", Slice(0, 1, 2))
    rows.map("k", "key", View((2, 5, 2)))
    rows.add("sum", op.Add(), "q", "k")
    rows.map("back", "sum", Permute((1, 0, 2)))
    rows.map("y", "back", View((5, 4)))
    return rows


def test_maps_with_several_users_are_composed_into_each() -> None:
    """Queries and keys read x itself, although both read the permuted view before."""
    rows = heads()
    after = prune(compose_rearrangements(rows.graph("y")))
    assert after.text() == (
        "x = input() : 5x12\n"
        "q = rearrange(x; view 5x6x2, axis 1 [0:2], permute 1 0 2) : 2x5x2\n"
        "k = rearrange(x; view 5x6x2, axis 1 [2:4], permute 1 0 2) : 2x5x2\n"
        "sum = add(q, k) : 2x5x2\n"
        "y = permute(sum; permute 1 0 2, view 5x4) : 5x4\n"
        "return y"
    )
    assert after["k"].operation == op.Rearrange((View((5, 6, 2)), Slice(1, 2, 4), Permute((1, 0, 2))))
    rows.assert_same(after, "y")


def test_what_changes_nothing_goes_and_the_output_moves() -> None:
    """A view to and fro around the output leaves the node before it as the output."""
    rows = Rows()
    rows.input("x", 2, 3)
    rows.row("t", TANH, "x")
    rows.add("flat", op.Reshape(), "t", shape=(6,))
    rows.map("y", "flat", View((2, 3)))
    after = prune(compose_rearrangements(rows.graph("y")))
    assert after.text() == "x = input() : 2x3\nt = tanh(x) : 2x3\nreturn t"
    rows.assert_same(after, "y")


def test_the_output_may_become_the_input() -> None:
    rows = Rows()
    rows.input("x", 3)
    rows.map("y", "x", Expand((3,)))
    after = compose_rearrangements(rows.graph("y"))
    assert after.text() == "x = input() : 3\nreturn x"


def test_a_map_in_order_is_a_reshape() -> None:
    """A permutation of an axis of length 1 moves no entry."""
    rows = Rows()
    rows.input("x", 1, 6)
    rows.map("moved", "x", Permute((1, 0)))
    rows.map("y", "moved", View((2, 3)))
    after = prune(compose_rearrangements(rows.graph("y")))
    assert after.text() == "x = input() : 1x6\ny = reshape(x) : 2x3\nreturn y"
    rows.assert_same(after, "y")


def test_a_function_between_two_views_stays_between_them() -> None:
    """Composition does not reach through element-wise functions."""
    rows = Rows()
    rows.input("x", 6)
    rows.add("v", op.Reshape(), "x", shape=(2, 3))
    rows.row("t", TANH, "v")
    rows.add("y", op.Reshape(), "t", shape=(6,))
    graph = rows.graph("y")
    after = compose_rearrangements(graph)
    assert after == graph
    assert all(a is b for a, b in zip(after.nodes, graph.nodes, strict=True))
