"""Closed forms of sup |phi''| next to infinity and to singular points, where phi'' is monotone (Lemma 12).

If phi''' keeps its sign, then sup |phi''| over an interval is taken at one of the ends. An end that is infinite or
singular is replaced by the limit of phi'' where it is finite, else by -r or r, or by the point at the distance d.
"""

from __future__ import annotations

import sympy

from covergraph.graph.functions import T
from covergraph.graph.kinks import Part

_X = sympy.Symbol("x", positive=True)
_LARGEST = 60


def monotone_supremum(
    part: Part, ends: tuple[sympy.Expr, sympy.Expr], radius: sympy.Expr, distance: sympy.Expr
) -> sympy.Expr | None:
    """sup |phi''| over the t of a part with |t| <= radius, at least `distance` inside its good interval, or None.

    Args:
        part: where phi is one analytic expression.
        ends: those of the good interval that the part is in.
        radius, distance: positive symbols. The result contains them only where phi'' is unbounded otherwise.
    """
    if sympy.count_ops(sympy.diff(part.phi, T, 3)) > _LARGEST:
        return None
    whole = _over(part, ends, radius, distance)
    if whole is not None or not (part.start < 0 < part.end):
        return whole
    halves = [Part(part.phi, part.start, sympy.S.Zero), Part(part.phi, sympy.S.Zero, part.end)]
    values = [_over(half, ends, radius, distance) for half in halves]
    return None if None in values else sympy.Max(*values)


def _over(
    part: Part, ends: tuple[sympy.Expr, sympy.Expr], radius: sympy.Expr, distance: sympy.Expr
) -> sympy.Expr | None:
    curvature = sympy.diff(part.phi, T, 2)
    direction = _sign(sympy.diff(curvature, T), part)
    if direction is None:
        return None
    lower = _at_end(curvature, part, -1, direction, ends, radius, distance)
    upper = _at_end(curvature, part, 1, direction, ends, radius, distance)
    if lower is None or upper is None:
        return None
    low, high = (lower, upper) if direction > 0 else (upper, lower)
    return sympy.Max(-low, high)


def _at_end(
    curvature: sympy.Expr,
    part: Part,
    side: int,
    direction: int,
    ends: tuple[sympy.Expr, sympy.Expr],
    radius: sympy.Expr,
    distance: sympy.Expr,
) -> sympy.Expr | None:
    """What phi'' does not pass on its way to the left (side -1) or right end of the part."""
    end, other = (part.end, part.start) if side > 0 else (part.start, part.end)
    if end not in ends:
        return curvature.subs(T, end)
    limit = _limit(curvature, part, side, direction)
    if limit is not None:
        return limit
    if end.is_finite:  # the point may lie outside if the interval is bounded
        return None if all(e.is_finite for e in ends) else curvature.subs(T, end - side * distance)
    if other != 0 and other.is_finite:  # phi'' may not be defined at the radius
        return None
    return curvature.subs(T, side * radius)


def _limit(curvature: sympy.Expr, part: Part, side: int, direction: int) -> sympy.Expr | None:
    """The finite limit of phi'' at an end, proved to bound it."""
    try:
        limit = sympy.limit(curvature, T, part.end if side > 0 else part.start, "-" if side > 0 else "+")
    except (NotImplementedError, ValueError):
        return None
    if limit.has(sympy.AccumBounds) or not limit.is_finite:
        return None
    return limit if _sign(limit - curvature, part) == side * direction else None


def _sign(function: sympy.Expr, part: Part) -> int | None:
    """1 if the function is proved to be >= 0 on the part, -1 if <= 0; by the signs of its terms."""
    inside = _inside(part)
    if inside is None:
        return None
    value = function.subs(T, inside)
    for form in (value, sympy.factor(value), sympy.expand(value)):
        if form.is_nonnegative:
            return 1
        if form.is_nonpositive:
            return -1
    return None


def _inside(part: Part) -> sympy.Expr | None:
    """A generic point of the part as an expression whose sign sympy knows; None if the part is bounded."""
    if part.start.is_finite:
        return None if part.end.is_finite else part.start + _X
    return part.end - _X if part.end.is_finite else T
