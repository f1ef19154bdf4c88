"""sup |phi'| and sup |phi''| of an element-wise function, derived from its symbolic expression (Lemma 5).

Lemma 5 has two halves: x -> phi(x), entry by entry, has the derivative diag(phi'(x)), which is
sup|phi''|-Lipschitz from the Euclidean to the spectral norm; and the numbers computed here bound the
suprema.

Proof of the second half. phi is cut at its breakpoints into pieces on each of which it is one expression.
On a piece, f = phi^(order) is bounded on finitely many sets that cover it. On an interval the bound is
interval arithmetic, rounded outwards: every value of f lies in the natural extension f(X), in f(c) +
f'(X)(X - c) by the mean value theorem, and between the values at the ends if f' keeps its sign. On a ray
[L, oo) f is enclosed by a finite sum of monomials x^a e^(q(x)) with interval coefficients; a monomial whose
logarithmic derivative is negative from L on is at most its value at L, and leading terms cancel exactly
(enclosure/tails.py). No value is sampled for an upper bound. phi itself goes through the same arithmetic,
which proves that it is analytic there, so that the symbolic derivative is the derivative. Splitting the set
with the largest bound lets the bound come down to a value that |f| takes, up to a relative 1e-7: the kind
is then "certified".

A closed form is claimed ("exact") only with a proof (closed_forms.py): |f| <= M near the points where it is
taken or on the ray where it is approached, and |f| < M by branch and bound elsewhere. Across a breakpoint
where phi^(order - 1) is continuous, the pieces' suprema bound the Lipschitz constant of phi^(order - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import sympy

from covergraph.errors import ParameterError, UnsupportedOperationError
from covergraph.graph.functions import T
from covergraph.graph.singular import normalized
from covergraph.rules.closed_forms import closed_form
from covergraph.rules.enclosure.intervals import UndefinedError, constant
from covergraph.rules.enclosure.search import Curve, Enclosure, initial_regions, maximize, natural_unit
from covergraph.rules.pieces import Piece, pieces, refuse_jump

Kind = Literal["exact", "certified"]


@dataclass(frozen=True)
class Supremum:
    """An upper bound of sup |phi^(order)|: the exact value, or a certified number that is at least that."""

    value: sympy.Expr
    kind: Kind
    argument: str

    def upper(self) -> float:
        """The smallest float that is known to be >= the supremum."""
        nearest = float(self.value)
        if self.value.is_Rational or self.kind == "certified":
            return nearest if sympy.Rational(nearest) >= self.value else math.nextafter(nearest, math.inf)
        return constant(self.value)[1]


@lru_cache(maxsize=512)
def supremum(expression: sympy.Expr, order: int, radius: float | None = None) -> Supremum:
    """sup |phi^(order)(t)| over the line, or over |t| <= radius; order is 0, 1 or 2.

    Args:
        expression: phi in one real symbol. Floats are read as the decimal numbers that they print.
        order: which derivative.
        radius: restricts the supremum to [-radius, radius]; read like the floats of phi.

    Raises:
        UnsupportedOperationError: the supremum is infinite or cannot be certified, phi^(order - 1) is not
            continuous (a kink), or phi has a part without a rule.
        ParameterError: another order, or a radius that is not positive and finite.
    """
    if order not in (0, 1, 2) or (radius is not None and not 0.0 < radius < math.inf):
        raise ParameterError(f"order must be 0, 1 or 2 and radius positive and finite; got {order} and {radius}")
    phi = normalized(expression)
    parts = pieces(phi, radius)
    for left, right in pairwise(parts):
        refuse_jump(phi, left, right, order)
    return largest(parts, [on_piece(part, order, expression, radius) for part in parts])


def largest(parts: Sequence[Piece], found: Sequence[Supremum]) -> Supremum:
    """The largest of the pieces' suprema; exact if it is exact and no other one may exceed it."""
    if len(found) == 1:
        return found[0]
    top = max(found, key=lambda s: (s.upper(), s.kind == "exact"))
    where = " and ".join(f"on {part}: {s.argument}" for part, s in zip(parts, found, strict=True))
    argument = f"largest of the pieces; {where}"
    if any(s.value != top.value and s.upper() > constant(top.value)[0] for s in found):
        return Supremum(sympy.Float(top.upper()), "certified", argument)
    return Supremum(top.value, top.kind, argument)


def on_piece(part: Piece, order: int, expression: sympy.Expr, radius: float | None = None) -> Supremum:
    """sup |phi^(order)| over one closed piece; `expression` and `radius` are named in errors.

    Raises `UnsupportedOperationError` as `supremum` does.
    """
    try:
        return _enclosed(part, order, expression, radius)
    except UndefinedError as error:
        raise UnsupportedOperationError(f"phi = {expression}: {error}; write its constants otherwise") from None


def _enclosed(part: Piece, order: int, expression: sympy.Expr, radius: float | None) -> Supremum:
    try:
        curve = Curve(part.phi, order, T)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"phi = {expression}: {error}") from None
    if not curve.function.free_symbols and part.phi.is_polynomial(T):
        return Supremum(sympy.Abs(curve.function), "exact", "the derivative is constant")
    domain = part.one_period(curve.function, T)
    unit = natural_unit(part.phi, T)
    enclosure = maximize(curve, initial_regions(*domain.ends(), unit))
    if enclosure.upper == math.inf:
        raise UnsupportedOperationError(_unbounded(expression, order, radius))
    how = _how(enclosure, domain)
    form = closed_form(curve, domain, enclosure)
    if form is not None:
        return Supremum(form.value, "exact", f"taken at {form.place}, proved largest by {how}")
    gap = enclosure.upper / enclosure.lower - 1.0 if enclosure.lower else math.inf
    argument = f"{how}; at most {gap:.1e} (relative) too large"
    return Supremum(sympy.Float(enclosure.upper), "certified", argument)


def _how(enclosure: Enclosure, domain: Piece) -> str:
    """The cover in words."""
    low, high = domain.ends()
    if max(-low, high) <= enclosure.reach:
        return f"bisection on {domain} ({enclosure.boxes} splits)"
    near = f"bisection on |t| <= {enclosure.reach:g} ({enclosure.boxes} splits)"
    return f"{near} and a bound of the tails by their growth beyond"


def _unbounded(expression: sympy.Expr, order: int, radius: float | None) -> str:
    derivative = "phi" + "'" * order
    where = "the whole line" if radius is None else f"|t| <= {radius:g}"
    remedy = "use a function whose derivative is bounded" if radius is None else "use a function that is smooth there"
    what = f"sup |{derivative}| of phi = {expression} over {where}"
    return f"{what} is infinite or cannot be certified; {remedy}"
