"""Wᵀ ∂ℓ/∂b = Σ ∂ℓ/∂h_i is compared at every measured step: what breaks it later than at the first is seen, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import covergraph as cg
from covergraph.trajectory import theorem1, theorem1_gradient

Step = Callable[[nn.Sequential, Tensor, Tensor, int], Tensor]


def recorded(step: Step, rows: int = 1, norm: bool = False) -> cg.Trajectory:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), *[nn.BatchNorm1d(5)] * norm, nn.ReLU(), nn.Linear(5, 1))
    nn.init.zeros_(net[0].bias)
    if step is clamped:
        net[0].bias.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with cg.TrajectoryRecorder(net, optimizer) as recorder:
        for t in range(30):
            optimizer.zero_grad()
            step(net, torch.randn(rows, 6), torch.randn(rows, 1), t).backward()
            if t == 20 and step is changed:
                net[0].weight.data.mul_(2)
            optimizer.step()
    return recorder.trajectory


def fit(net: nn.Sequential, x: Tensor, y: Tensor, t: int) -> Tensor:
    return F.mse_loss(net(x), y)


def changed(net: nn.Sequential, x: Tensor, y: Tensor, t: int) -> Tensor:
    return fit(net, x, y, t)


def penalized(net: nn.Sequential, x: Tensor, y: Tensor, t: int) -> Tensor:
    return fit(net, x, y, t) + 0.5 * net[0].bias.square().sum()


def clamped(net: nn.Sequential, x: Tensor, y: Tensor, t: int) -> Tensor:
    return fit(net, x, y, t)


@pytest.mark.parametrize("step", [changed, penalized, clamped])
def test_gradients_that_are_not_those_of_the_layer_are_noticed(step: Step) -> None:
    found = recorded(step)
    assert found.setting.identity is not None and found.setting.identity > 1e-3
    for statement in (theorem1(found), theorem1_gradient(found)):
        assert (statement.lower, statement.upper) == (None, None)
        assert "Wᵀ ∂ℓ/∂b = Σ ∂ℓ/∂h_i" in {a.name for a in statement.ledger.with_status("false")}


@pytest.mark.parametrize(("rows", "norm"), [(1, False), (8, False), (8, True)])
def test_gradients_of_the_layer_are_recognized_also_where_they_cancel(rows: int, norm: bool) -> None:
    found = recorded(fit, rows, norm)
    assert found.setting.identity is not None and found.setting.identity < 1e-5
    assert theorem1_gradient(found).violations == 0
    assert theorem1_gradient(found).lower is not None
