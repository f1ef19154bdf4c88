"""Small graphs as text, written by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH, affine
from covergraph.graph.node import Node
from covergraph.graph.operations import (
    Add,
    AveragePool,
    Convolution,
    Elementwise,
    Input,
    Linear,
    Product,
    Reshape,
)
from covergraph.tracers import trace


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.inner(x))


class Net(nn.Module):
    """Two blocks, arithmetic at the top level, one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.fc = Block(), Block(), nn.Linear(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        h = image.flatten(1)
        h = self.block2(self.block1(h))
        return self.fc(self.fc(h)) * 2 + h + h


GOLDEN = """\
image = input() : 2x2
reshape = reshape(image) : 4
block1.inner = linear(reshape) : 4 {weight=block1.inner.weight} @ block1.inner
block1.tanh = tanh(block1.inner) : 4 @ block1
block1.add = add(reshape, block1.tanh) : 4 @ block1
block2.inner = linear(block1.add) : 4 {weight=block2.inner.weight} @ block2.inner
block2.tanh = tanh(block2.inner) : 4 @ block2
block2.add = add(block1.add, block2.tanh) : 4 @ block2
fc.linear = linear(block2.add) : 4 {weight=fc.weight, bias=fc.bias} @ fc
fc.linear_1 = linear(fc.linear) : 4 {weight=fc.weight, bias=fc.bias} @ fc
affine = affine(2, 0)(fc.linear_1) : 4
add = add(affine, block2.add) : 4
add_1 = add(add, block2.add) : 4
return add_1"""


def test_names_are_short_and_say_where() -> None:
    """A module with one node gives it its path, with several path.operation; repetitions are counted."""
    assert trace(Net(), torch.randn(1, 2, 2)).text() == GOLDEN


def test_records_written_by_hand() -> None:
    """Every field of every record, for a net with a stride, a pool and a product."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), Square(), nn.AvgPool2d(2), nn.Flatten()
    )
    state = (("weight", "0.weight"), ("bias", "0.bias"))
    conv = Convolution((2, 2), (1, 1), (1, 1), 2, (3, 3), True)
    expected = (
        Node("input", Input(), (), (2, 8, 8)),
        Node("0", conv, ("input",), (4, 4, 4), state, "0"),
        Node("1", Product(), ("0", "0"), (4, 4, 4), (), "1"),
        Node("2", AveragePool((2, 2), (2, 2), (0, 0)), ("1",), (4, 2, 2), (), "2"),
        Node("3", Reshape(), ("2",), (16,), (), "3"),
    )
    assert trace(model, torch.randn(2, 2, 8, 8)) == ComputationGraph(expected, "3")


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(1 - x / 2)) + self.fc(x)


def test_numbers_become_affine_maps() -> None:
    """x / 2 is the map t/2, and 1 - t the map -t + 1, with exact coefficients."""
    state = (("weight", "fc.weight"), ("bias", "fc.bias"))
    expected = (
        Node("x", Input(), (), (3,)),
        Node("affine", Elementwise(affine(0.5, 0)), ("x",), (3,)),
        Node("affine_1", Elementwise(affine(-1, 1)), ("affine",), (3,)),
        Node("fc.linear", Linear(True), ("affine_1",), (2,), state, "fc"),
        Node("tanh", Elementwise(TANH), ("fc.linear",), (2,)),
        Node("fc.linear_1", Linear(True), ("x",), (2,), state, "fc"),
        Node("add", Add(), ("tanh", "fc.linear_1"), (2,)),
    )
    assert trace(Shifted(), torch.randn(1, 3)).nodes == expected


def test_tracing_twice_gives_one_graph_and_other_weights_another_fingerprint() -> None:
    torch.manual_seed(0)
    model, other = Net(), Net()
    first, second, third = (trace(m, torch.randn(n, 2, 2)) for m, n in ((model, 1), (model, 4), (other, 1)))
    assert first == second == third
    assert first.fingerprint == second.fingerprint != third.fingerprint
