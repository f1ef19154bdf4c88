"""ReLU and max-pool become one node."""

from __future__ import annotations

import torch
from lowered import assert_same_derivative, lowered
from rewrites import Rows
from torch import Tensor, nn

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import TANH
from covergraph.passes.lower import lower
from covergraph.passes.lower_pools import rectify_pools
from covergraph.passes.prune import prune
from covergraph.tracers import trace

POOL = op.MaxPool((2,), (2,), (0,), (1,))


def scaled(*shape: int) -> Rows:
    """An input behind a learned scale, so that nothing but the input depends on the data alone."""
    rows = Rows()
    rows.input("x", *shape)
    rows.add("w", op.Affine(True, False), "x", scale=shape)
    return rows


def rewritten(rows: Rows, output: str) -> ComputationGraph:
    """The rewritten graph, pruned, after a check of its value."""
    after = prune(rectify_pools(rows.graph(output)))
    rows.assert_same(after, output)
    assert after.output == output
    assert prune(rectify_pools(after)) == after
    return after


def test_both_orders_become_one_node_that_is_called_like_the_later_one() -> None:
    """A second ReLU behind them does nothing; a ReLU that is read elsewhere stays beside the pool."""
    rows = scaled(2, 8)
    rows.add("pool", POOL, "w", shape=(2, 4))
    rows.row("first", RELU, "pool")
    rows.row("again", RELU, "first")
    rows.row("t", TANH, "again")
    rows.row("both", RELU, "t")
    rows.add("second", POOL, "both", shape=(2, 2))
    rows.add("mean", op.AveragePool((2,), (2,), (0,)), "both", shape=(2, 2))
    rows.add("y", op.Subtract(), "second", "mean")
    assert rewritten(rows, "y").text() == (
        "x = input() : 2x8\n"
        "w = scale(x) : 2x8 {scale=w.scale}\n"
        "again = relu_maxpool1d(w; 2, stride 2) : 2x4\n"
        "t = tanh(again) : 2x4\n"
        "both = relu(t) : 2x4\n"
        "second = relu_maxpool1d(t; 2, stride 2) : 2x2\n"
        "mean = avgpool1d(both; 2, stride 2) : 2x2\n"
        "y = subtract(second, mean) : 2x2\n"
        "return y"
    )


def test_a_pool_that_others_read_stays_before_its_relu() -> None:
    rows = scaled(2, 4)
    rows.add("pool", POOL, "w", shape=(2, 2))
    rows.row("act", RELU, "pool")
    rows.add("y", op.Subtract(), "act", "pool")
    graph = rows.graph("y")
    assert rewritten(rows, "y") == graph


def test_a_relu_of_a_relu_that_others_read_is_the_first_one() -> None:
    rows = scaled(2)
    rows.row("a", RELU, "w")
    rows.row("b", RELU, "a")
    rows.row("t", TANH, "a")
    rows.add("y", op.Product(), "b", "t")
    assert [(n.name, *n.inputs) for n in rewritten(rows, "y").nodes] == [
        ("x",), ("w", "x"), ("a", "w"), ("t", "a"), ("y", "a", "t")
    ]  # fmt: skip


def test_a_pool_of_a_pool_takes_one_relu() -> None:
    """relu(second(first(w))): the inner pool stays as it is, for its windows' negative maxima never win with ReLU."""
    rows = scaled(2, 8)
    rows.row("act", RELU, "w")
    rows.add("first", POOL, "act", shape=(2, 4))
    rows.add("second", POOL, "first", shape=(2, 2))
    assert [(n.name, n.operation.label) for n in rewritten(rows, "second").nodes[2:]] == [
        ("first", "relu_maxpool1d"), ("second", "maxpool1d")
    ]  # fmt: skip


def test_windows_that_hold_padding_alone_keep_their_relu() -> None:
    """The maximum of no entry is -inf after ReLU, too; relu(maxpool) of it would be 0."""
    rows = scaled(2, 3)
    rows.row("act", RELU, "w")
    rows.add("y", op.MaxPool((2,), (1,), (1,), (4,)), "act", shape=(2, 1))
    assert rewritten(rows, "y") == rows.graph("y")


def test_what_depends_on_the_data_alone_stays() -> None:
    rows = Rows()
    rows.input("x", 2, 4)
    rows.row("act", RELU, "x")
    rows.add("pool", POOL, "act", shape=(2, 2))
    rows.add("y", op.Affine(True, False), "pool", scale=(2, 2))
    graph = rows.graph("y")
    assert rewritten(rows, "y") == graph == lower(graph)


class Residual(nn.Module):
    """A stem with max-pool, as in ResNet, and a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.max_pool2d(torch.relu(self.stem(x)), 3, 2, 1)
        h = torch.relu(h + self.norm(self.inner(h)))
        pooled: Tensor = nn.functional.max_pool2d(h, 2) - nn.functional.avg_pool2d(h, 2)
        made: Tensor = self.head(pooled.flatten(2).sum(2))
        return made


def test_a_residual_network() -> None:
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(3, 1, 7, 7).double()
    after = lowered(model, x)
    labels = [n.operation.label for n in after.nodes]
    assert (labels.count("relu_maxpool2d"), labels.count("maxpool2d"), labels.count("relu")) == (2, 0, 1)
    assert_same_derivative(model, after, x)


def test_relu_of_what_is_never_negative_goes() -> None:
    """A mean of ReLUs is 0 where all of them are; there a second ReLU would have no derivative."""

    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.first(x)).reshape(-1, 2, 2).mean(1)
            value: torch.Tensor = self.second(torch.relu(h) + h.softmax(1))
            return value

    model, x = Means().double().eval(), torch.randn(5, 3).double()
    fine = trace(model, x)
    coarse = lower(fine)
    assert [node.operation.label for node in fine.nodes].count("relu") == 2
    assert [node.operation.label for node in coarse.nodes].count("relu") == 1
    assert torch.equal(coarse.run(model, x)[coarse.output], fine.run(model, x)[fine.output])
