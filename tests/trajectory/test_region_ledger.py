"""Theorem L2 on runs of SGD, with Assumption 1 checked at each step, and its ledger by cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from trajectory.relu_networks import HIDDEN, Case, graph_of, network, slopes, two_neurons

import covergraph
from covergraph.errors import TrajectoryError
from covergraph.trajectory.dropout import Dropout
from covergraph.trajectory.empty_regions import theorem2, theorem2_sum
from covergraph.trajectory.region_ledger import assumption1, trained_function
from covergraph.trajectory.trajectory import COLUMNS, Layer, Moments, Setting, Trajectory

Run = tuple[Case, Trajectory, list[dict[str, torch.Tensor]]]
"""A run, what was recorded of it, and all its iterates."""


def trained(seed: int, sigmoid: bool, steps: int = 12) -> Run:
    """Plain SGD with batches of one; points and costs are those of the steps, the model is the last iterate."""
    torch.manual_seed(seed)
    model = network((2, *HIDDEN[seed % 4], 1), sigmoid)
    graph = graph_of(model)
    points = torch.randn(steps, 2, dtype=torch.float64)
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    states, rate, bias = [{k: v.clone() for k, v in model.state_dict().items()}], 1e-3, model[0].bias
    for t, x in enumerate(points):
        h = x[None].clone().requires_grad_()
        out = model(h)
        loss = -out.log().sum() if sigmoid else (out - 1).square().sum() / 2
        found = torch.autograd.grad(loss, [out, h, bias], retain_graph=True)
        epsilon, pull, gradient = (g.norm().item() for g in found)
        model.zero_grad()
        loss.backward()
        before = bias.detach().clone()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        top = torch.linalg.matrix_norm(states[-2]["0.weight"], 2).item()
        row = {
            "step": t, "loss": loss.item(), "alpha": rate, "samples": 1, "epsilon": epsilon, "pull": pull,
            "pulls": pull,
            "gradient": gradient, "move": (bias - before).norm().item(), "residual": 0.0, "bias": bias.norm().item(),
            "top_lower": top * (1 - 1e-12), "top_upper": top * (1 + 1e-12),
        }
        for name in COLUMNS:
            columns[name].append(float(row.get(name, np.nan)))
    layer = Layer("0", "linear", "0.weight", "0.bias", 2, model[0].out_features)
    setting = Setting("SGD", True, outputs=1, isometric=True, piecewise=not sigmoid, mixing=False, dtype="float64")
    empty = Moments(np.zeros(0), np.zeros((0, layer.outputs)), np.zeros(0))
    run = Trajectory(layer, setting, {k: np.array(v) for k, v in columns.items()}, empty)
    x = 1.5 * torch.randn(60, 2, dtype=torch.float64)
    case = Case(model, graph, points, run.normalized, x, float(run["top_upper"].max()))
    return case, run, states


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [trained(seed, seed % 2 == 1) for seed in range(24)]


def test_on_runs_of_sgd_with_assumption_1_checked_at_every_step(runs: list[Run]) -> None:
    stated, consistent_runs, least = 0, 0, np.inf
    for case, run, states in runs:
        found = assumption1(case.graph, states, case.points, every=True)
        statement = theorem2(
            case.graph, case.model, case.x, case.points, case.costs, beta=case.beta, gamma=found.gamma,
            consistent=found, trajectory=run,
        )
        upper = statement.steps["upper"]
        if not found.holds:
            assert np.isnan(upper).all() and statement.upper is None
            continue
        assert not statement.ledger.with_status("false") and statement.violations == 0
        status = {a.name: a.status for a in statement.ledger}
        assert status["Assumption 1"] == status["‖W_1‖ <= β"] == status["plain SGD"] == "true"
        true, known = slopes(case.model, case.x, "x"), ~np.isnan(upper)
        assert np.all(upper[known] >= true[known] * (1 - 1e-9))
        stated, consistent_runs = stated + int(known.sum()), consistent_runs + 1
        known &= true > 0
        least = min(least, float(np.min(upper[known] / true[known], initial=np.inf)))
    print(f"{consistent_runs} of {len(runs)} runs satisfy Assumption 1, {stated} statements, least ratio {least:.4g}")
    assert consistent_runs >= 10 and stated >= 300


def test_assumption_1_measures_gamma_and_sees_a_changed_pattern() -> None:
    model, points = two_neurons(), torch.tensor([[1.0, -1.0], [1.0, 2.0]], dtype=torch.float64)
    graph = covergraph.trace(model, points[:1])
    scaled, moved, dead = ({k: v.clone() for k, v in model.state_dict().items()} for _ in range(3))
    scaled["2.weight"][0, 0] *= 1.25  # slopes 3, 5 become 3.75, √(3.75² + 4²)
    moved["0.bias"][1] = 2.0  # the second neuron turns on at the first point
    dead["2.weight"].zero_()
    found = assumption1(graph, [model, scaled, model], points)
    assert found.holds and found.snapshots == 3 and found.gamma == pytest.approx(0.25)
    assert found.assumption(0.3).status == "not checkable" and found.assumption(0.2).status == "false"
    assert assumption1(graph, [model, scaled], points, every=True).assumption(0.3).status == "true"
    assert not assumption1(graph, [model, moved], points).holds
    assert not assumption1(graph, [model, dead], points).holds  # λ = 0 at one time: no factor relates the slopes
    with pytest.raises(TrajectoryError, match="no snapshot"):
        assumption1(graph, [], points)


class Functional(nn.Module):
    """A chain in eval mode that drops inputs in train mode, with no module that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(nn.functional.dropout(x, training=self.training))
        return out


