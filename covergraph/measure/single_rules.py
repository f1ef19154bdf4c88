"""Jacobians of operations in single precision, and how far products with them can be off (Lemma 23).

The factors are computed from values in double precision and rounded once. Operations without a rule have none here:
whatever passes through them is left to double precision.
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
from covergraph.measure.single_products import TINY, gamma, longest, product

ROWS = 2**17
"""On a CPU so many entries of a result are finished before the next are begun, for the sake of its cache."""
ABOVE = 1 + 2.0**-30
"""Covers roundings in double precision of the sums that make a size."""
Slots = Sequence[Tensor]
Moved = Mapping[int, Tensor]
"""Tangents by slot, (rows, T, *shape of the slot), in single precision."""


@dataclass(frozen=True)
class Loss:
    """Roundings of one slot: an entry passes through at most `terms`; || |J| ||_op <= size, a number or (batch,).

    `single`: an entry of the result is a sum of (factor x tangent), which is not rounded if one tangent is 1, others 0.
    """

    terms: int
    size: Tensor | float
    single: bool = False

    def of(self, norm: Tensor, entries: int, unit: bool, rows: slice) -> Tensor:
        """Bound of the error ||fl(J T) - J T||_F, (rows,), for ||T||_F <= norm and a result of so many `entries`.

        unit: T is the identity. The second term is what is lost to underflow.
        """
        if not self.terms:
            return torch.zeros_like(norm)
        size = self.size[rows].double() if isinstance(self.size, Tensor) else torch.full_like(norm, self.size)
        lost = 8 * self.terms**2 * TINY * math.sqrt(entries) * (1 + size) * (1 + size + norm)
        moved = (size > 0) & (norm > 0)
        return torch.where(moved, gamma(1 if unit and self.single else self.terms) * size * norm + lost, size * norm)


@dataclass(frozen=True)
class Rounded:
    """The Jacobian of a node: push gives its product with tangents of some rows; `losses` by slot that may vary."""

    push: Callable[[Moved, slice], Tensor]
    losses: Mapping[int, Loss]


@singledispatch
def rounded(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Rounded | None:
    """The Jacobian of `node` at the values in its slots, (batch, *shape) in double precision; None without a rule."""
    return None


def schur(matrix: Tensor) -> Tensor:
    """|| |A| ||_op <= sqrt(largest row sum x largest column sum) and ||A||_F, for matrices (..., m, d)."""
    sizes = matrix.double().abs()
    frobenius = torch.linalg.matrix_norm(sizes)
    return torch.minimum((sizes.sum(-1).amax(-1) * sizes.sum(-2).amax(-1)).sqrt(), frobenius) * ABOVE


def largest(entries: Tensor) -> Tensor:
    """The largest absolute value of each sample: (batch,)."""
    return entries.abs().reshape(len(entries), -1).amax(1)


def by_entry(factors: Mapping[int, Tensor]) -> Rounded:
    """The sum of tangents times `factors`, (batch, *shape) or (1, *shape), of one slot each."""
    halves = {i: factor.float().unsqueeze(1) for i, factor in factors.items()}

    def push(moved: Moved, rows: slice) -> Tensor:
        terms = [t * (halves[i][rows] if len(halves[i]) > 1 else halves[i]) for i, t in moved.items()]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def loss(factor: Tensor) -> Loss:
        size = largest(factor)
        return Loss(1 + len(factors), float(size) if len(factor) == 1 else size, len(factors) == 1)

    return Rounded(push, {i: loss(factor) for i, factor in factors.items()})


@rounded.register
def _(operation: op.Linear, node: Node, slots: Slots, context: Context) -> Rounded:
    weight = context.parameter(node, "weight")
    turned = weight.float().mT.contiguous()

    def push(moved: Moved, rows: slice) -> Tensor:
        t = moved[0].reshape(-1, moved[0].shape[-1])
        made = t.new_empty(len(t), len(weight))
        count = max(1, ROWS // len(weight)) if t.device.type == "cpu" else len(t)
        for part, into in zip(torch.split(t, count), torch.split(made, count), strict=True):
            product(part, turned, into)
        return made.reshape(*moved[0].shape[:-1], len(weight))

    return Rounded(push, {0: Loss(longest(weight.shape[1]) + 1, float(schur(weight)), True)})


@rounded.register
def _(operation: op.AxisMap, node: Node, slots: Slots, context: Context) -> Rounded:
    weight, axis = context.parameter(node, "weight"), operation.axis + 2
    half = weight.float()

    def push(moved: Moved, rows: slice) -> Tensor:
        return product(moved[0].movedim(axis, -1), half.mT).movedim(-1, axis)

    return Rounded(push, {0: Loss(longest(weight.shape[1]) + 1, float(schur(weight)), True)})


@rounded.register(op.Convolution)
@rounded.register(op.TransposedConvolution)
def _(operation: op.Convolution | op.TransposedConvolution, node: Node, slots: Slots, context: Context) -> Rounded:
    """Every weight of an output channel meets a position at most once, and so does every weight of an input channel."""
    weight = context.parameter(node, "weight")
    halves = Context({node.parameter["weight"]: weight.float()})
    sizes = weight.double().abs().reshape(operation.groups, -1, weight.shape[1], weight[0, 0].numel()).sum(-1)
    size = math.sqrt(float(sizes.sum(1).amax()) * float(sizes.sum(2).amax())) * ABOVE
    channels = weight.shape[1] if isinstance(operation, op.Convolution) else weight.shape[0] // operation.groups

    def push(moved: Moved, rows: slice) -> Tensor:
        return tangent(operation, node, [], [moved[0]], halves)

    return Rounded(push, {0: Loss(channels * weight[0, 0].numel() + 1, size, True)})


@rounded.register
def _(operation: op.Affine, node: Node, slots: Slots, context: Context) -> Rounded:
    if not operation.scale:
        return Rounded(lambda moved, rows: moved[0], {0: Loss(0, 1.0)})
    return by_entry({0: context.parameter(node, "scale").expand(node.shape).unsqueeze(0)})


@rounded.register(op.Add)
@rounded.register(op.Subtract)
@rounded.register(op.Concatenate)
@rounded.register(op.Reshape)
@rounded.register(op.Rearrange)
@rounded.register(op.Sum)
@rounded.register(op.AveragePool)
def _(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Rounded:
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
    shapes = [slot[:1].float() for slot in slots]

    def push(moved: Moved, rows: slice) -> Tensor:
        return tangent(operation, node, shapes, [moved.get(i) for i in range(len(slots))], context)

    def loss(i: int) -> Loss:
        return Loss(terms, float(slot_bound(operation, node, i, slots, context)[0]) * ABOVE if terms else 1.0)

    return Rounded(push, {i: loss(i) for i in range(len(slots))})
