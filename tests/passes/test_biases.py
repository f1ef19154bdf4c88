"""Learned shifts behind layers become their biases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.rearrange import Shape
from covergraph.passes.biases import fold_biases

CONVOLUTION = op.Convolution((1, 1), (0, 0), (1, 1), 1, (2, 2), False)
TRANSPOSED = op.TransposedConvolution((1, 1), (0, 0), (0, 0), (1, 1), 1, (2, 2), False)
SHIFT = op.Affine(scale=False, shift=True)


def shifted(layer: op.Operation, source: Shape, weight: Shape, shape: Shape, shift: Shape) -> Rows:
    rows = Rows()
    rows.input("x", *source)
    rows.add("layer", layer, "x", shape=shape, weight=weight)
    rows.add("plus", SHIFT, "layer", shift=shift)
    return rows


def linear(shift: Shape) -> Rows:
    """A layer from 2 to 3 entries at 4 positions."""
    return shifted(op.Linear(False), (4, 2), (3, 2), (4, 3), shift)


def test_a_vector_is_the_bias_itself() -> None:
    """The layer keeps its name and becomes the output."""
    rows = linear((3,))
    after = fold_biases(rows.graph("plus"))
    assert after.text() == (
        "x = input() : 4x2\nlayer = linear(x) : 4x3 {weight=layer.weight, bias=plus.shift}\nreturn layer"
    )
    assert after["layer"].operation == op.Linear(bias=True)
    rows.assert_same(after, "plus")


IMAGES = [
    shifted(CONVOLUTION, (2, 3, 3), (5, 2, 2, 2), (5, 2, 2), (5, 1, 1)),
    shifted(CONVOLUTION, (2, 3, 3), (5, 2, 2, 2), (5, 2, 2), (1, 5, 1, 1)),
    shifted(CONVOLUTION, (3, 2, 3, 3), (5, 2, 2, 2), (3, 5, 2, 2), (5, 1, 1)),
    shifted(TRANSPOSED, (2, 3, 3), (2, 5, 2, 2), (5, 4, 4), (5, 1, 1)),
    linear((1, 3)),
]


@pytest.mark.parametrize("rows", IMAGES, ids=["conv", "batch axis", "positions", "transposed", "linear"])
def test_axes_of_length_one_are_viewed_away(rows: Rows) -> None:
    """The bias is an effective parameter: the shift as a vector."""
    after = fold_biases(rows.graph("plus"))
    assert after.nodes[1].parameters == (("weight", "layer.weight"), ("bias", "plus.shift:flat"))
    assert after.weights.sources("plus.shift:flat") == ("plus.shift",)
    rows.assert_same(after, "plus")


OTHERS = [
    ("a shift per position", linear((4, 1))),
    ("one number for all units", linear((1,))),
    ("a whole matrix", linear((4, 3))),
    ("a shift per column", shifted(CONVOLUTION, (2, 3, 3), (2, 2, 2, 2), (2, 2, 2), (2,))),
]


@pytest.mark.parametrize("rows", [rows for _, rows in OTHERS], ids=[name for name, _ in OTHERS])
def test_other_shapes_are_no_bias(rows: Rows) -> None:
    graph = rows.graph("plus")
    assert fold_biases(graph) == graph


def test_a_layer_that_others_read_keeps_its_value() -> None:
    rows = linear((3,))
    rows.row("t", TANH, "layer")
    rows.add("out", op.Add(), "plus", "t")
    graph = rows.graph("out")
    assert fold_biases(graph) == graph


def test_an_output_keeps_its_value() -> None:
    """The output is read by the caller, too."""
    graph = linear((3,)).graph("layer")
    assert fold_biases(graph) == graph


def test_a_fixed_layer_does_not_become_learned() -> None:
    """Only the shift is learned; a layer's bound would count its weight, too."""
    rows = linear((3,))
    rows.nodes[1] = replace(rows.nodes[1], parameters=(), constants=(("weight", "basis"),))
    rows.fixed["basis"] = torch.ones(3, 2, dtype=torch.float64)
    graph = rows.graph("plus")
    assert fold_biases(graph) == graph


def test_a_fixed_shift_is_no_learned_bias() -> None:
    """Training does not choose it, so it must not enter the cover of the layer."""
    rows = linear((3,))
    rows.nodes[-1] = replace(rows.nodes[-1], parameters=(), constants=(("shift", "mask"),))
    rows.fixed["mask"] = torch.ones(3, dtype=torch.float64)
    graph = rows.graph("plus")
    assert fold_biases(graph) == graph


def test_a_second_bias_stays_a_shift() -> None:
    rows = linear((3,))
    rows.add("again", SHIFT, "plus", shift=(3,))
    after = fold_biases(rows.graph("again"))
    assert after.text() == (
        "x = input() : 4x2\n"
        "layer = linear(x) : 4x3 {weight=layer.weight, bias=plus.shift}\n"
        "again = shift(layer) : 4x3 {shift=again.shift}\n"
        "return again"
    )
    rows.assert_same(after, "again")


def test_without_shapes_nothing_is_known() -> None:
    """A graph that does not say the shift's shape is left as it is."""
    rows = linear((3,))
    rows.shapes.clear()
    graph = rows.graph("plus")
    assert fold_biases(graph) == graph
