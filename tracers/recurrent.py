"""Rules for LSTM, GRU and RNN: one node per layer and direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.rearrange import Permute, Slice, View
from covergraph.tracers import elementwise
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data

Shape = tuple[int, ...]
ROLES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def recurrent(call: Call) -> Any:
    """aten.lstm, gru, rnn_tanh, rnn_relu: (output, final states)."""
    if call.given("training", False) and call.number("dropout", 0):
        raise call.mixes("drops at random between layers", "call eval()")
    if "batch_sizes" in call.arguments:
        return elementwise.opaque(call)
    x = call.data("input")
    batch_first = bool(call.given("batch_first", False)) and len(x.shape) == 3
    initial = call.arguments["hx"]
    initial = list(initial) if isinstance(initial, (list, tuple)) else [initial]
    ways = 2 if call.given("bidirectional", False) else 1
    times_first = x if not batch_first else _swapped(call, x)
    sequence, finals, cells = _layers(call, times_first, initial, ways)
    output = _swapped(call, sequence) if batch_first else sequence
    last = [_stacked(call, finals, call.results[1][0])]
    if call.name == "lstm":
        last.append(_stacked(call, cells, call.results[2][0]))
    return (output, *last)


def _swapped(call: Call, x: Data) -> Data:
    shape = (x.shape[1], x.shape[0], *x.shape[2:])
    return call.rearranged(x, [Permute((1, 0, 2))], shape)


def _layers(call: Call, x: Data, initial: Sequence[Any], ways: int) -> tuple[Data, list[Any], list[Any]]:
    """The last layer's sequence (T, B, ways * H), and per layer and direction what makes the final states."""
    params = list(call.arguments["params"])
    layers = int(call.arguments["num_layers"])
    each = len(params) // (layers * ways)
    finals: list[Any] = []
    cells: list[Any] = []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            index = layer * ways + way
            weights = _roles(call, params[index * each : (index + 1) * each])
            starts = [_start(call, state, index) for state in initial]
            make = _direction(call, x, weights, starts, bool(way))
            outputs.append(make(False))
            finals.append((outputs[-1], bool(way)))
            cells.append((make, bool(way)))
        x = outputs[0] if ways == 1 else _joined(call, outputs)
    return x, finals, cells


def _roles(call: Call, weights: Sequence[Any]) -> dict[str, Any]:
    biases = bool(call.given("has_biases", True))
    names = ROLES[: len(weights)] if biases else (*ROLES[:2], *ROLES[4:])[: len(weights)]
    return dict(zip(names, weights, strict=True))


def _start(call: Call, state: Any, index: int) -> Any:
    """The initial state of one layer and direction; None for zeros."""
    if isinstance(state, Tensor) and not bool(state.any()):
        return None
    value = call.as_data(state)
    shape = tuple(value.shape[1:])
    return call.rearranged(value, [Slice(0, index, index + 1), View(shape)], shape)


def _direction(call: Call, x: Data, weights: dict[str, Any], starts: Sequence[Any], reverse: bool) -> Any:
    """A function that emits the node of h_t, or of c_t."""
    given = [s for s in starts if s is not None]
    if given and len(given) != len(starts):
        given = [call.as_data(_zeros(call, x, weights)) if s is None else s for s in starts]
    size = weights.get("weight_hr", weights["weight_hh"]).shape[0 if "weight_hr" in weights else 1]
    memory = weights["weight_hh"].shape[0] // 4

    def make(cells: bool) -> Data:
        operation = op.Recurrent(call.name, reverse, "bias_ih" in weights, cells)
        shape = (*x.shape[:-1], memory if cells else size)
        time, batch = x.shape[0], tuple(x.shape[1:-1])
        held = call.shaped(x, (*(batch if batch != (1,) else ()), time, x.shape[-1])) if batch in ((), (1,)) else None
        if held is not None:
            return call.emit(operation, [held, *given], weights, shape=shape, node_shape=(time, shape[-1]))
        moved = call.rearranged(x, [Permute((1, 0, 2))], (*batch, time, x.shape[-1]))
        made = call.emit(operation, [moved, *given], weights, shape=(*batch, time, shape[-1]))
        return call.rearranged(made, [Permute((1, 0, 2))], shape)

    return make


def _zeros(call: Call, x: Data, weights: dict[str, Any]) -> Tensor:
    import torch

    return torch.zeros(*x.shape[1:-1], weights["weight_hh"].shape[1], dtype=torch.float64)


def _joined(call: Call, parts: Sequence[Data]) -> Data:
    """Both directions side by side."""
    shape = (*parts[0].shape[:-1], sum(p.shape[-1] for p in parts))
    held = [call.shaped(p, tuple(p.shape)) for p in parts]
    return call.emit(op.Concatenate(len(shape) - 1), held, shape=shape, node_shape=shape)


def _stacked(call: Call, states: Sequence[Any], shape: Shape) -> Data | None:
    """The final states of all layers and directions, made only when they are asked for."""
    return Lazy(call, states, shape)  # type: ignore[return-value]


class Lazy:
    """Final states, which few models read: nodes are made on reading."""

    def __init__(self, call: Call, states: Sequence[Any], shape: Shape) -> None:
        self.call, self.states, self.shape = call, states, shape

    def read(self) -> Data:
        """The node that holds the stacked final states."""
        parts = []
        for source, reverse in self.states:
            sequence = source if isinstance(source, Data) else source(True)
            last = 0 if reverse else sequence.shape[0] - 1
            shape = (1, *sequence.shape[1:])
            parts.append(self.call.rearranged(sequence, [Slice(0, last, last + 1)], shape))
        full = (len(parts), *parts[0].shape[1:])
        if len(parts) > 1:
            held = [self.call.shaped(p, tuple(p.shape)) for p in parts]
            parts = [self.call.emit(op.Concatenate(0), held, shape=full, node_shape=full)]
        return self.call.rearranged(parts[0], [View(tuple(self.shape))], tuple(self.shape))
