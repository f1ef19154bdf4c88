"""d log C / d log kappa against central differences of the certificate, and an identity of units."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from handmade import NETWORKS, Recurrent
from hypothesis import given
from measured import measured
from strategies import examples

from covergraph.bound.certificate import certify
from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound, derive
from covergraph.bound.sensitivity import log_derivatives
from covergraph.graph.augmented import Mode
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.tracers import trace
from covergraph.values import Measurements, Pair, Parameters

STEP = 1e-4
made: dict[Any, tuple[Bound, Measurements, Parameters]] = {}


def case(name: str, mode: Mode) -> tuple[Bound, Measurements, Parameters]:
    """A network's measurements, with parameters that lie on no grid."""
    if (name, mode) not in made:
        bound, found, chosen = measured(NETWORKS[name](), mode=mode)
        made[name, mode] = bound, found, dataclasses.replace(chosen, grid=None, quantile=None)
    return made[name, mode]


def shifted(parameters: Parameters, pair: Pair, by: float) -> Parameters:
    return dataclasses.replace(parameters, kappa={**parameters.kappa, pair: parameters.kappa[pair] * np.exp(by)})


def differences(bound: Bound, found: Measurements, parameters: Parameters) -> dict[Pair, float]:
    def log_C(pair: Pair, by: float) -> float:
        return float(np.log(certify(bound, found, shifted(parameters, pair, by), 0.05).C))

    return {pair: (log_C(pair, STEP) - log_C(pair, -STEP)) / (2 * STEP) for pair in bound.augmented.pair_names}


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "minimal") for name in NETWORKS), ("residual", "paper"), ("two inputs", "paper")]
)
def test_derivatives_are_those_of_the_certificate(name: str, mode: Mode) -> None:
    bound, found, parameters = case(name, mode)
    expected = differences(bound, found, parameters)
    got = log_derivatives(bound, found, parameters)
    assert set(got) == set(bound.augmented.pair_names)
    assert max(expected.values()) > 0.1
    for pair, value in expected.items():
        assert got[pair] == pytest.approx(value, abs=2e-6)


@examples(20)
@given(st.sampled_from(["mlp", "residual", "two inputs", "positions"]), st.data())
def test_derivatives_hold_at_any_levels(name: str, data: st.DataObject) -> None:
    """Far from the measured ones too: one pair at a time."""
    bound, found, parameters = case(name, "minimal")
    logs = data.draw(st.lists(st.floats(0, 6), min_size=len(parameters.kappa), max_size=len(parameters.kappa)))
    kappa = {pair: value * np.exp(by) for (pair, value), by in zip(parameters.kappa.items(), logs, strict=True)}
    raised = dataclasses.replace(parameters, kappa=kappa)
    pair = data.draw(st.sampled_from(bound.augmented.pair_names))
    up, down = (certify(bound, found, shifted(raised, pair, by), 0.05).C for by in (STEP, -STEP))
    expected = (np.log(up) - np.log(down)) / (2 * STEP)
    assert log_derivatives(bound, found, raised)[pair] == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("together", [True, False])
def test_a_group_is_differentiated_in_the_cover_that_is_the_smaller_one(together: bool) -> None:
    """Theorem 1' or node by node; the class radius t decides which it is."""
    torch.manual_seed(0)
    model = Recurrent().double().eval()
    x = torch.randn(6, 2, 2, dtype=torch.float64)
    bound = derive(augment(trace(model, (x[:1],))))
    full = measure(bound, model, [(x, model(x).argmax(1))])
    found = dataclasses.replace(full, shared={})
    (group,) = bound.groups
    radius = 1e-6 if together else 1e6
    forced = dataclasses.replace(choose(bound, full), grid=None, quantile=None, shared={group.nodes[0]: radius})
    kinds = {share.contribution.kind for share in certify(bound, found, forced, 0.05).shares}
    assert ("shared" in kinds) is together
    got = log_derivatives(bound, found, forced)
    for pair, value in differences(bound, found, forced).items():
        assert got[pair] == pytest.approx(value, abs=2e-6)


def test_a_change_of_units_in_a_linear_node() -> None:
    """Multiply the values of k2 by a number: kappa into it grows, kappa out of it falls, and with it K of its class.

    k2 carries no indicator and is read by a reshape, so nothing else in C has its unit.
    """
    bound, found, parameters = case("convolutional", "minimal")
    assert "k2" not in bound.augmented.hidden and bound.graph["flat"].inputs == ("k2",)
    got = log_derivatives(bound, found, parameters)
    into = sum(value for (w, _), value in got.items() if w == "k2")
    out = sum(value for (_, a), value in got.items() if a == "k2")
    shares = certify(bound, found, parameters, 0.05).shares
    own = sum(share.share for share in shares if share.contribution.node == "k2")
    assert own > 0.01
    assert into - out == pytest.approx(-own, abs=1e-12)
