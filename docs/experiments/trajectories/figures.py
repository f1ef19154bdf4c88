"""The paper's Figures 2 and 3 and those of its appendix, from the results of run.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from epochs import Arrays
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measures import by_complexity, ended, final, symbol, variance
from tasks import Task

from covergraph.report.trajectories import draw_slopes, scale
from covergraph.trajectory import LipschitzMap

COLORS = ("#440154", "#31688e", "#35b779", "#e8a400")  # viridis, its yellow darkened: told apart by color-blind eyes
STYLES = ("-", "--", "-.", ":")
TITLES = {"sinusoid": "MLP, sinusoids", "images": "CNN, images"}
Panel = tuple[Task, Arrays]


def label(task: Task, i: int) -> str:
    c = task.complexities[i]
    return f"f = {c:g}" if task.name == "sinusoid" else f"{100 * c:.0f} % corrupted"


def spread(axes: Axes, panel: Panel, columns: np.ndarray) -> None:
    """Median and quartiles over the seeds that still train, while half of them do; columns (epochs, runs)."""
    task, found = panel
    block = max(1, len(columns) // 150)
    rows = columns[: len(columns) // block * block].reshape(-1, block, columns.shape[1])
    counted = np.isfinite(rows).all(1)
    values = by_complexity(found, np.where(counted, np.nan_to_num(rows).mean(1), np.nan))
    for i in range(values.shape[1]):
        shown = np.isfinite(values[:, i]).sum(1) >= values.shape[2] / 2
        low, middle, high = np.nanpercentile(values[shown, i], (25, 50, 75), axis=1)
        epochs = (np.flatnonzero(shown) + 1) * block
        axes.plot(epochs, middle, STYLES[i], color=COLORS[i], label=label(task, i), linewidth=1.6)
        axes.fill_between(epochs, low, high, color=COLORS[i], alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")


def dots(axes: Axes, panel: Panel, per_run: np.ndarray) -> None:
    """Every seed, and median and quartiles beside, by complexity."""
    task, found = panel
    for i, values in enumerate(by_complexity(found, per_run)):
        low, middle, high = np.percentile(values, (25, 50, 75))
        axes.plot(np.full(len(values), i - 0.12), values, "o", color=COLORS[i], alpha=0.45, markersize=4)
        ends = [[middle - low], [high - middle]]
        axes.errorbar(i + 0.12, middle, ends, color=COLORS[i], fmt="D", markersize=5, capsize=3)
    axes.set_xticks(range(len(task.complexities)), [f"{c:g}" for c in task.complexities])
    axes.set_xlabel(task.complexity)


def path(axes: Axes, panel: Panel) -> None:
    """Held-out loss along the cumulative trajectory of each run; a mark where it ends."""
    task, found = panel
    length = np.cumsum(np.nan_to_num(found["length"]), 0)
    complexities = np.unique(found["complexity"], return_inverse=True)[1]
    for run, i in enumerate(complexities):
        seen = np.isfinite(found["held"][:, run])
        x, y = length[seen, run], found["held"][seen, run]
        axes.plot(x, y, color=COLORS[i], alpha=0.3, linewidth=0.8)
        axes.plot(x[-1], y[-1], "osD^"[i], color=COLORS[i], markeredgecolor="black", markeredgewidth=0.4, markersize=5)
    axes.set(xlabel="cumulative trajectory $\\sum a_t$", ylabel="held-out loss", xscale="log")
    if task.name == "sinusoid":
        axes.set_yscale("log")


def figure_2(panels: Mapping[str, Panel]) -> Figure:
    """Training loss, per-epoch trajectory, and held-out loss against length, both tasks."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.subplots(2, 3)
    for row, (name, panel) in zip(grid, panels.items(), strict=True):
        task, found = panel
        spread(row[0], panel, found["loss"])
        spread(row[1], panel, found["length"])
        path(row[2], panel)
        row[0].set(ylabel=f"training loss ({'MSE' if name == 'sinusoid' else 'BCE'})", yscale="log")
        row[0].axhline(task.fitted, color="gray", linewidth=0.8)
        row[1].set(ylabel="per-epoch trajectory $\\sum_{epoch} a_t$", ylim=(0, None))
        row[0].legend(fontsize=9)
        titles = ("training slows", "the trajectory lengthens", "length and held-out loss")
        for axes, letter, title in zip(row, "abc" if name == "sinusoid" else "def", titles, strict=True):
            axes.set_title(f"({letter}) {TITLES[name]}: {title}", fontsize=10)
            axes.grid(alpha=0.3)
    return figure


