"""Where element-wise functions are good, and sup|phi''| there, against torch's second derivatives and lists by hand.

Sound: no good point exceeds the curvature. Tight: equality at named points, or on a dense grid up to 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from sympy import Abs, Piecewise, Rational, cosh, exp, log, oo, sin, sinh, sqrt, tanh
from torch import Tensor

from covergraph.errors import ParameterError, UnsupportedOperationError
from covergraph.graph import function_rows as rows
from covergraph.graph.functions import ScalarFunction, T
from covergraph.graph.kinks import distance, good_intervals
from covergraph.rules.local import LocalSupremum
from covergraph.rules.placeholders import RHO, radius
from covergraph.rules.profiles import profile
from covergraph.rules.suprema import supremum

R = radius(0)
INF = math.inf
LINE = ((-INF, INF),)

REFUSED = {"floor", "ceil", "trunc", "frac", "round", "tan", "sinc", "special_sinc"}
PARAMETRIC = [
    rows.leaky_relu(0.1),
    rows.rrelu(),
    rows.clamp(-1.0, 2.0),
    rows.clamp_min(0.3),
    rows.clamp_max(-2.0),
    rows.hardtanh(0.0, 6.0),
    rows.threshold(0.5, 0.5),
    rows.threshold(1.0, -2.0),
    rows.softshrink(0.5),
    rows.hardshrink(0.7),
    rows.elu(1.0),
    rows.elu(2.0),
    rows.elu(1.0, 2.0, 0.5),
    rows.elu(1.0, 1.0, -1.0),
    rows.celu(2.0),
    rows.softplus(2.0, 30.0),
    rows.softplus(1.0, 5.0),
    rows.gelu("none"),
    rows.gelu("tanh"),
    *map(rows.power, (2.0, 3.0, 4.0, 5.0, -1.0, -2.0, 0.5, 1.5, 2.5, -0.5)),
    rows.exponential(3.0),
    rows.exponential(0.5),
    rows.quotient(-3.0),
]
SUPPORTED = {row.name: row for name, row in rows.UNARY.items() if name not in REFUSED} | {r.name: r for r in PARAMETRIC}


def curvature_at(row: ScalarFunction, t: Tensor) -> Tensor:
    """|phi''(t)| by differentiating torch's own function twice."""
    x = t.clone().requires_grad_()
    slope = row.derivative(x)
    if not slope.requires_grad:
        return torch.zeros_like(t)
    return torch.autograd.grad(slope.sum(), x, materialize_grads=True)[0].abs()


def numeric(curvature: sympy.Expr, r: float, rho: float) -> float:
    return float(sympy.N(curvature.subs({R: sympy.Rational(r), RHO: sympy.Rational(rho)}), 20))


