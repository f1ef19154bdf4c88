"""Norms that nobody can wait for, or whose Jacobians nobody can hold, are announced before the work starts."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from covergraph import augment, derive, measure, trace
from covergraph.errors import ParameterError
from covergraph.measure.cost import require_affordable, warn_of_hours
from covergraph.measure.plan import plan


def test_a_jacobian_that_memory_cannot_hold_is_refused_with_the_remedy() -> None:
    convolutions = nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 3)
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(7396, 2))
    x = torch.randn(2, 1, 88, 88)
    bound = derive(augment(trace(model.eval(), x)))
    with pytest.raises(ParameterError, match=r"of a node in '.*GiB for one sample.*exact=False"):
        measure(bound, model, [(x, torch.tensor([0, 1]))], exact=True)
    found = measure(bound, model, [(x, torch.tensor([0, 1]))], width=1.05)
    assert "lanczos" in found.ways.values() and found.failure == 1e-3
    assert all(norm.upper <= 1.05 * norm.lower * (1 + 1e-9) for norm in found.pairs.values())


def test_hours_are_announced_and_seconds_are_not() -> None:
    model = nn.Sequential(nn.Linear(4, 1000), nn.Tanh(), nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 3)).eval()
    bound = derive(augment(trace(model, torch.randn(2, 4))))
    require_affordable(bound.graph, bound.measured_pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_hours(plan(bound.graph, bound.measured_pairs, 10, 2**30), 10)
    dense = plan(bound.graph, bound.measured_pairs, 60000, 2**30, "exact")
    with pytest.warns(UserWarning, match=r"on 60000 samples \(.*dense.*take about .* hours.*fill=True"):
        warn_of_hours(dense, 60000)
