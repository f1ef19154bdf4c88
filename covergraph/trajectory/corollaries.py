"""Corollaries 1, 2 and 3 of Theorem L1: steady runs, the bias's variance, and its distance to initialization."""

from __future__ import annotations

import numpy as np

from covergraph.errors import TrajectoryError
from covergraph.kinds import TRAJECTORIES, require
from covergraph.trajectory import assumptions as assume
from covergraph.trajectory.assumptions import MOVES, UPPER, allowance, ledger_of, move_rounding
from covergraph.trajectory.ledger import Ledger, Statement
from covergraph.trajectory.theorem1 import ALL, grown, shrunk, with_rows
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

DISTANCE = (assume.affine, assume.plain, assume.once, assume.identity, assume.rank, assume.squared)


def corollary1(trajectory: Trajectory, tau: int = 0) -> Statement:
    """Corollary L1: the run is (τ, φ)-steady with φ = max_{t>=τ} ‖b^{t+1} - b^t‖/(α_t ε_t), so λ_t <= β φ for t >= τ.

    β = max σ_1(W^t), t >= τ where λ was measured. `tau` is a row. Proved of the points sampled at these t, until the
    record ends; the paper's "with high probability at every training point" is not claimed. `details`: beta, phi.
    """
    require("corollary1", TRAJECTORIES, trajectory=trajectory, tau=tau)
    if not 0 <= tau < len(trajectory):
        raise TrajectoryError(f"corollary1: tau = {tau}, expected one of the rows 0 to {len(trajectory) - 1}")
    rows = slice(tau, None)
    scale = (trajectory["alpha"] * trajectory["epsilon"])[rows]
    lam, moved = trajectory.lam[rows], trajectory.normalized[rows]
    used = np.isfinite(lam) & np.isfinite(moved)
    top = trajectory["top_upper"][rows][used]
    known = np.isfinite(top).all()
    beta = float(np.max(top, initial=0.0)) * (1 + allowance(trajectory))
    phi = float(np.max(moved[np.isfinite(moved)], initial=0.0))
    room = np.divide(move_rounding(trajectory)[rows], scale, out=np.full_like(scale, np.nan), where=used)
    ledger = with_rows(
        ledger_of(trajectory, rows, (*MOVES, assume.sampled), "lower", "upper"), "non-zero gradient", used, UPPER
    )
    stated = used & ledger.states("upper") & known
    steps = {
        "step": trajectory["step"][rows],
        "lower": np.full_like(lam, np.nan),
        "value": np.where(used, lam, np.nan),
        "upper": np.where(stated, beta * phi, np.nan),
        "rounding": beta * (room + allowance(trajectory) * moved),
    }
    return Statement(
        "Corollary L1", "max_{t>=τ} λ_t <= β φ(τ)", float(lam[used].max()) if used.any() else None, None,
        beta * phi if stated.any() else None, ledger, float(np.max(steps["rounding"][used], initial=0.0)), steps,
        {"beta": beta, "phi": phi, "tau": float(tau), "steps": float(used.sum())},
    )


