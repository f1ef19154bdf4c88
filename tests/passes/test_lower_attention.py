"""Attention is written out: every kind of mask, heads, leading axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lowered import assert_lowered, assert_same_derivative, lowered
from rewrites import Rows
from torch import Tensor, nn
from torch.nn import functional as F

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Slice
from covergraph.graph.weights import Weights
from covergraph.passes.lower import lower

LENGTH, WIDTH, HEADS = 4, 6, 2
LATER = torch.ones(LENGTH, LENGTH).bool().triu(1)
HOLES = torch.tensor([[0.0, -math.inf, 1, -2], [0.5] * 4, [-math.inf, -math.inf, -math.inf, 3], [-1, 1, 0, -math.inf]])


class Layer(nn.Module):
    """Self-attention of several kinds on heads (batch, heads, length, width / heads), side by side."""

    def __init__(self, *kinds: Callable[[Layer, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inputs, self.output, self.kinds = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 2), kinds
        self.bias = nn.Parameter(torch.randn(HEADS, LENGTH, LENGTH))
        self.register_buffer("later", LATER)
        self.register_buffer("holes", HOLES)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.inputs(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = [self.output(attend(self, *heads).transpose(1, 2).flatten(2)) for attend in self.kinds]
        return torch.cat(found, 2)


def of_data(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, layer.bias + q.mean(3, keepdim=True))


KINDS: dict[str, Callable[[Layer, Tensor, Tensor, Tensor], Tensor]] = {
    "plain": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv),
    "scale 1": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, scale=1.0),
    "causal": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True),
    "causal, fewer keys": lambda layer, q, k, v: F.scaled_dot_product_attention(
        q, k[:, :, 1:], v[:, :, 1:], is_causal=True
    ),
    "boolean": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, ~layer.get_buffer("later")),
    "float": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, layer.get_buffer("holes")),
    "learned": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, layer.bias),
    "learned, one for all heads": lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, layer.bias[0]),
    "of activations": of_data,
    "one head of keys": lambda layer, q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
}


def test_every_kind_of_mask() -> None:
    """Each attention of one model keeps its name, and so its value is compared."""
    torch.manual_seed(3)
    layer = Layer(*KINDS.values())
    x = torch.randn(3, LENGTH, WIDTH).double()
    after = lowered(layer, x)
    assert [n.operation.label for n in after.nodes].count("softmax") == len(KINDS)
    assert_same_derivative(layer, after, x)


class Padded(nn.Module):
    """Multi-head attention with a mask from the data: which keys are padding, or by how much each counts."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        made: Tensor = self.head(y)
        return made


@pytest.mark.parametrize("boolean", [True, False])
def test_a_mask_from_the_data_fills_the_second_slot_of_the_softmax(boolean: bool) -> None:
    torch.manual_seed(4)
    x = torch.randn(3, LENGTH, WIDTH).double()
    padding = torch.tensor([[False] * 4, [False, True, False, True], [True, True, False, False]])
    after = lowered(Padded(), x, padding if boolean else torch.randn(3, LENGTH).double())
    (softmax,) = (n for n in after.nodes if isinstance(n.operation, op.Softmax))
    assert softmax.inputs[1] in after.data_only
    assert after[softmax.inputs[1]].shape == softmax.shape == (HEADS, LENGTH, LENGTH)


def test_rows_without_any_key_are_zero() -> None:
    """As in torch: a query that may attend to nothing, under a constant mask, and under one from the data."""
    torch.manual_seed(5)
    x = torch.randn(2, LENGTH, WIDTH).double()
    empty = torch.ones(LENGTH, LENGTH).bool()
    empty[1] = False
    lowered(Layer(lambda layer, *qkv: F.scaled_dot_product_attention(*qkv, empty)), x)
    lowered(Padded(), x, torch.tensor([[True] * 4, [False] * 4]))


