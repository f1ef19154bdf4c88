"""Covering numbers of the data, each saying what it is: greedy of the sample, or the form of a manifold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from covergraph.errors import TrajectoryError
from covergraph.kinds import TRAJECTORIES, require
from covergraph.values import Floats


@dataclass(frozen=True)
class CoveringNumber:
    """log N(𝒳; ℓ2; radius), and of which 𝒳, known how."""

    log_number: float
    radius: float
    what: str

    @property
    def number(self) -> float:
        """N, infinite where it overflows."""
        return math.exp(self.log_number) if self.log_number < 709 else math.inf


def greedy_cover(X: Floats, radius: float) -> CoveringNumber:
    """Balls around samples X (n, …) chosen farthest first until every sample is within `radius` of a center.

    An upper bound of N for the sample itself (the true number at `radius`/2 is at least as large: the centers are more
    than `radius` apart). It says nothing of points that were not sampled.
    """
    require("greedy_cover", TRAJECTORIES, X=X, radius=radius)
    points = _flat(X)
    if not 0 < radius < math.inf:
        raise TrajectoryError(f"greedy cover: radius {radius}, expected > 0 and finite")
    distance, count = np.full(len(points), np.inf), 0
    while distance.max() > radius:
        distance = np.minimum(distance, np.linalg.norm(points - points[np.argmax(distance)], axis=1))
        count += 1
    what = f"greedy cover of {len(points)} samples: an upper bound for the sample itself, not for unseen points"
    return CoveringNumber(math.log(count), radius, what)


def manifold_cover(radius: float, dimension: float, constant: float) -> CoveringNumber:
    """N = (C_M/r)^k of a C_M-regular k-manifold (Verma, COLT 2012); at least 1. C_M is the caller's."""
    require("manifold_cover", TRAJECTORIES, radius=radius, dimension=dimension, constant=constant)
    if not all(0 < value < math.inf for value in (radius, dimension, constant)):
        raise TrajectoryError(
            f"manifold cover: radius {radius}, dimension {dimension}, constant {constant}; expected all > 0, finite"
        )
    what = f"(C_M/r)^k with k = {dimension:.3g} and C_M = {constant:.3g}: assumed, not measured"
    return CoveringNumber(max(dimension * math.log(constant / radius), 0.0), radius, what)


def intrinsic_dimension(X: Floats, kept: float = 0.9) -> float:
    """Two-NN estimate of the intrinsic dimension of samples X (n, …) (Facco et al., Scientific Reports 7, 2017).

    With μ = r_2/r_1, the ratio of the distances to the second and to the first neighbor, -log(1 - F(μ)) = k log μ: the
    slope through the origin over the `kept` smallest of the sorted μ. Repeated samples count once. An estimate.
    """
    require("intrinsic_dimension", TRAJECTORIES, X=X, kept=kept)
    if not 0 < kept <= 1:
        raise TrajectoryError(f"intrinsic dimension: kept {kept}, expected a share of the samples in (0, 1]")
    points = np.unique(_flat(X), axis=0)
    if len(points) < 4:
        raise TrajectoryError(f"intrinsic dimension: {len(points)} distinct samples, expected at least 4; or give k")
    nearest = np.array([np.partition(np.linalg.norm(points - p, axis=1), 2)[1:3] for p in points])
    if not (nearest > 0).all():
        raise TrajectoryError("intrinsic dimension: some samples are as good as equal; merge them, or give k")
    log_ratio = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    used = max(int(kept * len(points)), 1)
    survival = -np.log1p(-np.arange(1, used + 1) / len(points))
    spread = float(log_ratio[:used] @ log_ratio[:used])
    if spread == 0:
        raise TrajectoryError("intrinsic dimension: all neighbors are equally far, as on a grid; add noise or give k")
    return float(log_ratio[:used] @ survival) / spread


def _flat(X: Floats) -> Floats:
    points = np.asarray(X, dtype=np.float64)
    if points.ndim < 2 or len(points) == 0 or not np.isfinite(points).all():
        raise TrajectoryError(f"covering: samples of shape {points.shape}, expected (n, …) with n > 0, all finite")
    return points.reshape(len(points), -1)
