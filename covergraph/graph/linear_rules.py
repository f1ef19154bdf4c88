"""What linear and affine operations compute: layers with parameters, and fixed maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph import rearrange
from covergraph.graph.dispatch import Context, Tangents, apply, fold, only, tangent, with_positions
from covergraph.graph.node import Node


@apply.register
def _(operation: op.Linear, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    bias = context.parameter(node, "bias") if operation.bias else None
    return F.linear(slots[0], context.parameter(node, "weight"), bias)


@tangent.register
def _(operation: op.Linear, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    return F.linear(only(tangents), context.parameter(node, "weight"))


_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _convolve(operation: op.Convolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    function = _CONVOLUTIONS[len(operation.kernel)]
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)
    return with_positions(lambda images: function(images, weight, bias, *sides), x, len(operation.kernel) + 1)


@apply.register
def _(operation: op.Convolution, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    bias = context.parameter(node, "bias") if operation.bias else None
    return _convolve(operation, slots[0], context.parameter(node, "weight"), bias)


@tangent.register
def _(operation: op.Convolution, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    weight = context.parameter(node, "weight")
    return fold(lambda x: _convolve(operation, x, weight, None), only(tangents))

_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _convolve_transposed(o: op.TransposedConvolution, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    function = _TRANSPOSED[len(o.kernel)]
    sides = (o.stride, o.padding, o.output_padding, o.groups, o.dilation)
    return with_positions(lambda images: function(images, weight, bias, *sides), x, len(o.kernel) + 1)


@apply.register
def _(operation: op.TransposedConvolution, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    bias = context.parameter(node, "bias") if operation.bias else None
    return _convolve_transposed(operation, slots[0], context.parameter(node, "weight"), bias)


@tangent.register
def _(
    operation: op.TransposedConvolution, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context
) -> Tensor:
    weight = context.parameter(node, "weight")
    return fold(lambda x: _convolve_transposed(operation, x, weight, None), only(tangents))


@apply.register
def _(operation: op.Affine, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    value = slots[0]
    if operation.scale:
        scale = context.parameter(node, "scale")
        value = torch.where(scale == 0, 0.0, slots[0] * scale) if operation.select else slots[0] * scale
    return value + context.parameter(node, "shift") if operation.shift else value


@tangent.register
def _(operation: op.Affine, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    return only(tangents) * context.parameter(node, "scale") if operation.scale else only(tangents)


@apply.register
def _(operation: op.Embedding, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return F.embedding(slots[0].long(), context.parameter(node, "weight"))


@apply.register(op.Parameter)
@apply.register(op.Constant)
def _(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """The value with a batch axis of length 1, which `evaluate` repeats to the batch."""
    return context.parameter(node, "value").reshape(1, *node.shape)


_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _fixed_linear(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
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
            pool = _POOLS[len(kernel)]
            return with_positions(
                lambda x: pool(x, kernel, stride, padding, ceil_mode, count), slots[0], len(kernel) + 1
            )
        case op.Rearrange(steps):
            return rearrange.run(steps, slots[0])
        case op.Sum(axes, mean):
            value = slots[0].sum([axis + 1 for axis in axes]) if axes else slots[0]  # torch sums over all for no axes
            entries = slots[0][0].numel() // max(value[0].numel(), 1)
            return (value / entries if mean else value).reshape(-1, *node.shape)
        case op.AxisMap(axis):
            weight = context.parameter(node, "weight")
            return torch.tensordot(slots[0], weight, ([axis + 1], [1])).movedim(-1, axis + 1)
        case _:
            raise UnsupportedOperationError(f"node {node.name!r}: {operation.label!r} is not a fixed linear map")


@apply.register(op.Add)
@apply.register(op.Subtract)
@apply.register(op.Concatenate)
@apply.register(op.Reshape)
@apply.register(op.AveragePool)
@apply.register(op.Rearrange)
@apply.register(op.Sum)
@apply.register(op.AxisMap)
def _(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return _fixed_linear(operation, node, slots, context)


@tangent.register(op.Add)
@tangent.register(op.Subtract)
@tangent.register(op.Concatenate)
@tangent.register(op.Reshape)
@tangent.register(op.AveragePool)
@tangent.register(op.Rearrange)
@tangent.register(op.Sum)
@tangent.register(op.AxisMap)
def _(operation: op.Operation, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    batch, count = next(t for t in tangents if t is not None).shape[:2]
    filled = [
        slot.new_zeros(batch * count, *slot.shape[1:]) if t is None else t.reshape(batch * count, *slot.shape[1:])
        for slot, t in zip(slots, tangents, strict=True)
    ]
    result = _fixed_linear(operation, node, filled, context)
    return result.reshape(batch, count, *result.shape[1:])