class Torchs(nn.Module):
    """Multi-head attention of torch with a boolean mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.attention(x, x, x, need_weights=False, attn_mask=LATER)[0]
        return made


def test_multi_head_attention_of_torch() -> None:
    torch.manual_seed(6)
    model, x = Torchs(), torch.randn(3, LENGTH, WIDTH).double()
    assert_same_derivative(model, lowered(model, x), x)


def projected(rows: Rows, *columns: int) -> list[str]:
    """Learned layers of x with so many columns: q, k and v."""
    return [
        rows.add(n, op.Linear(False), "x", shape=(3, c), weight=(c, 4)) for n, c in zip("qkv", columns, strict=True)
    ]


def test_as_text() -> None:
    """Keys are read through the slice before them; the learned mask is added before the softmax."""
    rows = Rows()
    rows.input("x", 3, 4)
    q, k, v = projected(rows, 2, 4, 5)
    rows.map("half", k, Slice(1, 2, 4))
    rows.add("y", op.Attention(0.5), q, "half", v, shape=(3, 5), mask=(3, 3))
    after = lower(rows.graph("y"))
    rows.assert_same(after, "y")
    assert after.text() == (
        "x = input() : 3x4\n"
        "q = linear(x) : 3x2 {weight=q.weight}\n"
        "k = linear(x) : 3x4 {weight=k.weight}\n"
        "v = linear(x) : 3x5 {weight=v.weight}\n"
        "y.keys = rearrange(k; axis 1 [2:4], permute 1 0) : 2x3\n"
        "y.scores = matmul(q, y.keys) : 3x3\n"
        "y.scaled = affine(0.5, 0)(y.scores) : 3x3\n"
        "y.masked = shift(y.scaled) : 3x3 {shift=y.mask}\n"
        "y.weights = softmax(y.masked; axis 1) : 3x3\n"
        "y = matmul(y.weights, v) : 3x5\n"
        "return y"
    )


def attention_graph(weights: Weights, *slot: Node, **roles: str) -> tuple[ComputationGraph, Rows]:
    """Learned q, k, v and an attention with a mask in a slot, or as a constant."""
    rows = Rows()
    rows.input("x", 3, 4)
    slots = [*projected(rows, 4, 4, 4), *(node.name for node in slot)]
    rows.nodes += slot
    node = Node("y", op.Attention(0.7), tuple(slots), (3, 4), constants=tuple(roles.items()))
    return ComputationGraph([*rows.nodes, node], "y", weights=weights), rows


ALLOWED = torch.tensor([[True, False, True], [False, True, True], [True, True, False]])


def formula(state: dict[str, Tensor], x: Tensor) -> Tensor:
    q, k, v = (x @ state[f"{name}.weight"].T for name in "qkv")
    scores = (0.7 * q @ k.mT).exp() * ALLOWED
    return scores / scores.sum(2, keepdim=True) @ v


def test_boolean_masks_of_a_graph_written_by_hand() -> None:
    """A constant one becomes a new constant of zeros and -inf, a node its logarithm."""
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    weights = Weights(constants={"allowed": ALLOWED, "y.mask": torch.zeros(1)})
    graph, rows = attention_graph(weights, mask="allowed")
    after = assert_lowered(graph, rows.state(), formula(rows.state(), x), x)
    assert after["y.weights"].constants == (("mask", "y.mask_1"),)
    node = Node("m", op.Constant(), (), (3, 3), constants=(("value", "allowed"),), kind="integer")
    graph, rows = attention_graph(weights, node)
    assert_lowered(graph, rows.state(), formula(rows.state(), x), x)


def test_leading_axes_are_made_equal() -> None:
    """Two heads of queries, one of keys, none of values."""
    rows = Rows()
    rows.input("x", 2, 3, 4)
    rows.add("q", op.Linear(False), "x", shape=(2, 3, 2), weight=(2, 4))
    rows.map("part", "x", Slice(0, 0, 1))
    rows.add("k", op.Linear(False), "part", shape=(1, 3, 2), weight=(2, 4))
    rows.add("mean", op.Sum((0,), True), "x", shape=(3, 4))
    rows.add("v", op.Linear(False), "mean", shape=(3, 5), weight=(5, 4))
    rows.add("y", op.Attention(1.0), "q", "k", "v", shape=(2, 3, 5))
    x = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    state = rows.state()
    q, k, v = x @ state["q.weight"].T, x[:, :1] @ state["k.weight"].T, x.mean(1, keepdim=True) @ state["v.weight"].T
    after = assert_lowered(rows_graph_with_leading_axis(rows), state, (q @ k.mT).softmax(3) @ v, x)
    assert "y.scaled" not in after.by_name


def rows_graph_with_leading_axis(rows: Rows) -> ComputationGraph:
    """The graph; the interpreter itself wants equal ranks, so v gets its axis of length 1 in a node."""
    value = Node("lifted", op.Reshape(), ("v",), (1, 3, 5))
    last = rows.nodes[-1]
    node = Node("y", last.operation, ("q", "k", "lifted"), last.shape)
    return ComputationGraph([*rows.nodes[:-1], value, node], "y")


def test_attention_of_the_data_alone_stays() -> None:
    rows = Rows()
    rows.input("x", 3, 4)
    rows.add("a", op.Attention(0.5), "x", "x", "x")
    rows.add("y", op.Linear(False), "a", shape=(3, 2), weight=(2, 4))
    graph = rows.graph("y")
    assert lower(graph) == graph
