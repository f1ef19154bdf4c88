"""Small graphs as text, written by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import NEGATE, TANH, affine
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
    """x / 2 is the map t/2, and 1 - t the map -t, then t + 1, with exact coefficients."""
    state = (("weight", "fc.weight"), ("bias", "fc.bias"))
    expected = (
        Node("x", Input(), (), (3,)),
        Node("affine", Elementwise(affine(0.5, 0)), ("x",), (3,)),
        Node("neg", Elementwise(NEGATE), ("affine",), (3,)),
        Node("affine_1", Elementwise(affine(1, 1)), ("neg",), (3,)),
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


class Cell(nn.Module):
    """A convolution, BatchNorm, ReLU and max-pool; then attention over the positions with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.token, self.q, self.kv = nn.Parameter(torch.zeros(1, 1, 4)), nn.Linear(4, 4), nn.Linear(4, 8)
        self.out = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h.flatten(2).transpose(1, 2)], 1)
        k, v = self.kv(h).chunk(2, -1)
        h = h + F.scaled_dot_product_attention(self.q(h), k, v)
        return self.out(h[:, 0])


CELL = [
    ("x", "input", (3, 4, 4)),
    ("conv", "conv2d", (4, 4, 4)),
    ("norm", "scale_shift", (4, 4, 4)),
    ("maxpool2d", "maxpool2d", (4, 2, 2)),
    ("relu", "relu", (4, 2, 2)),
    ("permute", "permute", (4, 4)),
    ("parameter", "parameter", (1, 4)),
    ("concat", "concat", (5, 4)),
    ("q", "linear", (5, 4)),
    ("kv", "linear", (5, 8)),
    ("slice", "slice", (5, 4)),
    ("slice_1", "slice", (5, 4)),
    ("attention", "attention", (5, 4)),
    ("add", "add", (5, 4)),
    ("slice_2", "slice", (4,)),
    ("out.0.normalize", "normalize", (4,)),
    ("out.0.scale_shift", "scale_shift", (4,)),
    ("out.1", "linear", (2,)),
]


def test_the_vocabulary_of_a_small_vision_transformer() -> None:
    """Views are gone, norms and attention keep their meaning, max-pool(ReLU) is ReLU(max-pool)."""
    torch.manual_seed(0)
    model = Cell().eval()
    graph = trace(model, torch.randn(2, 3, 4, 4))
    assert {(node.name, node.operation.label, node.shape) for node in graph.nodes} == set(CELL)
    assert set(graph.covered) == {"conv", "norm", "parameter", "q", "kv", "out.0.scale_shift", "out.1"}
    assert set(graph.weights.read(graph["norm"].parameter["scale"])) == {"norm.running_var", "norm.weight"}
