"""Pictures and sentences of a training run's trajectory."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from covergraph.report.numbers import plain
from covergraph.trajectory.slices import LipschitzMap
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

LAMBDA, MOVES, OURS, BOUND, SILENT = "#4477aa", "#ee8866", "#222222", "#c0392b", "#c8c8c8"
MARK = ("-", "o-")
"""Lines of one or two points get dots."""
BINS = 300
"""A longer run is drawn by the median, the least and the largest value of so many stretches."""


def plot_trajectory(trajectory: Trajectory) -> Figure:
    """Four panels: λ_t with the product of norms; a_t between Theorem L1's sides, and φ; lengths; loss and variance."""
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    slopes, moves, lengths, losses = figure.subplots(2, 2, sharex=True).flat
    _plot_slopes(slopes, trajectory)
    _plot_moves(moves, trajectory)
    _plot_lengths(lengths, trajectory)
    _plot_losses(losses, trajectory)
    for ax in (lengths, losses):
        ax.set_xlabel("iteration $t$")
    return figure


def _plot_slopes(ax: Axes, t: Trajectory) -> None:
    _line(ax, t["step"], t.lam, LAMBDA, r"$\lambda_t$")
    product = t["log_product"]
    known = np.isfinite(product)
    if known.any():
        ax.plot(t["step"][known], np.exp(np.minimum(product[known], 700)), color=BOUND, label="product of norms")
    _finish(ax, "local Lipschitz constant at $x^t$", log=True)


def _plot_moves(ax: Axes, t: Trajectory) -> None:
    values, name = t.normalized, r"$\|b^{t+1}-b^t\|/(\alpha_t\varepsilon_t)$"
    if not t.setting.plain:
        values, name = t.normalized_gradient, r"$\|\partial\ell/\partial b\|/\varepsilon_t$"
    _line(ax, t["step"], values, MOVES, name)
    lower = ("pull", "top_upper", r"$\lambda_t/\sigma_1$", ":")
    upper = ("pulls", "bottom_lower", r"$\lambda_t/\sigma_{\min}$", "--")
    for pulls, divisor, label, style in (lower, upper) if t.layer.shared == 1 else ():
        scale = t["epsilon"] * t[divisor]
        side = np.divide(t[pulls], scale, out=np.full_like(scale, np.nan), where=scale > 0)
        if np.isfinite(side).sum() > 0.9 * np.isfinite(t.lam).sum() > 0:
            x, (_, middle, _) = _binned(t["step"], side)
            ax.plot(x, middle, style, color=OURS, linewidth=1, label=label)
    if t.setting.plain:
        ax.plot(t["step"], t.phi, color=BOUND, linewidth=1.2, label=r"$\varphi(t)$")
    _finish(ax, "normalized steps of the bias", log=True)


def _plot_lengths(ax: Axes, t: Trajectory) -> None:
    ax.plot(t["step"], t.length, color=MOVES, label=r"length $\sum\|b^{s+1}-b^s\|$")
    ax.plot(t["step"], t["distance"], color=LAMBDA, label=r"distance $\|b^t-b^0\|$")
    _finish(ax, "how far the bias went", log=False)


def _plot_losses(ax: Axes, t: Trajectory) -> None:
    _line(ax, t["step"], t["loss"], OURS, "loss at $x^t$")
    stops, running = t.moments.stops, t.running_variance()
    if len(stops):
        at, style = t["step"][stops.astype(int) - 1], MARK[len(stops) < 3]
        ax.plot(at, running, style, color=MOVES, label="variance of the bias so far")
    _finish(ax, "loss and variance", log=True)


