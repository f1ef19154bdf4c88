"""What the other operations compute: functions of every entry, products, maxima, norms, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from covergraph.graph import operations as op
from covergraph.graph.dispatch import Context, Tangents, apply, only, tangent, with_positions
from covergraph.graph.node import Node


@apply.register
def _(operation: op.Elementwise, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return operation.function.evaluate(slots[0])


@tangent.register
def _(operation: op.Elementwise, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    return operation.function.derivative(slots[0]).unsqueeze(1) * only(tangents)


@apply.register
def _(operation: op.Product, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return slots[0] * slots[1]


@tangent.register
def _(operation: op.Product, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context) -> Tensor:
    terms = [t * slots[1 - i].unsqueeze(1) for i, t in enumerate(tangents) if t is not None]
    return torch.stack(terms).sum(0)


@apply.register
def _(operation: op.Divide, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return slots[0] / slots[1]


@apply.register
def _(operation: op.MatrixProduct, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return slots[0] @ slots[1]


@apply.register
def _(operation: op.ParametricReLU, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    slope = context.parameter(node, "slope")
    return torch.where(slots[0] > 0, slots[0], slope * slots[0])


_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@apply.register
def _(operation: op.MaxPool, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    kernel, pool = operation.kernel, _POOLS[len(operation.kernel)]
    sides = (operation.stride, operation.padding, operation.dilation, operation.ceil_mode)
    value = with_positions(lambda x: pool(x, kernel, *sides), slots[0], len(kernel) + 1)
    return value.relu() if operation.rectify else value


@apply.register
def _(operation: op.Maximum, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    axes = [axis + 1 for axis in operation.axes]
    value = slots[0].amax(axes) if axes else slots[0]  # torch takes no axes for all, the batch too
    return value.reshape(-1, *node.shape)


@apply.register
def _(operation: op.VectorNorm, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    axes = [axis + 1 for axis in operation.axes]  # torch takes no axes for all, the batch too
    value = torch.linalg.vector_norm(slots[0], dim=axes) if axes else slots[0].abs()
    return value.reshape(-1, *node.shape)


@apply.register
def _(operation: op.Softmax, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    scores = slots[0] + slots[1] if len(slots) > 1 else slots[0]
    if "mask" in node.parameter:
        scores = scores + context.parameter(node, "mask")
    if operation.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    weights = (F.log_softmax if operation.log else F.softmax)(scores, operation.axis + 1)
    if len(slots) == 1 and "mask" not in node.parameter:
        return weights
    empty = (scores == -torch.inf).all(operation.axis + 1, keepdim=True)  # torch's attention gives 0 without any key
    return weights.masked_fill(empty, 0.0)


@apply.register
def _(operation: op.Normalize, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    x = slots[0].reshape(slots[0].shape[0], -1, operation.group)
    if operation.center:
        x = x - x.mean(2, keepdim=True)
    return (x / (x.square().mean(2, keepdim=True) + operation.eps).sqrt()).reshape(slots[0].shape)


@apply.register
def _(operation: op.Attention, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    query, key, value, *rest = slots
    mask = context.parameter(node, "mask") if "mask" in node.parameter else rest[0] if rest else None
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward mode
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=operation.causal, scale=operation.scale
        )
