"""Covering numbers and intrinsic dimension, against brute force and known manifolds."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from covergraph.errors import TrajectoryError
from covergraph.trajectory.covering import greedy_cover, intrinsic_dimension, manifold_cover


def least_cover(points: np.ndarray, radius: float) -> int:
    """The least number of balls centered at samples that hold all samples, by trying all sets."""
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= radius
    for k in range(1, len(points) + 1):
        if any(near[list(chosen)].any(axis=0).all() for chosen in combinations(range(len(points)), k)):
            return k
    raise AssertionError


@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.05, 3.0))
@examples(60)
def test_the_greedy_cover_is_between_the_least_covers_at_r_and_at_half_of_it(seed: int, n: int, radius: float) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 2))
    found = greedy_cover(points, radius)
    assert least_cover(points, radius) <= round(found.number) <= least_cover(points, radius / 2)
    assert "the sample itself" in found.what


def test_covers_by_hand() -> None:
    line = np.arange(10.0)[:, None]
    assert greedy_cover(line, 0.5).number == pytest.approx(10)
    assert greedy_cover(line, 100.0).number == pytest.approx(1)
    assert greedy_cover(np.zeros((5, 2, 3)), 0.1).number == pytest.approx(1)  # images are flattened
    with pytest.raises(TrajectoryError, match="radius 0"):
        greedy_cover(line, 0.0)
    with pytest.raises(TrajectoryError, match="all finite"):
        greedy_cover(np.full((2, 2), np.nan), 1.0)


def test_the_form_of_a_manifold_in_log_space() -> None:
    assert manifold_cover(0.5, 3, 2.0).number == pytest.approx(64)
    assert manifold_cover(5.0, 3, 2.0).number == 1
    huge = manifold_cover(1e-3, 1000, 1.0)
    assert huge.number == math.inf and huge.log_number == pytest.approx(1000 * math.log(1000))
    with pytest.raises(TrajectoryError, match="expected all > 0"):
        manifold_cover(0.5, 0, 2.0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_intrinsic_dimension_of_an_embedded_cube(k: int) -> None:
    rng = np.random.default_rng(k)
    isometry = np.linalg.qr(rng.normal(size=(10, k)))[0]
    found = intrinsic_dimension(rng.random((800, k)) @ isometry.T)
    assert found == pytest.approx(k, rel=0.2)


def test_the_intrinsic_dimension_of_a_sphere_with_repeated_samples() -> None:
    points = np.random.default_rng(0).normal(size=(600, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert intrinsic_dimension(np.concatenate([points, points])) == pytest.approx(2, rel=0.2)
    with pytest.raises(TrajectoryError, match="at least 4"):
        intrinsic_dimension(points[:3])
    with pytest.raises(TrajectoryError, match="equally far"):
        intrinsic_dimension(np.arange(20.0)[:, None])
