"""Jacobians of linear operations; they are the same for all rows, and for any number of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.measure.local_convolutions import Correlation, cut
from covergraph.measure.local_rules import Local, Map, Moved, Pull, Shape, Slots, fixed, local, reverse, unary


@local.register
def _(operation: op.Reshape, node: Node, slots: Slots, context: Context) -> Local:
    shape = slots[0].shape[1:]
    return unary(lambda t: t.reshape(len(t), *node.shape), lambda c: c.reshape(len(c), *shape))


@local.register
def _(operation: op.Concatenate, node: Node, slots: Slots, context: Context) -> Local:
    axis = operation.axis + 1
    sizes = [slot.shape[axis] for slot in slots]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def push(moved: Moved) -> Tensor:
        if len(moved) == len(slots):
            return torch.cat([moved[i] for i in range(len(slots))], axis)
        one = next(iter(moved.values()))
        made = one.new_zeros(len(one), *node.shape)
        for i, t in moved.items():
            made.narrow(axis, starts[i], sizes[i]).copy_(t)
        return made

    return fixed(push, lambda c, wanted: {i: c.narrow(axis, starts[i], sizes[i]) for i in wanted})


@local.register(op.Rearrange)
@local.register(op.AveragePool)
def _(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Local:
    """The map itself, and its transpose on a graph that is kept for the last number of rows."""
    shape, kept = slots[0].shape[1:], dict[int, Pull]()

    def push(t: Tensor) -> Tensor:
        return apply(operation, node, [t], context)

    def pull(c: Tensor) -> Tensor:
        if len(c) not in kept:
            kept.clear()
            kept[len(c)] = reverse(lambda values: push(values[0]), [c.new_zeros(()).expand(len(c), *shape)])
        return kept[len(c)](c, [0])[0]

    return unary(push, pull)


@local.register
def _(operation: op.AxisMap, node: Node, slots: Slots, context: Context) -> Local:
    weight, axis = context.parameter(node, "weight"), operation.axis + 1

    def along(t: Tensor, weight: Tensor) -> Tensor:
        return torch.matmul(t.movedim(axis, -1), weight).movedim(-1, axis)

    return unary(lambda t: along(t, weight.mT), lambda c: along(c, weight))


@local.register
def _(operation: op.Linear, node: Node, slots: Slots, context: Context) -> Local:
    weight = context.parameter(node, "weight")
    return unary(lambda t: t @ weight.mT, lambda c: c @ weight)


@local.register
def _(operation: op.Convolution, node: Node, slots: Slots, context: Context) -> Local:
    rank, weight = len(operation.kernel), context.parameter(node, "weight")
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)
    push, pull = Correlation(weight, *sides, tuple(slots[0].shape[-rank - 1 :])).maps()
    return _of_images(push, pull, rank, tuple(slots[0].shape[1:]), node.shape)


@local.register
def _(operation: op.TransposedConvolution, node: Node, slots: Slots, context: Context) -> Local:
    """The adjoint of a convolution, which may give longer images than those in the slot: there is output_padding."""
    rank, weight = len(operation.kernel), context.parameter(node, "weight")
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)
    map_ = Correlation(weight, *sides, node.shape[-rank - 1 :])
    pull, push = map_.maps()
    short = slots[0].shape[-rank:]
    ends = [end for m, n in zip(map_.narrow[:0:-1], reversed(short), strict=True) for end in (0, m - n)]
    if not any(ends):
        return _of_images(push, pull, rank, tuple(slots[0].shape[1:]), node.shape)
    return _of_images(
        lambda x: push(F.pad(x, ends)), lambda c: cut(pull(c), short), rank, tuple(slots[0].shape[1:]), node.shape
    )


def _of_images(push: Map, pull: Map, rank: int, before: Shape, after: Shape) -> Local:
    """Maps of images at every position: the axes before the last rank + 1."""

    def moved(map_: Map, images: Tensor, shape: Shape) -> Tensor:
        return map_(images.reshape(-1, *images.shape[-rank - 1 :])).reshape(len(images), *shape)

    return unary(lambda t: moved(push, t, after), lambda c: moved(pull, c, before))