def test_a_forward_of_ones_own_may_drop_neurons() -> None:
    assert trained_function(Functional().inner).status == "true"
    found = trained_function(Functional())
    assert found.status == "not checkable" and "Functional" in found.evidence


BROKEN = {
    "momentum": ({"plain": False, "reason": "momentum 0.9"}, {}, "plain SGD"),
    "another layer": ({"isometric": False}, {}, "the layer's input is the model's input"),
    "shared bias": ({}, {"shared": 4}, "bias not shared"),
    "vector output": ({"outputs": 3}, {}, "scalar output"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_false_assumption_leaves_no_statement(name: str, runs: list[Run]) -> None:
    setting, layer, expected = BROKEN[name]
    case, run, _ = runs[0]
    other = replace(run, setting=replace(run.setting, **setting), layer=replace(run.layer, **layer))
    arguments = (case.graph, case.model, case.x, case.points, case.costs)
    assert theorem2(*arguments, beta=case.beta, gamma=0.5, trajectory=run).upper is not None
    for theorem in (theorem2, theorem2_sum):
        found = theorem(*arguments, beta=case.beta, gamma=0.5, trajectory=other)
        assert found.upper is None and [a.name for a in found.ledger.with_status("false")] == [expected]


def test_beta_points_and_dropout_are_checked(runs: list[Run]) -> None:
    case, run, _ = runs[0]

    def false(model: nn.Module, points: torch.Tensor, beta: float) -> list[str]:
        found = theorem2(case.graph, model, case.x, points, case.costs, beta=beta, gamma=0.5, trajectory=run)
        assert (found.upper is None) == bool(found.ledger.with_status("false"))
        return [a.name for a in found.ledger.with_status("false")]

    assert false(case.model, case.points, case.beta) == []
    assert false(case.model, case.points, 0.9 * case.beta) == ["‖W_1‖ <= β"]
    assert false(case.model, case.points + 1, case.beta) == ["the points are those sampled in T"]
    cheap = theorem2(
        case.graph, case.model, case.x, case.points, case.costs / 2, beta=case.beta, gamma=0.5, trajectory=run
    )
    assert [a.name for a in cheap.ledger.with_status("false")] == ["the points are those sampled in T"]
    some = np.where(np.arange(len(case.costs)) % 2, case.costs, np.nan)  # others are left out by the user
    half = theorem2(case.graph, case.model, case.x, case.points, some, beta=case.beta, gamma=0.5, trajectory=run)
    assert half.upper is not None and half.details["points"] == np.isfinite(some).sum()
    with pytest.raises(TrajectoryError, match="12 rows of the trajectory for 5 points"):
        theorem2(
            case.graph, case.model, case.x, case.points[:5], case.costs[:5], beta=1.0, gamma=0.0, trajectory=run
        )
    wrapped = Dropout(case.model)
    graph = covergraph.trace(wrapped.eval(), case.x[:1])
    found = theorem2(graph, wrapped, case.x, case.points, case.costs, beta=case.beta, gamma=0.5)
    assert found.upper is None and "Dropout" in found.ledger.with_status("false")[0].evidence
