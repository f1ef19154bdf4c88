"""Jacobians of operations, and how far products with them can be off in single or double precision (Lemma 23).

The factors are computed from values in double precision; for single precision they are rounded once more. An operation
without a rule has none in single precision, and in double one for whatever torch can differentiate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, tangent
from covergraph.graph.node import Node
from covergraph.measure.edges import slot_bound
from covergraph.measure.roundings import DOUBLE, Arithmetic
from covergraph.rounding import SIZE

ROWS = 2**17
"""On a CPU so many entries of a result are finished before the next are begun, for the sake of its cache."""
OPAQUE = 16
"""Roundings that a term may pass through in a derivative of torch's that has no rule here, beside those of sums."""
Slots = Sequence[Tensor]
Moved = Mapping[int, Tensor]
"""Tangents by slot, (rows, T, *shape of the slot), in single precision."""


@dataclass(frozen=True)
class Loss:
    """Roundings of one slot: an entry passes through at most `terms`; || |J| ||_op <= size, a number or (batch,).

    `single`: an entry of the result is a sum of (factor x tangent), which is not rounded if one tangent is 1, others 0.
    `off`: bound of ||J^ - J||_op for the J^ that double precision made of the values, a number or (batch,).
    """

    terms: int
    size: Tensor | float
    single: bool = False
    off: Tensor | float = 0.0

    def of(self, norm: Tensor, entries: int, unit: bool, rows: slice, number: Arithmetic) -> Tensor:
        """Bound of the error ||fl(J T) - J T||_F, (rows,), for ||T||_F <= norm and a result of so many `entries`.

        unit: T is the identity. The second term is what is lost to underflow.
        """
        if not self.terms:
            return torch.zeros_like(norm)
        size, off = (x[rows] if isinstance(x, Tensor) else x for x in (self.size, self.off))
        lost = number.tiny * (1 + size) * 8 * self.terms**2 * math.sqrt(entries) * (1 + size + norm)
        gamma = number.gamma(1 if unit and self.single else self.terms)
        moves = size + torch.as_tensor(off, dtype=norm.dtype, device=norm.device)
        return torch.where((moves > 0) & (norm > 0), (gamma * size + off) * norm + lost, moves * norm)


@dataclass(frozen=True)
class Rounded:
    """The Jacobian of a node: push gives its product with tangents of some rows; `losses` by slot that may vary."""

    push: Callable[[Moved, slice], Tensor]
    losses: Mapping[int, Loss]


@singledispatch
def rounded(
    operation: op.Operation, node: Node, slots: Slots, context: Context, number: Arithmetic
) -> Rounded | None:
    """The Jacobian of `node` at the values in its slots, (batch, *shape) in double precision; None without a rule.

    In double precision any operation has one: torch differentiates it, and every term of an entry is taken to pass
    through at most OPAQUE roundings beside those of one sum.
    """
    if number is not DOUBLE:
        return None

    def push(moved: Moved, rows: slice) -> Tensor:
        return tangent(operation, node, [slot[rows] for slot in slots], [moved.get(i) for i in _all(slots)], context)

    def loss(i: int) -> Loss:
        entries = slots[i][0].numel()
        size = slot_bound(operation, node, i, slots, context) * math.sqrt(min(entries, node.size)) * SIZE
        return Loss(entries + OPAQUE + len(slots), size.double())

    return Rounded(push, {i: loss(i) for i in _all(slots) if slots[i].is_floating_point()})


def _all(slots: Slots) -> range:
    return range(len(slots))


def schur(matrix: Tensor) -> Tensor:
    """|| |A| ||_op <= sqrt(largest row sum x largest column sum) and ||A||_F, for matrices (..., m, d)."""
    sizes = matrix.double().abs()
    frobenius = DOUBLE.frobenius(sizes.reshape(-1, *sizes.shape[-2:])).reshape(sizes.shape[:-2])
    return torch.minimum(sizes.sum(-1).amax(-1).sqrt() * sizes.sum(-2).amax(-1).sqrt(), frobenius) * SIZE


def largest(entries: Tensor) -> Tensor:
    """The largest absolute value of each sample: (batch,)."""
    return entries.abs().reshape(len(entries), -1).amax(1)


