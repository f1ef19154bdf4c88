"""What calls of torch operations and composite nodes compute, and how calls are differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.dispatch import Context, Tangents, apply, tangent
from covergraph.graph.node import Node
from covergraph.graph.weights import fitting, operator, substitute


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
        return fitting(argument, real)

    arguments = substitute(operation.arguments, leaf)
    keywords = {key: substitute(value, leaf) for key, value in operation.keywords}
    result = operator(operation.target)(*arguments, **keywords)
    return result if operation.output is None else result[operation.output]


@tangent.register
def _(operation: op.Call, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    """In forward mode; where torch has none, by the Jacobian of one sample at a time in reverse mode."""
    try:
        return tangent.dispatch(op.Operation)(operation, node, slots, tangents, context)
    except (UnsupportedOperationError, RuntimeError):
        return torch.stack([_pushed(operation, node, slots, tangents, context, n) for n in range(len(slots[0]))])


def _pushed(
    operation: op.Call, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context, sample: int
) -> Tensor:
    """The Jacobian at one sample times its tangents: (T, *shape)."""
    values = [slot[sample] for slot in slots]
    moving = [i for i, t in enumerate(tangents) if t is not None]

    def value(*moved: Tensor) -> Tensor:
        filled = dict(zip(moving, moved, strict=True))
        return _call(operation, [filled.get(i, v) for i, v in enumerate(values)], context.dtype).reshape(-1)

    try:
        jacobian: Any = torch.autograd.functional.jacobian
        rows = jacobian(value, tuple(values[i] for i in moving), strict=True)
    except RuntimeError as error:
        raise UnsupportedOperationError(
            f"node {node.name!r} ({node.origin or 'top level'}): torch has no derivative of {operation.target}, so its "
            f"Jacobian cannot be measured; write the operation in terms of others ({error!s:.100})"
        ) from error
    directions = [t[sample].flatten(1) for t in tangents if t is not None]
    terms = [d @ row.reshape(node.size, -1).mT for d, row in zip(directions, rows, strict=True)]
    return torch.stack(terms).sum(0).reshape(-1, *node.shape)


@apply.register
def _(operation: op.Composite, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    values = dict(zip(operation.inputs, slots, strict=True))
    for inner in operation.nodes:
        made = apply(inner.operation, inner, [values[u] for u in inner.inputs], context)
        values[inner.name] = made.expand(slots[0].shape[0], *made.shape[1:]) if slots else made
    return values[operation.output]


@tangent.register
def _(operation: op.Composite, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    """Node by node: each derivative is that of its own rule, not autograd's of all steps at once (Lemma 12)."""
    values = dict(zip(operation.inputs, slots, strict=True))
    moved = {u: t for u, t in zip(operation.inputs, tangents, strict=True) if t is not None}
    rows, directions = next(iter(moved.values())).shape[:2]
    for inner in operation.nodes:
        read, moving = [values[u] for u in inner.inputs], [moved.get(u) for u in inner.inputs]
        made = apply(inner.operation, inner, read, context)
        values[inner.name] = made.expand(rows, *made.shape[1:])
        if inner.kind != "integer" and any(t is not None for t in moving):
            moved[inner.name] = tangent(inner.operation, inner, read, moving, context)
    value = values[operation.output]
    return moved.get(operation.output, value.new_zeros(rows, directions, *value.shape[1:]))
