"""The map of local Lipschitz constants, against torch's gradients on the same grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import covergraph
from covergraph.errors import TrajectoryError
from covergraph.trajectory.empty_regions import theorem2
from covergraph.trajectory.slices import LipschitzMap, lipschitz_map

EXTENT, RESOLUTION = 2.0, 21


def case() -> tuple[nn.Sequential, torch.Tensor, np.ndarray, float]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    points = torch.randn(12, 4, dtype=torch.float64)
    costs = [torch.autograd.grad(model(p[None]).sum(), model[0].bias)[0].norm().item() for p in points]
    return model, points, np.array(costs), float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) * (1 + 1e-12)


@pytest.fixture(scope="module")
def drawn() -> tuple[LipschitzMap, np.ndarray]:
    """A map with predictions, and the slopes of its points by torch."""
    model, points, costs, beta = case()
    origin, u, v = points[0], points[1] - points[0], points[2] - points[0]
    graph = covergraph.trace(model, points[:1])
    found = lipschitz_map(
        graph, model, origin, u, v, extent=EXTENT, resolution=RESOLUTION, points=points, costs=costs, beta=beta
    )
    axis = np.linspace(-EXTENT, EXTENT, RESOLUTION)
    slopes = np.empty((RESOLUTION, RESOLUTION))
    for i, s in enumerate(axis):
        for j, t in enumerate(axis):
            x = (origin + s * u + t * v)[None].requires_grad_()
            slopes[i, j] = torch.autograd.grad(model(x).sum(), x)[0].norm()
    return found, slopes


def test_slopes_and_axes_are_those_of_the_plane(drawn: tuple[LipschitzMap, np.ndarray]) -> None:
    found, slopes = drawn
    np.testing.assert_allclose(found.lam, slopes, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.axis, np.linspace(-EXTENT, EXTENT, RESOLUTION))


def test_one_region_has_one_slope_and_one_prediction(drawn: tuple[LipschitzMap, np.ndarray]) -> None:
    found, slopes = drawn
    assert sorted(np.unique(found.regions)) == list(range(found.count)) and found.count > 8 and found.regions[0, 0] == 0
    for region in range(found.count):
        inside = found.regions == region
        assert np.ptp(slopes[inside]) < 1e-9
        assert len(np.unique(found.predictions[inside], equal_nan=True)) == 1


def test_predictions_bound_the_slopes_where_there_are_any(drawn: tuple[LipschitzMap, np.ndarray]) -> None:
    found, slopes = drawn
    known = ~np.isnan(found.predictions)
    assert 0.05 < found.share < 0.95 and found.share == known.mean()
    assert np.all(found.predictions[known] >= slopes[known] * (1 - 1e-9))
    positive = known & (slopes > 0)
    assert found.ratio == pytest.approx(np.max(found.predictions[positive] / slopes[positive]))
    assert found.statement is not None and found.statement.violations == 0


def test_the_origin_is_a_sampled_point_with_its_own_cost(drawn: tuple[LipschitzMap, np.ndarray]) -> None:
    model, points, costs, beta = case()
    at = theorem2(covergraph.trace(model, points[:1]), model, points[:1], points, costs, beta=beta, gamma=0.0)
    assert at.upper is not None and at.upper <= beta * costs[0] * (1 + 1e-9)
    assert drawn[0].predictions[RESOLUTION // 2, RESOLUTION // 2] == at.upper


def test_without_points_there_is_no_prediction() -> None:
    model, points, costs, _ = case()
    graph, arguments = covergraph.trace(model, points[:1]), (points[0], points[1], points[2])
    found = lipschitz_map(graph, model, *arguments, extent=1.0, resolution=5)
    assert found.share == 0 and found.ratio is None and found.statement is None and np.isnan(found.predictions).all()
    with pytest.raises(TrajectoryError, match="together"):
        lipschitz_map(graph, model, *arguments, extent=1.0, resolution=5, points=points, costs=costs)
    with pytest.raises(TrajectoryError, match="resolution 1"):
        lipschitz_map(graph, model, *arguments, extent=1.0, resolution=1)
