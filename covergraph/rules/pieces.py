"""The pieces of a piecewise function of one variable, and what happens at its breakpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import kinks
from covergraph.rules.enclosure.intervals import constant


@dataclass(frozen=True)
class Piece(kinks.Part):
    """phi is the expression `phi` on the closed interval from `start` to `end` (either may be infinite)."""

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
        is_periodic = not function.xreplace(constants).has(t) and self.phi.xreplace(constants).is_polynomial(t)
        phases = [_linear(a.args[0], t) for a in atoms] if is_line and is_periodic else []
        if not phases or not all((rate / phases[0][0]).is_Rational for rate, _ in phases):
            return self
        rate, shift = phases[0]
        unit = sympy.Abs(rate) * reduce(sympy.gcd, [r / rate for r, _ in phases])
        # Start an eighth of a half turn beside an extremum, so that none is an end of the period.
        start = -shift / rate - sympy.pi / (8 * sympy.Abs(rate))
        return Piece(self.phi, start, start + 2 * sympy.pi / unit)


def pieces(phi: sympy.Expr, radius: float | None) -> list[Piece]:
    """phi (normalized) on |t| <= radius (None: the line) as pieces from left to right."""
    limit = sympy.oo if radius is None else sympy.Rational(repr(float(radius)))
    return [piece for part in kinks.parts(phi) if (piece := clipped(part, -limit, limit)) is not None]


def clipped(part: kinks.Part, low: sympy.Expr, high: sympy.Expr) -> Piece | None:
    """The piece of a part between two numbers; None if it is empty or a point."""
    start, end = sympy.Max(part.start, low), sympy.Min(part.end, high)
    return Piece(part.phi, start, end) if start < end else None


def refuse_jump(phi: sympy.Expr, left: Piece, right: Piece, order: int) -> None:
    """Raises `UnsupportedOperationError` unless phi, ..., phi^(order - 1) are continuous at the break."""
    for k in range(max(order, 1)):
        values = kinks.sides(phi, left, right, k)
        if kinks.are_equal(values):
            continue
        if k == 0:
            raise UnsupportedOperationError(
                f"phi = {phi} is not continuous at t={right.start} (values {', '.join(map(str, values))}), so it has "
                "no Lipschitz constant; use a continuous function"
            )
        raise UnsupportedOperationError(
            f"phi = {phi} has a kink at t={right.start} (slopes {values[0]} and {values[1]}), so phi' has no Lipschitz "
            "constant on the whole line; it has one under a condition that keeps away from the kink "
            "(covergraph.rules.profiles.profile)"
        )


def _linear(phase: sympy.Expr, t: sympy.Symbol) -> tuple[sympy.Expr, sympy.Expr]:
    """a and b of a t + b; a is not a number if the phase is not linear."""
    rate = sympy.diff(phase, t)
    return (sympy.nan if rate.has(t) else rate), sympy.expand(phase - rate * t)
