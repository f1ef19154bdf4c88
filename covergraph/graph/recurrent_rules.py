"""What recurrent layers compute: steps over time with shared parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from covergraph.graph import operations as op
from covergraph.graph.dispatch import Context, apply
from covergraph.graph.node import Node


@apply.register
def _(operation: op.Recurrent, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """The steps of torch.nn.LSTM, GRU or RNN, written out, so that every mode of differentiation works."""
    weights = {role: context.parameter(node, role) for role in node.parameter}
    x = slots[0]
    driven = F.linear(x, weights["weight_ih"], weights.get("bias_ih"))
    hidden = weights["weight_hh"].shape[1]
    memory = weights["weight_hh"].shape[0] // (4 if operation.cell == "lstm" else 1)
    h, c = _start(slots, x, hidden, memory)
    times = range(x.shape[-2])
    found: dict[int, Tensor] = {}
    for t in reversed(times) if operation.reverse else times:
        recurrent = F.linear(h, weights["weight_hh"], weights.get("bias_hh"))
        h, c = _step(operation.cell, driven[..., t, :], recurrent, h, c)
        if "weight_hr" in weights:
            h = F.linear(h, weights["weight_hr"])
        found[t] = c if operation.cells else h
    return torch.stack([found[t] for t in times], -2)


def _start(slots: Sequence[Tensor], x: Tensor, hidden: int, memory: int) -> tuple[Tensor, Tensor]:
    """h_0 and c_0, by default 0."""
    given = [slot.reshape(*x.shape[:-2], slot.shape[-1]) for slot in slots[1:]]
    sizes = (hidden, memory)
    h, c = [*given, *(x.new_zeros(*x.shape[:-2], size) for size in sizes[len(given) :])]
    return h, c


def _step(cell: str, driven: Tensor, recurrent: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a cell from W_ih x + b_ih and W_hh h + b_hh; gates in torch's order."""
    if cell == "lstm":
        i, f, g, o = (driven + recurrent).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if cell == "gru":
        (r, z, n), (hr, hz, hn) = driven.chunk(3, -1), recurrent.chunk(3, -1)
        r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
        return (1 - z) * (n + r * hn).tanh() + z * h, c
    return (driven + recurrent).tanh() if cell == "rnn_tanh" else (driven + recurrent).relu(), c
