"""What LSTM, GRU and RNN do at one time, node by node; gates in torch's order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from covergraph.errors import GraphError
from covergraph.graph.function_rows import UNARY
from covergraph.graph.functions import SIGMOID, TANH
from covergraph.graph.node import Node
from covergraph.graph.operations import Add, Elementwise, Linear, Operation, Product, Recurrent, Subtract
from covergraph.graph.rearrange import Shape, Slice, View
from covergraph.passes.draft import Draft
from covergraph.passes.rewriting import parameter_shape

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""weight_hh of a cell has so many blocks of rows, of the length of c (of h, where there is no c)."""


@dataclass(frozen=True)
class Recurrence:
    """Appends the nodes of a recurrent layer to a draft: `hidden` and `memory` are the lengths of h and c."""

    draft: Draft
    node: Node
    operation: Recurrent
    hidden: int
    memory: int

    @staticmethod
    def of(draft: Draft, node: Node, operation: Recurrent) -> Recurrence:
        """The lengths come from weight_hh; raises `GraphError` if its shape must be known and is not."""
        shape = parameter_shape(draft.graph, node.parameter["weight_hh"])
        if shape is not None:
            return Recurrence(draft, node, operation, shape[1], shape[0] // GATES[operation.cell])
        if "weight_hr" in node.parameter:
            raise GraphError(
                f"node {node.name!r} ({node.origin or 'top level'}): the graph does not hold the shape of "
                f"{node.parameter['weight_hh']!r}, which says how long h and c are; expected it in weights.shapes"
            )
        return Recurrence(draft, node, operation, node.shape[-1], node.shape[-1])

    @property
    def before(self) -> Shape:
        """The axes before time: positions."""
        return self.draft.shape(self.node.inputs[0])[:-2]

    def unrolled(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The nodes of h_t and those of c_t (of an lstm; else empty), by time."""
        x = self.node.inputs[0]
        times = range(self.draft.shape(x)[-2])
        rows = GATES[self.operation.cell] * self.memory
        driven = self._linear("driven", x, "ih", (*self.before, len(times), rows))
        h = self._start(0, self.hidden)
        c = self._start(1, self.memory) if len(self.node.inputs) > 2 else ""
        states, memories = {}, {}
        for t in reversed(times) if self.operation.reverse else times:
            h, c = states[t], memories[t] = self._step(t, driven, h, c)
        return tuple(states[t] for t in times), tuple(memories[t] for t in times)

    def _start(self, which: int, length: int) -> str:
        """h_0 or c_0, zeros if there is no slot for it."""
        word, slots, shape = "hc"[which], self.node.inputs[1:], (*self.before, length)
        if which < len(slots):
            return self.draft.map(f"{self.node.name}.{word}0", slots[which], (View(shape),), self.node)
        return self.draft.fixed(f"{self.node.name}.{word}0", torch.zeros(shape, dtype=torch.float64), self.node)

    def _step(self, t: int, driven: str, h: str, c: str) -> tuple[str, str]:
        """The nodes of h_t and c_t from W_ih x of all times and the nodes of the time before."""
        rows = (*self.before, GATES[self.operation.cell] * self.memory)
        recurrent = self._linear(f"{t}.recurrent", h, "hh", rows)
        if self.operation.cell == "gru":
            return self._gru(t, driven, recurrent, h), ""
        drive = self._map(f"{t}.drive", driven, Slice(len(self.before), t, t + 1), View(rows))
        gates = self._add(f"{t}.gates", Add(), drive, recurrent)
        if self.operation.cell == "lstm":
            return self._lstm(t, gates, c)
        function = UNARY[self.operation.cell.removeprefix("rnn_")]
        return self._add(f"{t}.h", Elementwise(function), gates), ""

    def _lstm(self, t: int, gates: str, c: str) -> tuple[str, str]:
        """c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c'), projected if there is weight_hr.

        No c stands for zeros: without c_0, the first time keeps nothing. One sigmoid serves three gates: fewer nodes,
        so fewer pairs; its values at g are not read.
        """
        sigmoid = self._add(f"{t}.sigmoid", Elementwise(SIGMOID), gates)
        i, f, o = (self._block(f"{t}.{gate}", sigmoid, k, k + 1) for gate, k in (("i", 0), ("f", 1), ("o", 3)))
        g = self._add(f"{t}.g", Elementwise(TANH), self._block(f"{t}.candidate", gates, 2, 3))
        if c:
            kept, written = self._add(f"{t}.kept", Product(), f, c), self._add(f"{t}.written", Product(), i, g)
            c = self._add(f"{t}.c", Add(), kept, written)
        else:
            c = self._add(f"{t}.c", Product(), i, g)
        tanh = self._add(f"{t}.tanh", Elementwise(TANH), c)
        if "weight_hr" not in self.node.parameter:
            return self._add(f"{t}.h", Product(), o, tanh), c
        wide = self._add(f"{t}.wide", Product(), o, tanh)
        return self._linear(f"{t}.h", wide, "hr", (*self.before, self.hidden)), c

    def _gru(self, t: int, driven: str, recurrent: str, h: str) -> str:
        """h' = n + z (h - n), n = tanh(W x + r W h): one product where (1 - z) n + z h has two, with equal values."""
        time = Slice(len(self.before), t, t + 1)
        rows = View((*self.before, 3 * self.memory))
        drive, drive_n = (
            self._map(f"{t}.{word}", driven, time, rows, self._rows(*blocks))
            for word, blocks in (("drive", (0, 2)), ("drive_n", (2, 3)))
        )
        gates = self._add(f"{t}.gates", Add(), drive, self._block(f"{t}.recurrent_rz", recurrent, 0, 2))
        sigmoid = self._add(f"{t}.sigmoid", Elementwise(SIGMOID), gates)
        r, z = (self._block(f"{t}.{gate}", sigmoid, k, k + 1) for gate, k in (("r", 0), ("z", 1)))
        reset = self._add(f"{t}.reset", Product(), r, self._block(f"{t}.recurrent_n", recurrent, 2, 3))
        n = self._add(f"{t}.n", Elementwise(TANH), self._add(f"{t}.candidate", Add(), drive_n, reset))
        kept = self._add(f"{t}.kept", Product(), z, self._add(f"{t}.change", Subtract(), h, n))
        return self._add(f"{t}.h", Add(), n, kept)

    def _add(self, role: str, operation: Operation, *inputs: str) -> str:
        """A node of the shape of its first slot."""
        return self.draft.add(f"{self.node.name}.{role}", operation, inputs, self.draft.shape(inputs[0]), self.node)

    def _linear(self, role: str, source: str, which: str, shape: Shape) -> str:
        """The layer's affine map `which`: ih, hh, or the projection hr."""
        weight, bias = f"weight_{which}", f"bias_{which}"
        operation = Linear(bias in self.node.parameter)
        name = f"{self.node.name}.{role}"
        return self.draft.add(name, operation, (source,), shape, self.node, weight=weight, bias=bias)

    def _map(self, role: str, source: str, *steps: Slice | View) -> str:
        return self.draft.map(f"{self.node.name}.{role}", source, steps, self.node)

    def _block(self, role: str, source: str, first: int, last: int) -> str:
        return self._map(role, source, self._rows(first, last))

    def _rows(self, first: int, last: int) -> Slice:
        """Blocks of gates on the last axis."""
        return Slice(len(self.before), first * self.memory, last * self.memory)
