"""What random starts add to the probability of failure: once for the largest norms, n times for all samples' norms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from certificates import random_starts
from dense import dense_derivative, spectral
from handmade import mlp, residual
from measured import N, measured

from covergraph.bound.certificate import augmented_loss
from covergraph.bound.derive import Bound
from covergraph.errors import ParameterError
from covergraph.values import Measurements, Pair, Parameters

PAIR = ("f3", "f1")
FAILURE = 1e-3


def started(failure: float = FAILURE, way: str = "lanczos") -> tuple[Bound, Measurements, Parameters]:
    """A network whose norms are said to come from random starts; parameters as if fixed in advance."""
    bound, found, parameters = measured(mlp())
    assert found.failure == 0 and PAIR in found.pairs
    free = replace(parameters, grid=None, quantile=None, union_cost=0.0)
    return bound, replace(found, failure=failure, ways=dict.fromkeys(found.pairs, way)), free


def at(found: Measurements, parameters: Parameters, share: float, pair: Pair = PAIR) -> Parameters:
    """kappa of one pair at a share of the upper end of its largest norm."""
    return replace(parameters, kappa={**parameters.kappa, pair: found.pairs[pair].upper * share})


def test_exact_norms_add_nothing() -> None:
    bound, found, parameters = measured(mlp())
    got = bound.evaluate(found, parameters, 0.05)
    assert (got.delta, got.delta_numeric, got.confidence) == (0.05, 0.0, 0.95)
    assert "random" not in repr(got)
    low = at(found, replace(parameters, grid=None, quantile=None), 0.9)
    assert bound.evaluate(found, low, 0.05).delta_numeric == 0


@pytest.mark.parametrize(("share", "times"), [(3.0, 1), (1.0, 1), (0.999999, N), (0.5, N)])
def test_a_kappa_below_the_largest_norm_needs_every_sample(share: float, times: int) -> None:
    bound, found, parameters = started()
    got = bound.evaluate(found, at(found, parameters, share), 0.05)
    assert got.delta_numeric == pytest.approx(times * FAILURE, rel=1e-12)
    assert got.confidence == pytest.approx(0.95 - times * FAILURE, rel=1e-12)
    assert f"random starts fail with probability {times * FAILURE:g})" in repr(got)


@pytest.mark.parametrize("way", ["fixed", "dense", "edge", "zero"])
def test_norms_without_a_start_for_each_sample_do_not_multiply(way: str) -> None:
    bound, found, parameters = started()
    mixed = replace(found, ways={**found.ways, PAIR: way})
    assert bound.evaluate(mixed, at(found, parameters, 0.5), 0.05).delta_numeric == FAILURE


def test_a_way_that_is_not_known_multiplies() -> None:
    bound, found, parameters = started()
    for ways in ({}, {**found.ways, PAIR: "filled"}):
        got = bound.evaluate(replace(found, ways=ways), at(found, parameters, 0.5), 0.05)
        assert got.delta_numeric == pytest.approx(N * FAILURE)


def test_the_terms_do_not_depend_on_the_starts() -> None:
    bound, found, parameters = started()
    got, exact = bound.evaluate(found, parameters), bound.evaluate(replace(found, failure=0.0), parameters)
    assert (got.value, got.C, got.deviation_term) == (exact.value, exact.C, exact.deviation_term)


def test_nothing_may_be_left_of_the_confidence() -> None:
    bound, found, parameters = started(failure=0.5)
    assert bound.evaluate(found, parameters, 0.49).confidence == pytest.approx(0.01)
    for delta in (0.5, 0.51):
        with pytest.raises(ParameterError, match=r"starts fail with probability 0.5, expected together less than 1"):
            bound.evaluate(found, parameters, delta)
    bound, found, parameters = started(failure=0.1)
    assert bound.evaluate(found, parameters).delta_numeric == 0.1
    with pytest.raises(ParameterError, match=rf"0.1 for each of {N} samples, because kappa of \('f3', 'f1'\)"):
        bound.evaluate(found, at(found, parameters, 0.9))


def test_of_many_samples_only_the_largest_norms_are_known() -> None:
    """Then kappa may not be below them; at them all samples count as the largest."""
    bound, found, parameters = started()
    few = replace(found, pair_values={})
    for share in (1.0, 1.3):
        high = at(found, parameters, share)
        expected = augmented_loss(bound, found, high, 1e-9)
        np.testing.assert_allclose(augmented_loss(bound, few, high, 1e-9), expected, atol=3e-9)
        assert (augmented_loss(bound, few, high, 1e-9) >= expected).all()
    with pytest.raises(ParameterError, match=r"only the largest norms were kept; use choose"):
        bound.evaluate(few, at(found, parameters, 0.99))


def test_z_of_random_starts_is_not_below_the_truth() -> None:
    """Norms by jacrev and SVD; thresholds so low that most samples are on the ramps of some pairs."""
    net = residual()
    with random_starts():
        bound, found, parameters = measured(net, mode="paper")
    assert found.failure > 0 and "lanczos" in found.ways.values()
    inputs, _ = net.sample(N)
    norms = []
    for i in range(N):
        one = [x[i : i + 1] for x in inputs]
        net.module(*one)
        norms.append({pair: spectral(dense_derivative(net.module, one, *pair)) for pair in parameters.kappa})
    for pair in parameters.kappa:
        assert max(row[pair] for row in norms) <= found.pairs[pair].upper * (1 + 1e-12)
    chosen = bound.evaluate(found, parameters)
    assert chosen.delta_numeric == found.failure
    kappa = {pair: 0.9 * value.upper for pair, value in found.pairs.items() if pair in parameters.kappa}
    low = replace(parameters, grid=None, quantile=None, kappa=kappa)
    assert bound.evaluate(found, low).delta_numeric == N * found.failure
    margins, gamma = found.margins, parameters.gamma
    assert margins is not None and gamma is not None
    loss = np.clip(1 - margins / gamma, 0, 1)
    factors = [math.prod(min(max(2 - row[p] / k, 0.0), 1.0) for p, k in kappa.items()) for row in norms]
    truth = 1 + (loss - 1) * np.array(factors)
    assert (augmented_loss(bound, found, low) >= truth - 1e-9).all()
    assert min(factors) < 0.9
