"""The assumptions behind Theorem L1 and its corollaries, looked up in one recorded run.

Each function answers for one assumption; its `sides` are those of Theorem L1 that rest on it. An assumption without
sides carries no inequality, only the reading of its numbers. What rounding may do is here too: the checks allow for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from covergraph.trajectory.ledger import BOTH, Assumption, Ledger, Side, Status
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

LOWER: tuple[Side, ...] = ("lower",)
UPPER: tuple[Side, ...] = ("upper",)
READING: tuple[Side, ...] = ()

RELATIVE = {"float64": 1e-9, "float32": 1e-4}
"""u: the relative error granted to autograd's ∂ℓ/∂h = Wᵀ ∂ℓ/∂z, which is read as a change of W by u σ_1(W), and to the
recorded norms. Other types are granted 1024 units of rounding."""


RANK = "W has full row rank"
"""The one assumption that is judged step by step."""


def allowance(trajectory: Trajectory) -> float:
    """u of `RELATIVE` for the type of the bias."""
    dtype = trajectory.setting.dtype
    return RELATIVE[dtype] if dtype in RELATIVE else 1024 * precision(trajectory)


def precision(trajectory: Trajectory) -> float:
    """eps of the type of the bias."""
    return float(torch.finfo(getattr(torch, trajectory.setting.dtype)).eps)


def move_rounding(trajectory: Trajectory) -> Floats:
    """By how much ‖b^{t+1} - b^t + α_t ∂ℓ/∂b‖ may differ from 0 under plain SGD (T,).

    4 eps (‖b^{t+1}‖ + ‖b^{t+1} - b^t‖ + α_t ‖∂ℓ/∂b‖): the new bias, the product α ∂ℓ/∂b and the difference are rounded.
    """
    tiny = torch.finfo(getattr(torch, trajectory.setting.dtype)).tiny
    moved = trajectory["bias"] + trajectory["move"] + trajectory["alpha"] * trajectory["gradient"]
    return 4 * precision(trajectory) * moved + np.sqrt(trajectory.layer.outputs) * tiny


def lifted(trajectory: Trajectory) -> Floats:
    """σ_min(W^t) - u σ_1(W^t) (T,), less what rounding may take; not positive: Wᵀg may vanish; NaN: not measured."""
    return trajectory["bottom_lower"] - allowance(trajectory) * trajectory["top_upper"]


def _settled(name: str, known: bool | None, consequence: str, evidence: str, sides: tuple[Side, ...]) -> Assumption:
    status: Status = "not checkable" if known is None else "true" if known else "false"
    return Assumption(name, status, consequence, evidence, sides)


def affine(trajectory: Trajectory, rows: slice) -> Assumption:
    """The watched parameter is the bias of an affine map."""
    layer = trajectory.layer
    return _settled(
        "the bias of an affine map z = W h + b", layer.kind != "parameter",
        "otherwise no theorem relates the moves of the parameter to a gradient with respect to an input",
        f"{layer.bias}: {layer.kind}", BOTH,
    )


def plain(trajectory: Trajectory, rows: slice) -> Assumption:
    """b^{t+1} = b^t - α_t ∂ℓ/∂b, by the settings and by what was seen."""
    residual, allowed = trajectory["residual"][rows], move_rounding(trajectory)[rows]
    worse = np.flatnonzero(residual > allowed)
    setting, known = trajectory.setting, None if np.isnan(residual).all() else True
    evidence = setting.optimizer + ("; moves were not compared with gradients" if known is None else "")
    if not setting.plain:
        known, evidence = False, f"{setting.optimizer}: {setting.reason}"
    elif len(worse):
        at = worse[np.argmax((residual / allowed)[worse])]
        step, far, room = trajectory["step"][rows][at], residual[at], allowed[at]
        known, evidence = False, f"step {step:.0f}: off by {far:.3g}, rounding allows {room:.3g}"
    return _settled(
        "plain SGD", known,
        "otherwise the bias does not move by -α ∂ℓ/∂b and its moves do not measure gradients: "
        "`theorem1_gradient` speaks of ‖∂ℓ/∂b‖ under any optimizer", evidence, BOTH,
    )


def single(trajectory: Trajectory, rows: slice) -> Assumption:
    """One sample a step."""
    samples = trajectory["samples"][rows]
    most = np.nanmax(samples, initial=0.0)
    known = False if most > 1 else None if np.isnan(samples).any() else True
    return _settled(
        "batch of one", known,
        "gradients of a batch may cancel, so only the upper side is left for λ_t, then the mean of the samples' λ "
        "weighted by their ε; `theorem1_batches` has both sides for ‖Σ ∂ℓ/∂h_i‖",
        f"up to {most:.0f} samples a step", LOWER,
    )


def scalar(trajectory: Trajectory, rows: slice) -> Assumption:
    """One number comes out."""
    outputs = trajectory.setting.outputs
    return _settled(
        "scalar output", outputs == 1,
        "for several outputs λ_t is the norm of Jᵀ∂ℓ/∂ŷ/‖∂ℓ/∂ŷ‖, which the Lipschitz constant ‖J‖ may exceed: the "
        "upper side holds for both, the lower side is not stated", f"{outputs} outputs", LOWER,
    )


def output(trajectory: Trajectory, rows: slice) -> Assumption:
    """∂ℓ/∂h comes through ∂ℓ/∂ŷ."""
    return Assumption(
        "the loss reads the network through its output alone", "not checkable",
        "otherwise, as with penalties on features or on gradients, ‖∂ℓ/∂h‖/ε_t is not ‖∇f‖: the inequality between "
        "the recorded numbers holds, and says nothing of f", "", READING,
    )


def unshared(trajectory: Trajectory, rows: slice) -> Assumption:
    """Each entry of the bias is added to one entry of z."""
    shared = trajectory.layer.shared
    return _settled(
        "bias not shared", shared == 1,
        "an entry of b that is added at P places sums their gradients, which may cancel: no lower side, and the upper "
        "side carries a factor √P", f"P = {shared}", LOWER,
    )


def first(trajectory: Trajectory, rows: slice) -> Assumption:
    """h is x."""
    return _settled(
        "the layer's input is the model's input", trajectory.setting.isometric,
        "otherwise λ_t is the norm of the gradient with respect to the layer's input h, not x", "", READING,
    )


def once(trajectory: Trajectory, rows: slice) -> Assumption:
    """The layer runs once for each sample of a step, at W^t and b^t."""
    return _settled(
        "one pass of the layer for each sample of a step", trajectory.setting.once,
        "otherwise ∂ℓ/∂b sums over passes with inputs or weights of their own, and nothing is stated", "", BOTH,
    )


def identity(trajectory: Trajectory, rows: slice) -> Assumption:
    """Wᵀ ∂ℓ/∂b = Σ ∂ℓ/∂h_i, where it was compared."""
    seen = trajectory.setting.identity
    return _settled(
        "Wᵀ ∂ℓ/∂b = Σ ∂ℓ/∂h_i", None if seen is None else seen <= allowance(trajectory),
        "otherwise b or h enters the loss by another way as well, or gradients were changed, and nothing is stated",
        "not compared" if seen is None else f"up to {seen:.2g} of ‖W‖ ‖∂ℓ/∂b‖; allowed {allowance(trajectory):.0e}",
        BOTH,
    )


def separate(trajectory: Trajectory, rows: slice) -> Assumption:
    """Samples of a batch do not influence each other."""
    alone = bool(np.all(trajectory["samples"][rows] == 1))
    mixing = trajectory.setting.mixing
    return _settled(
        "samples of a batch do not influence each other", alone or (None if mixing is None else not mixing),
        "otherwise λ_t is no gradient of f at one sample, though the inequality between the recorded numbers holds",
        "", READING,
    )


def piecewise(trajectory: Trajectory, rows: slice) -> Assumption:
    """f is linear on the region of x^t."""
    linear, last = trajectory.setting.piecewise, trajectory.setting.last
    known = False if "sigmoid" in last.lower() else linear
    return _settled(
        "f piecewise linear", known,
        "otherwise λ_t is the norm of the gradient at x^t alone, not the Lipschitz constant on the region around it",
        f"last operation: {last}" if last else "", READING,
    )


def derived(trajectory: Trajectory, rows: slice) -> Assumption:
    """Autograd's gradients are those of f, also where inner kinks cancel."""
    joints = trajectory.setting.joints
    return _settled(
        "autograd's gradient is that of f", None if joints is None or joints else True,
        "otherwise λ_t is none of f where inner kinks cancel, though the inequality between the recorded numbers "
        "holds", f"it errs exactly at such points of {joints}" if joints else "", READING,
    )


