"""Parts of one node put side by side are an index map of it."""

from __future__ import annotations

import pytest
from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.rearrange import Join, Pad, Pick, Slice
from covergraph.passes.concatenations import join_concatenations
from covergraph.passes.prune import prune


def halves(first: tuple[int, int], second: tuple[int, int], axis: int = 1) -> Rows:
    rows = Rows()
    rows.input("x", 2, 4)
    rows.map("a", "x", Slice(1, *first))
    rows.map("b", "x", Slice(1, *second))
    shape = (2, first[1] - first[0] + second[1] - second[0]) if axis == 1 else (4, 2)
    rows.add("cat", op.Concatenate(axis), "a", "b", shape=shape)
    rows.row("y", TANH, "cat")
    return rows


def test_a_roll_is_one_map() -> None:
    """torch.roll is written as two slices in the other order."""
    rows = halves((3, 4), (0, 3))
    after = prune(join_concatenations(rows.graph("y")))
    assert after.text() == "x = input() : 2x4\ncat = pick(x; axis 1 [3 0 1 2]) : 2x4\ny = tanh(cat) : 2x4\nreturn y"
    assert after["cat"].operation == op.Rearrange((Pick(1, (3, 0, 1, 2)),))
    rows.assert_same(after, "y")


def test_a_split_put_together_again_vanishes() -> None:
    rows = halves((0, 1), (1, 4))
    after = prune(join_concatenations(rows.graph("y")))
    assert after.text() == "x = input() : 2x4\ny = tanh(x) : 2x4\nreturn y"
    rows.assert_same(after, "y")


def test_a_split_put_together_along_another_axis_is_a_map() -> None:
    """It must not vanish: its shape is another one."""
    rows = halves((0, 2), (2, 4), axis=0)
    after = prune(join_concatenations(rows.graph("y")))
    assert [node.name for node in after.nodes] == ["x", "cat", "y"]
    assert after["cat"].shape == (4, 2)
    rows.assert_same(after, "y")


def test_maps_that_differ_join() -> None:
    """Zeros beside the entries themselves stay a join."""
    rows = Rows()
    rows.input("x", 3)
    rows.map("padded", "x", Pad(0, 1, 0))
    rows.add("y", op.Concatenate(0), "padded", "x", shape=(7,))
    after = prune(join_concatenations(rows.graph("y")))
    assert after["y"].operation == op.Rearrange((Join(0, ((Pad(0, 1, 0),), ())),))
    rows.assert_same(after, "y")


def nested(shared: bool) -> Rows:
    """cat(cat(x, y), z), and cat(x, y) behind it once more if `shared`."""
    rows = Rows()
    for name in "xyz":
        rows.input(name, 2, 2)
    rows.add("xy", op.Concatenate(1), "x", "y", shape=(2, 4))
    rows.add("cat", op.Concatenate(1), "xy", "z", shape=(2, 6))
    if shared:
        rows.map("tail", "xy", Slice(1, 1, 3))
        rows.add("out", op.Concatenate(1), "cat", "tail", shape=(2, 8))
    return rows


def test_a_concatenation_of_concatenations_is_flat() -> None:
    rows = nested(shared=False)
    after = prune(join_concatenations(rows.graph("cat")))
    assert after.text() == (
        "x = input() : 2x2\ny = input() : 2x2\nz = input() : 2x2\ncat = concat(x, y, z; axis 1) : 2x6\nreturn cat"
    )
    rows.assert_same(after, "cat")


def test_a_concatenation_with_other_users_is_not_opened() -> None:
    rows = nested(shared=True)
    after = prune(join_concatenations(rows.graph("out")))
    assert [after[name].inputs for name in ("xy", "out")] == [("x", "y"), ("xy", "z", "tail")]
    rows.assert_same(after, "out")


def test_a_concatenation_along_another_axis_is_not_opened() -> None:
    rows = Rows()
    for name in "xy":
        rows.input(name, 2, 2)
    rows.add("xy", op.Concatenate(0), "x", "y", shape=(4, 2))
    rows.input("z", 4, 2)
    rows.add("cat", op.Concatenate(1), "xy", "z", shape=(4, 4))
    graph = rows.graph("cat")
    assert join_concatenations(graph) == graph


@pytest.mark.parametrize("other", ["x", "z"])
def test_parts_of_two_nodes_stay_apart(other: str) -> None:
    """With parts of x alone it is a map of x; with a part of z it stays a concatenation."""
    rows = Rows()
    rows.input("x", 4)
    rows.input("z", 4)
    rows.map("a", "x", Slice(0, 2, 4))
    rows.map("b", other, Slice(0, 0, 2))
    rows.add("cat", op.Concatenate(0), "a", "b", shape=(4,))
    after = join_concatenations(rows.graph("cat"))
    assert isinstance(after["cat"].operation, op.Rearrange) == (other == "x")
    rows.assert_same(after, "cat")
