"""sup|phi'| and sup|phi''| against values known from calculus, and against derivatives written by hand.

Sound: no point exceeds the bound. Tight: a dense grid comes within 1e-5 of it. Refused: what is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf, expit
from strategies import examples
from sympy import Abs, Max, Min, Piecewise, Rational, atan, cosh, exp, log, pi, sin, sqrt, tanh

from covergraph.errors import ParameterError, UnsupportedOperationError
from covergraph.rules.suprema import Supremum, supremum

T = sympy.Symbol("t", real=True)
Array = NDArray[np.float64]

SIGMOID = 1 / (1 + exp(-T))
SOFTPLUS = log(1 + exp(T))
GELU = T * (1 + sympy.erf(T / sqrt(2))) / 2
GELU_TANH = T * (1 + tanh(sqrt(2 / pi) * (T + Rational(44715, 10**6) * T**3))) / 2
SILU = T / (1 + exp(-T))
ELU = Piecewise((exp(T) - 1, T < 0), (T, True))
SOFTSIGN = T / (1 + Abs(T))
HARDSWISH = T * Min(Max(T + 3, 0), 6) / 6

# phi, order, the supremum by calculus.
EXACT = [
    (tanh(T), 1, 1),
    (tanh(T), 2, 4 / (3 * sqrt(3))),
    (tanh(3 * T), 1, 3),
    (tanh(3 * T), 2, 36 / (3 * sqrt(3))),
    (SIGMOID, 1, Rational(1, 4)),
    (SIGMOID, 2, 1 / (6 * sqrt(3))),
    (SOFTPLUS, 1, 1),
    (SOFTPLUS, 2, Rational(1, 4)),
    (GELU, 1, (1 + sympy.erf(1)) / 2 + exp(-1) / sqrt(pi)),
    (GELU, 2, sqrt(2 / pi)),
    (0.5 * GELU, 2, sqrt(2 / pi) / 2),
    (GELU_TANH, 2, sqrt(2 / pi)),
    (SILU, 2, Rational(1, 2)),
    (ELU, 1, 1),
    (ELU, 2, 1),
    (sin(T), 1, 1),
    (sin(T), 2, 1),
    (T + sin(T) ** 2, 1, 2),
    (atan(T), 1, 1),
    (atan(T), 2, 3 * sqrt(3) / 8),
    (SOFTSIGN, 1, 1),
    (SOFTSIGN, 2, 2),
    (log(cosh(T)), 1, 1),
    (log(cosh(T)), 2, 1),
    (sqrt(1 + T**2), 1, 1),
    (exp(-(T**2)), 1, sqrt(2 / sympy.E)),
    (3 * T, 1, 3),
    (3 * T, 2, 0),
    (T + 1, 1, 1),
    (T**2, 2, 2),
    (Max(T, 0), 1, 1),
    (Max(T, T / 10), 1, 1),
    (Abs(T), 1, 1),
    (Piecewise((2 * exp(T) - 2, T < 0), (T, True)), 1, 2),
    (HARDSWISH, 1, Rational(3, 2)),
    (tanh(T), 0, 1),
]


@pytest.mark.parametrize(("phi", "order", "expected"), EXACT, ids=str)
def test_closed_forms_are_found_and_proved(phi: sympy.Expr, order: int, expected: sympy.Expr) -> None:
    found = supremum(phi, order)
    assert found.kind == "exact"
    assert sympy.simplify(found.value - expected) == 0
    assert 0 <= found.upper() - float(expected) <= 1e-14 * float(expected)


def silu_slope(t: mpmath.mpf) -> mpmath.mpf:
    s = 1 / (1 + mpmath.exp(-t))
    return s + t * s * (1 - s)


def gelu_tanh_slope(t: mpmath.mpf) -> mpmath.mpf:
    c, k = mpmath.sqrt(2 / mpmath.pi), mpmath.mpf("0.044715")
    u = mpmath.tanh(c * (t + k * t**3))
    return (1 + u) / 2 + t * (1 - u**2) * c * (1 + 3 * k * t**2) / 2


def mish_slope(t: mpmath.mpf) -> mpmath.mpf:
    u = mpmath.tanh(mpmath.log1p(mpmath.exp(t)))
    return u + t * (1 - u**2) / (1 + mpmath.exp(-t))


@pytest.mark.parametrize(
    ("phi", "slope", "near"),
    [
        (SILU, silu_slope, 2.4),
        (GELU_TANH, gelu_tanh_slope, 1.4),
        (T * tanh(SOFTPLUS), mish_slope, 1.5),
    ],
)
def test_transcendental_maxima_are_certified(
    phi: sympy.Expr, slope: Callable[[mpmath.mpf], mpmath.mpf], near: float
) -> None:
    """No closed form exists; the maximum of phi', by Newton's method, is at most 1e-6 below the bound."""
    found = supremum(phi, 1)
    maximum = float(slope(mpmath.findroot(lambda t: mpmath.diff(slope, t), near)))
    assert found.kind == "certified"
    assert maximum <= found.upper() <= maximum * (1 + 1e-6)
    assert "bisection" in found.argument and "tails" in found.argument


@pytest.mark.parametrize(
    ("phi", "order"),
    [
        (T**2, 1),
        (exp(T), 1),
        (exp(T), 2),
        (sin(T**2), 1),
        (T * sin(T), 1),
        (SOFTPLUS, 0),
        (log(Abs(T) + 1) * T, 1),
        (sympy.tan(T), 1),
        (sqrt(Abs(T)), 1),
        (sin(T) / T, 1),
        (atan(1 / T), 1),
        (log(-1 - T**2), 1),  # phi is not real, though its derivative is bounded
        (sympy.gamma(T), 1),
        (sympy.floor(T), 1),
    ],
    ids=str,
)
def test_infinite_or_uncertified_suprema_are_refused(phi: sympy.Expr, order: int) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"phi = "):
        supremum(phi, order)


def test_phi_must_be_analytic_where_its_derivative_is_bounded() -> None:
    """The logarithm of a negative number has the bounded derivative 2t / (1 + t^2)."""
    with pytest.raises(UnsupportedOperationError):
        supremum(log(-1 - T**2), 1, 1.0)


def test_a_refusal_names_the_function_the_derivative_and_the_remedy() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"sup \|phi'\| of phi = t\*sin\(t\) .*bounded"):
        supremum(T * sin(T), 1)


@pytest.mark.parametrize(
    ("phi", "place"),
    [
        (Max(T, 0), "t=0"),
        (Abs(T), "t=0"),
        (Max(T, T / 100), "t=0"),
        (Piecewise((2 * exp(T) - 2, T < 0), (T, True)), "t=0"),
        (Max(-1, Min(1, T)), "t=-1"),
        (HARDSWISH, "t=-3"),
    ],
    ids=str,
)
def test_kinks_are_refused_in_the_second_order(phi: sympy.Expr, place: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=rf"kink at {place} .* condition"):
        supremum(phi, 2)


def test_jumps_are_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match="not continuous at t=0"):
        supremum(sympy.Heaviside(T), 1)
    with pytest.raises(UnsupportedOperationError, match="not continuous at t=1"):
        supremum(Piecewise((T, T < 1), (T**3, sympy.Eq(T, 2)), (T + 1, True)), 2)


@pytest.mark.parametrize(
    ("phi", "order", "radius", "expected"),
    [
        (T**3, 2, 2, 12),
        (T**3, 1, 2, 12),
        (exp(T), 1, 1, sympy.E),
        (exp(T), 2, 1.5, exp(Rational(3, 2))),
        (T * sin(T), 1, Rational(1, 2), sin(Rational(1, 2)) + sympy.cos(Rational(1, 2)) / 2),
        (tanh(T), 1, 10, 1),
        (Max(T, 0), 1, 3, 1),
    ],
    ids=str,
)
def test_a_radius_bounds_the_line(phi: sympy.Expr, order: int, radius: float, expected: sympy.Expr) -> None:
    found = supremum(phi, order, float(radius))
    assert found.kind == "exact"
    assert sympy.simplify(found.value - expected) == 0


def test_constants_of_many_digits_do_not_hide_cancellations() -> None:
    phi = -1.855857419997509 * tanh(0.6600160229205727 * T + 1.4)
    scale = 1.855857419997509 * 0.6600160229205727**2
    assert supremum(phi, 2).upper() == pytest.approx(scale * 4 / (3 * math.sqrt(3)), rel=1e-6)


def test_far_radii_are_as_good_as_the_line() -> None:
    assert supremum(SILU, 2, 1e5).value == Rational(1, 2)
    assert supremum(T**4, 1, 1e5).upper() == pytest.approx(4e15, rel=1e-6)


@pytest.mark.parametrize(("order", "radius"), [(3, None), (-1, None), (1, 0.0), (1, -1.0), (1, math.inf)])
def test_bad_arguments(order: int, radius: float | None) -> None:
    with pytest.raises(ParameterError):
        supremum(tanh(T), order, radius)


def test_two_symbols_are_refused_and_any_single_symbol_is_read() -> None:
    x = sympy.Symbol("x")
    assert supremum(tanh(x), 2) == supremum(tanh(T), 2)
    with pytest.raises(UnsupportedOperationError, match="several symbols"):
        supremum(tanh(x + T), 1)


def test_upper_is_a_float_that_is_not_below_the_value() -> None:
    for number in (Rational(1, 3), Rational(851, 1000), sqrt(2), exp(-1), sympy.Integer(1)):
        upper = Supremum(number, "exact", "").upper()
        assert sympy.Rational(upper) >= number
        assert upper <= float(number) * (1 + 1e-14)


# Derivatives by hand, in forms that do not cancel: phi as a sympy function, phi', phi''.
def logistic_slope(x: Array) -> Array:
    return expit(x) * expit(-x)


def logistic_curvature(x: Array) -> Array:
    return logistic_slope(x) * (expit(-x) - expit(x))


def normal_density(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Row:
    name: str
    phi: Callable[[sympy.Expr], sympy.Expr]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]


ROWS = [
    Row("tanh", tanh, lambda x: 4 * logistic_slope(2 * x), lambda x: 8 * logistic_curvature(2 * x)),
    Row("sigmoid", lambda u: 1 / (1 + exp(-u)), logistic_slope, logistic_curvature),
    Row("softplus", lambda u: log(1 + exp(u)), expit, logistic_slope),
    Row(
        "gelu",
        lambda u: u * (1 + sympy.erf(u / sqrt(2))) / 2,
        lambda x: (1 + erf(x / math.sqrt(2))) / 2 + x * normal_density(x),
        lambda x: (2 - x * x) * normal_density(x),
    ),
    Row(
        "silu",
        lambda u: u / (1 + exp(-u)),
        lambda x: expit(x) + x * logistic_slope(x),
        lambda x: 2 * logistic_slope(x) + x * logistic_curvature(x),
    ),
    Row(
        "elu",
        lambda u: Piecewise((exp(u) - 1, u < 0), (u, True)),
        lambda x: np.exp(np.minimum(x, 0)),
        lambda x: np.where(x <= 0, np.exp(np.minimum(x, 0)), 0.0),
    ),
    Row("sin", sin, np.cos, lambda x: -np.sin(x)),
    Row("atan", atan, lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
]

NONZERO = st.integers(-400, 400).filter(lambda n: abs(n) >= 5).map(lambda n: Rational(n, 100))


@examples(40)
@given(
    row=st.sampled_from(ROWS),
    c1=NONZERO,
    c2=NONZERO,
    c3=st.integers(-30, 30).map(lambda n: Rational(n, 10)),
    c4=st.sampled_from([Rational(0), Rational(-3, 4), Rational(1, 3), Rational(2)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_bounds_hold_everywhere_and_are_tight(
    row: Row, c1: sympy.Rational, c2: sympy.Rational, c3: sympy.Rational, c4: sympy.Rational, seed: int
) -> None:
    """phi(t) = c1 row(c2 t + c3) + c4 t: sound at random points, tight on a grid, scaled as c1 c2^order."""
    phi = c1 * row.phi(c2 * T + c3) + c4 * T
    grid = np.linspace(-12, 12, 24001)  # the inner argument; holds 0 and the ends of ELU's pieces
    t = np.concatenate(
        [(grid - float(c3)) / float(c2), np.random.default_rng(seed).uniform(-1e3, 1e3, 20_000), [-1e6, 1e6]]
    )
    inner = np.concatenate([grid, float(c2) * t[grid.size :] + float(c3)])
    values = {
        1: np.abs(float(c1 * c2) * row.slope(inner) + float(c4)),
        2: np.abs(float(c1 * c2**2) * row.curvature(inner)),
    }
    for order in (1, 2):
        upper = supremum(phi, order).upper()
        assert values[order].max() <= upper * (1 + 1e-13)
        assert values[order].max() >= upper * (1 - 1e-5)
    assert supremum(phi, 2).upper() == pytest.approx(float(abs(c1) * c2**2) * supremum(row.phi(T), 2).upper(), rel=1e-6)
