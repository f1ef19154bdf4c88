"""C.2: the norm of the first weight through its own moves, and through the balance of two layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import nn
from trajectory.reference import half_squared, run, sgd, train

from covergraph.errors import TrajectoryError
from covergraph.trajectory.first_layer_norm import first_layer_balance, first_layer_norm
from covergraph.trajectory.ledger import Statement
from covergraph.trajectory.trajectory import Trajectory

types = st.sampled_from([torch.float64, torch.float32])
STEPS = 8


def two_layers(
    seed: int, between: nn.Module, dtype: torch.dtype = torch.float64, rate: float = 0.05, batch: int = 1,
    frozen: bool = False, piecewise: bool | None = None,
) -> tuple[Trajectory, Trajectory]:
    """Layers 1 and 2 of a net of three, the third behind a tanh."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), between, nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    model[0].weight.requires_grad_(not frozen)
    data = [(torch.randn(batch, 6, dtype=dtype), torch.randn(batch, 1, dtype=dtype)) for _ in range(STEPS)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    alphas = (rate * 4 ** torch.rand(STEPS)).tolist()
    first, second = train(
        model, ["0", "2"], data, half_squared, optimizer, alphas=alphas, piecewise=piecewise
    )
    return first, second


def false_names(statement: Statement) -> list[str]:
    return [a.name for a in statement.ledger.with_status("false")]


@given(st.integers(0, 2**31), types, st.sampled_from([0.003, 0.05, 0.15]), st.sampled_from(["relu", "tanh"]))
@examples(40)
def test_the_norm_is_bounded_by_its_own_moves(seed: int, dtype: torch.dtype, rate: float, activation: str) -> None:
    trajectory = run(seed, "square", 4, activation, rate=rate, dtype=dtype, steps=STEPS)
    s = first_layer_norm(trajectory)
    assert (s.instances, s.violations) == (STEPS, 0)
    assert s.upper is not None and s.value == trajectory["top_lower"][-1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_covered(dtype: str) -> None:
    first, second = (replace(t, setting=replace(t.setting, dtype=dtype)) for t in two_layers(0, nn.ReLU()))
    assert first_layer_norm(first).violations == first_layer_balance(first, second).violations == 0


def test_the_norm_bound_is_an_equality_when_all_moves_are_parallel() -> None:
    # f(x) = w x + b with x = 1 and a far target: each move adds to w.
    model = nn.Sequential(nn.Linear(1, 1)).double()
    model[0].weight.data.fill_(1.0)
    x = torch.ones(1, 1, dtype=torch.float64)
    trajectory = train(model, ["0"], [(x, 99 * x)] * 6, half_squared, sgd(model), alphas=[0.01] * 6)[0]
    s = first_layer_norm(trajectory)
    assert s.upper == pytest.approx(s.value, rel=1e-8)
    smaller = replace(trajectory, columns={**trajectory.columns, "move": trajectory["move"] * 0.9})
    assert first_layer_norm(smaller).violations == 5  # all but the first row, which no move precedes


def test_a_frozen_weight_keeps_the_norm_bound_but_not_the_balance() -> None:
    first, second = two_layers(0, nn.ReLU(), frozen=True)
    assert first_layer_norm(first).violations == 0 and first_layer_norm(first).upper is not None
    s = first_layer_balance(first, second)
    assert s.upper is None and "never moves" in s.ledger.text()


def test_a_weight_that_moves_faster_than_its_bias_is_seen() -> None:
    model = nn.Sequential(nn.Linear(1, 1)).double()
    x = torch.ones(1, 1, dtype=torch.float64)

    def faster(net: nn.Module) -> None:
        weight = net.get_parameter("0.weight")
        assert weight.grad is not None
        weight.grad *= 10

    trajectory = train(model, ["0"], [(x, 99 * x)] * 6, half_squared, sgd(model), alphas=[0.01] * 6, spoil=faster)[0]
    s = first_layer_norm(trajectory)
    assert s.upper is None and "moves faster" in s.ledger.text()


@given(st.integers(0, 2**31), types, st.sampled_from([0.003, 0.05, 0.2]), st.sampled_from([0.0, 0.1, 0.5]))
@examples(50)
def test_the_balance_holds_in_every_step(seed: int, dtype: torch.dtype, rate: float, slope: float) -> None:
    first, second = two_layers(seed, nn.LeakyReLU(slope), dtype, rate)
    s = first_layer_balance(first, second)
    if "never moves" in s.ledger.text():  # all units dead, or moves below rounding
        return
    assert (s.instances, s.violations) == (2 * (STEPS - 1), 0)
    assert s.details["sigma_1"] >= first["top_lower"][-1]
    assert s.rounding < 2e-3 * first["frobenius"][-1] ** 2


@pytest.mark.parametrize(
    "between", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Identity(), nn.Sequential(nn.ReLU(), nn.Dropout(0.5))]
)
def test_the_balance_is_far_finer_than_its_terms(between: nn.Module) -> None:
    # In double precision the right-hand side is the squared norm to 1e-12, though that moves by far more.
    first, second = two_layers(1, between, rate=0.2)
    s = first_layer_balance(first, second)
    np.testing.assert_allclose(s.steps["upper"][1:], first["frobenius"][1:] ** 2, rtol=1e-12)
    assert np.ptp(first["frobenius"]) > 1e-3
    own = first["alpha"] * first["gradient"]
    unbalanced = replace(first, columns={**first.columns, "gradient": 0.9 * first["gradient"]})
    assert own.max() > 1e-3 and first_layer_balance(unbalanced, second).violations > 0


def test_a_smooth_map_between_the_layers_breaks_the_balance() -> None:
    first, second = two_layers(1, nn.Tanh(), rate=0.2)
    assert first_layer_balance(first, second).violations > 0  # what nobody could see is printed as not checkable
    assert first_layer_balance(first, second).ledger.with_status("not checkable")
    seen = two_layers(1, nn.Tanh(), rate=0.2, piecewise=False)
    assert first_layer_balance(*seen).instances == 0
    assert false_names(first_layer_balance(*seen)) == ["f piecewise linear"]


def test_batches_and_two_rates_are_refused() -> None:
    batch = two_layers(1, nn.ReLU(), batch=2)
    assert first_layer_norm(batch[0]).upper is None and first_layer_balance(*batch).instances == 0
    first, second = two_layers(1, nn.ReLU())
    other = replace(second, columns={**second.columns, "alpha": second["alpha"] * 2})
    assert "one learning rate for both layers" in false_names(first_layer_balance(first, other))


def test_what_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(TrajectoryError, match="watch such a layer"):
        first_layer_norm(run(0, "shared", 3, kind="convolution"))
    with pytest.raises(TrajectoryError, match="record both"):
        first_layer_balance(two_layers(1, nn.ReLU())[0], run(0, "tall", 3, steps=3))
