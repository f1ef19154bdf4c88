"""Enclosures hold: intervals against 40-digit arithmetic, forms on rays against values beyond the start."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from covergraph.rules.enclosure import functions, intervals
from covergraph.rules.enclosure.intervals import Interval, UndefinedError
from covergraph.rules.enclosure.monomials import X, envelope
from covergraph.rules.enclosure.search import Curve, initial_regions, maximize
from covergraph.rules.enclosure.tails import Form, Ray
from covergraph.rules.enclosure.tape import Tape

T = sympy.Symbol("t", real=True)
ENDS = st.floats(-50, 50) | st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, 1e-300, 1e300, -1e300])


@st.composite
def inside(draw: st.DrawFn) -> tuple[Interval, float]:
    """An interval and a point of it."""
    low, high = sorted((draw(ENDS), draw(ENDS)))
    point = low + draw(st.floats(0, 1)) * (high - low)
    return (low, high), min(max(point, low), high)


@given(inside(), inside())
def test_sums_and_products_contain_the_exact_result(
    x: tuple[Interval, float], y: tuple[Interval, float]
) -> None:
    for image, exact in (
        (intervals.add(x[0], y[0]), Fraction(x[1]) + Fraction(y[1])),
        (intervals.multiply(x[0], y[0]), Fraction(x[1]) * Fraction(y[1])),
    ):
        assert image[0] <= exact <= image[1]


@given(inside())
def test_reciprocals_contain_the_exact_result(x: tuple[Interval, float]) -> None:
    if x[0][0] <= 0.0 <= x[0][1]:
        with pytest.raises(UndefinedError):
            intervals.reciprocal(x[0])
    else:
        low, high = intervals.reciprocal(x[0])
        assert low <= 1 / Fraction(x[1]) <= high


ORACLES: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "tanh": mpmath.tanh,
    "erf": mpmath.erf,
    "atan": mpmath.atan,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
}


@pytest.mark.parametrize("name", sorted(ORACLES))
@given(x=inside())
def test_functions_and_their_slopes_contain_the_exact_result(name: str, x: tuple[Interval, float]) -> None:
    rule, oracle = functions.RULES[name], ORACLES[name]
    if max(map(abs, x[0])) > 600 or (name == "log" and x[0][0] <= 0):
        return
    with mpmath.workdps(40):
        low, high = rule.value(x[0])
        assert low <= oracle(mpmath.mpf(x[1])) <= high
        low, high = rule.slope(x[0])
        assert low <= derivative(name, mpmath.mpf(x[1])) <= high


def derivative(name: str, x: mpmath.mpf) -> mpmath.mpf:
    return {
        "exp": lambda: mpmath.exp(x),
        "log": lambda: 1 / x,
        "tanh": lambda: 1 / mpmath.cosh(x) ** 2,
        "erf": lambda: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-(x**2)),
        "atan": lambda: 1 / (1 + x**2),
        "sin": lambda: mpmath.cos(x),
        "cos": lambda: -mpmath.sin(x),
    }[name]()


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_ends_are_the_next_floats_or_those_after(name: str) -> None:
    for k in range(1, 200):
        low, high = functions.RULES[name].value((k / 7, k / 7))
        assert high <= low + 4 * math.ulp(max(abs(low), abs(high)))


EXPONENTS = [sympy.Rational(p, q) for p in (-7, -3, -2, -1, 1, 2, 3, 4, 7, 9) for q in (1, 2, 3)]


@given(x=inside(), exponent=st.sampled_from(EXPONENTS))
def test_powers_contain_the_exact_result(x: tuple[Interval, float], exponent: sympy.Rational) -> None:
    try:
        low, high = functions.power(x[0], exponent)
    except UndefinedError:
        assert x[0][0] < 1e-30  # 0 is reached, or the floats underflow
        return
    with mpmath.workdps(40):
        base = mpmath.mpf(x[1])
        exact = (
            base ** int(exponent) if exponent.is_integer else base ** (mpmath.mpf(exponent.p) / exponent.q)
        )
        assert low <= exact <= high


def test_exact_results_stay_exact() -> None:
    assert intervals.add((0.1, 0.1), (-0.1, -0.1)) == (0.0, 0.0)
    assert intervals.multiply((0.1, 0.1), (0.5, 0.5)) == (0.05, 0.05)
    assert intervals.reciprocal((0.25, 0.25)) == (4.0, 4.0)
    assert functions.exp((0.0, 0.0)) == (1.0, 1.0)
    assert intervals.constant(sympy.Rational(3, 8)) == (0.375, 0.375)


def test_unbounded_ends_stay_sound() -> None:
    line = (-math.inf, math.inf)
    assert intervals.multiply((0.0, 1.0), line) == line
    assert functions.exp((800.0, 900.0))[1] == math.inf
    assert functions.tanh(line) == (-1.0, 1.0)
    assert functions.erf(line) == (-1.0, 1.0)
    assert functions.cos(line) == (-1.0, 1.0)
    assert functions.power(line, sympy.Integer(3))[0] == -math.inf
    assert functions.power((1.0, math.inf), sympy.Rational(3, 2))[1] == math.inf
    assert intervals.add((1e308, 1e308), (1e308, math.inf))[1] == math.inf


EXPRESSIONS = [
    1 / (1 + sympy.exp(-T)),
    sympy.exp(T) / (1 + sympy.exp(T)) ** 2,
    T * (1 - sympy.tanh(T) ** 2),
    T**2 * (1 + sympy.erf(T / sympy.sqrt(2))) - T * abs(T) - T**2,
    T * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (T + T**3 / 20))) / 2,
    sympy.log(1 + sympy.exp(3 * T + 1)) - T,
    sympy.atan(T / 3 - 1) * sympy.exp(-(T**2) / 100),
    sympy.sqrt(1 + (2 * T - 1) ** 2) - T,
    sympy.sin(T) * sympy.exp(-sympy.sqrt(2) * T**2),
    sympy.exp(-sympy.exp(-T / 2)),
    sympy.tanh(sympy.exp(T)) * T,
    sympy.log(1 + T**2) / (1 + T**4),
    sympy.cos(1 / (1 + T**2)) ** 3,
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
@pytest.mark.parametrize("towards", [-1, 1])
def test_forms_contain_the_values_beyond_the_start(expression: sympy.Expr, towards: int) -> None:
    expression = expression.subs(abs(T), towards * T)
    value = sympy.lambdify(T, expression, "mpmath")
    enclosed = 0
    for start in (1.0, 2.5, 8.0):
        ray = Ray(start, towards)
        try:
            (form,) = Tape[Form]([expression], T).run(ray, ray.variable)
        except UndefinedError:
            continue  # no enclosure is no wrong one
        enclosed += 1
        with mpmath.workdps(400):
            for excess in (0, "0.03", 1, "2.7", 9):
                x = start + mpmath.mpf(excess)
                low = high = mpmath.mpf(0)
                for monomial, (a, b) in form.items():
                    size = sympy.lambdify(X, monomial, "mpmath")(x)
                    low, high = low + a * size, high + b * size
                slack = mpmath.mpf(10) ** -350
                assert low - slack <= value(towards * x) <= high + slack
    assert enclosed


@given(
    power=st.integers(-4, 4),
    rates=st.lists(st.integers(-3, 3), min_size=1, max_size=3),
    start=st.sampled_from([0.25, 1.0, 4.0]),
    excess=st.floats(0, 50),
)
def test_monomials_stay_within_their_envelope(
    power: int, rates: list[int], start: float, excess: float
) -> None:
    monomial = 3 * X**power * sympy.exp(sum(r * X ** (k + 1) for k, r in enumerate(rates)) / 10)
    bound = envelope(monomial, start)
    if bound is None:
        return
    with mpmath.workdps(40):
        value = sympy.lambdify(X, monomial, "mpmath")(mpmath.mpf(start) + mpmath.mpf(excess))
        assert bound[0] <= value <= bound[1]


def test_a_decaying_monomial_has_an_envelope_and_a_growing_one_has_none() -> None:
    low, high = envelope(X * sympy.exp(-X), 2.0) or (0.0, 0.0)
    assert low == 0.0
    assert high == pytest.approx(2 * math.exp(-2))
    assert envelope(X * sympy.exp(-X), 0.5) is None
    assert envelope(X**2, 1.0) is None


def test_leading_terms_cancel_exactly() -> None:
    """t (1 - tanh t) decays on the right, and grows as 2t on the left."""
    tape: Tape[Form] = Tape([T * (1 - sympy.tanh(T))], T)
    right, left = Ray(4.0, 1), Ray(4.0, -1)
    assert (right.range(tape.run(right, right.variable)[0]) or (0, 1))[1] < 0.01
    assert left.range(tape.run(left, left.variable)[0]) is None


def test_a_region_where_phi_is_not_analytic_is_never_bounded() -> None:
    """atan(1/t) jumps at 0 although its derivative -1/(1 + t^2) is bounded."""
    assert maximize(Curve(sympy.atan(1 / T), 1, T), initial_regions(-2.0, 2.0)).upper == math.inf
