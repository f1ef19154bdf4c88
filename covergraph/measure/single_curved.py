"""Jacobians of functions of entries, products, maxima, norms and attention in single precision (Lemma 23)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.measure.single_products import longest, product
from covergraph.measure.single_rules import ABOVE, Loss, Moved, Rounded, Slots, by_entry, largest, rounded, schur


@rounded.register
def _(operation: op.Elementwise, node: Node, slots: Slots, context: Context) -> Rounded:
    return by_entry({0: operation.function.derivative(slots[0])})


@rounded.register
def _(operation: op.ParametricReLU, node: Node, slots: Slots, context: Context) -> Rounded:
    slope = context.parameter(node, "slope")
    return by_entry({0: torch.where(slots[0] > 0, torch.ones_like(slots[0]), slope)})


@rounded.register(op.Product)
@rounded.register(op.Divide)
def _(operation: op.Product | op.Divide, node: Node, slots: Slots, context: Context) -> Rounded | None:
    left, right = slots
    if left.shape != right.shape:
        return None
    return by_entry({0: right, 1: left} if isinstance(operation, op.Product) else {0: 1 / right, 1: -left / right**2})


@rounded.register
def _(operation: op.MatrixProduct, node: Node, slots: Slots, context: Context) -> Rounded | None:
    left, right = slots
    if left.shape[:-2] != right.shape[:-2]:
        return None
    factors = {0: right.float(), 1: left.mT.float()}

    def times(t: Tensor, matrix: Tensor) -> Tensor:
        """(rows, T, ..., m, d) (rows, ..., d, n): all T in one product."""
        stacked = t.movedim(1, -3)
        made = product(stacked.flatten(-3, -2), matrix)
        return made.reshape(*stacked.shape[:-1], made.shape[-1]).movedim(-3, 1)

    def push(moved: Moved, rows: slice) -> Tensor:
        terms = [times(t, factors[0][rows]) if i == 0 else times(t.mT, factors[1][rows]).mT for i, t in moved.items()]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    sizes = {0: schur(right).reshape(len(right), -1).amax(1), 1: schur(left).reshape(len(left), -1).amax(1)}
    return Rounded(push, {i: Loss(longest(left.shape[-1]) + 2, size) for i, size in sizes.items()})


@rounded.register
def _(operation: op.MaxPool, node: Node, slots: Slots, context: Context) -> Rounded:
    """Entries are copied, or replaced by 0."""
    rank = len(operation.kernel)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[rank]
    sides = (operation.stride, operation.padding, operation.dilation, operation.ceil_mode)
    images = slots[0].reshape(-1, *slots[0].shape[-rank - 1 :])
    best, place = pool(images, operation.kernel, *sides, return_indices=True)
    places = place.reshape(len(slots[0]), 1, *node.shape).flatten(-rank)
    kept = (best > 0).reshape(len(slots[0]), 1, *node.shape) if operation.rectify else None

    def push(moved: Moved, rows: slice) -> Tensor:
        t = moved[0].flatten(-rank)
        made = t.gather(-1, places[rows].expand(*t.shape[:-1], -1)).reshape(*t.shape[:2], *node.shape)
        return made if kept is None else torch.where(kept[rows], made, 0.0)

    return Rounded(push, {0: Loss(0, 1.0)})


@rounded.register(op.Maximum)
@rounded.register(op.VectorNorm)
def _(operation: op.Maximum | op.VectorNorm, node: Node, slots: Slots, context: Context) -> Rounded | None:
    """The mean of the largest entries; the product with the unit vector."""
    axes = [axis + 1 for axis in operation.axes]
    if not axes:
        return None
    if isinstance(operation, op.Maximum):
        weight = (slots[0] == slots[0].amax(axes, keepdim=True)).double()
        weight = weight / weight.sum(axes, keepdim=True)
    else:
        weight = slots[0] / torch.linalg.vector_norm(slots[0], dim=axes, keepdim=True)
    half = weight.float().unsqueeze(1)

    def push(moved: Moved, rows: slice) -> Tensor:
        return (moved[0] * half[rows]).sum([axis + 1 for axis in axes]).reshape(*moved[0].shape[:2], *node.shape)

    size = torch.linalg.vector_norm(weight, dim=axes).reshape(len(weight), -1).amax(1) * ABOVE
    return Rounded(push, {0: Loss(slots[0][0].numel() // max(node.size, 1) + 1, size)})


@rounded.register
def _(operation: op.Softmax, node: Node, slots: Slots, context: Context) -> Rounded | None:
    """p t - p <p, t>, or t - <p, t> of a logarithm; the mask may not vary."""
    if slots[0].shape[1:] != node.shape or (operation.log and (len(slots) > 1 or "mask" in node.parameter)):
        return None
    value, axis = apply(operation, node, slots, context), operation.axis + 1
    p, terms = (value.exp() if operation.log else value), value.shape[axis]
    half = p.float().unsqueeze(1)

    def push(moved: Moved, rows: slice) -> Tensor:
        weighted = half[rows] * moved[0]
        total = weighted.sum(axis + 1, keepdim=True)
        return moved[0] - total if operation.log else weighted - half[rows] * total

    size = 1 + math.sqrt(terms) * largest(p.norm(dim=axis)) if operation.log else 2 * largest(p)
    return Rounded(push, {0: Loss(terms + 4, size * ABOVE)})


@rounded.register
def _(operation: op.Normalize, node: Node, slots: Slots, context: Context) -> Rounded:
    """(t - y <y, t> / d - mean t) / r with ||y||^2 <= d."""
    x = slots[0].reshape(len(slots[0]), -1, operation.group)
    x = x - x.mean(2, keepdim=True) if operation.center else x
    r = (x.square().mean(2, keepdim=True) + operation.eps).sqrt()
    y, inverse = (x / r).float().unsqueeze(1), (1 / r).float().unsqueeze(1)

    def push(moved: Moved, rows: slice) -> Tensor:
        t = moved[0].reshape(*moved[0].shape[:2], -1, operation.group)
        made = t - y[rows] * (t * y[rows]).mean(3, keepdim=True)
        made = made - t.mean(3, keepdim=True) if operation.center else made
        return (made * inverse[rows]).reshape(moved[0].shape)

    return Rounded(push, {0: Loss(operation.group + 9, 3 * largest(1 / r) * ABOVE)})
