"""Steps that choose by comparing entries with numbers: h > 0, where(h > 0, h, 0.1 h), masked_fill, masks as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import sympy
import torch
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import T, exact
from covergraph.graph.node import Node
from covergraph.graph.operations import Call, Slot


@dataclass(frozen=True)
class Rounded:
    """A value and a slope as computed, and how far from them the true ones may be.

    Of a mask `off` is 1 where it may be another one, else 0.
    """

    value: Tensor
    off: Tensor
    slope: Tensor
    lost: Tensor


COMPARED: Mapping[str, tuple[Callable[..., sympy.Basic], Callable[..., Tensor]]] = {
    "gt": (sympy.StrictGreaterThan, torch.gt),
    "ge": (sympy.GreaterThan, torch.ge),
    "lt": (sympy.StrictLessThan, torch.lt),
    "le": (sympy.LessThan, torch.le),
}
"""Of an entry and a number."""
JOINED: Mapping[str, tuple[Callable[..., sympy.Basic], Callable[..., Tensor]]] = {
    **dict.fromkeys(("logical_and", "bitwise_and"), (sympy.And, torch.logical_and)),
    **dict.fromkeys(("logical_or", "bitwise_or"), (sympy.Or, torch.logical_or)),
    **dict.fromkeys(("logical_not", "bitwise_not"), (sympy.Not, torch.logical_not)),
}
"""Of masks."""
CHOSEN = {"where": (0, 1, 2), "masked_fill": (1, 2, 0)}
"""Where the mask stands among the arguments, the value that it takes, and the other one."""


def is_choice(graph: ComputationGraph, node: Node) -> bool:
    """True for a call that has an expression if its masks have one, entry by entry."""
    operation = node.operation
    if not isinstance(operation, Call) or operation.output is not None or len(set(operation.shapes)) != 1:
        return False
    if operation.keywords or any(graph[u].shape != node.shape for u in node.inputs):
        return False
    label, arguments = operation.label, operation.arguments
    if label == "to":
        return node.kind == "float" and arguments[1:] == (torch.float64,)
    numbers = [a for a in arguments if not isinstance(a, Slot)]
    if not all(isinstance(a, Real) and math.isfinite(a) for a in numbers):
        return False
    if label in COMPARED:
        return len(arguments) == 2 and isinstance(arguments[0], Slot) and len(numbers) == 1
    return label in JOINED or (label in CHOSEN and node.kind == "float" and len(arguments) == 3)


def is_defined(node: Node, slots: Sequence[sympy.Basic]) -> bool:
    """True if masks are masks, and what is compared with a number is t or |t|, scaled and shifted."""
    operation = node.operation
    assert isinstance(operation, Call)
    if operation.label in COMPARED:
        inner = slots[0].args[0] if isinstance(slots[0], sympy.Abs) else slots[0]
        return not _is_mask(inner) and bool(inner.is_polynomial(T)) and sympy.degree(inner, T) == 1
    given = _filled(operation, slots, exact)
    if operation.label in CHOSEN:
        mask, *values = (given[i] for i in CHOSEN[operation.label])
        return _is_mask(mask) and not any(map(_is_mask, values))
    return all(map(_is_mask, given[:1] if operation.label == "to" else given))


def _is_mask(expression: Any) -> bool:
    return isinstance(expression, Relational | BooleanFunction | BooleanAtom)


def _filled(operation: Call, slots: Sequence[Any], number: Callable[[Any], Any]) -> list[Any]:
    """The arguments with values in the slots."""
    return [
        slots[a.position] if isinstance(a, Slot) else a if isinstance(a, torch.dtype) else number(a)
        for a in operation.arguments
    ]


def choice_expression(node: Node, slots: Sequence[sympy.Basic]) -> sympy.Basic:
    """A condition on t, or a function of t by cases."""
    operation = node.operation
    assert isinstance(operation, Call)
    given = _filled(operation, slots, exact)
    if operation.label == "to":
        return sympy.Piecewise((1, given[0]), (0, True))
    if operation.label in CHOSEN:
        mask, taken, other = (given[i] for i in CHOSEN[operation.label])
        return sympy.Piecewise((taken, mask), (other, True))
    return {**COMPARED, **JOINED}[operation.label][0](*given)


def choice_value(node: Node, slots: Sequence[Tensor], x: Tensor) -> Tensor:
    """The step on tensors, of a function of x."""
    operation = node.operation
    assert isinstance(operation, Call)
    if operation.label in COMPARED:
        return COMPARED[operation.label][1](*_filled(operation, slots, lambda number: number))
    given = _filled(operation, slots, lambda number: torch.full_like(x, number))
    if operation.label == "to":
        return slots[0].to(x.dtype)
    if operation.label in CHOSEN:
        mask, taken, other = (given[i] for i in CHOSEN[operation.label])
        return torch.where(mask, taken, other)
    return JOINED[operation.label][1](*given)


def choice_slope(node: Node, slots: Sequence[Tensor], slopes: Sequence[Tensor], x: Tensor) -> Tensor:
    """Its derivative away from where it jumps: that of what is chosen, 0 of a mask."""
    operation = node.operation
    assert isinstance(operation, Call)
    if operation.label not in CHOSEN:
        return torch.zeros_like(x)
    place, *values = CHOSEN[operation.label]
    mask = slots[operation.arguments[place].position]
    moved = _filled(operation, slopes, lambda number: torch.zeros_like(x))
    taken, other = (moved[i] for i in values)
    return torch.where(mask, taken, other)


def choice_error(
    node: Node, slots: Sequence[Rounded], slope: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`Rounded` after the value: where rounding may have chosen the other one, it may be that."""
    operation, none = node.operation, torch.zeros_like(x)
    assert isinstance(operation, Call)
    if operation.label in COMPARED:
        (s,), number = slots, operation.arguments[1]
        return ((s.off > 0) & ((s.value - number).abs() <= s.off)).to(x.dtype), none, none
    if operation.label not in CHOSEN:
        return torch.stack([s.off for s in slots]).amax(0), none, none
    filled = _filled(operation, slots, lambda number: Rounded(torch.full_like(x, number), none, none, none))
    mask, taken, other = (filled[i] for i in CHOSEN[operation.label])
    gaps = (taken.value - other.value).abs(), (taken.slope - other.slope).abs()
    doubt = mask.off > 0
    off = torch.where(mask.value, taken.off, other.off) + torch.where(doubt, gaps[0] + taken.off + other.off, 0.0)
    lost = torch.where(mask.value, taken.lost, other.lost)
    return off, slope, lost + torch.where(doubt, gaps[1] + taken.lost + other.lost, 0.0)
