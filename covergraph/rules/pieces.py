"""The pieces of a piecewise function of one variable, and what happens at its breakpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.rules.enclosure.intervals import constant

_PIECEWISE = [sympy.Abs, sympy.sign, sympy.Heaviside, sympy.Max, sympy.Min]


@dataclass(frozen=True)
class Piece:
    """phi is the expression `phi` on the closed interval from `start` to `end` (either may be infinite)."""

    phi: sympy.Expr
    start: sympy.Expr
    end: sympy.Expr

    def __str__(self) -> str:
        return f"[{self.start}, {self.end}]"

    def ends(self) -> tuple[float, float]:
        """Floats that enclose the interval."""
        low = constant(self.start)[0] if self.start.is_finite else -math.inf
        high = constant(self.end)[1] if self.end.is_finite else math.inf
        return low, high

    def one_period(self, function: sympy.Expr, t: sympy.Symbol) -> Piece:
        """The piece cut down to one period of the function if it is the line and the function is periodic.

        phi must be a polynomial in t whose coefficients have the same period, so that one period shows where
        it is analytic.
        """
        atoms = sorted(self.phi.atoms(sympy.sin, sympy.cos) | function.atoms(sympy.sin, sympy.cos), key=str)
        constants = {a: sympy.Dummy() for a in atoms}
        is_line = not (self.start.is_finite or self.end.is_finite)
        is_periodic = not function.xreplace(constants).has(t) and self.phi.xreplace(constants).is_polynomial(
            t
        )
        phases = [_linear(a.args[0], t) for a in atoms] if is_line and is_periodic else []
        if not phases or not all((rate / phases[0][0]).is_Rational for rate, _ in phases):
            return self
        rate, shift = phases[0]
        unit = sympy.Abs(rate) * reduce(sympy.gcd, [r / rate for r, _ in phases])
        # Start an eighth of a half turn beside an extremum, so that none is an end of the period.
        start = -shift / rate - sympy.pi / (8 * sympy.Abs(rate))
        return Piece(self.phi, start, start + 2 * sympy.pi / unit)


def pieces(phi: sympy.Expr, t: sympy.Symbol, radius: float | None) -> list[Piece]:
    """phi on |t| <= radius (None: the line) as pieces from left to right."""
    folded = sympy.piecewise_fold(phi.rewrite(_PIECEWISE, sympy.Piecewise))
    limit = sympy.oo if radius is None else sympy.Rational(repr(float(radius)))
    breaks = sorted((b for b in _breakpoints(folded, phi) if -limit < b < limit), key=float)
    ends = [-limit, *breaks, limit]
    return [Piece(_expression_at(folded, t, _between(a, b)), a, b) for a, b in pairwise(ends)]


def refuse_jump(phi: sympy.Expr, left: Piece, right: Piece, order: int, t: sympy.Symbol) -> None:
    """Raises `UnsupportedOperationError` unless phi, ..., phi^(order - 1) are continuous at the break."""
    at = right.start
    for k in range(max(order, 1)):
        sides = [sympy.diff(piece.phi, t, k).subs(t, at) for piece in (left, right)]
        sides += [phi.subs(t, at)] if k == 0 else []
        if all(s.is_finite and sympy.simplify(s - sides[0]) == 0 for s in sides):
            continue
        if k == 0:
            raise UnsupportedOperationError(
                f"phi = {phi} is not continuous at t={at} (values {', '.join(map(str, sides))}), so it has "
                "no Lipschitz constant; use a continuous function"
            )
        raise UnsupportedOperationError(
            f"phi = {phi} has a kink at t={at} (slopes {sides[0]} and {sides[1]}), so phi' has no Lipschitz "
            "constant; kinks need a condition on the pre-activation, which is not available yet: use a "
            "smooth function"
        )


def _linear(phase: sympy.Expr, t: sympy.Symbol) -> tuple[sympy.Expr, sympy.Expr]:
    """a and b of a t + b; a is not a number if the phase is not linear."""
    rate = sympy.diff(phase, t)
    return (sympy.nan if rate.has(t) else rate), sympy.expand(phase - rate * t)


def _breakpoints(folded: sympy.Expr, phi: sympy.Expr) -> set[sympy.Expr]:
    if not isinstance(folded, sympy.Piecewise):
        return set()
    try:
        found = set().union(*(set(condition.as_set().boundary) for _, condition in folded.args))
    except (NotImplementedError, TypeError) as error:
        raise UnsupportedOperationError(f"the breakpoints of phi = {phi} cannot be found ({error})") from None
    return {b for b in found if b.is_finite}


def _between(start: sympy.Expr, end: sympy.Expr) -> sympy.Expr:
    if start.is_finite and end.is_finite:
        return (start + end) / 2
    if start.is_finite:
        return start + 1
    return end - 1 if end.is_finite else sympy.S.Zero


def _expression_at(folded: sympy.Expr, t: sympy.Symbol, point: sympy.Expr) -> sympy.Expr:
    if not isinstance(folded, sympy.Piecewise):
        return folded
    for expression, condition in folded.args:
        if condition.subs(t, point) == sympy.true:
            return expression
    raise UnsupportedOperationError(f"phi = {folded} has no value at t={point}; define it on the whole line")
