"""What calls of torch operations and composite nodes compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.dispatch import Context, apply
from covergraph.graph.node import Node
from covergraph.graph.weights import operator, substitute


@apply.register
def _(operation: op.Call, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """The torch operation on one sample at a time, vectorized where torch can."""

    def sample(*values: Tensor) -> Tensor:
        return _call(operation, values, context.dtype).reshape(node.shape)

    if not slots:
        return sample().unsqueeze(0)
    try:
        return torch.vmap(sample)(*slots)
    except RuntimeError:  # no batching rule
        return torch.stack([sample(*values) for values in zip(*slots, strict=True)])


def _call(operation: op.Call, values: Sequence[Tensor], real: torch.dtype) -> Tensor:
    """The operation on the slots' values; where a graph says float64, it means the weights' own type."""
    shaped = [value.reshape(shape) for value, shape in zip(values, operation.shapes, strict=True)]

    def leaf(argument: Any) -> Any:
        if isinstance(argument, op.Slot):
            return shaped[argument.position]
        return real if argument is torch.float64 else argument

    arguments = substitute(operation.arguments, leaf)
    keywords = {key: substitute(value, leaf) for key, value in operation.keywords}
    result = operator(operation.target)(*arguments, **keywords)
    return result if operation.output is None else result[operation.output]


@apply.register
def _(operation: op.Composite, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    values = dict(zip(operation.inputs, slots, strict=True))
    for inner in operation.nodes:
        made = apply(inner.operation, inner, [values[u] for u in inner.inputs], context)
        values[inner.name] = made.expand(slots[0].shape[0], *made.shape[1:]) if slots else made
    return values[operation.output]
