"""sup |phi''| away from kinks, jumps and poles, and within a radius: a symbol until both are numbers (Lemma 12)."""

from __future__ import annotations

import math
from functools import lru_cache

import sympy
from mpmath.libmp import from_float, round_ceiling
from sympy.printing.latex import LatexPrinter

from covergraph.errors import ParameterError
from covergraph.graph.functions import T
from covergraph.graph.kinks import good_parts
from covergraph.rules.enclosure.intervals import UndefinedError, constant
from covergraph.rules.enclosure.search import Curve, initial_regions, maximize, natural_unit
from covergraph.rules.pieces import Piece, clipped


class LocalSupremum(sympy.Expr):
    r"""sup |phi''(t)| over |t| <= radius at least `distance` inside the good intervals of phi (0 if no such t).

    Printed as such. The radius may be oo and the distance 0. Once both are numbers, `sympy.N` at
    15 digits or more gives a number that is not below the supremum: an enclosure (Lemma 5), oo if none is found.

    Args:
        expression: phi in `T`, or a `sympy.Lambda`, so that t is no free symbol.
        radius, distance: not negative.
    """

    is_commutative = True
    is_nonnegative = True

    def __new__(cls, expression: sympy.Expr, radius: sympy.Expr, distance: sympy.Expr) -> LocalSupremum:
        function = expression if isinstance(expression, sympy.Lambda) else sympy.Lambda(T, expression)
        return super().__new__(cls, function, sympy.sympify(radius), sympy.sympify(distance))

    @property
    def phi(self) -> sympy.Expr:
        """The function in the symbol `T`."""
        return self.args[0](T)

    @property
    def is_number(self) -> bool:
        """True if radius and distance are numbers."""
        return bool(self.args[1].is_number and self.args[2].is_number)

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        if not self.is_number:
            return None
        upper = local_supremum(self.phi, *self.args[1:])
        if math.isinf(upper):
            return sympy.oo
        return sympy.Float._new(from_float(upper, prec, round_ceiling), prec)

    def _latex(self, printer: LatexPrinter) -> str:
        radius, distance = self.args[1:]
        limits = [] if radius == sympy.oo else [rf"|t| \le {printer._print(radius)}"]
        if distance != 0:
            points = {end for group in good_parts(self.phi) for end in (group[0].start, group[-1].end)}
            ends = ", ".join(printer._print(p) for p in sorted((p for p in points if p.is_finite), key=float))
            limits.append(rf"\operatorname{{dist}}(t, \{{{ends}\}}) \ge {printer._print(distance)}")
        second = printer._print(sympy.Derivative(self.phi, (T, 2), evaluate=False))
        where = r",\ ".join(limits)
        return rf"\sup_{{{where}}} \left|{second}\right|"


@lru_cache(maxsize=4096)
def local_supremum(expression: sympy.Expr, radius: sympy.Expr, distance: sympy.Expr) -> float:
    """A float that is not below sup |phi''| over |t| <= radius, at least `distance` inside the good intervals.

    It is infinite if no bound is found. Raises `ParameterError` for a negative or complex radius or distance, and
    `UnsupportedOperationError` as `good_intervals` does.
    """
    if not (radius >= 0 and distance >= 0):
        raise ParameterError(f"radius and distance are {radius} and {distance}, expected numbers >= 0")
    limit = sympy.oo if radius == sympy.oo else sympy.Rational(constant(radius)[1])
    depth = sympy.Rational(max(constant(distance)[0], 0.0))
    inside = (
        clipped(part, sympy.Max(group[0].start + depth, -limit), sympy.Min(group[-1].end - depth, limit))
        for group in good_parts(expression)
        for part in group
    )
    return max((curvature_bound(piece) for piece in inside if piece is not None), default=0.0)


def curvature_bound(piece: Piece) -> float:
    """A float that is not below sup |phi''| over a closed piece, infinite if none is found."""
    try:
        curve = Curve(piece.phi, 2, T)
        domain = piece.one_period(curve.function, T)
        return maximize(curve, initial_regions(*domain.ends(), natural_unit(piece.phi, T))).upper
    except UndefinedError:
        return math.inf
