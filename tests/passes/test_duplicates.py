"""Nodes that compute the same become one."""

from __future__ import annotations

from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import SIN, TANH
from covergraph.passes.duplicates import merge_duplicates
from covergraph.passes.prune import prune


def test_chains_of_duplicates_become_one_chain() -> None:
    """The second node of each pair is a duplicate only once the first pair is one; the output moves."""
    rows = Rows()
    rows.input("x", 3)
    for name in "ab":
        rows.row(f"{name}1", TANH, "x")
        rows.row(f"{name}2", SIN, f"{name}1")
    rows.add("y", op.Product(), "a2", "b2")
    after = merge_duplicates(rows.graph("y"))
    assert after.text() == (
        "x = input() : 3\na1 = tanh(x) : 3\na2 = sin(a1) : 3\ny = product(a2, a2) : 3\nreturn y"
    )
    rows.assert_same(after, "y")
    assert merge_duplicates(rows.graph("b2")).output == "a2"


def test_what_differs_stays() -> None:
    """Inputs of one shape, layers with other weights, views to other shapes, slots in another order."""
    rows = Rows()
    rows.input("x", 4)
    rows.input("z", 4)
    for name in "ab":
        rows.add(f"f{name}", op.Linear(False), "x", weight=(4, 4))
    rows.add("d", op.Subtract(), "fa", "fb")
    rows.add("e", op.Subtract(), "fb", "fa")
    rows.add("v", op.Reshape(), "d", shape=(2, 2))
    rows.add("w", op.Reshape(), "d", shape=(4, 1))
    graph = rows.graph("e")
    assert merge_duplicates(graph) == graph


def test_inputs_come_first_and_stay() -> None:
    """Pruning drops what the output does not need, except inputs: `run` takes one tensor for each."""
    rows = Rows()
    rows.input("x", 2)
    rows.row("t", TANH, "x")
    rows.row("dead", SIN, "x")
    rows.input("unused", 5)
    assert prune(rows.graph("t")).text() == "x = input() : 2\nunused = input() : 5\nt = tanh(x) : 2\nreturn t"
