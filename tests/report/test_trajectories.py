"""What is drawn and said of a trajectory is what its columns hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import LogNorm

from covergraph.report import trajectories
from covergraph.trajectory.slices import LipschitzMap
from covergraph.trajectory.trajectory import COLUMNS, Layer, Moments, Setting, Trajectory
from covergraph.values import Floats

T = 40


def made(steps: int = T, **columns: Floats) -> Trajectory:
    """λ_t = 2, a_t = 1, σ_1 = 4, σ_min = 1, moves of length 0.01, moments at every tenth step."""
    ones = np.ones(steps)
    values: Mapping[str, Floats] = {
        **dict.fromkeys(COLUMNS, np.full(steps, np.nan)), "step": np.arange(steps, dtype=float), "loss": 0.5 * ones,
        "alpha": 0.1 * ones, "samples": ones, "epsilon": 0.1 * ones, "pull": 0.2 * ones, "pulls": 0.2 * ones,
        "gradient": 0.1 * ones, "move": 0.01 * ones, "residual": 0 * ones, "distance": 0.01 * (np.arange(steps) + 1.0),
        "bias": ones, "top_lower": 4 * ones, "top_upper": 4 * ones, "bottom_lower": ones, "bottom_upper": ones,
        **columns,
    }
    stops = np.arange(10, steps + 1, 10, dtype=float)
    moments = Moments(stops, np.zeros((len(stops), 3)), 10.0 * np.ones(len(stops)))
    setting = Setting("SGD(lr=0.1)", plain=True, last="sigmoid")
    return Trajectory(Layer("fc1", "linear", "fc1.weight", "fc1.bias", 3, 3), setting, values, moments)


def drawn(trajectory: Trajectory) -> dict[str, Floats]:
    """The lines of the figure by label."""
    axes = trajectory.plot().axes
    return {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for ax in axes for line in ax.lines}


def test_lines_show_the_columns() -> None:
    lines = drawn(made(log_product=np.full(T, np.log(7.0))))
    expected = {
        r"$\lambda_t$": 2.0, "product of norms": 7.0, r"$\|b^{t+1}-b^t\|/(\alpha_t\varepsilon_t)$": 1.0,
        r"$\lambda_t/\sigma_1$": 0.5, r"$\lambda_t/\sigma_{\min}$": 2.0, r"$\varphi(t)$": 1.0, "loss at $x^t$": 0.5,
        "variance of the bias so far": 1.0,
    }
    for label, value in expected.items():
        np.testing.assert_allclose(lines[label], value, err_msg=label)
    np.testing.assert_allclose(lines[r"length $\sum\|b^{s+1}-b^s\|$"], 0.01 * (np.arange(T) + 1))
    np.testing.assert_allclose(lines[r"distance $\|b^t-b^0\|$"], 0.01 * (np.arange(T) + 1))


def test_sides_that_say_nothing_are_not_drawn() -> None:
    lines = drawn(made(bottom_lower=np.zeros(T)))
    assert r"$\lambda_t/\sigma_{\min}$" not in lines
    assert r"$\lambda_t/\sigma_1$" in lines


def test_long_runs_are_drawn_by_median_and_band() -> None:
    steps = 10 * trajectories.BINS
    x, (low, middle, high) = trajectories._binned(np.arange(steps, dtype=float), np.arange(steps, dtype=float) % 10)
    assert len(x) == trajectories.BINS
    assert (set(low), set(middle), set(high)) == ({0.0}, {4.5}, {9.0})


@pytest.mark.parametrize("steps", [0, 1, 9])
def test_short_runs_can_be_drawn_and_told(steps: int) -> None:
    assert made(steps).explain().startswith(f"{steps} steps of SGD(lr=0.1)")
    assert len(made(steps).plot().axes) == 4


def test_the_sentences_say_what_f_is_and_how_far_the_bias_went() -> None:
    told = made(log_product=np.full(T, np.log(7.0))).explain()
    words = ("fc1.bias", "sigmoid", "went 0.4 in all", "ended 0.4 from its start", "median 2", "product of norms was 7")
    for word in words:
        assert word in told


def drawn_map(lam: Floats, predictions: Floats) -> tuple[list[QuadMesh], list[LineCollection], list[str]]:
    """Meshes, borders and titles of a map of two regions: s = -1, and the others."""
    found = LipschitzMap(np.array([-1.0, 0.0, 1.0]), lam, np.array([[0] * 3, [1] * 3, [1] * 3]), predictions)
    axes = found.plot(np.array([[0.5, -1.0]])).axes[:2]
    assert all([list(line.get_xydata()[0]) for line in ax.lines] == [[0.5, -1.0]] for ax in axes)
    shown = [child for ax in axes for child in ax.collections]
    meshes = [child for child in shown if isinstance(child, QuadMesh)]
    borders = [child for child in shown if isinstance(child, LineCollection)]
    return meshes, borders, [ax.get_title() for ax in axes]


def test_a_map_shows_slopes_bounds_and_borders() -> None:
    lam = np.array([[1.0] * 3, [2.0] * 3, [2.0] * 3])
    bounds = np.where(lam == 1, 3.0, np.nan)
    (left, right), borders, titles = drawn_map(lam, bounds)
    np.testing.assert_array_equal(left.get_array(), lam.T)  # s to the right
    np.testing.assert_array_equal(np.ma.getmaskarray(right.get_array()), np.isnan(bounds).T)
    np.testing.assert_array_equal(right.get_array().compressed(), 3.0)
    for mesh in (left, right):
        assert (mesh.norm.vmin, mesh.norm.vmax) == (1, 3) and not isinstance(mesh.norm, LogNorm)
    for border in borders:
        sides = np.array(border.get_segments())
        np.testing.assert_array_equal(sides, [[[-0.5, t - 0.5], [-0.5, t + 0.5]] for t in (-1, 0, 1)])
    assert "2 regions" in titles[0] and "33.3 %" in titles[1]


def test_borders_in_the_other_direction() -> None:
    found = LipschitzMap(np.array([0.0, 1.0]), np.ones((2, 2)), np.array([[0, 1], [0, 1]]), np.full((2, 2), np.nan))
    np.testing.assert_array_equal(trajectories._borders(found), [[[-0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [1.5, 0.5]]])


def test_a_map_of_large_spread_is_logarithmic_and_a_constant_one_can_be_drawn() -> None:
    lam = np.array([[0.0] * 3, [1.0] * 3, [101.0] * 3])
    (left, right), *_ = drawn_map(lam, np.full((3, 3), np.nan))
    assert isinstance(left.norm, LogNorm) and left.norm is right.norm and (left.norm.vmin, left.norm.vmax) == (1, 101)
    assert float(left.norm(0.0)) == 0  # not masked: gray says that there is no statement
    assert np.ma.getmaskarray(right.get_array()).all()
    drawn_map(np.zeros((3, 3)), np.zeros((3, 3)))
