"""What Theorem L2 and its kin assume of a run, checked as far as the run shows it; Assumption 1 on snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from covergraph.errors import TrajectoryError
from covergraph.kinds import REGIONS, require
from covergraph.trajectory import assumptions as assume
from covergraph.trajectory.dropout import Dropout
from covergraph.trajectory.ledger import Assumption, Ledger, Status
from covergraph.trajectory.patterns import Patterns, patterns
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from covergraph.graph.computation_graph import ComputationGraph

STEPS = (assume.affine, assume.plain, assume.single, assume.scalar, assume.unshared, assume.once, assume.identity)
"""What λ_t <= ‖W_1‖ a_t rests on (Theorem L1), besides that the layer is the first."""


@dataclass(frozen=True)
class Consistency:
    """Assumption 1 on snapshots: whether it holds there, with the least γ, and whether they are all iterates of T."""

    holds: bool
    gamma: float
    snapshots: int
    every: bool
    evidence: str

    def assumption(self, gamma: float) -> Assumption:
        """The ledger's entry for a theorem that is given `gamma`."""
        fails = not self.holds or self.gamma > gamma
        status: Status = "false" if fails else "true" if self.every else "not checkable"
        means = "otherwise the slopes at the times of sampling say nothing of the slopes now: no statement"
        return Assumption("Assumption 1", status, means, f"{self.evidence}; used: γ = {gamma:.4g}")


def assumption1(
    graph: ComputationGraph, models: Iterable[nn.Module | Mapping[str, Tensor]], points: Tensor, *, every: bool = False
) -> Consistency:
    """Assumption 1 at the points (m, *shape): patterns constant, λ_{f^t} <= (1+γ) λ_{f^t'} for all pairs of snapshots.

    Args: `models` or states, in the order of time; `every`: these are all iterates of T and the one of the conclusion.
    γ is the least that the snapshots allow. Raises `TrajectoryError` without a snapshot.
    """
    require("assumption1", REGIONS, graph=graph, models=models, points=points, every=every)
    first: Patterns | None = None
    count, changed = 0, np.zeros(len(points), dtype=bool)
    for count, model in enumerate(models, start=1):  # noqa: B007
        seen = patterns(graph, model, points)
        if first is None:
            first, low, high = seen, seen.lam, seen.lam
        for before, now in zip(first.layers, seen.layers, strict=True):
            changed |= np.any(before != now, axis=1)
        low, high = np.minimum(low, seen.lam), np.maximum(high, seen.lam)
    if first is None:
        raise TrajectoryError("assumption 1: no snapshot given; pass the models or states of T in the order of time")
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = float(np.max(np.where(high > 0, high / low, 1.0), initial=1.0)) - 1
    what = f"patterns of {changed.sum()} points change" if changed.any() else "patterns constant"
    where = f"checked at {count} snapshots{', all of T' if every else ''}, {len(points)} points"
    evidence = f"{where}: {what}, γ >= {gamma:.4g}"
    return Consistency(bool(not changed.any() and np.isfinite(gamma)), gamma, count, every, evidence)


def region_ledger(
    model: object, sampled: Patterns, costs: Floats, beta: float, gamma: float, consistent: Consistency | None,
    trajectory: Trajectory | None, rows: slice,
) -> Ledger:
    """The assumptions of Theorem L2; those on the run are not checkable without its trajectory.

    `costs`: one a row, NaN or infinite for the points that are not among the m `sampled`.
    """
    sizes = f"ReLUs: {' '.join(str(layer.shape[1]) for layer in sampled.layers)}"
    unseen = Consistency(True, 0.0, 0, False, "no snapshots")
    return Ledger((
        Assumption("a chain of affine maps and ReLUs, one output", "true", "slopes are linear in patterns", sizes),
        trained_function(model),
        (consistent or unseen).assumption(gamma),
        *run_assumptions(beta, trajectory, rows),
        same_points(sampled, costs, gamma, trajectory, rows),
    ))


def trained_function(model: object) -> Assumption:
    """Whether the function that is trained is f: no dropout, no batch statistics."""
    name = "the trained function is f"
    means = "dropout and batch statistics make the slopes in training those of other functions: not covered"
    odd = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, Dropout)
    if not isinstance(model, nn.Module):
        return Assumption(name, "not checkable", means, "a state was given, no model")
    named = [(f"{path or 'the model'} is a {type(m).__name__}", m) for path, m in model.named_modules()]
    if found := [text for text, m in named if isinstance(m, odd)]:
        return Assumption(name, "false", means, found[0])
    if own := [text for text, m in named if not type(m).__module__.startswith("torch.nn.")]:
        return Assumption(name, "not checkable", means, f"no such module, but {own[0]}, whose forward() may do so")
    return Assumption(name, "true", means, "no such module")


def run_assumptions(beta: float, trajectory: Trajectory | None, rows: slice) -> tuple[Assumption, ...]:
    """How the costs came about: λ_t <= ‖W_1^t‖ a_t by Theorem L1, and ‖W_1^t‖ <= β."""
    weights = f"β = {beta:.6g}"
    if trajectory is None:
        means = "costs bound slopes: λ_t <= ‖W_1‖ a_t"
        return (
            Assumption("Theorem L1 for the costs", "not checkable", means, "no trajectory given"),
            Assumption("‖W_1‖ <= β", "not checkable", means, weights),
        )
    top = trajectory["top_upper"][rows]
    most = float(np.max(top, initial=0.0))  # NaN if one is
    status: Status = "not checkable" if np.isnan(most) else "true" if most <= beta else "false"
    means = "otherwise the costs bound slopes in h, not in x"
    place = replace(assume.first(trajectory, rows), consequence=means, sides=assume.UPPER)
    return (
        *assume.ledger_of(trajectory, rows, STEPS, "lower", "upper"), place,
        Assumption("‖W_1‖ <= β", status, "β times a cost bounds its slope", f"{weights}, σ_1 up to {most:.6g}"),
    )


def same_points(
    sampled: Patterns, costs: Floats, gamma: float, trajectory: Trajectory | None, rows: slice
) -> Assumption:
    """Whether the points can be those of the costs: the slopes of the run and those here differ by 1+γ at most.

    The costs must be those of the rows, or larger.
    """
    name, means = "the points are those sampled in T", "otherwise costs and patterns belong to different points"
    if trajectory is None:
        return Assumption(name, "not checkable", means)
    known = np.isfinite(costs)
    moved = trajectory.normalized[rows][known] * (1 - assume.allowance(trajectory))
    if low := int(np.sum(~(costs[known] >= moved))):
        return Assumption(name, "false", means, f"{low} costs are less than the rows' ‖Δb‖/(α ε), or the row has none")
    if trajectory.setting.isometric is not True:
        return Assumption(name, "not checkable", means)
    recorded = trajectory.lam[rows][known]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(recorded == sampled.lam, 1.0, recorded / sampled.lam)
        worst = float(np.nanmax(np.maximum(ratio, 1 / ratio), initial=1.0))
    fits = worst <= (1 + gamma) * (1 + 1e-3)
    return Assumption(
        name, "not checkable" if fits else "false", means, f"recorded slopes and those at the points within {worst:.4g}"
    )
