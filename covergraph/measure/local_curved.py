"""Jacobians of products of matrices, pools, maxima, sums and norms over axes, softmax and normalization."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.measure.local_rules import Local, Moved, Slots, generic, local, reals, shapes_of, stored, unary


@local.register
def _(operation: op.MatrixProduct, node: Node, slots: Slots, context: Context) -> Local:
    shapes = shapes_of(slots)

    def make(left: Tensor, right: Tensor) -> Local:
        def push(moved: Moved) -> Tensor:
            terms = [t @ right if i == 0 else left @ t for i, t in moved.items()]
            return terms[0] if len(terms) == 1 else terms[0] + terms[1]

        def pull(c: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
            found = {i: c @ right.mT if i == 0 else left.mT @ c for i in wanted}
            return {i: f.sum_to_size(len(c), *shapes[i]) for i, f in found.items()}

        return Local(push, pull)

    return stored(make, *reals(slots))


@local.register
def _(operation: op.Sum, node: Node, slots: Slots, context: Context) -> Local:
    entries = math.prod(slots[0].shape[1 + axis] for axis in operation.axes)
    return _reduction(node, slots, operation.axes, 1 / max(entries, 1) if operation.mean else 1.0)


@local.register
def _(operation: op.Maximum, node: Node, slots: Slots, context: Context) -> Local:
    """The mean over the largest entries, as torch has it."""
    dims = [axis + 1 for axis in operation.axes]
    if not dims:
        return _reduction(node, slots, (), 1.0)
    largest = (slots[0] == slots[0].amax(dims, keepdim=True)).to(slots[0].dtype)
    return _reduction(node, slots, operation.axes, largest / largest.sum(dims, keepdim=True))


@local.register
def _(operation: op.VectorNorm, node: Node, slots: Slots, context: Context) -> Local:
    """x / ||x||, and 0 at 0, as torch has it."""
    dims = [axis + 1 for axis in operation.axes]
    if not dims:
        return _reduction(node, slots, (), slots[0].sign())
    norm = torch.linalg.vector_norm(slots[0], dim=dims, keepdim=True)
    return _reduction(node, slots, operation.axes, (slots[0] / norm).masked_fill(norm == 0, 0.0))


def _reduction(node: Node, slots: Slots, axes: Sequence[int], factor: Tensor | float) -> Local:
    """The sum over axes of factor x tangent."""
    (shape,) = shapes_of(slots)
    dims = [axis + 1 for axis in axes]
    kept = [1 if axis in axes else n for axis, n in enumerate(shape)]

    def make(factor: Tensor | float) -> Local:
        def push(t: Tensor) -> Tensor:
            t = t * factor
            return (t.sum(dims) if dims else t).reshape(len(t), *node.shape)

        def pull(c: Tensor) -> Tensor:
            return (c.reshape(len(c), *kept) * factor).expand(len(c), *shape)

        return unary(push, pull)

    return stored(make, factor)


_POOLS: Mapping[int, Callable[..., tuple[Tensor, Tensor]]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@local.register
def _(operation: op.MaxPool, node: Node, slots: Slots, context: Context) -> Local:
    """The entry that wins in each window; with `rectify`, where it is positive."""
    rank, shape = len(operation.kernel), slots[0].shape[1:]
    sides = (operation.kernel, operation.stride, operation.padding, operation.dilation, operation.ceil_mode)
    images = slots[0].reshape(-1, *shape[-rank - 1 :])
    value, winners = _POOLS[rank](images, *sides, return_indices=True)
    channels, entries = math.prod(shape[:-rank]), math.prod(shape[-rank:])
    positive = (value > 0).to(value.dtype).reshape(-1, *node.shape) if operation.rectify else 1.0

    def make(winners: Tensor, positive: Tensor | float) -> Local:
        def push(t: Tensor) -> Tensor:
            return t.reshape(-1, channels, entries).gather(2, winners).reshape(len(t), *node.shape) * positive

        def pull(c: Tensor) -> Tensor:
            made = c.new_zeros(len(c), channels, entries)
            return made.scatter_add_(2, winners, (c * positive).reshape(winners.shape)).reshape(len(c), *shape)

        return unary(push, pull)

    return stored(make, winners.reshape(len(slots[0]), channels, -1), positive)


@local.register
def _(operation: op.Softmax, node: Node, slots: Slots, context: Context) -> Local:
    """diag(p) - p p', or I - 1 p' of the logarithm; a mask that is the same for all heads gets sums.

    Tangents count from that of the largest p_i: what is left of a probability near 1 is not lost to cancellation.
    """
    if operation.log and (operation.causal or len(slots) > 1 or "mask" in node.parameter):
        return generic(operation, node, slots, context)
    axis, shapes = operation.axis + 1, shapes_of(slots)
    value = apply(operation, node, slots, context)

    def logarithm(p: Tensor, top: Tensor) -> Local:
        rest = p.scatter(axis, top, 0.0)  # 1 - p_i of the largest p_i is the sum of these

        def push(t: Tensor) -> Tensor:
            t = t - t.gather(axis, top)
            return torch.sub(t, (rest * t).sum(axis, keepdim=True))

        def pull(c: Tensor) -> Tensor:
            first, others = c.gather(axis, top), c.scatter(axis, top, 0.0)
            total = others.sum(axis, keepdim=True)
            best = first * rest.sum(axis, keepdim=True) - p.gather(axis, top) * total
            return torch.addcmul(others, rest, total + first, value=-1).scatter(axis, top, best)

        return unary(push, pull)

    def make(p: Tensor, top: Tensor) -> Local:
        def both(t: Tensor) -> Tensor:
            t = t.expand(p.shape)
            weighted = p * (t - t.gather(axis, top))
            return torch.addcmul(weighted, p, weighted.sum(axis, keepdim=True), value=-1)

        def push(moved: Moved) -> Tensor:
            terms = list(moved.values())
            return both(terms[0] if len(terms) == 1 else terms[0] + terms[1])

        def pull(c: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
            found = both(c)
            return {i: found.sum_to_size(len(c), *shapes[i]) for i in wanted}

        return Local(push, pull)

    place = value.argmax(axis, keepdim=True)
    return stored(logarithm, value.exp(), place) if operation.log else stored(make, value, place)


@local.register
def _(operation: op.Normalize, node: Node, slots: Slots, context: Context) -> Local:
    """(I - 1 1'/d - y y'/d) / r; the Jacobian is symmetric, group by group."""
    shape = slots[0].shape[1:]
    x = slots[0].reshape(len(slots[0]), -1, operation.group)
    x = x - x.mean(2, keepdim=True) if operation.center else x
    r = (x.square().mean(2, keepdim=True) + operation.eps).sqrt()

    def make(y: Tensor, r: Tensor) -> Local:
        def both(t: Tensor) -> Tensor:
            t = t.reshape(y.shape)
            moved = torch.addcmul(t, y, (t * y).mean(2, keepdim=True), value=-1)
            moved = moved.sub_(t.mean(2, keepdim=True)) if operation.center else moved
            return moved.div_(r).reshape(len(t), *shape)

        return unary(both, both)

    return stored(make, x / r, r)
