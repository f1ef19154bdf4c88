"""The map of local Lipschitz constants on a two-dimensional slice of the input space, with Theorem L2's prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from covergraph.errors import TrajectoryError
from covergraph.kinds import MAPS, require
from covergraph.trajectory.empty_regions import theorem2
from covergraph.trajectory.ledger import Statement
from covergraph.trajectory.patterns import Patterns, patterns
from covergraph.trajectory.region_ledger import Consistency
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from covergraph.graph.computation_graph import ComputationGraph


@dataclass(frozen=True)
class LipschitzMap:
    """Of the points origin + s_i u + s_j v, at [i, j] of arrays (resolution, resolution).

    axis (resolution,): the s; lam: ‖∇f‖; regions: numbers of the distinct activation patterns; predictions: the bound
    of Theorem L2, NaN where it has no statement (everywhere if no points were given). `statement`: on the whole grid.
    """

    axis: Floats
    lam: Floats = field(repr=False)
    regions: NDArray[np.intp] = field(repr=False)
    predictions: Floats = field(repr=False)
    statement: Statement | None = None

    @property
    def count(self) -> int:
        """Number of distinct patterns on the grid: at most that of the linear regions that it meets."""
        return int(self.regions.max()) + 1

    @property
    def share(self) -> float:
        """Share of the grid with a statement."""
        return float(np.mean(~np.isnan(self.predictions)))

    @property
    def ratio(self) -> float | None:
        """Largest prediction/λ over the grid where λ > 0; None without a statement."""
        known = ~np.isnan(self.predictions) & (self.lam > 0)
        return float(np.max(self.predictions[known] / self.lam[known])) if known.any() else None

    def plot(self, points: Floats | None = None) -> Figure:
        """λ and Theorem 2's bound side by side, gray where it has no statement; dots at `points` (m, 2), their s, t."""
        from covergraph.report.trajectories import plot_lipschitz_map

        return plot_lipschitz_map(self, points)


def lipschitz_map(
    graph: ComputationGraph, model: nn.Module | Mapping[str, Tensor], origin: Tensor, u: Tensor, v: Tensor,
    *, extent: float, resolution: int, points: Tensor | None = None, costs: Floats | None = None,
    beta: float | None = None, gamma: float = 0.0, consistent: Consistency | None = None,
    trajectory: Trajectory | None = None, rows: slice = slice(None),
) -> LipschitzMap:
    """Local Lipschitz constants at origin + s u + t v, with s and t on `resolution` points of [-extent, extent].

    Args: origin, u, v (*shape); the others as of `theorem2`, for its prediction in every region.
    Raises `TrajectoryError` where the graph is no chain, or points come without costs and beta.
    """
    require(
        "lipschitz_map", MAPS, graph=graph, model=model, origin=origin, u=u, v=v, extent=extent, resolution=resolution,
        points=points, costs=costs, beta=beta, gamma=gamma, consistent=consistent, trajectory=trajectory, rows=rows,
    )
    if resolution < 2 or extent <= 0:
        raise TrajectoryError(f"lipschitz_map: resolution {resolution}, extent {extent}; expected at least 2, and > 0")
    if (points is None) != (costs is None) or (points is None) != (beta is None):
        raise TrajectoryError("lipschitz_map: give points, costs and beta together for a prediction, or none of them")
    axis = np.linspace(-extent, extent, resolution)
    s = torch.as_tensor(axis, dtype=origin.dtype, device=origin.device)
    first, second = (grid.reshape(-1, *[1] * origin.dim()) for grid in torch.meshgrid(s, s, indexing="ij"))
    X = origin + first * u + second * v
    found, shape = patterns(graph, model, X), (resolution, resolution)
    predictions, statement = np.full(len(found), np.nan), None
    if points is not None and costs is not None and beta is not None:
        statement = theorem2(
            graph, model, X, points, costs, beta=beta, gamma=gamma, consistent=consistent, trajectory=trajectory,
            rows=rows,
        )
        predictions = statement.steps["upper"]
    lam, regions = found.lam.reshape(shape), _numbers(found).reshape(shape)
    return LipschitzMap(axis, lam, regions, predictions.reshape(shape), statement)


def _numbers(found: Patterns) -> NDArray[np.intp]:
    """For each sample the number of its pattern, in the order of first appearance."""
    rows, positions = found.distinct()
    rank = np.empty(len(rows), dtype=np.intp)
    rank[np.argsort(rows)] = np.arange(len(rows))
    return rank[positions]
