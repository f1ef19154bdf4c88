"""What the steps of an epoch left, and the statistics of it; R runs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]


@dataclass
class Record:
    """What consecutive steps left: lists of tensors over R runs, batches of B, and n entries of b_1."""

    start: Tensor  # b before the first step (R, n)
    slopes: list[Tensor] = field(default_factory=list)  # ∂ℓ/∂ŷ (R, B)
    pulls: list[Tensor] = field(default_factory=list)  # ∂ℓ/∂x (R, B, n)
    gradients: list[Tensor] = field(default_factory=list)  # ∂ℓ/∂b (R, n)
    biases: list[Tensor] = field(default_factory=list)  # b after the step (R, n)
    norms: dict[str, list[Tensor]] = field(default_factory=dict)  # ‖∂ℓ/∂w‖ of every parameter (R,), if wished


def columns(record: Record, rate: float, plain: bool) -> Arrays:
    """By step (T, R): ε_t, pull, pulls, ‖∂ℓ/∂b‖, ‖Δb‖, a_t, ‖∂ℓ/∂b‖/ε_t, λ_t, and Theorem 1's value and rounding.

    NaN where ε_t = 0. W_1 = I, so σ_1 = σ_min = 1 and the theorem's sides are pull/ε_t and pulls/ε_t, one number λ_t
    for a batch of one. Under another optimizer than plain SGD the value is ‖∂ℓ/∂b‖/ε_t. "of w": ‖∂ℓ/∂w‖/ε_t.
    """
    biases = torch.stack([record.start, *record.biases]).double()
    pulls, slopes = torch.stack(record.pulls).double(), torch.stack(record.slopes).double()
    epsilon = slopes.abs().sum(2)
    norms = {
        "pull": pulls.sum(2).norm(dim=2),
        "pulls": pulls.norm(dim=3).sum(2),
        "gradient": torch.stack(record.gradients).double().norm(dim=2),
        "move": biases.diff(dim=0).norm(dim=2),
    }
    norms |= {f"of {name}": torch.stack(of).double() for name, of in record.norms.items()}
    ratios = {name: torch.where(epsilon > 0, norm / epsilon, torch.nan) for name, norm in norms.items()}
    unit = torch.finfo(record.start.dtype).eps
    of_move = unit * (biases[1:].norm(dim=2) + norms["move"]) / (rate * epsilon)  # b is stored rounded
    found = {
        "epsilon": epsilon, "move": norms["move"], "a": ratios["move"] / rate, "a_gradient": ratios["gradient"],
        "lambda": ratios["pulls"], "lower": ratios["pull"], "upper": ratios["pulls"],
        "value": ratios["move"] / rate if plain else ratios["gradient"],
        "rounding": 1000 * unit * ratios["pulls"] + (of_move if plain else 0),
    }
    found |= {name: ratio for name, ratio in ratios.items() if name.startswith("of ")}
    return {name: values.numpy() for name, values in found.items()}


def summary(records: Iterable[Record], rate: float, plain: bool, initial: Tensor) -> Arrays:
    """By run (R,) for one epoch: see the page. `mean` is (R, n), the mean of the iterates, `scatter` Σ‖b - mean‖²."""
    parts, counts, means, scatters = [], [], [], []
    for record in records:
        parts.append(columns(record, rate, plain))
        biases = torch.stack(record.biases).double()
        counts.append(len(biases))
        means.append(biases.mean(0))
        scatters.append((biases - means[-1]).square().sum((0, 2)))
    weights = torch.tensor(counts, dtype=torch.double)[:, None]
    mean = (weights[..., None] * torch.stack(means)).sum(0) / weights.sum()
    between = (weights * (torch.stack(means) - mean).square().sum(2)).sum(0)
    moments = {"mean": mean, "scatter": torch.stack(scatters).sum(0) + between}
    moments["distance"] = (biases[-1] - initial).norm(dim=1)
    steps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return sums(steps) | {name: values.numpy() for name, values in moments.items()}


def sums(steps: Arrays) -> Arrays:
    """Over the steps of an epoch; those without gradient count as 0."""
    beyond = [steps["lower"] > steps["value"] + steps["rounding"], steps["value"] > steps["upper"] + steps["rounding"]]
    seen = steps["rounding"] < 0.01 * steps["lambda"]  # elsewhere a difference says nothing
    apart = np.divide(np.abs(steps["value"] - steps["lambda"]), steps["lambda"], where=seen, out=np.zeros(seen.shape))
    found = {
        "length": np.nansum(steps["a"], 0),
        "length_gradient": np.nansum(steps["a_gradient"], 0),
        "move": steps["move"].sum(0),
        "largest": np.nan_to_num(steps["a"]).max(0),
        "lambda": np.nan_to_num(steps["lambda"]).mean(0),
        "still": np.isnan(steps["a"]).sum(0),
        "instances": 2 * np.isfinite(steps["value"]).sum(0),
        "violations": np.sum(beyond, axis=(0, 1)),
        "gap": apart.max(0),
    }
    return found | {name: np.nansum(ratio, 0) for name, ratio in steps.items() if name.startswith("of ")}
