"""Results can be pickled, copied and compared; what depends on a thing's identity does not get lost on the way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import covergraph as cg
from covergraph.trajectory import theorem1

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


class Composed(nn.Module):
    """Element-wise functions that are fused, rows with numbers, a parametrization, a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h * torch.sigmoid(1.7 * h) + nn.functional.leaky_relu(h, 0.2) + nn.functional.celu(h, 1.3)
        return self.b(nn.functional.hardswish(nn.functional.softplus(h, 2.0)) + nn.functional.elu(h, 0.5))


def half(output: Tensor, labels: Tensor) -> Tensor:
    """A loss that is the same everywhere."""
    return output[:, 0] * 0 + 0.5


@cache
def analysis(seed: int, loss: bool = False) -> cg.Analysis:
    torch.manual_seed(seed)
    return cg.analyze(Composed(), [(X, Y)], fill=True, loss=cg.LipschitzLoss(half, 1.0) if loss else None)


@cache
def trajectory(seed: int) -> cg.Trajectory:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with cg.TrajectoryRecorder(net, sgd) as recorder:
        for x in X.split(1)[:4]:
            sgd.zero_grad()
            net(x).square().sum().backward()
            sgd.step()
    return recorder.trajectory


PARTS = ("graph", "bound", "measurements", "parameters", "certificate")
RESULTS: dict[str, Callable[[int], Any]] = {
    **{name: lambda seed, name=name: getattr(analysis(seed), name) for name in PARTS},
    "analysis": analysis,
    "analysis of a user's loss": partial(analysis, loss=True),
    "trajectory": trajectory,
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickled": lambda value: pickle.loads(pickle.dumps(value)),
    "copied": copy.deepcopy,
    "copied flat": copy.copy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RESULTS)
def test_a_copy_is_equal_and_says_the_same(name: str, way: str) -> None:
    value = RESULTS[name](0)
    other = WAYS[way](value)
    assert (other == value) is True and (other != value) is False
    assert repr(other) == repr(value)


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in ("graph", "bound")])
def test_results_of_other_weights_are_not_equal(name: str) -> None:
    assert (RESULTS[name](0) == RESULTS[name](1)) is False
    assert (RESULTS[name](0) == 3) is False


def test_graphs_and_bounds_are_equal_if_their_structure_is() -> None:
    one, other = analysis(0), analysis(1)
    assert one.graph == other.graph and one.bound == other.bound and hash(one.bound) == hash(other.bound)
    assert one.bound != cg.derive(cg.augment(one.graph, mode="paper"))
    assert one.bound != analysis(0, loss=True).bound


def test_a_pickled_analysis_goes_on_working() -> None:
    value = analysis(0)
    other = pickle.loads(pickle.dumps(value))
    assert other.bound.evaluate(other.measurements, other.parameters).value == value.certificate.value
    assert other.certificate.to_frame().equals(value.certificate.to_frame())
    assert other.explain() == value.explain()
    assert pickle.loads(pickle.dumps(value.bound.evaluate(value.measurements, choices=3))).choices == 3


def test_statements_compare() -> None:
    one, other = theorem1(trajectory(0)), theorem1(trajectory(1))
    assert one == theorem1(trajectory(0)) == copy.deepcopy(one) and one != other
