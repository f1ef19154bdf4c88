"""Theorem L1: the bias of a layer moves as fast as the network is steep in that layer's input.

z = W h + b gives ∂ℓ/∂h = Wᵀ ∂ℓ/∂z, and ∂ℓ/∂b is the sum of the ∂ℓ/∂z, so σ_min ‖∂ℓ/∂b‖ <= ‖Σ ∂ℓ/∂h_i‖ <= σ_1 ‖∂ℓ/∂b‖
at each step; and plain SGD shows ‖∂ℓ/∂b‖ = ‖Δb‖/α. Statements and proofs: docs/mathematics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from covergraph.errors import ParameterError
from covergraph.kinds import TRAJECTORIES, require, shown
from covergraph.trajectory import assumptions as assume
from covergraph.trajectory.assumptions import MOVES, RANK, allowance, ledger_of, lifted, move_rounding
from covergraph.trajectory.ledger import BOTH, Assumption, Ledger, Side, Statement, Status
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

ALL = slice(None)
GRADIENTS = (assume.affine, assume.unshared, assume.once, assume.identity, assume.rank)
BATCHES = (assume.affine, assume.plain, assume.unshared, assume.once, assume.identity, assume.rank)


def theorem1(trajectory: Trajectory, *, steps: slice | None = None) -> Statement:
    """Theorem L1: Σ_T λ_t/σ_1(W^t) <= Σ_T ‖b^{t+1} - b^t‖/(α_t ε_t) <= √P Σ_T λ_t/σ_min(W^t), step by step.

    T: the rows of `steps` (default: all) with ε_t and α_t not 0, and with λ_t measured; `details` counts the others. P:
    the entries of z that share an entry of b (the lower side needs P = 1). Batches and vector outputs keep the upper
    side.
    """
    require("theorem1", TRAJECTORIES, trajectory=trajectory, steps=steps)
    rows = steps or ALL
    scale = (trajectory["alpha"] * trajectory["epsilon"])[rows]
    used, details = _used(trajectory, rows, "alpha", "epsilon")
    factor = np.divide(1.0, scale, out=np.full_like(scale, np.nan), where=used)
    return summed(
        "Theorem L1", "Σ λ/σ_1(W) <= Σ ‖Δb‖/(α ε) <= √P Σ λ/σ_min(W)",
        with_rows(ledger_of(trajectory, rows, MOVES), "non-zero gradient", used),
        {
            "step": trajectory["step"][rows],
            "lower": trajectory.lam[rows] * shrunk(trajectory)[rows],
            "value": trajectory["move"][rows] * factor,
            "upper": trajectory.lam[rows] * grown(trajectory)[rows],
            "rounding": (move_rounding(trajectory)[rows] + _relative(trajectory, "move", rows)) * factor,
        }, used, details,
    )


def theorem1_gradient(trajectory: Trajectory, *, steps: slice | None = None) -> Statement:
    """Any optimizer, batch, loss and output: ‖Σ_i ∂ℓ/∂h_i‖/σ_1 <= ‖∂ℓ/∂b‖ <= √P ‖Σ_i ∂ℓ/∂h_i‖/σ_min, step by step.

    Value and sides are sums over the rows of `steps` where both gradients were measured. The lower side needs P = 1.
    """
    require("theorem1_gradient", TRAJECTORIES, trajectory=trajectory, steps=steps)
    rows = steps or ALL
    used, details = _used(trajectory, rows)
    return summed(
        "Theorem L1 (gradients)", "Σ ‖Σ ∂ℓ/∂h_i‖/σ_1(W) <= Σ ‖∂ℓ/∂b‖ <= √P Σ ‖Σ ∂ℓ/∂h_i‖/σ_min(W)",
        with_rows(ledger_of(trajectory, rows, GRADIENTS), "both gradients measured", used),
        {
            "step": trajectory["step"][rows],
            "lower": (trajectory["pull"] * shrunk(trajectory))[rows],
            "value": trajectory["gradient"][rows],
            "upper": (trajectory["pull"] * grown(trajectory))[rows],
            "rounding": _relative(trajectory, "gradient", rows) + _cancelled(trajectory)[rows],
        }, used, details,
    )


def theorem1_batches(trajectory: Trajectory, *, steps: slice | None = None) -> Statement:
    """Plain SGD, any batch and output: Σ ‖Σ_i ∂ℓ/∂h_i‖/σ_1 <= Σ_T ‖b^{t+1} - b^t‖/α_t <= √P Σ_T Σ_i ε_i λ_i/σ_min.

    ε_i λ_i = ‖∂ℓ/∂h_i‖. Below there is only the sum's norm: the gradients of a batch may cancel, whatever their λ.
    """
    require("theorem1_batches", TRAJECTORIES, trajectory=trajectory, steps=steps)
    rows = steps or ALL
    alpha = trajectory["alpha"][rows]
    used, details = _used(trajectory, rows, "alpha")
    factor = np.divide(1.0, alpha, out=np.full_like(alpha, np.nan), where=used)
    moved = move_rounding(trajectory)[rows] + _relative(trajectory, "move", rows)
    return summed(
        "Theorem L1 (batches)", "Σ ‖Σ ∂ℓ/∂h_i‖/σ_1(W) <= Σ ‖Δb‖/α <= √P Σ Σ ε_i λ_i/σ_min(W)",
        with_rows(ledger_of(trajectory, rows, BATCHES), "moves and gradients measured", used),
        {
            "step": trajectory["step"][rows],
            "lower": (trajectory["pull"] * shrunk(trajectory))[rows],
            "value": trajectory["move"][rows] * factor,
            "upper": (trajectory["pulls"] * grown(trajectory))[rows],
            "rounding": moved * factor + _cancelled(trajectory)[rows],
        }, used, details,
    )


def shrunk(trajectory: Trajectory) -> Floats:
    """1/σ_1(W^t) (T,), for W as rounded backward passes see it: σ_1 (1 + u)."""
    top = trajectory["top_upper"] * (1 + allowance(trajectory))
    return np.divide(1.0, top, out=np.zeros_like(top), where=top != 0)


def grown(trajectory: Trajectory) -> Floats:
    """√P/σ_min(W^t) (T,), for W as rounded backward passes see it: σ_min - u σ_1; NaN where that is not positive.

    0 where ∂ℓ/∂b = 0: there is nothing to bound, whatever W is.
    """
    bottom = lifted(trajectory)
    factor = np.divide(np.sqrt(trajectory.layer.shared), bottom, out=np.full_like(bottom, np.nan), where=bottom > 0)
    return np.where(trajectory["gradient"] == 0, 0.0, factor)


def with_rows(ledger: Ledger, name: str, used: NDArray[np.bool_], sides: tuple[Side, ...] = BOTH) -> Ledger:
    """The ledger with the assumption that some rows are left to speak of; false if there is none."""
    status: Status = "true" if used.any() else "false"
    left = Assumption(
        name, status, "steps without it are left out of T; where none is left, nothing is stated",
        f"{int(used.sum())} of {len(used)} steps", sides,
    )
    return Ledger((*ledger.assumptions, left))


def summed(
    theorem: str, formula: str, ledger: Ledger, steps: Mapping[str, Floats], used: NDArray[np.bool_],
    details: Mapping[str, float],
) -> Statement:
    """The statement of what holds step by step: sums over the rows used, and only the sides that the ledger allows.

    Where W lacks rank, its own step loses the upper side, and so does the sum, but no other step.
    """
    others = Ledger(tuple(a for a in ledger if a.name != RANK))
    stated = {"lower": used & others.states("lower"), "upper": used & others.states("upper")}
    shown = {name: np.where(stated.get(name, used), values, np.nan) for name, values in steps.items()}

    def total(name: str) -> float | None:
        chosen = shown[name][used]
        return None if not len(chosen) or np.isnan(chosen).any() else float(chosen.sum())

    return Statement(
        theorem, formula, total("value"), total("lower"), total("upper"), ledger, total("rounding") or 0.0,
        {"step": steps["step"], **{name: shown[name] for name in ("lower", "value", "upper", "rounding")}}, details,
    )


def count_instances(statements: Iterable[Statement]) -> tuple[int, int]:
    """How many inequalities the statements make, and how many of them fail by more than rounding."""
    require("count_instances", TRAJECTORIES, statements=statements)
    known = list(statements)
    if odd := next((s for s in known if not isinstance(s, Statement)), None):
        raise ParameterError(f"count_instances: a statement is {shown(odd)}, expected a Statement, which "
                             "theorem1 and the others return")
    return sum(s.instances for s in known), sum(s.violations for s in known)


def _used(trajectory: Trajectory, rows: slice, *divisors: str) -> tuple[NDArray[np.bool_], dict[str, float]]:
    """The rows that a sum runs over, where all is measured and no divisor is 0; and how many were left out, and why."""
    names = ("move", "gradient", "pull", "pulls", "top_upper", *divisors)
    used = np.all([np.isfinite(trajectory[name][rows]) for name in names], axis=0)
    details = {}
    for name in divisors:
        zero = trajectory[name][rows] == 0
        details[f"{name} 0"] = float(zero.sum())
        used &= ~zero
    left = float((~used).sum())
    return used, {"steps": float(used.sum()), "left out": left, **details}


def _relative(trajectory: Trajectory, name: str, rows: slice) -> Floats:
    """u times the column, and what may be lost to underflow."""
    tiny = torch.finfo(getattr(torch, trajectory.setting.dtype)).tiny
    return allowance(trajectory) * trajectory[name][rows] + tiny * (trajectory.layer.inputs + trajectory.layer.outputs)


def _cancelled(trajectory: Trajectory) -> Floats:
    """What rounding leaves of gradients that cancel within a batch, as a part of ‖∂ℓ/∂b‖ (T,): u Σ‖∂ℓ/∂h_i‖/σ."""
    bottom = lifted(trajectory)
    safe = np.where(bottom > 0, bottom, trajectory["top_upper"])
    terms = np.divide(trajectory["pulls"], safe, out=np.zeros_like(safe), where=safe > 0)
    return np.where(trajectory["samples"] == 1, 0.0, allowance(trajectory) * terms)
