"""What each operation computes: its value, and its derivative applied to tangents.

`apply` gives h_v from the values in the slots; `tangent` applies the operation's Jacobian to tangents in the
slots. Both treat the leading axis as the batch and never look across it. A batch of T tangents has the shape
(batch, T, *shape); a slot without tangent holds None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.errors import ForeignModelError, GraphError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.node import Node

if TYPE_CHECKING:
    from covergraph.graph.computation_graph import ComputationGraph

Tangents = Sequence[Tensor | None]


@dataclass(frozen=True)
class Context:
    """What nodes need beside their slots: the model's state; for augmented graphs labels and parameters."""

    state: Mapping[str, Tensor]
    labels: Tensor | None = None
    parameters: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(state: Any) -> Context:
        """Context of a module or of a mapping from dotted names to tensors."""
        return Context(state_of(state))

    def parameter(self, node: Node, role: str) -> Tensor:
        """The tensor that plays `role` at `node`; raises `ForeignModelError` if the state lacks it."""
        name = node.parameter[role]
        if name not in self.state:
            raise ForeignModelError(
                f"node {node.name!r}: the model has no parameter {name!r}; pass the model that was traced"
            )
        return self.state[name]


def state_of(model: Any) -> Mapping[str, Tensor]:
    """Parameters and buffers by dotted name, tied names included."""
    if isinstance(model, torch.nn.Module):
        named = dict(model.named_parameters(remove_duplicate=False))
        return named | dict(model.named_buffers(remove_duplicate=False))
    return dict(model)


def evaluate(
    graph: ComputationGraph, context: Context, given: Mapping[str, Tensor], cut: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Every node's value in topological order; nodes in `given` or `cut` are not computed."""
    unknown = [name for name in cut if name not in graph.by_name]
    if unknown:
        graph[unknown[0]]
    values: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.name in cut:
            values[node.name] = _cut_value(node, cut[node.name])
        elif node.name in given:
            values[node.name] = given[node.name]
        else:
            values[node.name] = apply(node.operation, node, [values[u] for u in node.inputs], context)
    return values


def _cut_value(node: Node, value: Tensor) -> Tensor:
    if tuple(value.shape[1:]) != node.shape:
        raise GraphError(
            f"cut: the value given for {node.name!r} has shape {tuple(value.shape)}, expected "
            f"{('batch', *node.shape)}; pass one value per sample"
        )
    return value


@singledispatch
def apply(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """The value of `node`, shape (batch, *node.shape), from the values in its slots."""
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): the interpreter has no rule for {operation.label!r}"
    )


@singledispatch
def tangent(
    operation: op.Operation, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context
) -> Tensor:
    """Sum over slots of (Jacobian of the slot) x (tangent of the slot), shape (batch, T, *node.shape)."""
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): no derivative rule for {operation.label!r}"
    )


def edge_jacobian(node: Node, tail: str, slots: Sequence[Tensor], context: Context) -> Tensor:
    """J_{x,u} summed over the slots that u fills, dense: (batch, size of x, size of u)."""
    source = slots[node.inputs.index(tail)]
    basis = identity_tangents(source)
    tangents = [basis if name == tail else None for name in node.inputs]
    columns = tangent(node.operation, node, slots, tangents, context)
    return columns.reshape(*columns.shape[:2], -1).transpose(1, 2)


def identity_tangents(value: Tensor) -> Tensor:
    """One tangent per entry of a sample: (batch, size, *shape)."""
    shape = value.shape[1:]
    size = shape.numel()
    basis = torch.eye(size, dtype=value.dtype, device=value.device).reshape(size, *shape)
    return basis.expand(value.shape[0], size, *shape)


def _fold(function: Callable[[Tensor], Tensor], tangents: Tensor) -> Tensor:
    """Apply a linear function of a batch to (batch, T, *shape)."""
    folded = function(tangents.reshape(-1, *tangents.shape[2:]))
    return folded.reshape(*tangents.shape[:2], *folded.shape[1:])


def _only(tangents: Tangents) -> Tensor:
    """The tangent of the single slot of a unary operation."""
    (value,) = tangents
    assert value is not None
    return value


@apply.register
def _(operation: op.Linear, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    bias = context.parameter(node, "bias") if operation.bias else None
    return F.linear(slots[0], context.parameter(node, "weight"), bias)


@tangent.register
def _(operation: op.Linear, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    return F.linear(_only(tangents), context.parameter(node, "weight"))


_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _convolve(operation: op.Convolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _CONVOLUTIONS[len(operation.kernel)](
        x, weight, bias, operation.stride, operation.padding, operation.dilation, operation.groups
    )


@apply.register
def _(operation: op.Convolution, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    bias = context.parameter(node, "bias") if operation.bias else None
    return _convolve(operation, slots[0], context.parameter(node, "weight"), bias)


@tangent.register
def _(operation: op.Convolution, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    weight = context.parameter(node, "weight")
    return _fold(lambda x: _convolve(operation, x, weight, None), _only(tangents))


@apply.register
def _(operation: op.Elementwise, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return operation.function.evaluate(slots[0])


@tangent.register
def _(operation: op.Elementwise, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    return operation.function.derivative(slots[0]).unsqueeze(1) * _only(tangents)


@apply.register
def _(operation: op.Product, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return slots[0] * slots[1]


@tangent.register
def _(operation: op.Product, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    terms = [t * slots[1 - i].unsqueeze(1) for i, t in enumerate(tangents) if t is not None]
    return torch.stack(terms).sum(0)


_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _fixed_linear(operation: op.Operation, node: Node, slots: Sequence[Tensor]) -> Tensor:
    """The fixed linear maps of `operations.FIXED_LINEAR` on a batch."""
    match operation:
        case op.Add():
            return torch.stack(list(slots)).sum(0)
        case op.Subtract():
            return slots[0] - slots[1]
        case op.Concatenate(axis):
            return torch.cat(list(slots), dim=axis + 1)
        case op.Reshape():
            return slots[0].reshape(slots[0].shape[0], *node.shape)
        case op.AveragePool(kernel, stride, padding, ceil_mode, count):
            return _POOLS[len(kernel)](slots[0], kernel, stride, padding, ceil_mode, count)
        case _:
            raise UnsupportedOperationError(f"node {node.name!r}: {operation.label!r} is not a fixed linear map")


@apply.register(op.Add)
@apply.register(op.Subtract)
@apply.register(op.Concatenate)
@apply.register(op.Reshape)
@apply.register(op.AveragePool)
def _(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return _fixed_linear(operation, node, slots)


@tangent.register(op.Add)
@tangent.register(op.Subtract)
@tangent.register(op.Concatenate)
@tangent.register(op.Reshape)
@tangent.register(op.AveragePool)
def _(operation: op.Operation, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    batch, count = next(t for t in tangents if t is not None).shape[:2]
    filled = [
        slot.new_zeros(batch * count, *slot.shape[1:]) if t is None else t.reshape(batch * count, *slot.shape[1:])
        for slot, t in zip(slots, tangents, strict=True)
    ]
    result = _fixed_linear(operation, node, filled)
    return result.reshape(batch, count, *result.shape[1:])
