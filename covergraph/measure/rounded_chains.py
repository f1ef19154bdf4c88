"""The Jacobian of a chain that is one node (Lemma 17): those of its parts one after the other, with their roundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.measure.edges import edge_bound, slot_bound
from covergraph.measure.rounded import Loss, Moved, Rounded, Slots, rounded
from covergraph.measure.roundings import DOUBLE, Arithmetic
from covergraph.rounding import BOUND


@dataclass(frozen=True)
class Chained(Loss):
    """What a chain loses: e_k <= ||J_k|| e_{k-1} + what part k loses of a matrix of norm ||T_{k-1}||.

    `parts`: by part, the losses of its slots, all of which the part before fills; `shares`: entries of the part's
    result for each entry of the chain's.
    """

    parts: tuple[tuple[Loss, ...], ...] = ()
    shares: tuple[float, ...] = ()

    @staticmethod
    def made_of(parts: tuple[tuple[Loss, ...], ...], shares: tuple[float, ...]) -> Chained:
        """With the product of the parts' sizes, which a chain around this one reads."""
        size: Tensor | float = 1.0
        off: Tensor | float = 0.0
        for losses in parts:
            own, wrong = (sum(getattr(loss, name) for loss in losses) for name in ("size", "off"))
            size, off = own * size * BOUND, ((own + wrong) * off + wrong * size) * BOUND
        terms = sum(max(loss.terms for loss in losses) for losses in parts)
        return Chained(max(terms, 1), size, off=off, parts=parts, shares=shares)

    def of(self, norm: Tensor, entries: int, unit: bool, rows: slice, number: Arithmetic) -> Tensor:
        error = torch.zeros_like(norm)
        for k, (losses, share) in enumerate(zip(self.parts, self.shares, strict=True)):
            count, alone = round(entries * share), unit and k == 0
            lost = sum((loss.of(norm, count, alone, rows, number) for loss in losses), torch.zeros_like(norm))
            size, off = (sum(_at(getattr(loss, name), rows) for loss in losses) for name in ("size", "off"))
            error, norm = ((size + off) * error + lost) * BOUND, (size * norm + lost) * BOUND
        return error


def _at(value: Tensor | float, rows: slice) -> Tensor | float:
    return value[rows] if isinstance(value, Tensor) else value


def _slots_of(operation: op.Composite, slots: Slots, context: Context) -> list[Slots] | None:
    """The values in the slots of each part; None if it is no chain of real numbers."""
    if len(operation.inputs) != 1 or not slots[0].is_floating_point():
        return None
    (name,) = operation.inputs
    value = slots[0]
    found: list[Slots] = []
    for inner in operation.nodes:
        if set(inner.inputs) != {name} or inner.kind != "float":
            return None
        found.append([value] * len(inner.inputs))
        name, value = inner.name, apply(inner.operation, inner, found[-1], context).expand(len(value), *inner.shape)
    return found if name == operation.output else None


@rounded.register
def _(operation: op.Composite, node: Node, slots: Slots, context: Context, number: Arithmetic) -> Rounded | None:
    read = _slots_of(operation, slots, context) if number is DOUBLE else None
    if read is None:
        return rounded.dispatch(op.Operation)(operation, node, slots, context, number)
    made = zip(operation.nodes, read, strict=True)
    parts = [rule for n, values in made if (rule := rounded(n.operation, n, values, context, number)) is not None]

    def push(moved: Moved, rows: slice) -> Tensor:
        t = moved[0]
        for rule, values in zip(parts, read, strict=True):
            t = rule.push(dict.fromkeys(range(len(values)), t), rows)
        return t

    losses = tuple(tuple(rule.losses.values()) for rule in parts)
    shares = tuple(n.size / max(node.size, 1) for n in operation.nodes)
    return Rounded(push, {0: Chained.made_of(losses, shares)})


@slot_bound.register
def _(operation: op.Composite, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """The product over the parts, or the dense norm of what is no chain."""
    read = _slots_of(operation, slots, context)
    if read is None:
        return slot_bound.dispatch(op.Operation)(operation, node, slot, slots, context)
    return _product(operation.nodes, read, context)


def _product(nodes: Sequence[Node], read: Sequence[Slots], context: Context) -> Tensor:
    bound = read[0][0].new_ones(len(read[0][0]))
    for n, values in zip(nodes, read, strict=True):
        bound = bound * sum(edge_bound(n.operation, n, i, values, context) for i in range(len(values)))
    return bound
