"""Theorem L1 on random nets, against closed forms, and where a side must not be stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples
from torch import nn
from trajectory.reference import half_squared, run, sgd, train

from covergraph.trajectory.ledger import Statement
from covergraph.trajectory.theorem1 import count_instances, theorem1, theorem1_batches, theorem1_gradient
from covergraph.trajectory.trajectory import Trajectory

seeds = st.integers(0, 2**31)
depths = st.integers(2, 5)
activations = st.sampled_from(["relu", "tanh", "leaky"])
losses = st.sampled_from(["half squared", "MSELoss", "BCE", "BCE with logits"])
types = st.sampled_from([torch.float64, torch.float32])
rates = st.sampled_from([0.003, 0.05, 0.15])
full_rank = st.sampled_from(["square", "tall", "convolution"])


def holds(*statements: Statement, instances: int) -> None:
    """As many inequalities as expected, all of them true, in their sums as well."""
    assert count_instances(statements) == (instances, 0)
    for s in statements:
        assert s.slack_lower is None or s.slack_lower >= -s.rounding
        assert s.slack_upper is None or s.slack_upper >= -s.rounding


def corrupted(trajectory: Trajectory, name: str, factor: float) -> Trajectory:
    return replace(trajectory, columns={**trajectory.columns, name: trajectory[name] * factor})


@given(seeds, full_rank, depths, activations, losses, rates, types)
@examples(60)
def test_both_sides_hold_at_every_step(
    seed: int, first: str, depth: int, activation: str, loss: str, rate: float, dtype: torch.dtype
) -> None:
    trajectory = run(seed, first, depth, activation, loss, rate=rate, dtype=dtype)
    gradients = theorem1_gradient(trajectory)
    for statement in (theorem1(trajectory), theorem1_batches(trajectory), gradients):
        rows = int(statement.details["steps"])
        lacking = np.sum(np.isnan(statement.steps["upper"][~np.isnan(statement.steps["value"])]))
        holds(statement, instances=2 * rows - int(lacking))
        assert lacking == 0 or dtype == torch.float32 or first != "tall"
    assert gradients.lower is not None


@given(
    seeds, depths, activations, losses, types, st.integers(2, 5), st.integers(1, 3),
    st.sampled_from(["square", "shared"]),
)
@examples(40)
def test_batches_vector_outputs_and_shared_biases_keep_what_the_triangle_inequality_keeps(
    seed: int, depth: int, activation: str, loss: str, dtype: torch.dtype, batch: int, outputs: int, first: str
) -> None:
    trajectory = run(seed, first, depth, activation, loss, batch=batch, outputs=outputs, dtype=dtype)
    one, many, gradients = theorem1(trajectory), theorem1_batches(trajectory), theorem1_gradient(trajectory)
    assert one.lower is None
    assert (many.lower is None) == (gradients.lower is None) == (first == "shared")
    assert count_instances([one, many, gradients])[1] == 0
    assert one.instances + many.instances > 0 or dtype == torch.float32


@given(seeds, depths, losses, st.sampled_from(["momentum", "Adam", "weight decay"]), st.integers(1, 3))
@examples(25)
def test_every_optimizer_keeps_the_form_of_gradients(seed: int, depth: int, loss: str, name: str, batch: int) -> None:
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        if name == "Adam":
            return torch.optim.Adam(model.parameters())
        return sgd(model, **({"momentum": 0.9} if name == "momentum" else {"weight_decay": 0.1}))

    trajectory = run(seed, "tall", depth, "relu", loss, batch=batch, optimizer=optimizer, plain=False, reason=name)
    gradients, moves = theorem1_gradient(trajectory), theorem1(trajectory)
    holds(gradients, instances=2 * len(trajectory))
    assert (moves.lower, moves.upper, moves.instances) == (None, None, 0)
    assert name in moves.ledger.text()


@given(seeds, st.floats(0.1, 1.0))
@examples(20)
def test_closed_form_of_two_layers(seed: int, scale: float) -> None:
    # f(x) = v·relu(W x + b): ∂f/∂b = v ⊙ 1[Wx + b > 0], so a_t is its norm and λ_t that of Wᵀ times it; SGD by hand.
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    data = [(scale * torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 1, dtype=torch.float64)) for _ in range(6)]
    w, b = (p.detach().numpy().copy() for p in model[0].parameters())
    v, c = (p.detach().numpy().copy() for p in model[2].parameters())
    statement = theorem1(train(model, ["0"], data, half_squared, sgd(model), alphas=[0.1] * 6)[0])
    moves, lams, lows, highs = [], [], [], []
    for x, y in ((x.numpy()[0], float(y)) for x, y in data):
        z = w @ x + b
        active, error = (z > 0).astype(float), float(v[0] @ np.maximum(z, 0) + c[0] - y)
        g, sigma = v[0] * active, np.linalg.svd(w, compute_uv=False)
        moves.append(np.linalg.norm(g))
        lams.append(np.linalg.norm(w.T @ g))
        lows.append(lams[-1] / sigma[0])
        highs.append(lams[-1] / sigma[-1])
        v, c = v - 0.1 * error * np.maximum(z, 0)[None], c - 0.1 * error
        w, b = w - 0.1 * error * np.outer(g, x), b - 0.1 * error * g
    assert statement.value == pytest.approx(sum(moves), rel=1e-9)
    assert statement.lower == pytest.approx(sum(lows), rel=1e-8)
    assert statement.upper == pytest.approx(sum(highs), rel=1e-6)
    np.testing.assert_allclose(statement.steps["lower"], lows, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_orthogonal_weights_make_both_sides_equal(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    model[0].weight.data = torch.eye(6, dtype=dtype)
    model[0].weight.requires_grad_(False)
    data = [(torch.randn(1, 6, dtype=dtype), torch.randn(1, 1, dtype=dtype)) for _ in range(8)]
    trajectory = train(model, ["0"], data, half_squared, sgd(model), alphas=[0.1] * 8)[0]
    s = theorem1(trajectory)
    assert s.lower == pytest.approx(s.value, rel=1e-3) and s.upper == pytest.approx(s.value, rel=1e-3)
    assert (s.instances, s.violations) == (16, 0)
    for factor in (0.99, 1.01):  # what is tight shows an error of a hundredth
        assert theorem1(corrupted(trajectory, "move", factor)).violations == 8


@given(seeds, depths, losses)
@examples(20)
def test_wide_layers_have_an_upper_side_over_active_rows_only(seed: int, depth: int, loss: str) -> None:
    plain, active = (run(seed, "wide", depth, "relu", loss, gain=g) for g in ("all rows", "active rows"))
    dead = int(np.sum(plain["gradient"] == 0))  # 0 <= 0 <= 0 needs no rank
    assume(dead < len(plain))
    s = theorem1(plain)
    assert s.upper is None and s.lower is not None and "W is wide" in s.ledger.text()
    holds(s, instances=len(plain) + dead)
    few = theorem1(active)
    stated = ~np.isnan(few.steps["upper"])
    possible = active["bottom_lower"] > 1e-6 * active["top_upper"]
    assert np.all(stated[possible])
    assert few.violations == 0
    assert (few.upper is not None) == bool(stated.all())


def test_active_rows_do_give_an_upper_side() -> None:
    statements = [theorem1(run(seed, "wide", 3, "relu", gain="active rows")) for seed in range(20)]
    assert sum(s.upper is not None and s.value != 0 for s in statements) >= 5
    assert count_instances(statements)[1] == 0


@pytest.mark.parametrize("name, factor", [("move", 100.0), ("move", 0.01), ("pull", 100.0), ("pulls", 100.0)])
def test_a_corrupted_column_is_a_violation(name: str, factor: float) -> None:
    honest = run(3, "tall", 3, "tanh")
    broken = corrupted(honest, name, factor)
    function = theorem1_gradient if name == "pull" else theorem1
    assert function(honest).violations == 0
    assert function(broken).violations == len(broken)


def test_batches_lose_the_lower_side_of_lambda() -> None:
    # f(x) = x + b at two points with errors 1 and -1: b stands still, yet λ = 1 at both points.
    model = nn.Sequential(nn.Linear(1, 1)).double()
    model[0].weight.data.fill_(1.0)
    model[0].bias.data.zero_()
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    trajectory = train(model, ["0"], [(x, torch.zeros_like(x))], half_squared, sgd(model), alphas=[0.5])[0]
    assert trajectory["move"][0] == 0 and trajectory.lam[0] / trajectory["top_upper"][0] == 1
    assert theorem1(trajectory).lower is None
    assert theorem1_batches(trajectory).lower == 0


def _two_positions(readout: list[float]) -> Trajectory:
    """f = r·(h + b 1) with one b at two positions, W the identity map."""
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(2, 1, bias=False)).double()
    model[0].weight.data.fill_(1.0)
    model[2].weight.data = torch.tensor([readout], dtype=torch.float64)
    x, y = torch.ones(1, 1, 2, dtype=torch.float64), torch.full((1, 1), 9.0, dtype=torch.float64)
    return train(model, ["0"], [(x, y)], half_squared, sgd(model), alphas=[0.1], kind="convolution")[0]


def test_a_shared_bias_loses_the_lower_side_and_pays_a_root() -> None:
    cancelling = _two_positions([1.0, -1.0])  # ∂f/∂b = 1 - 1, but λ = √2
    assert cancelling["gradient"][0] == 0 and cancelling["pull"][0] > 1
    assert theorem1(cancelling).lower is None and theorem1_gradient(cancelling).lower is None
    tight = theorem1(_two_positions([1.0, 1.0]))  # ∂f/∂b = 2 = √P λ
    assert tight.value == pytest.approx(2.0)
    assert tight.upper == pytest.approx(2.0, rel=1e-8)


def test_vector_outputs_lose_the_lower_side_of_the_lipschitz_constant() -> None:
    # f(h) = (h_1, 10 h_2) and a loss of the first entry: ‖J‖ = 10, but b moves by 1.
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)).double()
    model[0].weight.data, model[1].weight.data = torch.eye(2).double(), torch.diag(torch.tensor([1.0, 10.0])).double()
    data = [(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))]
    trajectory = train(model, ["0"], data, lambda out, y: half_squared(out[:, :1], y), sgd(model), alphas=[0.1])[0]
    s = theorem1(trajectory)
    assert s.value == pytest.approx(1.0) and s.lower is None
    assert theorem1_batches(trajectory).lower is not None


def test_rows_without_gradient_or_measurement_are_left_out_and_counted() -> None:
    trajectory = run(1, "tall", 3, every=3, steps=9)
    epsilon = np.where(np.arange(9) == 3, 0, trajectory["epsilon"])
    s = theorem1(replace(trajectory, columns={**trajectory.columns, "epsilon": epsilon}))
    assert s.details == {"steps": 2.0, "left out": 7.0, "alpha 0": 0.0, "epsilon 0": 1.0}
    assert s.instances == 4 and s.violations == 0
    part = theorem1(trajectory, steps=slice(0, 1))
    assert part.value == trajectory.normalized[0] and part.instances == 2
    nothing = theorem1(trajectory, steps=slice(1, 3))
    assert (nothing.value, nothing.lower, nothing.upper) == (None, None, None)
    assert [a.name for a in nothing.ledger.with_status("false")] == ["non-zero gradient"]


def test_a_layer_further_up_has_the_same_theorem() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    data = [(torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 1, dtype=torch.float64)) for _ in range(6)]
    below, above = train(model, ["0", "2"], data, half_squared, sgd(model), alphas=[0.1] * 6)
    holds(theorem1(below), theorem1(above), instances=24)
    reading = [a.name for a in theorem1(above).ledger.with_status("false")]
    assert reading == ["the layer's input is the model's input"]
