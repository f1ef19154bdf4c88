"""Norms written by hand are recognized by what they compute."""

from __future__ import annotations

import pytest
import sympy
import torch
from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import SIN, ScalarFunction, T, affine
from covergraph.graph.rearrange import Expand, Permute, Shape, View
from covergraph.passes.norms import recognize_norms
from covergraph.passes.prune import prune

SQUARE = ScalarFunction("square", T**2, torch.square)
RSQRT = ScalarFunction("rsqrt", 1 / sympy.sqrt(T), torch.rsqrt)
SQRT = ScalarFunction("sqrt", sympy.sqrt(T), torch.sqrt)
EPS = 1e-6


def add_norm(rows: Rows, y: str, axes: tuple[int, ...] = (1,), divide: bool = False, eps: float = EPS) -> str:
    """y * rsqrt(mean(y^2) + eps), or y / sqrt(mean(y^2) + eps), as the node "y"."""
    shape = rows.shape(y)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    rows.row("sq", SQUARE, y)
    rows.add("ms", op.Sum(axes, mean=True), "sq", shape=kept)
    rows.row("plus", affine(1, eps), "ms")
    rows.row("root", SQRT if divide else RSQRT, "plus")
    rows.map("wide", "root", Expand(shape))
    return rows.add("y", op.Divide() if divide else op.Product(), y, "wide")


def rms(shape: Shape = (4, 6), **options: object) -> Rows:
    rows = Rows()
    rows.input("x", *shape)
    add_norm(rows, "x", **options)  # type: ignore[arg-type]
    return rows


@pytest.mark.parametrize("divide", [False, True])
def test_rms_norm(divide: bool) -> None:
    """Six nodes of a transformer's RMS norm are one."""
    rows = rms(divide=divide)
    after = prune(recognize_norms(rows.graph("y")))
    assert after.text() == "x = input() : 4x6\ny = rms_normalize(x; groups of 6, eps 1e-06) : 4x6\nreturn y"
    assert after["y"].operation == op.Normalize(6, EPS, center=False)
    rows.assert_same(after, "y")


def test_the_factor_may_stand_first_and_the_square_be_a_product() -> None:
    """rsqrt(sum(x x) / 6 + eps) x, with the mean's axis dropped and put back."""
    rows = Rows()
    rows.input("x", 4, 6)
    rows.add("sq", op.Product(), "x", "x")
    rows.add("sum", op.Sum((1,), mean=False), "sq", shape=(4,))
    rows.row("mean", affine(1 / 6, 0.5), "sum")
    rows.map("wide", "mean", View((4, 1)), Expand((4, 6)))
    rows.row("root", RSQRT, "wide")
    rows.add("y", op.Product(), "root", "x")
    after = prune(recognize_norms(rows.graph("y")))
    assert after["y"].operation == op.Normalize(6, 0.5, center=False)
    assert len(after) == 2
    rows.assert_same(after, "y")


def test_a_norm_over_channels_stands_between_permutations() -> None:
    rows = rms((3, 2, 4), axes=(0,))
    after = prune(recognize_norms(rows.graph("y")))
    assert after.text() == (
        "x = input() : 3x2x4\n"
        "y.permute = permute(x; permute 1 2 0) : 2x4x3\n"
        "y.normalize = rms_normalize(y.permute; groups of 3, eps 1e-06) : 2x4x3\n"
        "y = permute(y.normalize; permute 2 0 1) : 3x2x4\n"
        "return y"
    )
    assert after["y"].operation == op.Rearrange((Permute((2, 0, 1)),))
    rows.assert_same(after, "y")


@pytest.mark.parametrize(("shape", "axes", "group"), [((3, 2, 4), (1, 2), 8), ((3, 1, 1), (0,), 3), ((5,), (0,), 5)])
def test_entries_in_a_row_need_no_permutation(shape: Shape, axes: tuple[int, ...], group: int) -> None:
    rows = rms(shape, axes=axes)
    after = prune(recognize_norms(rows.graph("y")))
    assert after["y"].operation == op.Normalize(group, EPS, center=False)
    assert len(after) == 2
    rows.assert_same(after, "y")


