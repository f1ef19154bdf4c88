"""σ_1(W_1) through the dynamics of W_1, or of W_1 and W_2 (the subject of [LPJ], Appendix C.2).

The appendix was not at hand: statements and proofs are our own (docs/mathematics.md), for plain SGD with one sample a
step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from covergraph.errors import TrajectoryError
from covergraph.kinds import TRAJECTORIES, require
from covergraph.trajectory import assumptions as assume
from covergraph.trajectory.assumptions import UPPER, allowance, ledger_of, move_rounding, precision
from covergraph.trajectory.ledger import BOTH, Assumption, Ledger, Side, Statement, Status
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

WEIGHT = (assume.affine, assume.plain, assume.single, assume.unshared, assume.once)


def first_layer_norm(trajectory: Trajectory) -> Statement:
    """σ_1(W^t) <= σ_1(W^0) + Σ_{s<t} ‖b^{s+1} - b^s‖ ‖h^s‖ for every t, for W^{s+1} - W^s = (b^{s+1} - b^s) (h^s)ᵀ.

    `value` and `upper` are of the last row. Linear layers, whose weights move at the bias's rate or not at all.
    """
    _linear(trajectory, "first_layer_norm")
    grown = trajectory["move"] * trajectory["input"]
    ledger = _carrying(UPPER, ledger_of(trajectory, slice(None), WEIGHT), _trained(trajectory, frozen=True))
    bound = trajectory["top_upper"][0] + _before(grown)
    slip = _before(move_rounding(trajectory) * trajectory["input"] + _weight_rounding(trajectory, grown))
    return _statement(
        "Lemma L4 (one layer)", "σ_1(W^t) <= σ_1(W^0) + Σ ‖Δb‖ ‖h‖", trajectory, ledger,
        trajectory["top_lower"], np.full_like(bound, np.nan), bound, slip + allowance(trajectory) * bound,
    )


def first_layer_balance(first: Trajectory, second: Trajectory) -> Statement:
    """σ_1(W_1^t)² <= ‖W_1^t‖_F² = ‖W_2^t‖_F² - ‖b_1^t‖² + D + Σ_{s<t} α_s² (‖∂ℓ/∂W_1‖² + ‖∂ℓ/∂b_1‖² - ‖∂ℓ/∂W_2‖²).

    D = ‖W_1‖_F² + ‖b_1‖² - ‖W_2‖_F² at row 1 (‖b^0‖ is not recorded), from where the sums run. Both layers linear,
    between them ReLU, leaky ReLU or another positively homogeneous map without parameters; both recorded in the same
    run. The value is ‖W_1^t‖_F² of the last row; both sides are the right-hand side, so any step off the balance shows.
    `details`: "sigma_1", the bound on σ_1(W_1) of the last row.
    """
    for layer in (first, second):
        _linear(layer, "first_layer_balance")
    if len(first) != len(second) or not np.array_equal(first["step"], second["step"]):
        raise TrajectoryError(
            f"first_layer_balance: {len(first)} and {len(second)} steps are not the same; record both layers in one run"
        )
    ledger = Ledger((
        *_carrying(BOTH, ledger_of(first, slice(None), WEIGHT), _trained(first)),
        *_carrying(BOTH, ledger_of(second, slice(None), WEIGHT), _trained(second), _rates(first, second)),
        _homogeneous(first), _homogeneous_between(),
    ))
    own, other = _weight_move(first), _weight_move(second)
    change = own**2 + (first["alpha"] * first["gradient"]) ** 2 - other**2
    bias = np.concatenate([[np.nan], first["bias"][:-1]])  # ‖b^t‖, where the column has ‖b^{t+1}‖
    ends = second["frobenius"] ** 2 - bias**2
    start = float(first["frobenius"][1] ** 2 - ends[1]) if len(first) > 1 else np.nan
    bound = ends + start + _before(np.where(np.arange(len(first)) > 0, change, 0.0))
    statement = _statement(
        "Lemma L4 (balance of two layers)",
        "σ_1(W_1)² <= ‖W_1‖_F² = ‖W_2‖_F² - ‖b_1‖² + D + Σ α² (‖∂ℓ/∂W_1‖² + ‖∂ℓ/∂b_1‖² - ‖∂ℓ/∂W_2‖²)",
        first, ledger, np.where(np.isnan(bias), np.nan, first["frobenius"] ** 2), bound, bound,
        _balance_rounding(first, second, own, other),
    )
    if statement.upper is None:
        return statement
    return replace(statement, details={"sigma_1": float(np.sqrt(max(statement.upper + statement.rounding, 0.0)))})


def _statement(
    theorem: str, formula: str, trajectory: Trajectory, ledger: Ledger, value: Floats, lower: Floats, upper: Floats,
    rounding: Floats,
) -> Statement:
    """The statement of the last row, and those of all rows as steps."""
    arrays = {
        "step": trajectory["step"], "value": value, "rounding": rounding,
        "lower": lower if ledger.states("lower") else np.full_like(lower, np.nan),
        "upper": upper if ledger.states("upper") else np.full_like(upper, np.nan),
    }
    last = {name: None if not len(a) or np.isnan(a[-1]) else float(a[-1]) for name, a in arrays.items()}
    return Statement(
        theorem, formula, last["value"], last["lower"], last["upper"], ledger, last["rounding"] or 0.0, arrays
    )


def _linear(trajectory: Trajectory, asked: str) -> None:
    require(asked, TRAJECTORIES, trajectory=trajectory)
    layer = trajectory.layer
    if layer.kind != "linear" or layer.shared != 1:
        raise TrajectoryError(
            f"{asked}: {layer.name} is a {layer.kind} whose bias is added {layer.shared} times, expected a linear "
            "layer on vectors, whose weight moves by Δb hᵀ; watch such a layer"
        )


def _before(values: Floats) -> Floats:
    """Σ_{s<t} (T,)."""
    return np.concatenate([[0.0], np.cumsum(values)[:-1]]) if len(values) else values


def _weight_move(trajectory: Trajectory) -> Floats:
    """α ‖∂ℓ/∂W‖_F = α ‖∂ℓ/∂b‖ ‖h‖ (T,), for one sample."""
    return trajectory["alpha"] * trajectory["gradient"] * trajectory["input"]


def _weight_rounding(trajectory: Trajectory, moved: Floats) -> Floats:
    """What rounding adds to one move of the weight (T,), as `move_rounding` of the bias."""
    return 4 * precision(trajectory) * (trajectory["frobenius"] + moved)


def _balance_rounding(first: Trajectory, second: Trajectory, own: Floats, other: Floats) -> Floats:
    """A change d of a matrix M by rounding changes ‖M‖_F² by at most 2‖M‖d + d²: their sum over steps (T,)."""
    bias_move = first["alpha"] * first["gradient"]
    bias = first["bias"] + bias_move
    slip = np.zeros_like(own)
    for size, moved in ((first["frobenius"], own), (second["frobenius"], other), (bias, bias_move)):
        far = 4 * precision(first) * (size + moved)
        slip += 2 * (size + moved) * far + far**2 + allowance(first) * moved * (moved + size)
    norms = first["frobenius"] ** 2 + second["frobenius"] ** 2 + first["bias"] ** 2
    return _before(slip) + allowance(first) * norms


def _trained(trajectory: Trajectory, frozen: bool = False) -> Assumption:
    """The weight moves as the bias does."""
    size, moved = trajectory["frobenius"], _weight_move(trajectory)
    near = moved[:-1] + _weight_rounding(trajectory, moved)[:-1] + allowance(trajectory) * moved[:-1]
    faster = bool(np.any(np.abs(np.diff(size)) > near + 4 * precision(trajectory) * size[:-1]))
    stuck = not frozen and len(size) > 1 and bool(np.all(np.diff(size) == 0)) and float(np.sum(moved[:-1])) > 0
    status: Status = "false" if faster or stuck else "not checkable"
    seen = "its norm moves faster" if faster else "its norm never moves" if stuck else "its norm moves no faster"
    return Assumption(
        f"{trajectory.layer.weight} moves by -α ∂ℓ/∂W with the bias's α" + (" or stands still" if frozen else ""),
        status, "otherwise the moves of the bias do not tell those of the weight, and nothing is stated", seen, BOTH,
    )


def _rates(first: Trajectory, second: Trajectory) -> Assumption:
    same = bool(np.array_equal(first["alpha"], second["alpha"]))
    return Assumption(
        "one learning rate for both layers", "true" if same else "false",
        "otherwise the first-order terms ⟨W_1, ∂ℓ/∂W_1⟩ + ⟨b_1, ∂ℓ/∂b_1⟩ and ⟨W_2, ∂ℓ/∂W_2⟩ are weighted differently "
        "and do not cancel", "", BOTH,
    )


def _homogeneous(first: Trajectory) -> Assumption:
    known = first.setting.piecewise
    return Assumption(
        "f piecewise linear", "false" if known is False else "true" if known else "not checkable",
        "a smooth activation between the layers, such as tanh, leaves first-order terms; where one is seen anywhere, "
        "nothing is stated", "", BOTH,
    )


def _homogeneous_between() -> Assumption:
    return Assumption(
        "between the layers a positively homogeneous map without parameters, read by the second alone", "not checkable",
        "otherwise ⟨∂ℓ/∂z_1, z_1⟩ is not ⟨∂ℓ/∂h_1, h_1⟩, and the squared norms drift apart at first order in α",
        "", BOTH,
    )


def _carrying(sides: tuple[Side, ...], ledger: Ledger, *more: Assumption) -> Ledger:
    """All of these assumptions carry the same sides here."""
    return Ledger(tuple(replace(a, sides=sides) for a in (*ledger, *more)))
