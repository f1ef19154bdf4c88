"""Max-pooling and ReLU change places."""

from __future__ import annotations

import pytest
import sympy
import torch
from rewrites import Rows

from covergraph.graph import operations as op
from covergraph.graph.functions import NEGATE, TANH, ScalarFunction, T
from covergraph.passes.pooling import pool_before_relu

RELU = ScalarFunction("relu", sympy.Max(T, 0), torch.relu)
POOL = op.MaxPool((2, 2), (2, 2), (1, 1), (1, 1), True)


def pooled(function: ScalarFunction) -> Rows:
    rows = Rows()
    rows.input("x", 2, 4, 4)
    rows.row("act", function, "x")
    rows.add("pool", POOL, "act", shape=(2, 3, 3))
    return rows


def test_the_pool_comes_first() -> None:
    """Padding never wins in a max-pool, so the order does not matter at the borders either."""
    rows = pooled(RELU)
    after = pool_before_relu(rows.graph("pool"))
    assert after.text() == (
        "x = input() : 2x4x4\n"
        "pool = maxpool2d(x; 2x2, stride 2, padding 1, ceil) : 2x3x3\n"
        "act = relu(pool) : 2x3x3\n"
        "return act"
    )
    rows.assert_same(after, "pool")


def test_relu_passes_two_pools() -> None:
    rows = pooled(RELU)
    rows.add("second", POOL, "pool", shape=(2, 2, 2))
    rows.row("y", TANH, "second")
    after = pool_before_relu(rows.graph("y"))
    assert after.text() == (
        "x = input() : 2x4x4\n"
        "pool = maxpool2d(x; 2x2, stride 2, padding 1, ceil) : 2x3x3\n"
        "second = maxpool2d(pool; 2x2, stride 2, padding 1, ceil) : 2x2x2\n"
        "act = relu(second) : 2x2x2\n"
        "y = tanh(act) : 2x2x2\n"
        "return y"
    )
    rows.assert_same(after, "y")


def test_relu_stops_where_two_read_the_pool() -> None:
    rows = pooled(RELU)
    rows.add("second", op.MaxPool((1, 1), (1, 1), (0, 0), (1, 1)), "pool")
    rows.add("y", op.Add(), "second", "pool")
    after = pool_before_relu(rows.graph("y"))
    assert [(node.name, *node.inputs) for node in after.nodes] == [
        ("x",), ("pool", "x"), ("act", "pool"), ("second", "act"), ("y", "second", "act")
    ]  # fmt: skip
    rows.assert_same(after, "y")


def test_a_relu_that_others_read_stays() -> None:
    rows = pooled(RELU)
    rows.add("flat", op.Reshape(), "act", shape=(32,))
    rows.add("pooled", op.Reshape(), "pool", shape=(18,))
    rows.add("y", op.Concatenate(0), "flat", "pooled", shape=(50,))
    graph = rows.graph("y")
    assert pool_before_relu(graph) == graph


def test_other_functions_stay() -> None:
    """-max(x) is not max(-x); tanh would be right, but its pool gains nothing."""
    for function in (NEGATE, TANH):
        graph = pooled(function).graph("pool")
        assert pool_before_relu(graph) == graph


def single(pool: op.MaxPool, length: int) -> Rows:
    """relu, then a pool of a signal of three entries."""
    rows = Rows()
    rows.input("x", 2, 3)
    rows.row("act", RELU, "x")
    rows.add("pool", pool, "act", shape=(2, length))
    return rows


def test_windows_that_hold_padding_alone_stay() -> None:
    """With padding and dilation: the maximum of no entry is -inf, and relu would make 0 of it."""
    graph = single(op.MaxPool((2,), (1,), (1,), (4,)), 1).graph("pool")
    assert pool_before_relu(graph) == graph


@pytest.mark.parametrize(
    ("pool", "length"),
    [(op.MaxPool((2,), (1,), (0,), (2,)), 1), (op.MaxPool((2,), (1,), (1,), (1,)), 4)],
    ids=["dilation", "padding"],
)
def test_padding_or_dilation_alone_does_no_harm(pool: op.MaxPool, length: int) -> None:
    rows = single(pool, length)
    after = pool_before_relu(rows.graph("pool"))
    assert [node.name for node in after.nodes] == ["x", "pool", "act"]
    rows.assert_same(after, "pool")


def test_a_function_of_the_users_own_that_is_called_relu_stays() -> None:
    rows = pooled(ScalarFunction("relu", -T, torch.neg))
    graph = rows.graph("pool")
    assert pool_before_relu(graph) == graph