def centered(axes: tuple[int, ...] = (1,), around: tuple[int, ...] = (1,), shared: bool = False) -> Rows:
    rows = Rows()
    rows.input("x", 4, 4)
    rows.add("mean", op.Sum(around, mean=True), "x", shape=tuple(1 if a in around else 4 for a in (0, 1)))
    rows.map("means", "mean", Expand((4, 4)))
    rows.add("c", op.Subtract(), "x", "means")
    add_norm(rows, "c", axes, divide=True)
    if shared:
        rows.add("out", op.Add(), "y", "c")
    return rows


def test_layer_norm() -> None:
    """x minus its mean, over the root of its mean square."""
    rows = centered()
    after = prune(recognize_norms(rows.graph("y")))
    assert after.text() == "x = input() : 4x4\ny = normalize(x; groups of 4, eps 1e-06) : 4x4\nreturn y"
    assert after["y"].operation == op.Normalize(4, EPS, center=True)
    rows.assert_same(after, "y")


def test_others_may_read_the_centered_values() -> None:
    rows = centered(shared=True)
    after = prune(recognize_norms(rows.graph("out")))
    assert [node.name for node in after.nodes] == ["x", "mean", "means", "c", "y", "out"]
    rows.assert_same(after, "out")


def test_a_mean_over_other_axes_does_not_center() -> None:
    """It is an RMS norm of what was centered along the columns."""
    rows = centered(around=(0,))
    after = prune(recognize_norms(rows.graph("y")))
    assert after["y"].operation == op.Normalize(4, EPS, center=False)
    assert after["y"].inputs == ("c",)
    rows.assert_same(after, "y")


def variant(change: str) -> Rows:
    """An RMS norm with one thing changed, so that it is none."""
    rows = Rows()
    rows.input("x", 3, 3)
    rows.input("z", 3, 3)
    rows.row("sq", SIN if change == "no square" else SQUARE, "x")
    axis = 0 if change == "repeated along the other axis" else 1
    rows.add("ms", op.Sum((axis,), mean=change != "a sum"), "sq", shape=(3,))
    rows.row("plus", affine(2 if change == "a factor" else 1, -0.1 if change == "negative" else EPS), "ms")
    rows.row("root", SQRT if change == "times the root" else RSQRT, "plus")
    if change == "minus the root":
        rows.row("minus", affine(-1, 0), "root")
    rows.map("wide", "minus" if change == "minus the root" else "root", View((3, 1)), Expand((3, 3)))
    other = "z" if change == "another factor" else "x"
    rows.add("y", op.Divide() if change == "over the inverse root" else op.Product(), other, "wide")
    if change == "the root is read":
        rows.add("out", op.Add(), "y", "wide")
    elif change == "the mean is read":
        rows.map("means", "ms", View((3, 1)), Expand((3, 3)))
        rows.add("out", op.Add(), "y", "means")
    elif change == "the square is read":
        rows.add("out", op.Add(), "y", "sq")
    return rows


CHANGES = ["no square", "a sum", "a factor", "negative", "times the root", "over the inverse root", "another factor"]
CHANGES += ["repeated along the other axis", "the root is read", "the square is read"]
CHANGES += ["the mean is read", "minus the root"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_norm_stays(change: str) -> None:
    graph = variant(change).graph("out" if "is read" in change else "y")
    assert recognize_norms(graph) == graph


def test_the_variant_without_change_is_a_norm() -> None:
    """So that the test before cannot pass by a mistake in what it writes."""
    after = recognize_norms(variant("nothing").graph("y"))
    assert after["y"].operation == op.Normalize(3, EPS, center=False)


def test_a_quotient_by_the_operand_itself_is_no_norm() -> None:
    """wide / x has the slots of x / wide in the other order."""
    rows = rms(divide=True)
    rows.nodes[-1] = type(rows.nodes[-1])("y", op.Divide(), ("wide", "x"), (4, 6))
    graph = rows.graph("y")
    assert recognize_norms(graph) == graph
