"""What is the quantity q_c of a node's condition on a batch? How far the node is from its kinks, jumps and poles.

`covergraph.rules.conditions` says which operations have one, and its Lipschitz constants. Where a sample has nothing
to keep away from, q_c is infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.calls import call_quantity
from covergraph.graph.dispatch import Context
from covergraph.graph.kinks import distance, good_intervals
from covergraph.graph.node import Node


@singledispatch
def condition_value(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """q_c >= 0 of every sample, shape (batch,); 0 where the operation has no derivative or is not defined."""
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): {operation.label!r} has no condition"
    )


def _smallest(values: Tensor) -> Tensor:
    """The minimum over a sample: (batch, ...) -> (batch,)."""
    flat = values.reshape(len(values), -1)
    return flat.amin(1) if flat.shape[1] else flat.new_full((len(flat),), torch.inf)


@condition_value.register
def _(operation: op.Elementwise, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return _smallest(distance(slots[0], good_intervals(operation.function.expression)))


@condition_value.register
def _(operation: op.ParametricReLU, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return _smallest(slots[0].abs())


@condition_value.register
def _(operation: op.Divide, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return _smallest(slots[1].abs())


@condition_value.register
def _(operation: op.MaxPool, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    first, second = _two_largest(_taps(operation, node, slots[0]))
    gap = torch.where(second == -torch.inf, torch.inf, first - second)
    return _smallest(torch.maximum(-first, torch.minimum(first, gap)) if operation.rectify else gap)


def _taps(operation: op.MaxPool, node: Node, x: Tensor) -> Iterator[Tensor]:
    """The entry of every window at each of its places, in the shape (batch, *node.shape); -inf for padding."""
    rank = len(operation.kernel)
    sides = list(zip(node.shape[-rank:], operation.kernel, operation.stride, operation.dilation, strict=True))
    reach = [s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in sides]
    widths: list[int] = []
    for side, needed, before in zip(x.shape[-rank:], reach, operation.padding, strict=True):
        widths = [before, max(needed - before - side, 0), *widths]  # F.pad counts axes from the last one
    padded = F.pad(x, widths, value=-torch.inf)
    for place in product(*(range(k) for k in operation.kernel)):
        starts = [t * d for t, (_, _, _, d) in zip(place, sides, strict=True)]
        spans = [slice(a, a + s * (n - 1) + 1, s) for a, (n, _, s, _) in zip(starts, sides, strict=True)]
        window: Any = (..., *spans)
        yield padded[window]


def _two_largest(values: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """The largest and the second largest of some tensors, entry by entry; -inf if there is no second one."""
    first = next(values)
    second = torch.full_like(first, -torch.inf)
    for value in values:
        first, second = torch.maximum(first, value), torch.maximum(second, torch.minimum(first, value))
    return first, second


@condition_value.register
def _(operation: op.Maximum, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    groups = _groups(slots[0], operation.axes)
    if groups.shape[-1] < 2:
        return _smallest(groups.new_zeros(len(groups), 0))
    largest = groups.topk(2, dim=-1).values
    return _smallest(largest[..., 0] - largest[..., 1])


@condition_value.register
def _(operation: op.VectorNorm, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return _smallest(torch.linalg.vector_norm(_groups(slots[0], operation.axes), dim=-1))


def _groups(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The entries along some axes of a sample as one last axis."""
    last = x.movedim([axis + 1 for axis in axes], list(range(-len(axes), 0)))
    return last.flatten(-len(axes)) if axes else x[..., None]


@condition_value.register
def _(operation: op.Normalize, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """min over the groups of r = sqrt(var + eps), or of sqrt(mean h^2 + eps)."""
    x = slots[0].reshape(len(slots[0]), -1, operation.group)
    if operation.center:
        x = x - x.mean(2, keepdim=True)
    return _smallest((x.square().mean(2) + operation.eps).sqrt())


@condition_value.register
def _(operation: op.Call, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return call_quantity(operation, slots)
