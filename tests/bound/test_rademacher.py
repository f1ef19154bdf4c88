"""Closed forms of section 4 against numeric optimizers, numeric integrals and direct sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize, minimize_scalar
from strategies import examples

from covergraph.bound.rademacher import (
    allocation,
    check_delta,
    complexity,
    deviation,
    dudley,
    grid_down,
    grid_up,
    one_step,
    samples_needed,
    union_cost,
)
from covergraph.errors import ParameterError

positive = st.floats(0.05, 20)


@examples(60)
@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5), positive)
def test_no_allocation_has_a_smaller_entropy(classes: list[tuple[float, float]], eps: float) -> None:
    """min of sum E_g^2/eps_g^2 over sum K_g eps_g = eps, by a general optimizer, is C^2/eps^2."""
    K, E = np.array(classes).T
    found = allocation(K, E, eps)
    assert found @ K == pytest.approx(eps, rel=1e-12)
    least = (E**2 / found**2).sum()

    def entropy(logs: np.ndarray) -> float:
        """Any positive vector, scaled to the constraint."""
        free = np.exp(logs)
        return float(np.log((E**2 / (free * eps / (K @ free)) ** 2).sum()))

    start = np.random.default_rng(0).standard_normal(len(K))
    numeric = math.exp(minimize(entropy, start, method="BFGS", options={"gtol": 1e-9}).fun)
    assert least == pytest.approx(numeric, rel=1e-6)
    assert complexity(K, E) ** 2 / eps**2 == pytest.approx(numeric, rel=1e-6)
    assert complexity(K, E) ** 2 / eps**2 == pytest.approx(least, rel=1e-10)


def test_classes_of_weight_zero_cost_nothing() -> None:
    assert complexity([2.0, 0.0], [3.0, 100.0]) == pytest.approx(6)
    assert complexity([0.0], [1.0]) == 0


@examples(60)
@given(st.floats(1e-4, 0.999), st.integers(10, 10**8))
def test_dudley_is_the_least_value_of_the_entropy_integral(share: float, n: int) -> None:
    """inf over alpha of 4 alpha + 12/sqrt(n) int_alpha^(1/4) C/eps d eps, all done numerically."""
    C = share * math.sqrt(n) / 12

    def at(log_alpha: float) -> float:
        integral = quad(lambda u: C, log_alpha, math.log(0.25))[0]  # eps = e^u
        return 4 * math.exp(log_alpha) + 12 / math.sqrt(n) * integral

    numeric = minimize_scalar(
        at, bounds=(math.log(1e-9), math.log(0.25)), method="bounded", options={"xatol": 1e-10}
    )
    assert dudley(C, n) == pytest.approx(numeric.fun, rel=1e-7)
    alpha = 3 * C / math.sqrt(n)
    plain = 4 * alpha + 12 / math.sqrt(n) * quad(lambda e: C / e, alpha, 0.25, limit=200)[0]
    assert dudley(C, n) == pytest.approx(plain, rel=1e-7)


@given(st.floats(1.0, 1e6), st.integers(1, 10**6))
def test_dudley_says_nothing_where_the_integral_is_empty(excess: float, n: int) -> None:
    assert dudley(excess * math.sqrt(n) / 12 * (1 + 1e-12), n) == math.inf


@given(st.floats(1e-6, 1e9), st.integers(1, 10**9))
def test_one_step_is_the_least_value_of_one_cover(C: float, n: int) -> None:
    """inf over eps of eps + sqrt(C^2/eps^2 / (2n))."""
    scale = math.log(C / math.sqrt(n)) / 2
    numeric = minimize_scalar(
        lambda u: math.exp(u) + C * math.exp(-u) / math.sqrt(2 * n),
        bounds=(scale - 5, scale + 5),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert one_step(C, n) == pytest.approx(numeric.fun, rel=1e-9)


def test_nothing_to_cover_has_no_complexity() -> None:
    assert dudley(0.0, 10) == one_step(0.0, 10) == 0


def test_the_sum_over_the_grid_is_one() -> None:
    """sum over m of exp(-cost(m)) = 1: the failure probabilities add up to delta."""
    far = 200_000
    total = math.fsum(math.exp(-union_cost([m])) for m in range(-far, far + 1))
    tail = 2 * math.exp(-union_cost([0])) / far
    assert 1 - tail <= total + 1e-12 and total <= 1 + 1e-12
    assert total == pytest.approx(1, abs=2e-5)


@given(st.lists(st.integers(-1000, 1000), max_size=6))
def test_union_cost_by_the_direct_formula(exponents: list[int]) -> None:
    Z = math.pi**2 / 3 - 1
    assert union_cost(exponents) == pytest.approx(
        sum(math.log(Z * (1 + abs(m)) ** 2) for m in exponents), rel=1e-12, abs=1e-12
    )


@given(st.integers(1, 10**9), st.floats(1e-9, 0.999), st.floats(0, 500))
def test_deviation_by_the_direct_formula(n: int, delta: float, cost: float) -> None:
    """The price divides delta: ln(2/delta) + cost = ln(2/(delta e^-cost))."""
    paid = delta * math.exp(-cost)
    assert deviation(n, delta, cost) == pytest.approx(3 * math.sqrt(math.log(2 / paid) / (2 * n)), rel=1e-9)


betas = st.floats(1.001, 5)
sizes = st.floats(-150, 150).map(lambda p: 10.0**p)


@given(sizes, betas)
def test_grid_rounds_outwards_to_the_next_point(value: float, beta: float) -> None:
    up, down = grid_up(value, beta), grid_down(value, beta)
    assert beta ** (up - 1) < value <= beta**up
    assert beta**down <= value < beta ** (down + 1)


@given(st.integers(-300, 300), betas)
def test_points_of_the_grid_stay_where_they_are(m: int, beta: float) -> None:
    assume(1e-150 < beta**m < 1e150)
    assert grid_up(beta**m, beta) == grid_down(beta**m, beta) == m
    above, below = math.nextafter(beta**m, math.inf), math.nextafter(beta**m, 0)
    assert (grid_up(above, beta), grid_down(below, beta)) == (m + 1, m - 1)


def certificate(n: float, training: float, C: float, delta: float, cost: float) -> float:
    """Theorem 3, written out."""
    routes = [2**0.75 * (C / n**0.5) ** 0.5]
    if n**0.5 > 12 * C:
        routes.append(12 * C / n**0.5 * (1 + math.log(n**0.5 / (12 * C))))
    return training + 2 * min(routes) + 3 * ((math.log(2 / delta) + cost) / (2 * n)) ** 0.5


@given(st.floats(0, 0.95), st.floats(1e-3, 1e4), st.floats(1e-6, 0.5), st.floats(0, 1e3))
def test_samples_needed_is_the_first_n_that_reaches_one(
    training: float, C: float, delta: float, cost: float
) -> None:
    n = samples_needed(training, C, delta, cost)
    assert n is not None and n == int(n)
    assume(n < 1e11)
    assert certificate(n, training, C, delta, cost) <= 1 + 1e-12  # up to rounding
    assert n == 1 or certificate(n - 1, training, C, delta, cost) > 1 - 1e-12


def test_samples_needed_has_no_answer_where_training_alone_is_vacuous() -> None:
    assert samples_needed(1.0, 1.0, 0.05, 0.0) is None
    assert samples_needed(0.5, math.inf, 0.05, 0.0) is None


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_delta_is_a_probability(delta: float) -> None:
    with pytest.raises(ParameterError, match=r"delta is .*\(0, 1\)"):
        check_delta(delta)
