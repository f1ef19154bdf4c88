"""Recurrent layers are written out: every cell, both directions, stacks, states that are given or read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from lowered import assert_lowered, assert_same_derivative, lowered
from operation_cases.recurrent import RECURRENT
from rewrites import Rows
from strategies import examples
from torch import Tensor, nn

from covergraph.errors import GraphError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Slice, View
from covergraph.graph.weights import Weights
from covergraph.passes.lower import lower

ONE = {"one": torch.ones((), dtype=torch.float64)}
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def learned_scale(node: Node, slots: Sequence[tuple[int, ...]], state: Mapping[str, Tensor]) -> ComputationGraph:
    """The node behind learned scales of its slots, by 1, so that it does not depend on the data alone."""
    inputs = [Node(f"{u}.given", op.Input(), (), shape) for u, shape in zip(node.inputs, slots, strict=True)]
    scales = [
        Node(u, op.Affine(True, False), (f"{u}.given",), s, (("scale", "one"),))
        for u, s in zip(node.inputs, slots, strict=True)
    ]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return ComputationGraph([*inputs, *scales, node], node.name, weights=Weights(shapes=shapes))


@pytest.mark.parametrize("name", RECURRENT)
def test_every_case_of_the_operation(name: str) -> None:
    case = RECURRENT[name]
    state = case.state | ONE
    graph = learned_scale(case.node, case.slots, state)
    assert_lowered(graph, state, case.plain(*case.values()), *case.values())


def layer(cell: str, *sizes: int, **settings: Any) -> nn.RNNBase:
    if cell.startswith("rnn"):
        return nn.RNN(*sizes, nonlinearity=cell[4:], **settings)
    return {"lstm": nn.LSTM, "gru": nn.GRU}[cell](*sizes, **settings)


@examples(60)
@given(
    cell=st.sampled_from(CELLS), sizes=st.tuples(*[st.integers(1, 4)] * 3), positions=st.integers(0, 2),
    reverse=st.booleans(), bias=st.booleans(), states=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_random_sizes(
    cell: str, sizes: tuple[int, int, int], positions: int, reverse: bool, bias: bool, states: bool, seed: int
) -> None:
    """One direction of a layer of torch, at so many positions (0: without the axis), from given states or zeros."""
    torch.manual_seed(seed)
    width, hidden, times = sizes
    inner = layer(cell, width, hidden, bias=bias, bidirectional=True, batch_first=True).double()
    before = (positions,) if positions else ()
    lengths = [hidden] * (states * (2 if cell == "lstm" else 1))
    slots = [(*before, times, width), *((*before, n) for n in lengths)]
    values = [torch.randn(2, *shape).double() for shape in slots]
    given = [v.reshape(-1, hidden).expand(2, -1, -1).contiguous() for v in values[1:]]
    start = (tuple(given) if len(given) == 2 else given[0]) if given else None
    plain = inner(values[0].reshape(-1, times, width), start)[0].chunk(2, -1)[int(reverse)]
    end = "_l0_reverse" if reverse else "_l0"
    roles = tuple((n.removesuffix(end), n) for n, _ in inner.named_parameters() if n.endswith(end))
    names = ("x", "h", "c")[: len(slots)]
    node = Node("r", op.Recurrent(cell, reverse, bias), names, (*before, times, hidden), roles)
    state = dict(inner.named_parameters()) | ONE
    assert_lowered(learned_scale(node, slots, state), state, plain.reshape(2, *node.shape), *values)


class Reader(nn.Module):
    """A recurrent layer, and what is made of its results: its last time, or the final states."""

    def __init__(self, inner: nn.RNNBase, finals: bool) -> None:
        super().__init__()
        self.inner, self.finals = inner, finals

    def forward(self, x: Tensor, *states: Tensor) -> Tensor:
        given: Any = tuple(s.transpose(0, 1) for s in states)
        given = (given if len(given) == 2 else given[0]) if given else None
        sequence, finals = self.inner(x if self.inner.batch_first else x.transpose(0, 1), given)
        if not self.finals:
            last: Tensor = sequence[:, -1] if self.inner.batch_first else sequence[-1]
            return last
        parts = finals if isinstance(finals, tuple) else (finals,)
        return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)


MODELS: dict[str, tuple[Callable[[], nn.RNNBase], bool, tuple[tuple[int, int], ...]]] = {
    "lstm, last time": (lambda: nn.LSTM(2, 3, batch_first=True), False, ()),
    "lstm of two layers, both ways, projected": (
        lambda: nn.LSTM(2, 3, 2, bidirectional=True, batch_first=True, proj_size=2), True, ()
    ),
    "lstm from given states": (lambda: nn.LSTM(2, 3, 2), True, ((2, 3), (2, 3))),
    "gru of two layers, both ways": (lambda: nn.GRU(2, 3, 2, bidirectional=True), False, ()),
    "rnn": (lambda: nn.RNN(2, 3, 2, "relu", batch_first=True), True, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_traced_layers_and_their_derivatives(name: str) -> None:
    torch.manual_seed(1)
    build, finals, starts = MODELS[name]
    model = Reader(build(), finals)
    x, states = torch.randn(2, 3, 2).double(), [torch.randn(2, *shape).double() for shape in starts]
    after = lowered(model, x, *states)
    if not states:
        assert_same_derivative(model, after, x)


def recurrent_rows(cell: str, times: int, gates: int, **shapes: tuple[int, ...]) -> Rows:
    """A cell of two units on x of width 3, and what reads its last time."""
    rows = Rows()
    rows.input("x", times, 3)
    roles = {"weight_ih": (2 * gates, 3), "weight_hh": (2 * gates, 2)} | shapes
    rows.add("r", op.Recurrent(cell, bias="bias_ih" in shapes), "x", shape=(times, 2), **roles)
    return rows


def test_an_lstm_as_text() -> None:
    """Two times share the weights; the first keeps nothing of c_0 = 0; the reader of the last time reads its h."""
    rows = recurrent_rows("lstm", 2, 4, bias_ih=(8,), bias_hh=(8,))
    rows.map("last", "r", Slice(0, 1, 2), View((2,)))
    rows.add("y", op.Linear(False), "last", shape=(1,), weight=(1, 2))
    after = lower(rows.graph("y"))
    rows.assert_same(after, "y")
    assert after.text() == (
        "x = input() : 2x3\n"
        "r.driven = linear(x) : 2x8 {weight=r.weight_ih, bias=r.bias_ih}\n"
        "r.h0 = constant() : 2 [value=r.h0]\n"
        "r.0.recurrent = linear(r.h0) : 8 {weight=r.weight_hh, bias=r.bias_hh}\n"
        "r.0.drive = slice(r.driven; axis 0 [0:1], view 8) : 8\n"
        "r.0.gates = add(r.0.drive, r.0.recurrent) : 8\n"
        "r.0.sigmoid = sigmoid(r.0.gates) : 8\n"
        "r.0.i = slice(r.0.sigmoid; axis 0 [0:2]) : 2\n"
        "r.0.o = slice(r.0.sigmoid; axis 0 [6:8]) : 2\n"
        "r.0.candidate = slice(r.0.gates; axis 0 [4:6]) : 2\n"
        "r.0.g = tanh(r.0.candidate) : 2\n"
        "r.0.c = product(r.0.i, r.0.g) : 2\n"
        "r.0.tanh = tanh(r.0.c) : 2\n"
        "r.0.h = product(r.0.o, r.0.tanh) : 2\n"
        "r.1.recurrent = linear(r.0.h) : 8 {weight=r.weight_hh, bias=r.bias_hh}\n"
        "r.1.drive = slice(r.driven; axis 0 [1:2], view 8) : 8\n"
        "r.1.gates = add(r.1.drive, r.1.recurrent) : 8\n"
        "r.1.sigmoid = sigmoid(r.1.gates) : 8\n"
        "r.1.i = slice(r.1.sigmoid; axis 0 [0:2]) : 2\n"
        "r.1.f = slice(r.1.sigmoid; axis 0 [2:4]) : 2\n"
        "r.1.o = slice(r.1.sigmoid; axis 0 [6:8]) : 2\n"
        "r.1.candidate = slice(r.1.gates; axis 0 [4:6]) : 2\n"
        "r.1.g = tanh(r.1.candidate) : 2\n"
        "r.1.kept = product(r.1.f, r.0.c) : 2\n"
        "r.1.written = product(r.1.i, r.1.g) : 2\n"
        "r.1.c = add(r.1.kept, r.1.written) : 2\n"
        "r.1.tanh = tanh(r.1.c) : 2\n"
        "r.1.h = product(r.1.o, r.1.tanh) : 2\n"
        "y = linear(r.1.h) : 1 {weight=y.weight}\n"
        "return y"
    )


def test_a_gru_of_one_time_as_text() -> None:
    """The sequence is the output, so it keeps its name."""
    rows = recurrent_rows("gru", 1, 3)
    after = lower(rows.graph("r"))
    rows.assert_same(after, "r")
    assert after.text() == (
        "x = input() : 1x3\n"
        "r.driven = linear(x) : 1x6 {weight=r.weight_ih}\n"
        "r.h0 = constant() : 2 [value=r.h0]\n"
        "r.0.recurrent = linear(r.h0) : 6 {weight=r.weight_hh}\n"
        "r.0.drive = slice(r.driven; axis 1 [0:4], view 4) : 4\n"
        "r.0.drive_n = slice(r.driven; axis 1 [4:6], view 2) : 2\n"
        "r.0.recurrent_rz = slice(r.0.recurrent; axis 0 [0:4]) : 4\n"
        "r.0.gates = add(r.0.drive, r.0.recurrent_rz) : 4\n"
        "r.0.sigmoid = sigmoid(r.0.gates) : 4\n"
        "r.0.r = slice(r.0.sigmoid; axis 0 [0:2]) : 2\n"
        "r.0.z = slice(r.0.sigmoid; axis 0 [2:4]) : 2\n"
        "r.0.recurrent_n = slice(r.0.recurrent; axis 0 [4:6]) : 2\n"
        "r.0.reset = product(r.0.r, r.0.recurrent_n) : 2\n"
        "r.0.candidate = add(r.0.drive_n, r.0.reset) : 2\n"
        "r.0.n = tanh(r.0.candidate) : 2\n"
        "r.0.change = subtract(r.h0, r.0.n) : 2\n"
        "r.0.kept = product(r.0.z, r.0.change) : 2\n"
        "r.0.h = add(r.0.n, r.0.kept) : 2\n"
        "r = reshape(r.0.h) : 1x2\n"
        "return r"
    )


def test_maps_of_the_sequence_read_what_is_none() -> None:
    """Two times side by side come from all times at once; the one time that is the output keeps its own name."""
    rows = recurrent_rows("rnn_tanh", 3, 1)
    rows.map("some", "r", Slice(0, 1, 3), View((4,)))
    after = lower(rows.graph("some"))
    rows.assert_same(after, "some")
    assert [n.text() for n in after.nodes[-2:]] == [
        "r.times = concat(r.0.h, r.1.h, r.2.h; axis 0) : 6",
        "some = slice(r.times; axis 0 [2:6]) : 4",
    ]
    rows.map("last", "r", Slice(0, 2, 3), View((2,)))
    after = lower(rows.graph("last"))
    rows.assert_same(after, "last")
    assert [(n.name, *n.inputs) for n in after.nodes[-2:]] == [("r.2.h", "r.2.gates"), ("last", "r.2.h")]


def test_h_and_c_of_one_layer_share_their_nodes() -> None:
    rows = recurrent_rows("lstm", 2, 4)
    hidden = rows.nodes[-1]
    rows.nodes.append(Node("c", op.Recurrent("lstm", bias=False, cells=True), ("x",), (2, 2), hidden.parameters))
    alone = lower(rows.graph("r"))
    rows.add("y", op.Subtract(), "r", "c")
    after = lower(rows.graph("y"))
    rows.assert_same(after, "y")
    assert {n.name for n in after.nodes} - {n.name for n in alone.nodes} == {"c.times", "c", "y"}
    assert [len(group) for group in after.groups] == [1, 2]


def test_names_that_are_taken_stay_with_their_owners() -> None:
    """A node and an entry of the state are called like what the layer would be made of."""
    rows = recurrent_rows("rnn_relu", 2, 1)
    rows.nodes.insert(1, Node("r.h0", op.Affine(True, False), ("x",), (2, 3), (("scale", "r.h0"),)))
    rows.shapes["r.h0"] = (2, 3)
    rows.nodes[-1] = Node("r", rows.nodes[-1].operation, ("r.h0",), (2, 2), rows.nodes[-1].parameters)
    after = lower(rows.graph("r"))
    rows.assert_same(after, "r")
    assert after["r.h0"] == rows.nodes[1]
    assert after["r.h0_1"].constants == (("value", "r.h0_1"),)


def test_a_projection_needs_the_length_of_its_cells() -> None:
    rows = recurrent_rows("lstm", 2, 4, weight_hr=(2, 5))
    graph = ComputationGraph(rows.nodes, "r")
    with pytest.raises(GraphError, match=r"'r' \(top level\).*shape of 'r.weight_hh'"):
        lower(graph)


def test_constant_weights_on_the_data_stay() -> None:
    """Such a layer depends on the data alone; behind a learned layer it is written out with its constants."""
    constants = {"ih": torch.randn(2, 3).double(), "hh": torch.randn(2, 2).double()}
    weights = Weights(constants=constants, shapes={"s": (3,)})
    roles = (("weight_ih", "ih"), ("weight_hh", "hh"))
    x = Node("x", op.Input(), (), (2, 3))
    fixed = Node("r", op.Recurrent("rnn_tanh", bias=False), ("x",), (2, 2), constants=roles)
    alone = ComputationGraph([x, fixed], "r", weights=weights)
    assert lower(alone) == alone
    scale = Node("w", op.Affine(True, False), ("x",), (2, 3), (("scale", "s"),))
    behind = Node("r", fixed.operation, ("w",), (2, 2), constants=roles)
    graph = ComputationGraph([x, scale, behind], "r", weights=weights)
    state, value = {"s": torch.ones(3).double()}, torch.randn(2, 2, 3).double()
    assert_lowered(graph, state, alone.run({}, value)["r"], value)
