"""What breaks an assumption takes the sides that rest on it, and is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trajectory.reference import run, sgd

from covergraph.trajectory.assumptions import RANK, allowance, move_rounding
from covergraph.trajectory.ledger import Assumption, Ledger, Statement
from covergraph.trajectory.theorem1 import theorem1, theorem1_batches, theorem1_gradient
from covergraph.trajectory.trajectory import Trajectory


def false_names(statement: Statement) -> set[str]:
    return {a.name for a in statement.ledger.with_status("false")}


def sides(statement: Statement) -> str:
    return "".join(n for n, s in (("l", statement.lower), ("u", statement.upper)) if s is not None)


def seen(**changes: Any) -> Trajectory:
    trajectory = run(2, "tall", 3)
    return replace(trajectory, setting=replace(trajectory.setting, **changes))


def built(**changes: Any) -> Trajectory:
    trajectory = run(2, "tall", 3)
    return replace(trajectory, layer=replace(trajectory.layer, **changes))


def test_a_side_is_stated_unless_something_that_carries_it_is_false() -> None:
    def ledger(status: Any, sides: Any) -> Ledger:
        return Ledger((Assumption("a", status, "c", sides=sides), Assumption("b", "true", "c")))

    assert ledger("not checkable", ("lower", "upper")).states("lower")
    assert not ledger("false", ("lower",)).states("lower")
    assert ledger("false", ("lower",)).states("upper")
    assert ledger("false", ()).states("lower")


@pytest.mark.parametrize("trajectory, name, left, left_gradient", [
    (seen(plain=False, reason="momentum 0.9"), "plain SGD", "", "lu"),
    (seen(outputs=3), "scalar output", "u", "lu"),
    (seen(once=False), "one pass of the layer for each sample of a step", "", ""),
    (seen(identity=1e-3), "Wᵀ ∂ℓ/∂b = Σ ∂ℓ/∂h_i", "", ""),
    (seen(isometric=False), "the layer's input is the model's input", "lu", "lu"),
    (seen(piecewise=False), "f piecewise linear", "lu", "lu"),
    (seen(last="sigmoid", piecewise=True), "f piecewise linear", "lu", "lu"),
    (built(shared=4), "bias not shared", "u", "u"),
    (built(kind="parameter"), "the bias of an affine map z = W h + b", "", ""),
    (run(2, "tall", 3, batch=3), "batch of one", "u", "lu"),
    (run(2, "wide", 3), RANK, "l", "l"),
])
def test_each_false_assumption_takes_its_sides(
    trajectory: Trajectory, name: str, left: str, left_gradient: str
) -> None:
    statement = theorem1(trajectory)
    assert false_names(statement) == {name}
    assert sides(statement) == left
    assert statement.instances == len(left) * len(trajectory)
    assert sides(theorem1_gradient(trajectory)) == left_gradient


OUTPUT = "the loss reads the network through its output alone"
"""No run shows this one."""


def test_nothing_is_false_of_an_honest_run() -> None:
    statement = theorem1(seen(isometric=True, piecewise=True, joints=""))
    assert {a.status for a in statement.ledger if a.name != OUTPUT} == {"true"}
    assert sides(statement) == "lu"


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.5, "nesterov": True}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_not_plain_is_seen_in_the_moves(options: dict[str, Any], dtype: torch.dtype) -> None:
    # The settings claim plain SGD; the residual tells otherwise.
    trajectory = run(2, "tall", 3, optimizer=lambda m: sgd(m, **options), dtype=dtype)
    for function in (theorem1, theorem1_batches):
        statement = function(trajectory)
        assert "plain SGD" in false_names(statement) and sides(statement) == ""
        assert "rounding allows" in statement.ledger.text()


def test_adam_clipping_and_a_bias_moved_by_hand_are_seen_in_the_moves() -> None:
    def clipped(model: nn.Module) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad *= 0.5

    def moved(model: nn.Module) -> None:
        model.get_parameter("0.bias").data += 1e-6

    adam = run(2, "tall", 3, optimizer=lambda m: torch.optim.Adam(m.parameters()))
    for trajectory in (adam, run(2, "tall", 3, spoil=clipped), run(2, "tall", 3, spoil=moved)):
        assert "plain SGD" in false_names(theorem1(trajectory))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.4])
def test_plain_runs_stay_within_the_rounding_that_is_allowed(dtype: torch.dtype, rate: float) -> None:
    trajectory = run(4, "square", 4, dtype=dtype, rate=rate, steps=12)
    room = move_rounding(trajectory)
    assert np.all(trajectory["residual"] <= room)
    assert np.all(room < 1e-3 * trajectory["bias"])
    if dtype == torch.float32:
        assert trajectory["residual"].max() > 1e-3 * room.max()  # not allowed for nothing


def test_unknowns_are_printed_and_do_not_forbid() -> None:
    trajectory = seen(identity=None, isometric=None, piecewise=None)
    unknown = replace(trajectory, columns={**trajectory.columns, "residual": np.full(len(trajectory), np.nan)})
    statement = theorem1(unknown)
    assert {a.name for a in statement.ledger.with_status("not checkable")} == {
        *("plain SGD", "Wᵀ ∂ℓ/∂b = Σ ∂ℓ/∂h_i", "the layer's input is the model's input", "f piecewise linear"), OUTPUT,
        "autograd's gradient is that of f",
    }
    assert sides(statement) == "lu"
    assert "not checkable" in repr(statement)


def test_a_rank_that_rounding_may_take_is_no_rank() -> None:
    trajectory = run(2, "tall", 3)
    tiny = trajectory["top_upper"] * allowance(trajectory) / 2
    statement = theorem1(replace(trajectory, columns={**trajectory.columns, "bottom_lower": tiny}))
    assert false_names(statement) == {RANK} and sides(statement) == "l"


def test_one_step_without_rank_takes_the_sum_but_not_the_other_steps() -> None:
    trajectory = run(2, "tall", 3)
    bottom = np.where(np.arange(len(trajectory)) == 2, 0.0, trajectory["bottom_lower"])
    statement = theorem1(replace(trajectory, columns={**trajectory.columns, "bottom_lower": bottom}))
    assert statement.upper is None and statement.instances == 2 * len(trajectory) - 1
    assert np.flatnonzero(np.isnan(statement.steps["upper"])).tolist() == [2]