def rank(trajectory: Trajectory, rows: slice) -> Assumption:
    """‖Wᵀg‖ >= σ_min ‖g‖ with σ_min > 0 for the g that ∂ℓ/∂b may be, where it does not vanish."""
    layer, bottom = trajectory.layer, lifted(trajectory)[rows]
    needed = trajectory["gradient"][rows] != 0
    lacking = int(np.sum(needed & ~(bottom > 0)))
    seen = f"σ_min at least {np.min(bottom[needed]):.3g}" if needed.any() else "no gradient to bound"
    if lacking:
        wide = f", for W is wide, {layer.outputs} outputs of {layer.inputs} inputs" if layer.wide else ""
        seen = f"σ_min 0, within rounding of 0 or not measured at {lacking} of {int(needed.sum())} steps{wide}"
    return _settled(
        RANK, not lacking,
        "where ‖Wᵀg‖/‖g‖ may be 0 there is no upper side; record with active_rows=True, or subspace=(a basis of what "
        "contains ∂ℓ/∂b), to have one", f"{seen}; over {layer.gain}", UPPER,
    )


def squared(trajectory: Trajectory, rows: slice) -> Assumption:
    """The loss is the squared error."""
    return Assumption(
        "squared error", "not checkable",
        "the inequality holds for every loss; only for losses such as this one does ε_t vanish as the data are fitted, "
        "so that the sum stays small for simple functions", "", READING,
    )


def sampled(trajectory: Trajectory, rows: slice) -> Assumption:
    """Every training point is drawn."""
    return Assumption(
        "every training point is sampled from τ on", "not checkable",
        "the bound is proved at the points sampled at the steps where λ was measured, each under the weights of its "
        "own step", "", READING,
    )


Check = Callable[[Trajectory, slice], Assumption]
MOVES: tuple[Check, ...] = (
    *(affine, plain, single, scalar, output, unshared, once, identity, rank, separate, first, piecewise, derived),
)
"""What Theorem L1 rests on."""


def ledger_of(
    trajectory: Trajectory, rows: slice, checks: Iterable[Check], side: Side | None = None, becomes: Side = "upper"
) -> Ledger:
    """The ledger of `checks`; with `side`, what carries that side of Theorem L1 carries the side `becomes`, no more."""
    found = [check(trajectory, rows) for check in checks]
    if side is None:
        return Ledger(tuple(found))
    return Ledger(tuple(
        replace(a, sides=(becomes,) if side in a.sides else READING) for a in found if side in a.sides or not a.sides
    ))
