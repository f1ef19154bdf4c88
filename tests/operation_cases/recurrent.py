"""Cases of recurrent layers, against one direction of a bidirectional layer of torch.nn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from covergraph.graph import operations as op
from operation_cases import Case, at_positions

STEPS, WIDTH, HIDDEN, PROJECTED = 4, 3, 3, 2
Rule = Callable[..., Tensor]


def layer(operation: op.Recurrent, projected: bool) -> nn.RNNBase:
    """Both directions; the other one has weights that must not matter."""
    torch.manual_seed(70)
    if operation.cell == "lstm":
        module: nn.RNNBase = nn.LSTM(
            WIDTH, HIDDEN, bias=operation.bias, batch_first=True, bidirectional=True, proj_size=PROJECTED * projected
        )
    elif operation.cell == "gru":
        module = nn.GRU(WIDTH, HIDDEN, bias=operation.bias, batch_first=True, bidirectional=True)
    else:
        kind = operation.cell.removeprefix("rnn_")
        module = nn.RNN(WIDTH, HIDDEN, 1, kind, operation.bias, batch_first=True, bidirectional=True)
    return module.double().requires_grad_(False)


def outputs(module: nn.RNNBase, operation: op.Recurrent) -> Rule:
    """h_1..h_T of the operation's direction."""

    def plain(x: Tensor, *initial: Tensor) -> Tensor:
        both = [value.reshape(1, len(x), -1).repeat(2, 1, 1) for value in initial]
        start = tuple(both) if len(both) == 2 else both[0] if both else None
        return module(x, start)[0].chunk(2, -1)[int(operation.reverse)]

    return plain


def cells(module: nn.RNNBase, operation: op.Recurrent) -> Rule:
    """c_1..c_T: the last c of the steps up to (or down to) each one."""

    def plain(x: Tensor, *initial: Tensor) -> Tensor:
        both = tuple(value.reshape(1, len(x), -1).repeat(2, 1, 1) for value in initial) or None
        parts = [x[:, t:] if operation.reverse else x[:, : t + 1] for t in range(STEPS)]
        return torch.stack([module(part, both)[1][1][int(operation.reverse)] for part in parts], 1)

    return plain


def case(operation: op.Recurrent, projected: bool = False, initial: tuple[int, ...] = ()) -> Case:
    """`initial`: the lengths of h_0 and c_0 as further slots."""
    module = layer(operation, projected)
    end = "_l0_reverse" if operation.reverse else "_l0"
    weights = {name.removesuffix(end): value for name, value in module.named_parameters() if name.endswith(end)}
    size = PROJECTED if projected and not operation.cells else HIDDEN
    plain = (cells if operation.cells else outputs)(module, operation)
    slots = ((STEPS, WIDTH), *((length,) for length in initial))
    return Case(operation, slots, (STEPS, size), plain, tuple(weights.items()))


LSTM, GRU = op.Recurrent("lstm"), op.Recurrent("gru")
RECURRENT = {
    **{cell: case(op.Recurrent(cell)) for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{f"{cell} reverse": case(op.Recurrent(cell, True)) for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{f"{cell} without bias": case(op.Recurrent(cell, bias=False)) for cell in ("lstm", "gru", "rnn_tanh")},
    "lstm from a state": case(LSTM, initial=(HIDDEN, HIDDEN)),
    "gru from a state": case(GRU, initial=(HIDDEN,)),
    "rnn reverse from a state": case(op.Recurrent("rnn_tanh", True), initial=(HIDDEN,)),
    "lstm projected": case(LSTM, projected=True),
    "lstm projected, reverse, from a state": case(op.Recurrent("lstm", True, False), True, (PROJECTED, HIDDEN)),
    "cells of an lstm": case(op.Recurrent("lstm", cells=True)),
    "cells of an lstm, reverse, from a state": case(op.Recurrent("lstm", True, cells=True), False, (HIDDEN, HIDDEN)),
    "cells of a projected lstm": case(op.Recurrent("lstm", cells=True), projected=True),
}
_ONE = RECURRENT["gru"]
RECURRENT["gru at positions"] = Case(
    _ONE.operation, ((2, STEPS, WIDTH),), (2, STEPS, HIDDEN), lambda x: at_positions(_ONE.plain, x), _ONE.parameters
)