def corollary2(trajectory: Trajectory, start: int = 0, stop: int | None = None) -> Statement:
    """Corollary L2: the variance of m + 1 successive iterates >= m/(m+1) (avg_T α_t λ_t/(2σ_1(W^t)) · harm(T))².

    The iterates are b^{t+1} of rows [start, stop), borders of `moments`; T: the m rows from start + 1, which join them.
    harm(T) = (m/Σ_T ε_t^-2)^{1/2}, 0 if some ε_t is. `details`: harm, and "direct", what the proof has before harm,
    m/(m+1) avg_T (α_t ε_t λ_t/(2σ_1))².
    """
    require("corollary2", TRAJECTORIES, trajectory=trajectory, start=start, stop=stop)
    stop = len(trajectory) if stop is None else stop
    if stop - start < 2:
        raise TrajectoryError(f"corollary2: rows [{start}, {stop}) hold fewer than 2 iterates; give a longer stretch")
    value = trajectory.variance(start, stop)
    rows = slice(start + 1, stop)
    count, epsilon = stop - start - 1, trajectory["epsilon"][rows]
    share = count / (count + 1)
    half = (trajectory["alpha"] * shrunk(trajectory) / 2)[rows]
    moves = half * trajectory["pulls"][rows]  # α ε λ / (2σ_1), at most ‖Δb‖/2
    still = epsilon == 0
    harm = 0.0 if still.any() else float(np.sqrt(count / np.sum(epsilon**-2.0)))
    lower = share * float(np.mean(np.where(still, 0.0, half * trajectory.lam[rows])) * harm) ** 2
    checks = (*MOVES[:-4], *MOVES[-3:])  # all but the rank, which the upper side alone needs
    ledger = ledger_of(trajectory, rows, checks, "lower", "lower")
    far = float(np.sqrt(share * np.mean((move_rounding(trajectory)[rows] / 2) ** 2)))
    return Statement(
        "Corollary L2", "avg ‖b - avg b‖² >= |T|/(|T|+1) (avg_T α λ/(2σ_1(W)) · harm(T))²", finite(value),
        finite(lower) if ledger.states("lower") else None, None, ledger,
        finite(far * (2 * np.sqrt(lower) + far) + allowance(trajectory) * value) or 0.0, {},
        {"harm": harm, "direct": share * float(np.mean(moves**2)), "iterates": float(count + 1)},
    )


def corollary3(trajectory: Trajectory, *, steps: slice | None = None) -> Statement:
    """Corollary L3: ‖b^{t+1} - b^0‖ <= √P Σ_{s<=t} α_s ε_s λ_s/σ_min(W^s) for every t; the last row's in `value`.

    Any loss, batch and output (ε_s λ_s = Σ_i ‖∂ℓ/∂h_i‖). `steps` must begin at row 0, where b^0 is. A row where λ was
    not measured, or where W lacks rank, ends the upper side from there on.
    """
    require("corollary3", TRAJECTORIES, trajectory=trajectory, steps=steps)
    rows = steps or ALL
    if rows.indices(len(trajectory))[0] != 0 or rows.step not in (None, 1):
        raise TrajectoryError(f"corollary3: steps = {rows}, but the distance is to b^0; begin at row 0, with step 1")
    distance = trajectory["distance"][rows]
    ledger = ledger_of(trajectory, rows, DISTANCE)
    without_rank = Ledger(tuple(a for a in ledger if a.name != assume.RANK))
    bound = np.cumsum(_moves(trajectory)[rows]) if without_rank.states("upper") else np.full_like(distance, np.nan)
    rounding = np.cumsum(move_rounding(trajectory)[rows]) + allowance(trajectory) * distance
    arrays = {
        "step": trajectory["step"][rows], "lower": np.full_like(distance, np.nan), "value": distance, "upper": bound,
        "rounding": rounding,
    }
    last = {name: finite(values[-1]) if len(values) else None for name, values in arrays.items()}
    return Statement(
        "Corollary L3", "‖b^t - b^0‖ <= √P Σ α ε λ/σ_min(W)", last["value"], None, last["upper"], ledger,
        last["rounding"] or 0.0, arrays,
        {"steps stated": float(np.isfinite(bound).sum())},
    )


def finite(number: float) -> float | None:
    """The number, None where it is infinite or NaN: not measured, or of a run that diverged."""
    return float(number) if np.isfinite(number) else None


def _moves(trajectory: Trajectory) -> Floats:
    """√P α_t Σ_i ‖∂ℓ/∂h_i‖/σ_min (T,), 0 where the gradient is, measured or not."""
    bounds = trajectory["alpha"] * trajectory["pulls"] * grown(trajectory)
    return np.where(trajectory["gradient"] == 0, 0.0, bounds)
