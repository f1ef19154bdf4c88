"""Where is an element-wise function good? Between its kinks, jumps, poles and the ends of its domain (Lemma 12).

phi is *good* on an open interval if it is real and continuously differentiable there, and phi' is locally Lipschitz.
phi is cut into parts on each of which it is one analytic expression; parts that meet with equal values and slopes are
one interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import pairwise

import sympy
import torch
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph.functions import T
from covergraph.graph.singular import is_real, normalized, singular_points

Intervals = Sequence[tuple[float, float]]
_SAME = sympy.Float(10) ** -25
_PIECEWISE = [sympy.Abs, sympy.sign, sympy.Heaviside, sympy.Max, sympy.Min]


@dataclass(frozen=True)
class Part:
    """phi is the expression `phi` from `start` to `end` (either may be infinite)."""

    phi: sympy.Expr
    start: sympy.Expr
    end: sympy.Expr


def good_intervals(expression: sympy.Expr) -> tuple[tuple[float, float], ...]:
    """The largest open intervals on which phi is good; ends that are no floats are rounded inwards.

    Raises `UnsupportedOperationError` if there is none, or if the ends are infinitely many or cannot be found.
    """
    return tuple((_inwards(group[0].start, 1), _inwards(group[-1].end, -1)) for group in good_parts(expression))


def distance(values: Tensor, intervals: Intervals) -> Tensor:
    """How far each entry is from the complement of the union of open intervals that do not meet; 0 outside.

    Args:
        values: any shape.
        intervals: (start, end), each may be infinite.

    Returns:
        The shape and type of `values`; infinite where the whole line is one interval.
    """
    inside = (_depth(values, start, end) for start, end in intervals)
    return reduce(torch.maximum, inside, torch.zeros_like(values))


def _depth(values: Tensor, start: float, end: float) -> Tensor:
    """min(t - start, end - t), negative outside."""
    depth = torch.full_like(values, math.inf)
    if start > -math.inf:
        depth = torch.minimum(depth, values - start)
    return torch.minimum(depth, end - values) if end < math.inf else depth


@lru_cache(maxsize=512)
def good_parts(expression: sympy.Expr) -> tuple[tuple[Part, ...], ...]:
    """For each good interval, from left to right, its parts: between them phi and phi' are continuous.

    Raises `UnsupportedOperationError` as `good_intervals` does.
    """
    try:
        groups = _group(normalized(expression))
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"phi = {expression}: {error}") from None
    if not groups:
        raise UnsupportedOperationError(f"phi = {expression} is real and smooth on no interval; use a function that is")
    return groups


def parts(phi: sympy.Expr) -> list[Part]:
    """phi (`normalized`) on the line, cut where a case begins, from left to right."""
    folded = sympy.piecewise_fold(phi.rewrite(_PIECEWISE, sympy.Piecewise))
    ends = [-sympy.oo, *sorted(_breakpoints(folded, phi), key=float), sympy.oo]
    return [Part(_expression_at(folded, between(a, b)), a, b) for a, b in pairwise(ends)]


def sides(phi: sympy.Expr, left: Part, right: Part, order: int) -> list[sympy.Expr]:
    """phi^(order) at the end of the left part and at the start of the right one; phi itself there, too, for order 0."""
    values = [sympy.diff(part.phi, T, order).subs(T, right.start) for part in (left, right)]
    return [*values, phi.subs(T, right.start)] if order == 0 else values


def are_equal(values: Sequence[sympy.Expr]) -> bool:
    """True if all are one finite number."""
    return all(v.is_finite and sympy.simplify(v - values[0]) == 0 for v in values)


def between(start: sympy.Expr, end: sympy.Expr) -> sympy.Expr:
    """A point of the open interval."""
    if start.is_finite and end.is_finite:
        return (start + end) / 2
    if start.is_finite:
        return start + 1
    return end - 1 if end.is_finite else sympy.S.Zero


def _group(phi: sympy.Expr) -> tuple[tuple[Part, ...], ...]:
    groups: list[list[Part]] = []
    for part in (p for whole in parts(phi) for p in _regular(whole)):
        if groups and _is_smooth(phi, groups[-1][-1], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return tuple(map(tuple, groups))


def _regular(part: Part) -> list[Part]:
    """The part between the singular points of its expression, where it is real."""
    inner = (p for p in singular_points(part.phi) if part.start < p < part.end)
    cuts: list[sympy.Expr] = []
    for point in sorted(inner, key=float):
        if not cuts or not _is_same(point, cuts[-1]):
            cuts.append(point)
    pieces = [Part(part.phi, a, b) for a, b in pairwise([part.start, *cuts, part.end])]
    return [p for p in pieces if is_real(p.phi, between(p.start, p.end))]


def _is_smooth(phi: sympy.Expr, left: Part, right: Part) -> bool:
    """True if the parts meet, neither expression is singular there, and phi and phi' are continuous."""
    if left.end != right.start:
        return False
    singular = singular_points(left.phi) | singular_points(right.phi)
    if any(_is_same(point, left.end) for point in singular):
        return False
    return all(are_equal(sides(phi, left, right, order)) for order in (0, 1))


def _is_same(a: sympy.Expr, b: sympy.Expr) -> bool:
    return bool(abs((a - b).evalf(50)) < _SAME)


def _breakpoints(folded: sympy.Expr, phi: sympy.Expr) -> set[sympy.Expr]:
    if not isinstance(folded, sympy.Piecewise):
        return set()
    try:
        found = set().union(*(set(condition.as_set().boundary) for _, condition in folded.args))
    except (NotImplementedError, TypeError) as error:
        raise UnsupportedOperationError(f"the breakpoints of phi = {phi} cannot be found ({error})") from None
    return {b for b in found if b.is_finite}


def _expression_at(folded: sympy.Expr, point: sympy.Expr) -> sympy.Expr:
    if not isinstance(folded, sympy.Piecewise):
        return folded
    try:
        for expression, condition in folded.args:
            if condition.subs(T, point) == sympy.true:
                return expression
    except TypeError as error:  # a condition compares numbers that are not real
        raise UnsupportedOperationError(f"the case of phi = {folded} at t={point} is not known ({error})") from None
    raise UnsupportedOperationError(f"phi = {folded} has no value at t={point}; define it on the whole line")


def _inwards(end: sympy.Expr, direction: int) -> float:
    """The float at an end, or the next one inside."""
    nearest = float(end)
    if not end.is_finite:
        return nearest
    error = (sympy.Rational(nearest) - end).evalf(30)
    return nearest if error * direction >= 0 else math.nextafter(nearest, direction * math.inf)
