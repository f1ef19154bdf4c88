"""Variances of the bias over stretches of the run are those of its iterates, however the record was cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import covergraph as cg


@pytest.mark.parametrize(("width", "flush"), [(3, 4), (100, 2), (100, 7)])
def test_variances_are_those_of_the_iterates(width: int, flush: int) -> None:
    """Of 100 entries, means are kept for stretches of several flushes, so that they take no more room than columns."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 1)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    iterates = []
    with cg.TrajectoryRecorder(net, optimizer, flush=flush) as recorder:
        for t in range(45):
            optimizer.zero_grad()
            (net(torch.randn(1, 5, dtype=torch.float64)) - t).square().sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            iterates.append(net[0].bias.detach().numpy().copy())
    found, b = recorder.trajectory, np.array(iterates)
    stops = found.moments.stops.astype(int)
    assert stops[-1] == 45 and len(stops) > 2
    assert np.diff(stops).max() >= max(flush, width // 19)
    for i, start in enumerate([0, *stops[:-1]]):
        for stop in stops[i:]:
            expected = b[start:stop].var(axis=0).sum()
            assert found.variance(int(start), int(stop)) == pytest.approx(expected, rel=1e-10, abs=1e-15)