def _line(ax: Axes, steps: Floats, values: Floats, color: str, label: str) -> None:
    """The values; of long runs the median, with a band from the least to the largest."""
    x, (low, middle, high) = _binned(steps, values)
    if len(x):
        ax.plot(x, middle, color=color, linewidth=1, label=label)
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def _binned(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Places (m,), and (3, m): least, median and largest value of each stretch that has any."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    parts = [part for part in np.array_split(np.arange(len(steps)), BINS) if len(part)]
    x = np.array([steps[part].mean() for part in parts])
    ends = np.array([(values[p].min(), np.median(values[p]), values[p].max()) for p in parts]).reshape(-1, 3)
    return x, ends.T


def _finish(ax: Axes, title: str, log: bool) -> None:
    ax.set_title(title, size=11)
    positive = [line for line in ax.lines if np.any(np.nan_to_num(np.asarray(line.get_ydata(), dtype=float)) > 0)]
    if log and positive:
        ax.set_yscale("log")
    if ax.lines:
        ax.legend(frameon=False, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def plot_lipschitz_map(found: LipschitzMap, points: Floats | None = None) -> Figure:
    """λ on the plane, and Theorem 2's bound on the same scale, gray without a statement; dots at `points` (m, 2)."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    norm = scale(found)
    draw_slopes(left, found, found.lam, norm, points)
    mesh = draw_slopes(right, found, found.predictions, norm, points)
    left.set_title(rf"$\lambda$ on {found.count} regions", size=11)
    right.set_title(f"Theorem 2: a statement on {100 * found.share:.1f} % of the grid", size=11)
    figure.colorbar(mesh, ax=[left, right], shrink=0.9)
    return figure


def scale(found: LipschitzMap) -> Normalize:
    """One scale of colors for λ and the bounds: logarithmic where the positive ones span more than a factor of 100."""
    values = np.concatenate([found.lam.ravel(), found.predictions[~np.isnan(found.predictions)]])
    high = float(values.max())
    low = float(values[values > 0].min()) if high > 0 else 0.0
    if high > 100 * low > 0:
        return LogNorm(max(low, high / 1e6), high, clip=True)  # clip: λ = 0 takes the color of the least
    return Normalize(float(values.min()), high)


def draw_slopes(ax: Axes, found: LipschitzMap, values: Floats, norm: Normalize, points: Floats | None) -> QuadMesh:
    """Values on the grid, s to the right and t upwards, with the borders between regions."""
    ax.set_facecolor(SILENT)
    mesh = ax.pcolormesh(found.axis, found.axis, np.ma.masked_invalid(values).T, norm=norm, cmap="viridis")
    mesh.set_rasterized(True)
    ax.add_collection(LineCollection(list(_borders(found)), colors="white", linewidths=0.25, alpha=0.4))
    if points is not None:
        ax.plot(*np.asarray(points).T, "o", color="white", markersize=3, markeredgecolor="black", markeredgewidth=0.6)
    ax.set_aspect("equal")
    return mesh


def _borders(found: LipschitzMap) -> Floats:
    """The sides (n, 2, 2) that cells of the grid share with cells of other regions."""
    axis, half, sides = found.axis, (found.axis[1] - found.axis[0]) / 2, []
    for along, regions in enumerate((found.regions, found.regions.T)):
        i, j = np.nonzero(regions[1:] != regions[:-1])
        ends = [np.stack([axis[i] + half, axis[j] + end], axis=1) for end in (-half, half)]
        sides.append(np.stack(ends, axis=1)[..., ::-1 if along else 1])
    return np.concatenate(sides)


def explain_trajectory(t: Trajectory) -> str:
    """What was watched, how far it went, what λ_t was; and what f is, because ε_t and λ_t refer to it."""
    f = f"the model's output (its last operation: {t.setting.last})" if t.setting.last else "the model's output"
    told = [
        f"{len(t)} steps of {t.setting.optimizer}, watched at {t.layer.bias}; ε_t and λ_t are those of f, {f}.",
        f"The bias went {plain(float(np.nansum(t['move'])), 3)} in all and ended "
        f"{plain(float(t['distance'][-1]), 3) if len(t) else 'nowhere'} from its start.",
    ]
    if np.isfinite(t.lam).any():
        last = t.lam[np.isfinite(t.lam)]
        told.append(
            f"λ_t had the median {plain(float(np.median(last)), 3)}, at most {plain(float(last.max()), 3)}"
            + (f"; the product of norms was {plain(_last_product(t), 3)} at the end." if _has_product(t) else ".")
        )
    if t.setting.scaled:
        told.append("A gradient scaler scaled the losses; the columns are divided by its scale.")
    if t.setting.closures:
        told.append(
            "The closure ran several times a step: the loss, ε_t, λ_t and the gradient are those of its first run, at "
            "b^t; the move is that of the whole step."
        )
    if t.setting.stopped:
        told.append(f"Recording stopped after {len(t)} steps, before the training did: {t.setting.stopped}.")
    return " ".join(told)


def _has_product(t: Trajectory) -> bool:
    return bool(np.isfinite(t["log_product"]).any())


def _last_product(t: Trajectory) -> float:
    known = t["log_product"][np.isfinite(t["log_product"])]
    return float(np.exp(min(known[-1], 700)))
