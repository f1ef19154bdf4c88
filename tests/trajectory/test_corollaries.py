"""Corollaries 1, 2 and 3: on random nets, where they are tight, and where nothing follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples
from torch import nn
from trajectory.reference import run, train

from covergraph.errors import TrajectoryError
from covergraph.trajectory.assumptions import RANK
from covergraph.trajectory.corollaries import corollary1, corollary2, corollary3
from covergraph.trajectory.theorem1 import count_instances, theorem1
from covergraph.trajectory.trajectory import Trajectory

STEPS = 9
nets = st.tuples(
    st.integers(0, 2**31), st.sampled_from(["square", "tall", "convolution", "wide"]), st.integers(2, 5),
    st.sampled_from(["relu", "tanh", "leaky"]), st.sampled_from(["half squared", "MSELoss", "BCE", "BCE with logits"]),
)
types = st.sampled_from([torch.float64, torch.float32])
rates = st.sampled_from([0.003, 0.05, 0.15])


def one_weight(targets: list[float], alpha: float) -> Trajectory:
    """f(x) = x + b from b = 0 on x = 0, the loss |f - y|: b moves by alpha towards each target, and λ = σ_1 = ε = 1."""
    model = nn.Sequential(nn.Linear(1, 1)).double()
    model[0].weight.data.fill_(1.0)
    model[0].weight.requires_grad_(False)
    model[0].bias.data.zero_()
    data = [(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[y]], dtype=torch.float64)) for y in targets]
    optimizer = torch.optim.SGD([model[0].bias], lr=alpha)
    return train(
        model, ["0"], data, lambda out, y: (out - y).abs().sum(), optimizer, alphas=[alpha] * len(targets), flush=1
    )[0]


def with_column(trajectory: Trajectory, name: str, values: Any) -> Trajectory:
    return replace(trajectory, columns={**trajectory.columns, name: np.broadcast_to(values, len(trajectory)).copy()})


@given(nets, types, rates, st.integers(0, STEPS - 1))
@examples(50)
def test_corollary_1(net: tuple[Any, ...], dtype: torch.dtype, rate: float, tau: int) -> None:
    trajectory = run(*net, steps=STEPS, dtype=dtype, rate=rate)
    s = corollary1(trajectory, tau)
    assert s.violations == 0 and s.lower is None
    assert s.details["phi"] == trajectory.phi[tau] or np.isnan(trajectory.phi[tau])
    stated = int(np.sum(trajectory["epsilon"][tau:] > 0))
    assert s.instances == stated
    if stated:
        assert s.value == np.nanmax(trajectory.lam[tau:])
        assert s.slack_upper is not None and s.slack_upper >= -s.rounding


@given(nets, types, rates, st.sampled_from([(0, None), (0, 3), (3, 9), (6, 9)]))
@examples(50)
def test_corollary_2(net: tuple[Any, ...], dtype: torch.dtype, rate: float, borders: tuple[int, int | None]) -> None:
    trajectory = run(*net, steps=STEPS, dtype=dtype, rate=rate)
    assume(np.isfinite(trajectory["bias"]).all())
    s = corollary2(trajectory, *borders)
    assert (s.instances, s.violations) == (1, 0)
    assert s.lower is not None and s.upper is None
    assert s.lower <= s.details["direct"] * (1 + 1e-9)  # Cauchy-Schwarz: harm takes, it never gives
    assert s.details["direct"] <= s.value + s.rounding


@given(nets, types, rates, st.integers(1, 3), st.integers(1, 2))
@examples(50)
def test_corollary_3_for_any_loss_batch_and_output(
    net: tuple[Any, ...], dtype: torch.dtype, rate: float, batch: int, outputs: int
) -> None:
    trajectory = run(*net, steps=STEPS, dtype=dtype, rate=rate, batch=batch, outputs=outputs)
    s = corollary3(trajectory)
    assert s.violations == 0
    if net[1] == "tall" and dtype == torch.float64 and np.isfinite(trajectory["bias"]).all():
        assert s.instances == STEPS and s.upper is not None
    if net[1] == "wide":
        assert s.upper is None and RANK in [a.name for a in s.ledger.with_status("false")]


def test_corollary_1_is_an_equality_for_one_weight() -> None:
    s = corollary1(one_weight([5.0] * 6, 0.25), tau=2)
    assert s.value == pytest.approx(1.0) and s.upper == pytest.approx(1.0)


def test_corollary_2_is_nearly_an_equality_for_an_oscillating_bias() -> None:
    trajectory = one_weight([0.5, -0.5] * 20, 1.0)  # 1, 0, 1, 0, …
    s = corollary2(trajectory)
    assert s.value == pytest.approx(0.25)
    assert s.lower == pytest.approx(39 / 40 / 4)  # 40 iterates, 39 moves
    assert s.details == pytest.approx({"harm": 1.0, "direct": 39 / 160, "iterates": 40.0})


def test_corollary_2_uses_the_moves_between_its_iterates_alone() -> None:
    trajectory = one_weight([5.0] * 3 + [0.5, -0.5] * 3, 1.0)
    inside = with_column(trajectory, "alpha", np.where(np.arange(9) < 4, 1e9, 1.0))  # rows 0 to 3 come before them
    assert corollary2(inside, 3, 9).lower == corollary2(trajectory, 3, 9).lower
    assert corollary2(trajectory, 3, 9).details["iterates"] == 6


def test_corollary_3_is_an_equality_on_a_straight_line() -> None:
    s = corollary3(one_weight([99.0] * 5, 0.5))
    assert s.value == pytest.approx(2.5) and s.upper == pytest.approx(2.5)
    np.testing.assert_allclose(s.steps["upper"], 0.5 * np.arange(1, 6))


@pytest.mark.parametrize("name, factor", [("move", 0.9), ("pulls", 1.1)])
def test_corollary_1_fails_where_a_column_is_wrong(name: str, factor: float) -> None:
    trajectory = one_weight([5.0] * 6, 0.25)
    assert corollary1(with_column(trajectory, name, trajectory[name] * factor)).violations == 6


def test_corollaries_2_and_3_fail_where_a_column_is_wrong() -> None:
    swinging, straight = one_weight([0.5, -0.5] * 20, 1.0), one_weight([99.0] * 5, 0.5)
    assert corollary2(with_column(swinging, "pulls", swinging["pulls"] * 1.1)).violations == 1
    assert corollary3(with_column(straight, "distance", straight["distance"] * 1.1)).violations == 5
    assert corollary3(with_column(straight, "pulls", straight["pulls"] * 0.9)).violations == 5


@pytest.mark.parametrize("options, stated", [
    ({"batch": 3}, "3"), ({"outputs": 2}, "3"), ({"plain": False, "reason": "momentum"}, ""), ({}, "123"),
])
def test_what_is_refused(options: dict[str, Any], stated: str) -> None:
    trajectory = run(2, "tall", 3, **options)
    found = {"1": corollary1(trajectory).upper, "2": corollary2(trajectory).lower, "3": corollary3(trajectory).upper}
    assert "".join(name for name, side in found.items() if side is not None) == stated


def test_a_shared_bias_leaves_corollary_3_with_its_root() -> None:
    trajectory = run(2, "shared", 3, "tanh")
    assert corollary1(trajectory).upper is None and corollary2(trajectory).lower is None
    s = corollary3(trajectory)
    moves = trajectory["alpha"] * trajectory["pulls"] / trajectory["bottom_lower"]
    assert s.upper == pytest.approx(4 * moves.sum(), rel=1e-5)  # √16


def test_a_step_without_gradient_makes_harm_zero_and_stops_nothing_else() -> None:
    trajectory = with_column(run(2, "tall", 3, "tanh", steps=9), "epsilon", np.where(np.arange(9) == 4, 0.0, 1.0))
    second = corollary2(trajectory)
    assert second.lower == 0 and second.details["harm"] == 0
    assert corollary1(trajectory).instances == 8
    assert corollary3(trajectory).instances == 9


def test_unmeasured_steps_leave_what_does_not_need_them() -> None:
    trajectory = run(2, "tall", 3, "tanh", steps=9, every=3)
    assert corollary1(trajectory).instances == 3
    assert corollary2(trajectory).lower is None
    assert corollary3(trajectory).instances == 1 and corollary3(trajectory).upper is None
    still = with_column(trajectory, "gradient", 0.0)
    assert corollary3(still).upper == 0  # without gradient there is nothing to measure


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_is_said_of_a_run_that_diverged() -> None:
    trajectory = run(57, "tall", 4, "leaky", rate=5.0, steps=30)
    assert np.isnan(trajectory["distance"][-1])
    for s in (corollary2(trajectory), corollary3(trajectory)):
        assert s.value is None and s.violations == 0
    assert corollary1(trajectory).violations == theorem1(trajectory).violations == 0


def test_the_span_must_make_sense() -> None:
    trajectory = run(2, "tall", 3, steps=9)
    for wrong in (
        lambda: corollary1(trajectory, 9), lambda: corollary2(trajectory, 8, 9), lambda: corollary2(trajectory, 1, 9),
        lambda: corollary3(trajectory, steps=slice(2, None)),
    ):
        with pytest.raises(TrajectoryError):
            wrong()
    assert corollary3(trajectory, steps=slice(0, 4)).upper == corollary3(trajectory).steps["upper"][3]


def test_instances_are_counted() -> None:
    trajectory = run(2, "tall", 3, "tanh", steps=9)
    assert count_instances([corollary1(trajectory), corollary2(trajectory), corollary3(trajectory)]) == (19, 0)
