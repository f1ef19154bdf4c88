"""One number a run: what each claim of the paper's Section 6 is about, and whether it grows with complexity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from epochs import Arrays
from scipy.stats import spearmanr
from tasks import Task

LAST = 10  # epochs: "close to convergence"


@dataclass(frozen=True)
class Order:
    """Four means, whether they grow strictly, and in how many seeds the four values do."""

    means: np.ndarray
    grows: bool
    seeds: int
    of: int

    @property
    def cell(self) -> str:
        return f"{'yes' if self.grows else '**no**'}, {self.seeds}/{self.of}"


def order(values: np.ndarray, shown: np.ndarray | None = None) -> Order:
    """Of values (complexities, seeds); `shown`: what the means are printed of, if not of these."""
    means, rises = values.mean(1), np.all(np.diff(values, axis=0) > 0, axis=0)
    printed = means if shown is None else shown.mean(1)
    return Order(printed, bool(np.all(np.diff(means) > 0)), int(rises.sum()), values.shape[1])


def by_complexity(found: Arrays, per_run: np.ndarray) -> np.ndarray:
    """(…, runs) as (…, complexities, seeds): runs are stored complexity by complexity."""
    return per_run.reshape(*per_run.shape[:-1], len(np.unique(found["complexity"])), -1)


def symbol(found: Arrays, column: str) -> str:
    """The paper's name of a watched parameter, from a column "of 4.bias": b_l or W_l of the l-th layer with a bias."""
    layers = sorted({int(name[3:].split(".")[0]) for name in found if name.startswith("of ")})
    layer, kind = column[3:].split(".")
    return f"{'b' if kind == 'bias' else 'W'}_{layers.index(int(layer)) + 1}"


def cut(found: Arrays, seeds: int, epochs: int) -> Arrays:
    """The first seeds and epochs of a group, to set beside a shorter one."""
    kept = found["seed"] < seeds
    return {
        name: values[kept] if name in ("seed", "complexity") else values[:epochs, kept]
        for name, values in found.items() if values.ndim
    }


def ended(found: Arrays) -> np.ndarray:
    """How many epochs each run took part in."""
    return np.isfinite(found["loss"]).sum(0)


def final(columns: np.ndarray) -> np.ndarray:
    """The last finite entry of each column (epochs, runs)."""
    rows = len(columns) - 1 - np.argmax(np.isfinite(columns)[::-1], axis=0)
    return columns[rows, np.arange(columns.shape[1])]


def fitted(found: Arrays, threshold: float) -> np.ndarray:
    """The epoch after which the training loss was first below the threshold, inf where it never was (runs,)."""
    below = found["loss"] < threshold
    return np.where(below.any(0), below.argmax(0) + 1.0, np.inf)


def tail(found: Arrays, name: str) -> np.ndarray:
    """The mean of a column over each run's last ten epochs."""
    ends = ended(found)
    return np.array([found[name][max(0, e - LAST) : e, i].mean(dtype=float) for i, e in enumerate(ends)])


def variance(found: Arrays, steps: int) -> np.ndarray:
    """mean ‖b - mean b‖² over the iterates of each run's last ten epochs, of `steps` steps each."""
    result = []
    for i, e in enumerate(ended(found)):
        rows = slice(max(0, e - LAST), e)
        means, scatters = found["mean"][rows, i].astype(float), found["scatter"][rows, i].astype(float)
        result.append(scatters.mean() / steps + np.mean(np.sum((means - means.mean(0)) ** 2, 1)))
    return np.array(result)


def claims(found: Arrays, task: Task, steps: int) -> dict[str, Order]:
    """The claims by name, as orders of numbers by run; a run that never fits counts with all its epochs.

    Among runs that never fit, the one with the larger training loss is the slower one.
    """
    ends, epochs = ended(found), fitted(found, task.fitted)
    never = np.isinf(epochs)
    slow = np.where(never, len(found["loss"]) + final(found["loss"]), epochs)
    values = {
        "per-epoch trajectory Σa, mean of all epochs": np.nansum(found["length"], 0, dtype=float) / ends,
        "the same, last 10 epochs": tail(found, "length"),
        "per-epoch path Σ‖Δb‖, mean of all epochs": np.nansum(found["move"], 0, dtype=float) / ends,
        "total trajectory Σa (A.4)": np.nansum(found["length"], 0, dtype=float),
        "held-out loss at the end": final(found["held"]),
        "variance of b, last 10 epochs": variance(found, steps),
        "distance ‖b - b⁰‖ at the end": final(found["distance"]),
    }
    first = order(by_complexity(found, slow), by_complexity(found, np.where(never, len(found["loss"]), epochs)))
    name = f"epochs until the training loss is below {task.fitted:g}"
    return {name: first} | {key: order(by_complexity(found, value)) for key, value in values.items()}


def together(found: Arrays, name: str = "length") -> float:
    """Spearman's ρ over all runs between the mean per-epoch trajectory and the held-out loss at the end."""
    return float(spearmanr(np.nansum(found[name], 0) / ended(found), final(found["held"])).statistic)