def inside(intervals: tuple[tuple[float, float], ...], r: float, d: float, count: int, seed: int) -> Tensor:
    """Random numbers of [-r, r] at least d inside an interval, with the ends of that set."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for start, end in intervals:
        low, high = max(start + d, -r), min(end - d, r)
        if low < high:
            spread = torch.rand(count, generator=generator, dtype=torch.float64)
            found += [low + spread * (high - low), low + spread**6 * (high - low), high - spread**6 * (high - low)]
            found += [torch.tensor([low, high], dtype=torch.float64)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize("name", SUPPORTED)
@examples(2)
@given(
    r=st.floats(0.5, 12.0).map(lambda x: round(x, 3)),
    rho=st.floats(0.05, 0.9).map(lambda x: round(x, 3)),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_good_point_exceeds_the_curvature_and_some_come_close(name: str, r: float, rho: float, seed: int) -> None:
    row = SUPPORTED[name]
    found = profile(row.expression)
    bound = numeric(found.curvature, r, rho)
    t = inside(good_intervals(row.expression), r, rho / 2, 2000, seed)
    values = curvature_at(row, t)
    largest = float(values.max()) if len(values) else 0.0
    assert largest <= bound * (1 + 1e-9) + 1e-12
    if found.curvature.free_symbols:
        t = inside(good_intervals(row.expression), r if found.curvature.has(R) else 1e4, rho / 2, 20_000, seed)
        assert curvature_at(row, t).max() >= bound * (1 - 1e-3)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_functions_without_a_profile_are_refused_by_name(name: str) -> None:
    expression = rows.UNARY[name].expression
    with pytest.raises(UnsupportedOperationError, match=r"phi = .*(floor|ceiling|cos\(t\)|sinc)"):
        profile(expression)
    with pytest.raises(UnsupportedOperationError):
        good_intervals(expression)


@pytest.mark.parametrize("name", SUPPORTED)
def test_functions_that_are_smooth_on_the_line_keep_their_supremum(name: str) -> None:
    """Lemma 5 and the profile agree, in both directions."""
    expression = SUPPORTED[name].expression
    found = profile(expression)
    try:
        expected = supremum(expression, 2)
    except UnsupportedOperationError:
        assert found.points or found.curvature.free_symbols
        return
    assert (found.good, found.points, found.curvature) == (((-oo, oo),), (), expected.value)


HALF = Rational(1, 2)


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (tanh(T), LINE),
        (Piecewise((exp(T) - 1, T < 0), (T, True)), LINE),
        (Piecewise((2 * exp(T) - 2, T < 0), (T, True)), ((-INF, 0.0), (0.0, INF))),
        (rows.RELU.expression, ((-INF, 0.0), (0.0, INF))),
        (rows.SIGN.expression, ((-INF, 0.0), (0.0, INF))),
        (rows.SOFTSIGN.expression, LINE),
        (rows.HARDSWISH.expression, ((-INF, -3.0), (-3.0, 3.0), (3.0, INF))),
        (rows.hardtanh(0.0, 6.0).expression, ((-INF, 0.0), (0.0, 6.0), (6.0, INF))),
        (rows.hardshrink(0.5).expression, ((-INF, -0.5), (-0.5, 0.5), (0.5, INF))),
        (rows.threshold(20.0, 20.0).expression, ((-INF, 20.0), (20.0, INF))),
        (log(T), ((0.0, INF),)),
        (log(1 + T), ((-1.0, INF),)),
        (log(3 - 2 * T), ((-INF, 1.5),)),
        (sqrt(T), ((0.0, INF),)),
        (1 / T, ((-INF, 0.0), (0.0, INF))),
        (1 / (T**2 - 4), ((-INF, -2.0), (-2.0, 2.0), (2.0, INF))),
        (1 / (T**2 + 4), LINE),
        (log(T**2 - 1), ((-INF, -1.0), (1.0, INF))),
        (log(T / (1 - T)), ((0.0, 1.0),)),
        (sympy.asin(T), ((-1.0, 1.0),)),
        (sympy.acos(2 * T), ((-0.5, 0.5),)),
        (sympy.atanh(T), ((-1.0, 1.0),)),
        (sympy.acosh(T), ((1.0, INF),)),
        (sympy.asinh(T), LINE),
        (log(log(T)), ((1.0, INF),)),
        (log(tanh(T)), ((0.0, INF),)),
        (log(exp(T) - 1), ((0.0, INF),)),
        (Abs(T) ** 3, LINE),
        (Abs(T) ** Rational(3, 2), ((-INF, 0.0), (0.0, INF))),
        (Piecewise((T, T < 1), (T**3, sympy.Eq(T, 2)), (2 - 1 / T, True)), ((-INF, 2.0), (2.0, INF))),
        (log(2 + sympy.cos(T)), None),  # smooth, but the zeros of 2 + cos t are not found
        (1 / sin(T), None),
        (sympy.Max(1, log(T)), None),  # compares complex numbers at t < 0
        (log(-1 - T**2), None),
        (sympy.gamma(T), None),
    ],
    ids=str,
)
def test_good_intervals_by_hand(phi: sympy.Expr, expected: tuple[tuple[float, float], ...] | None) -> None:
    if expected is None:
        with pytest.raises(UnsupportedOperationError, match=r"phi = "):
            good_intervals(phi)
        return
    assert good_intervals(phi) == expected
    found = profile(phi)
    assert tuple((float(a), float(b)) for a, b in found.good) == expected
    assert [float(p) for p in found.points] == sorted({end for pair in expected for end in pair if abs(end) < INF})


def test_what_lemma_5_proves_smooth_needs_no_singular_points() -> None:
    """phi'' = -(1 + 2 cos t) / (2 + cos t)^2 is 1 at t = pi."""
    found = profile(log(2 + sympy.cos(T)))
    assert (found.good, found.points, found.curvature) == (((-oo, oo),), (), 1)


def test_irrational_ends_are_rounded_inwards() -> None:
    (_, end), (start, _) = good_intervals(sqrt(T**2 - 2))
    assert sympy.Rational(end) < -sqrt(2) and sqrt(2) < sympy.Rational(start)
    assert start == -end == math.nextafter(math.sqrt(2), 2) or start == math.sqrt(2)


@pytest.mark.parametrize(
    ("phi", "expected"),
    [
        (rows.RELU.expression, 0),
        (rows.ABS.expression, 0),
        (rows.SIGN.expression, 0),
        (rows.leaky_relu(0.01).expression, 0),
        (rows.clamp(-1.0, 1.0).expression, 0),
        (rows.threshold(1.0, 2.0).expression, 0),
        (rows.HARDSWISH.expression, Rational(1, 3)),
        (rows.elu(2.0).expression, 2),
        (exp(T), exp(R)),
        (exp(-2 * T), 4 * exp(2 * R)),
        (Rational(2) ** T, log(2) ** 2 * 2**R),
        (sinh(T), sinh(R).rewrite(exp)),
        (T**3, 6 * R),
        (T**4, 12 * R**2),
        (-(T**7), 42 * R**5),
        (log(T), 4 / RHO**2),
        (log(1 + T), 4 / RHO**2),
        (log(3 - 2 * T), 4 / RHO**2),
        (1 / T, 16 / RHO**3),
        (1 / T**2, 96 / RHO**4),
        (1 / (5 - T), 16 / RHO**3),
        (sqrt(T), (RHO / 2) ** Rational(-3, 2) / 4),
        (1 / sqrt(T), 3 * (RHO / 2) ** Rational(-5, 2) / 4),
        (T ** Rational(3, 2), 3 / (4 * sqrt(RHO / 2))),
        (T ** Rational(5, 2), 15 * sqrt(R) / 4),
        (T * log(T), 2 / RHO),
        (T**3 + exp(T), 6 * R + exp(R)),
        (Piecewise((0, T < 0), (T**3, True)), 6 * R),
        (Piecewise((exp(-T) - 1, T < 0), (3 * T**2, True)), sympy.Max(6, exp(R))),
    ],
    ids=str,
)
def test_closed_forms_by_calculus(phi: sympy.Expr, expected: sympy.Expr) -> None:
    assert sympy.simplify(profile(phi).curvature - expected) == 0


@pytest.mark.parametrize(
    ("phi", "symbols"),
    [
        (T * sin(T), {R}),
        (cosh(T), {R}),
        (T**3 + 1 / T, {R, RHO}),
        (log(T / (1 - T)), {RHO}),
        (sympy.asin(T), {RHO}),
        (sin(T**2), {R}),
    ],
    ids=lambda value: None if isinstance(value, set) else str(value),  # a set has no fixed order
)
def test_placeholders_stand_only_for_what_is_infinite(phi: sympy.Expr, symbols: set[sympy.Symbol]) -> None:
    found = profile(phi).curvature
    assert isinstance(found, LocalSupremum)
    assert found.free_symbols == symbols
    assert sympy.N(found).free_symbols == symbols  # stays as it is


@pytest.mark.parametrize(
    ("phi", "r", "d", "expected"),
    [
        (cosh(T), 3, 0, cosh(3)),
        (T**3 + 1 / T, 2, HALF, 19),  # 6t + 2/t^3 at 1/2; at 2 it is 12.25
        (T**3 + 1 / T, 10, HALF, Rational(60002, 1000)),
        (log(T / (1 - T)), oo, Rational(1, 4), 16 - Rational(16, 9)),
        (log(T / (1 - T)), oo, HALF, 0),  # nothing is left
        (T**4, 0, 0, 0),
        (T**4, sqrt(2), 0, 24),
        (sin(T**2), 1, 0, 4 * sin(1) - 2 * sympy.cos(1)),
        (rows.RELU.expression, 3, 1, 0),
        (sympy.acosh(T), oo, 1, 2 / sqrt(27)),
    ],
    ids=str,
)
def test_numbers_give_certified_bounds(phi: sympy.Expr, r: sympy.Expr, d: sympy.Expr, expected: sympy.Expr) -> None:
    value = sympy.Rational(sympy.N(LocalSupremum(phi, r, d)))
    exact = sympy.N(expected, 30)
    assert exact <= value <= exact * (1 + 2e-7) + 1e-12


def test_a_local_supremum_is_a_number_once_its_arguments_are() -> None:
    value = LocalSupremum(cosh(T), R, 0)
    assert value.free_symbols == {R}
    twice = 2 * value + 1
    assert float(twice.subs(R, 1)) == pytest.approx(2 * math.cosh(1) + 1, rel=1e-6)
    assert float(twice.xreplace({R: sympy.Rational(1)})) >= 2 * math.cosh(1) + 1
    assert value.func(*value.args) == value == LocalSupremum(cosh(T), R, 0)
    assert sympy.N(value.subs(R, 10**4)) == oo  # e^10000 is no float
    with pytest.raises(ParameterError, match="expected numbers >= 0"):
        sympy.N(value.subs(R, -1))


def test_a_local_supremum_in_latex() -> None:
    text = sympy.latex(LocalSupremum(log(T / (1 - T)), R, RHO / 2))
    assert r"\sup_{|t| \le r_{0},\ \operatorname{dist}(t, \{0, 1\}) \ge \frac{\rho}{2}}" in text
    assert r"\log{\left(\frac{t}{1 - t} \right)}" in text
    assert r"\sup_{|t| \le r_{0}} \left|" in sympy.latex(LocalSupremum(cosh(T), R, 0))


ENDS = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=0, max_size=6, unique=True).map(sorted)


@given(ends=ENDS, left=st.booleans(), right=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_distances_against_brute_force(ends: list[float], left: bool, right: bool, seed: int) -> None:
    """The nearest number outside is an end of an interval, if the number itself is not outside."""
    cuts = [*([-INF] if left else []), *ends, *([INF] if right else [])]
    intervals = list(zip(cuts[::2], cuts[1::2], strict=False))
    values = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 4
    values[0] = torch.tensor([*ends, *[0.0] * 7][:7])

    def by_hand(t: float) -> float:
        if not any(a < t < b for a, b in intervals):
            return 0.0
        return min((abs(t - e) for pair in intervals for e in pair if abs(e) < INF), default=INF)

    found = distance(values, intervals)
    assert found.shape == values.shape
    assert found.tolist() == [[by_hand(t) for t in line] for line in values.tolist()]


def test_distances_of_rows() -> None:
    values = torch.tensor([[-4.0, -3.0, 0.0], [2.5, 7.0, 1e30]])
    hardswish = distance(values, good_intervals(rows.HARDSWISH.expression))
    assert hardswish.tolist() == [[1.0, 0.0, 3.0], [0.5, 4.0, pytest.approx(1e30)]]
    assert hardswish.dtype == torch.float32
    assert distance(values, good_intervals(log(T))).tolist()[0] == [0.0, 0.0, 0.0]
    assert distance(values, LINE).isinf().all()


def test_profiles_are_kept() -> None:
    expression = SUPPORTED["gelu_tanh"].expression
    assert profile(expression) is profile(expression)


@examples(12)
@given(
    outer=st.sampled_from([log, sqrt, lambda u: 1 / u, lambda u: u ** Rational(3, 2), Abs, lambda u: sympy.Max(u, 0)]),
    a=st.integers(-8, 8).filter(bool).map(lambda n: Rational(n, 4)),
    b=st.integers(-12, 12).map(lambda n: Rational(n, 5)),
    rho=st.sampled_from([Rational(1, 10), Rational(2, 3), Rational(3)]),
)
def test_points_and_curvatures_move_with_the_argument(
    outer: Callable[[sympy.Expr], sympy.Expr], a: sympy.Rational, b: sympy.Rational, rho: sympy.Rational
) -> None:
    """psi(t) = phi(a t + b) has its point at -b/a, and sup|psi''| = a^2 sup|phi''| at |a| times the distance."""
    plain, moved = profile(outer(T)), profile(outer(a * T + b))
    assert plain.points == (0,)
    assert moved.points == (-b / a,)
    scaled = a**2 * plain.curvature.subs(RHO, abs(a) * rho)
    assert float(moved.curvature.subs(RHO, rho)) == pytest.approx(float(scaled), rel=1e-12)