def by_entry(
    factors: Mapping[int, Tensor], number: Arithmetic, errors: Mapping[int, Tensor] | None = None
) -> Rounded:
    """The sum of tangents times `factors`, (batch, *shape) or (1, *shape), of one slot each.

    `errors`: by how much each factor may be off, by default not at all.
    """
    halves = {i: factor.to(number.dtype).unsqueeze(1) for i, factor in factors.items()}

    def push(moved: Moved, rows: slice) -> Tensor:
        terms = [t * (halves[i][rows] if len(halves[i]) > 1 else halves[i]) for i, t in moved.items()]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def loss(factor: Tensor, error: Tensor | None) -> Loss:
        top = largest(factor)
        size = float(top) if len(factor) == 1 else top
        return Loss(1 + len(factors), size, len(factors) == 1, 0.0 if error is None else largest(error))

    return Rounded(push, {i: loss(factor, (errors or {}).get(i)) for i, factor in factors.items()})


@rounded.register
def _(operation: op.Linear, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    weight = context.parameter(node, "weight")
    turned = weight.to(number.dtype).mT.contiguous()

    def push(moved: Moved, rows: slice) -> Tensor:
        t = moved[0].reshape(-1, moved[0].shape[-1])
        made = t.new_empty(len(t), len(weight))
        count = max(1, ROWS // len(weight)) if t.device.type == "cpu" else len(t)
        for part, into in zip(torch.split(t, count), torch.split(made, count), strict=True):
            number.product(part, turned, into)
        return made.reshape(*moved[0].shape[:-1], len(weight))

    return Rounded(push, {0: Loss(number.longest(weight.shape[1]) + 1, float(schur(weight)), True)})


@rounded.register
def _(operation: op.AxisMap, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    weight, axis = context.parameter(node, "weight"), operation.axis + 2
    half = weight.to(number.dtype)

    def push(moved: Moved, rows: slice) -> Tensor:
        return number.product(moved[0].movedim(axis, -1), half.mT).movedim(-1, axis)

    return Rounded(push, {0: Loss(number.longest(weight.shape[1]) + 1, float(schur(weight)), True)})


@rounded.register(op.Convolution)
@rounded.register(op.TransposedConvolution)
def _(
    operation: op.Convolution | op.TransposedConvolution, node: Node, slots: Slots, context: Context, number: Arithmetic
) -> Rounded:
    """Every weight of an output channel meets a position at most once, and so does every weight of an input channel."""
    weight = context.parameter(node, "weight")
    halves = Context({node.parameter["weight"]: weight.to(number.dtype)})
    sizes = weight.double().abs().reshape(operation.groups, -1, weight.shape[1], weight[0, 0].numel()).sum(-1)
    size = math.sqrt(float(sizes.sum(1).amax())) * math.sqrt(float(sizes.sum(2).amax())) * SIZE
    channels = weight.shape[1] if isinstance(operation, op.Convolution) else weight.shape[0] // operation.groups

    def push(moved: Moved, rows: slice) -> Tensor:
        return tangent(operation, node, [], [moved[0]], halves)

    return Rounded(push, {0: Loss(channels * weight[0, 0].numel() + 1, size, True)})


@rounded.register
def _(operation: op.Affine, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    if not operation.scale:
        return Rounded(lambda moved, rows: moved[0], {0: Loss(0, 1.0)})
    return by_entry({0: context.parameter(node, "scale").expand(node.shape).unsqueeze(0)}, number)


@rounded.register(op.Add)
@rounded.register(op.Subtract)
@rounded.register(op.Concatenate)
@rounded.register(op.Reshape)
@rounded.register(op.Rearrange)
@rounded.register(op.Sum)
@rounded.register(op.AveragePool)
def _(operation: op.Operation, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded:
    """Up to signs no entry of the matrix of a slot is negative, so || |J| ||_op is its norm."""
    match operation:
        case op.Add() | op.Subtract():
            terms = max(len(slots) - 1, 1)
        case op.Sum():
            terms = slots[0][0].numel() // max(node.size, 1) + 1
        case op.AveragePool(kernel):
            terms = math.prod(kernel) + 1
        case _:
            terms = 0
    shapes = [slot[:1].to(number.dtype) for slot in slots]

    def push(moved: Moved, rows: slice) -> Tensor:
        return tangent(operation, node, shapes, [moved.get(i) for i in range(len(slots))], context)

    def loss(i: int) -> Loss:
        return Loss(terms, float(slot_bound(operation, node, i, slots, context)[0]) * SIZE if terms else 1.0)

    return Rounded(push, {i: loss(i) for i in range(len(slots))})
