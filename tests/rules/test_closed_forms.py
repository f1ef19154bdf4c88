"""A closed form is accepted only with its proof: each step of the proof refuses a wrong candidate.

The enclosure handed in is made loose on purpose, so that candidates below the supremum are not sorted out by
their size before the step under test.
"""

from __future__ import annotations

import sympy
from sympy import exp, log, oo, sqrt

from covergraph.rules.closed_forms import ClosedForm, closed_form
from covergraph.rules.enclosure.search import Curve, Enclosure, initial_regions, maximize
from covergraph.rules.pieces import Piece

T = sympy.Symbol("t", real=True)


def proposed(f: sympy.Expr, start: sympy.Expr = -oo, end: sympy.Expr = oo) -> ClosedForm | None:
    """The closed form of sup |f| with nothing known but 1/2 <= sup |f| <= 3 and the rays of a search."""
    curve, piece = Curve(f, 0, T), Piece(f, sympy.sympify(start), sympy.sympify(end))
    regions = initial_regions(*piece.ends())
    maximize(curve, regions)
    return closed_form(curve, piece, Enclosure(0.5, 3.0, tuple(regions), 1.0, 0))


def test_the_only_maximum_is_accepted() -> None:
    found = proposed(2 * exp(-(T**2)))
    assert found == ClosedForm(sympy.Integer(2), "t = 0")


def test_a_local_maximum_is_refused_where_a_larger_one_is_no_candidate() -> None:
    bumps = exp(-(T**2)) + 2 * exp(-((T - 10) ** 2)) + 2 * exp(-((T + 10) ** 2))
    assert proposed(bumps) is None


def test_a_point_with_a_slope_is_refused() -> None:
    """f(0) = 1.001, f'(0) = 1/10: the maximum lies beside 0, within the interval where f is concave."""
    assert proposed(exp(-(T**2)) * (1 + T / 10) + exp(-(T**4)) / 1000) is None


def test_candidates_of_different_sizes_prove_nothing() -> None:
    """|f| rises towards both ends of [-1, 1.2], to 2 and to 2.44."""
    assert proposed(1 + T**2, -1, sympy.Rational(6, 5)) is None


def test_a_limit_from_above_is_no_supremum() -> None:
    assert proposed(1 + exp(-(T**2))) == ClosedForm(sympy.Integer(2), "t = 0")
    assert proposed(1 / (1 + exp(-T))) == ClosedForm(sympy.Integer(1), "t -> oo")


def test_roots_in_exponentials_are_candidates() -> None:
    """8 (y - 1) / (y^2 + 1), y = e^t >= 1, is largest where y^2 - 2y - 1 = 0."""
    found = proposed(8 * (exp(T) - 1) / (exp(2 * T) + 1), 0, oo)
    assert found is not None
    assert found.place == f"t = {log(1 + sqrt(2))}"
    assert sympy.simplify(found.value - 4 * (sqrt(2) - 1)) == 0
