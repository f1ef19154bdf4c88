"""From covering numbers to Rademacher complexity and to a certificate, in numbers (Propositions 3-6, Theorem 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import brentq

from covergraph.errors import ParameterError
from covergraph.values import Floats

LOG_Z = math.log(math.pi**2 / 3 - 1)
"""ln of Z = sum over integers m of (1 + |m|)^-2 (Proposition 6)."""


def complexity(weights: Sequence[float], roots: Sequence[float]) -> float:
    """C = (sum_g (K_g E_g)^(2/3))^(3/2), so that ln N(eps) <= C^2/eps^2 (Proposition 3)."""
    return float(np.sum((np.asarray(weights) * np.asarray(roots)) ** (2 / 3)) ** 1.5)


def allocation(weights: Sequence[float], roots: Sequence[float], eps: float) -> Floats:
    """The cover sizes eps_g that attain C: eps_g ~ (E_g^2/K_g)^(1/3) with sum_g K_g eps_g = eps."""
    K, E = np.asarray(weights, dtype=float), np.asarray(roots, dtype=float)
    shape: Floats = (E**2 / K) ** (1 / 3)
    return shape * (eps / np.sum(K * shape))


def dudley(C: float, n: float) -> float:
    """12 (C/sqrt n)(1 + ln(sqrt n/(12 C))) if 12 C < sqrt n, else infinite (Proposition 4)."""
    ratio = C / math.sqrt(n)
    if ratio == 0:
        return 0.0
    return 12 * ratio * (1 - math.log(12 * ratio)) if 12 * ratio < 1 else math.inf


def one_step(C: float, n: float) -> float:
    """2^(3/4) (C/sqrt n)^(1/2) (Proposition 5)."""
    return float(2**0.75 * math.sqrt(C / math.sqrt(n)))


def deviation(n: float, delta: float, union_cost: float) -> float:
    """3 ((ln(2/delta) + union cost)/(2 n))^(1/2) (Theorem 3 with Proposition 6)."""
    return 3 * math.sqrt((math.log(2 / delta) + union_cost) / (2 * n))


def union_cost(exponents: Iterable[int]) -> float:
    """sum_p [ln Z + 2 ln(1 + |m_p|)] over the exponents of the grid beta^m (Proposition 6)."""
    return sum(LOG_Z + 2 * math.log1p(abs(m)) for m in exponents)


def grid_up(value: float, beta: float) -> int:
    """The least m with beta^m >= value > 0."""
    m = math.ceil(math.log(value) / math.log(beta) - 1e-9)
    while beta**m < value:
        m += 1
    return m


def grid_down(value: float, beta: float) -> int:
    """The largest m with beta^m <= value."""
    m = math.floor(math.log(value) / math.log(beta) + 1e-9)
    while beta**m > value:
        m -= 1
    return m


def samples_needed(training: float, C: float, delta: float, cost: float) -> float | None:
    """The n at which the certificate would reach 1 with the same C, training value and cost.

    None if never; infinite if beyond the numbers of double precision.
    """
    if training >= 1:
        return None

    def excess(log_n: float) -> float:
        n = math.exp(log_n)
        return training + 2 * min(dudley(C, n), one_step(C, n)) + deviation(n, delta, cost) - 1

    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > 600:
            return math.inf if math.isfinite(C) else None
    if excess(0.0) <= 0:
        return 1.0
    return math.ceil(math.exp(brentq(excess, 0.0, high, xtol=1e-12)))


def check_delta(delta: float) -> None:
    """Raise `ParameterError` unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise ParameterError(f"bound: delta is {delta}, expected a probability in (0, 1), e.g. 0.05")