def figure_3(panels: Mapping[str, Panel], steps: Mapping[str, int]) -> Figure:
    """Variance of the bias over the last ten epochs, and distance to initialization."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    for row, (name, panel) in zip(figure.subplots(2, 3), panels.items(), strict=True):
        found = panel[1]
        dots(row[0], panel, variance(found, steps[name]))
        spread(row[1], panel, found["distance"])
        dots(row[2], panel, final(found["distance"]))
        row[0].set(ylabel="variance of $b_1$, last 10 epochs", yscale="log")
        row[1].set(ylabel="$\\|b_1 - b_1^0\\|$", ylim=(0, None))
        row[2].set(ylabel="$\\|b_1 - b_1^0\\|$ at the end", ylim=(0, None))
        row[1].legend(fontsize=9)
        loss = "MSE" if name == "sinusoid" else "BCE, A.2"
        titles = ("variance", f"distance ({loss})", f"distance ({loss})")
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(f"{TITLES[name]}: {title}", fontsize=10)
            axes.grid(alpha=0.3)
    return figure


def cumulative(panels: Mapping[str, Panel]) -> Figure:
    """Length of the trajectory so far, normalized and not (A.4)."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    columns = (("length", "$\\sum_{s\\leq t} a_s$"), ("move", "$\\sum_{s\\leq t} \\|\\Delta b_1\\|$"))
    for row, (name, panel) in zip(figure.subplots(2, 2), panels.items(), strict=True):
        for axes, (column, ylabel) in zip(row, columns, strict=True):
            found = panel[1][column]
            spread(axes, panel, np.where(np.isfinite(found), np.nancumsum(found, 0), np.nan))
            axes.set(ylabel=ylabel, ylim=(0, None))
            axes.set_title(f"{TITLES[name]}: {'normalized' if column == 'length' else 'plain'} length", fontsize=10)
            axes.grid(alpha=0.3)
        row[0].legend(fontsize=9)
    return figure


def variants(groups: Mapping[str, Mapping[str, Panel]]) -> Figure:
    """The mean per-epoch trajectory ‖∂ℓ/∂b‖/ε of each variant, by complexity; groups[task][variant]."""
    width = max(len(of_task) for of_task in groups.values())
    figure = Figure(figsize=(13, 5), layout="constrained")
    grid = figure.subplots(len(groups), width, squeeze=False)
    for row, (name, of_task) in zip(grid, groups.items(), strict=True):
        for axes, (variant, panel) in zip(row, of_task.items(), strict=False):
            dots(axes, panel, np.nansum(panel[1]["length_gradient"], 0, dtype=float) / ended(panel[1]))
            axes.set_title(variant, fontsize=9)
            axes.set_ylim(0, None)
            axes.set_xlabel(panel[0].complexity, fontsize=8)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"{TITLES[name]}\nper-epoch $\\sum\\|\\partial_b\\ell\\|/\\varepsilon$", fontsize=9)
        for axes in row[len(of_task) :]:
            axes.set_visible(False)
    return figure


def parameters(panels: Mapping[str, Panel]) -> Figure:
    """The mean per-epoch trajectory of every parameter, by complexity, relative to the least complex task's."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (name, panel) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        task, found = panel
        watched = [key for key in found if key.startswith("of ")]
        for key in watched:
            means = by_complexity(found, np.nansum(found[key], 0, dtype=float) / ended(found)).mean(1)
            bias = key.endswith("bias")
            axes.plot(means / means[0], "-o" if bias else "--s", markersize=4, label=f"${symbol(found, key)}$")
        axes.set_xticks(range(len(task.complexities)), [f"{c:g}" for c in task.complexities])
        axes.set(xlabel=task.complexity, ylabel="per-epoch trajectory, relative", yscale="log")
        axes.set_title(f"{TITLES[name]}: other parameters", fontsize=10)
        axes.legend(fontsize=8, ncols=2)
        axes.grid(alpha=0.3)
    return figure


def maps(found: Arrays) -> Figure:
    """λ and Theorem 2's prediction on the plane of the data, one column a frequency."""
    runs = len(found["complexity"])
    figure = Figure(figsize=(3 * runs + 0.4, 6.8), layout="constrained")
    grid = figure.subplots(2, runs, sharex=True, sharey=True, squeeze=False)
    for i in range(runs):
        drawn = LipschitzMap(*(found[name][i] for name in ("axis", "lam", "regions", "predictions")))
        norm, points = scale(drawn), found["points"][i]
        draw_slopes(grid[0, i], drawn, drawn.lam, norm, points)
        mesh = draw_slopes(grid[1, i], drawn, drawn.predictions, norm, points)
        grid[0, i].set_title(f"f = {found['complexity'][i]:g}: $\\lambda$ on {drawn.count} regions", fontsize=10)
        grid[1, i].set_title(f"Theorem 2, on {100 * drawn.share:.1f} % of the grid", fontsize=10)
        grid[1, i].set_xlabel("$z_1$")
        figure.colorbar(mesh, ax=list(grid[:, i]), location="bottom", aspect=30, shrink=0.85, pad=0.02)
    for row in grid:
        row[0].set_ylabel("$z_2$")
    return figure
