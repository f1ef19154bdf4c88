"""Jacobians of functions of entries, products, maxima, norms and attention with their roundings (Lemma 23)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.measure.edges import softmax_error
from covergraph.measure.rounded import Loss, Moved, Rounded, Slots, by_entry, largest, rounded, schur
from covergraph.measure.roundings import DOUBLE, Arithmetic
from covergraph.rounding import SIZE


@rounded.register
def _(operation: op.Elementwise, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    slope = operation.function.derivative(slots[0])
    return by_entry({0: slope}, number, {0: operation.function.slope_error(slots[0], slope)})


@rounded.register
def _(operation: op.ParametricReLU, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    slope = context.parameter(node, "slope")
    return by_entry({0: torch.where(slots[0] > 0, torch.ones_like(slots[0]), slope)}, number)


@rounded.register(op.Product)
@rounded.register(op.Divide)
def _(
    operation: op.Product | op.Divide, node: Node, slots: Slots, context: Context, number: Arithmetic
) -> Rounded | None:
    left, right = slots
    if left.shape != right.shape:
        return rounded.dispatch(op.Operation)(operation, node, slots, context, number)
    if isinstance(operation, op.Product):
        return by_entry({0: right, 1: left}, number)
    factors = {0: 1 / right, 1: -left / right / right}
    return by_entry(factors, number, {i: 4 * DOUBLE.unit * factor.abs() for i, factor in factors.items()})


@rounded.register
def _(operation: op.MatrixProduct, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded | None:
    left, right = slots
    if left.shape[:-2] != right.shape[:-2]:
        return rounded.dispatch(op.Operation)(operation, node, slots, context, number)
    factors = {0: right.to(number.dtype), 1: left.mT.to(number.dtype)}

    def times(t: Tensor, matrix: Tensor) -> Tensor:
        """(rows, T, ..., m, d) (rows, ..., d, n): all T in one product."""
        stacked = t.movedim(1, -3)
        made = number.product(stacked.flatten(-3, -2), matrix)
        return made.reshape(*stacked.shape[:-1], made.shape[-1]).movedim(-3, 1)

    def push(moved: Moved, rows: slice) -> Tensor:
        terms = [times(t, factors[0][rows]) if i == 0 else times(t.mT, factors[1][rows]).mT for i, t in moved.items()]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    sizes = {0: schur(right).reshape(len(right), -1).amax(1), 1: schur(left).reshape(len(left), -1).amax(1)}
    return Rounded(push, {i: Loss(number.longest(left.shape[-1]) + 2, size) for i, size in sizes.items()})


@rounded.register
def _(operation: op.MaxPool, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
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
def _(
    operation: op.Maximum | op.VectorNorm, node: Node, slots: Slots, context: Context, number: Arithmetic
) -> Rounded | None:
    """The mean of the largest entries; the product with the unit vector."""
    axes = [axis + 1 for axis in operation.axes]
    terms = slots[0][0].numel() // max(node.size, 1)
    if not axes:
        return rounded.dispatch(op.Operation)(operation, node, slots, context, number)
    if isinstance(operation, op.Maximum):
        weight = (slots[0] == slots[0].amax(axes, keepdim=True)).double()
        weight = weight / weight.sum(axes, keepdim=True)
    else:
        top = slots[0].abs().amax(axes, keepdim=True)  # squares may leave the range of the numbers
        scaled = slots[0] / torch.where(top > 0, torch.ldexp(torch.ones_like(top), torch.frexp(top).exponent), 1.0)
        weight = scaled / torch.linalg.vector_norm(scaled, dim=axes, keepdim=True)
    half = weight.to(number.dtype).unsqueeze(1)

    def push(moved: Moved, rows: slice) -> Tensor:
        return (moved[0] * half[rows]).sum([axis + 1 for axis in axes]).reshape(*moved[0].shape[:2], *node.shape)

    size = torch.linalg.vector_norm(weight, dim=axes).reshape(len(weight), -1).amax(1) * SIZE
    return Rounded(push, {0: Loss(terms + 1, size, off=DOUBLE.gamma(terms + 6) * size)})


@rounded.register
def _(operation: op.Softmax, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded | None:
    """p t - p <p, t>, or t - <p, t> of a logarithm; t is the sum of both slots' tangents."""
    fits = slots[0].shape[1:] == node.shape and all(slot.dim() == slots[0].dim() for slot in slots)
    if not fits or (operation.log and (len(slots) > 1 or "mask" in node.parameter)):
        return rounded.dispatch(op.Operation)(operation, node, slots, context, number)
    value, axis = apply(operation, node, slots, context), operation.axis + 1
    p, terms = (value.exp() if operation.log else value), value.shape[axis]
    half = p.to(number.dtype).unsqueeze(1)

    def push(moved: Moved, rows: slice) -> Tensor:
        t = sum(moved.values()).expand(-1, -1, *node.shape)  # type: ignore[union-attr]
        weighted = half[rows] * t
        total = weighted.sum(axis + 1, keepdim=True)
        return t - total if operation.log else weighted - half[rows] * total

    size = 1 + math.sqrt(terms) * largest(p.norm(dim=axis)) if operation.log else 2 * largest(p)
    wrong = 3 * softmax_error(operation, node, slots, context) * size
    copies = [math.sqrt(node.size / max(slot[0].numel(), 1)) * SIZE for slot in slots]
    return Rounded(push, {i: Loss(terms + 5, size * many, off=wrong * many) for i, many in enumerate(copies)})


@rounded.register
def _(operation: op.Normalize, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    """(t - y <y, t> / d - mean t) / r with ||y||^2 <= d.

    Off by little if r is well above the rounding of the mean, else by as much as the Jacobian itself, or unknown.
    """
    d = operation.group
    given = slots[0].reshape(len(slots[0]), -1, d)
    x = given - given.mean(2, keepdim=True) if operation.center else given
    r = (x.square().mean(2, keepdim=True) + operation.eps).sqrt()
    y, inverse = ((x / r).to(number.dtype).unsqueeze(1), (1 / r).to(number.dtype).unsqueeze(1))

    def push(moved: Moved, rows: slice) -> Tensor:
        t = moved[0].reshape(*moved[0].shape[:2], -1, d)
        made = t - y[rows] * (t * y[rows]).mean(3, keepdim=True)
        made = made - t.mean(3, keepdim=True) if operation.center else made
        return (made * inverse[rows]).reshape(moved[0].shape)

    lost = DOUBLE.gamma(2 * d + 8) * given.abs().amax(2, keepdim=True) / r if operation.center else 0 * r
    wrong = lost + DOUBLE.gamma(d + 12)  # of y, relative to sqrt d, and of r, relative
    wrong = torch.where((wrong < 0.01) & (r > 1e-140) & (r < 1e140), wrong, torch.inf)
    size, off = 3 * largest(1 / r) * SIZE, 6 * largest(wrong / r)
    if operation.eps > 0:  # neither the true Jacobian nor the computed one is larger
        off = torch.minimum(off.nan_to_num(torch.inf, torch.inf), (size + operation.eps**-0.5) * SIZE)
    return Rounded(push, {0: Loss(d + 9, size, off=off)})
