"""All passes together: canonical graphs are fixed points, values stay, large graphs take seconds."""

from __future__ import annotations

import torch
from counting import calls
from hypothesis import given
from rewrites import Rows
from strategies import Case, cases, examples

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.graph.rearrange import Permute, Slice, View
from covergraph.passes.pipeline import PIPELINE, canonicalize


@examples(60)
@given(cases())
def test_values_stay_and_canonical_graphs_are_fixed_points(case: Case) -> None:
    before = case.graph.run(case.state, *case.inputs)[case.graph.output]
    after = canonicalize(case.graph)
    torch.testing.assert_close(after.run(case.state, *case.inputs)[after.output], before, rtol=1e-12, atol=1e-12)
    assert canonicalize(after) == after
    assert len(after) <= len(case.graph)


def block(rows: Rows, i: int, x: str) -> str:
    """A head split as traced code writes it: flat layer, view, permutation, slices, and all that undone."""
    rows.add(f"flat{i}", op.Reshape(), x, shape=(6, 4))
    rows.add(f"f{i}", op.Linear(False), f"flat{i}", shape=(6, 8), weight=(8, 4))
    rows.add(f"up{i}", op.Reshape(), f"f{i}", shape=(2, 3, 8))
    rows.add(f"plus{i}", op.Affine(False, True), f"up{i}", shift=(8,))
    rows.map(f"view{i}", f"plus{i}", View((2, 3, 2, 4)))
    rows.map(f"heads{i}", f"view{i}", Permute((2, 0, 1, 3)))
    for half in (0, 1):
        rows.map(f"half{half}{i}", f"heads{i}", Slice(0, half, half + 1))
        rows.map(f"h{half}{i}", f"half{half}{i}", View((2, 3, 4)))
    rows.row(f"t{i}", TANH, f"h0{i}")
    return rows.add(f"y{i}", op.Product(), f"t{i}", f"h1{i}")


def test_a_block_as_text() -> None:
    """Ten nodes become five: two slices, a function and a product behind one layer with bias."""
    rows = Rows()
    rows.input("x", 2, 3, 4)
    after = canonicalize(rows.graph(block(rows, 0, "x")))
    assert after.text() == (
        "x = input() : 2x3x4\n"
        "f0 = linear(x) : 2x3x8 {weight=f0.weight, bias=plus0.shift}\n"
        "h00 = slice(f0; axis 2 [0:4]) : 2x3x4\n"
        "h10 = slice(f0; axis 2 [4:8]) : 2x3x4\n"
        "t0 = tanh(h00) : 2x3x4\n"
        "y0 = product(t0, h10) : 2x3x4\n"
        "return y0"
    )
    rows.assert_same(after, "y0")


def test_every_pass_leaves_a_canonical_graph_alone() -> None:
    rows = Rows()
    rows.input("x", 2, 3, 4)
    after = canonicalize(rows.graph(block(rows, 0, "x")))
    assert [rewrite(after) == after for rewrite in PIPELINE] == [True] * len(PIPELINE)


def blocks(count: int) -> ComputationGraph:
    rows = Rows()
    last = rows.input("x", 2, 3, 4)
    for i in range(count):
        last = block(rows, i, last)
    return rows.graph(last)


def test_work_grows_with_the_nodes_and_no_faster() -> None:
    few, many = blocks(60), blocks(240)
    assert len(many) > 2600
    assert len(canonicalize(many)) == 1 + 5 * 240
    assert calls(lambda: canonicalize(many)) <= 4.5 * calls(lambda: canonicalize(few))
