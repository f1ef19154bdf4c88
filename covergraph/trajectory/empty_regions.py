"""Theorem L2: the local Lipschitz constant where no training point is, from the patterns of those that were sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from covergraph.errors import TrajectoryError
from covergraph.kinds import REGIONS, require
from covergraph.rounding import BOUND
from covergraph.trajectory.assumptions import RELATIVE, allowance, move_rounding
from covergraph.trajectory.exact import Span
from covergraph.trajectory.ledger import Assumption, Ledger, Statement
from covergraph.trajectory.patterns import Patterns, inner, patterns
from covergraph.trajectory.region_ledger import Consistency, region_ledger
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from covergraph.graph.computation_graph import ComputationGraph

FORMULA = r"\lambda_f(R_x)\le(1+\gamma)\beta\phi\min\{\|a\odot a_T\|_1:S_Ta=s(x)\}"
FORMULA_SUM = r"s(x)=\sum_{j\le k}s(x_{i_j})\Rightarrow\lambda_f(R_x)\le(1+\gamma)\beta\phi k\|a_T\|_\infty"


def theorem2(
    graph: ComputationGraph, model: nn.Module | Mapping[str, Tensor], x: Tensor, points: Tensor, costs: Floats,
    *, beta: float, gamma: float, consistent: Consistency | None = None, trajectory: Trajectory | None = None,
    rows: slice = slice(None),
) -> Statement:
    """Theorem L2 at x (k, *shape): λ_f(R_x) <= (1+γ) β φ min{‖a ⊙ a_T‖_1 : S_T a = s(x)}, f being `model`.

    Args: `points` (m, *shape) sampled in T and their `costs` a_T (m,) = ‖b_1^{t+1} - b_1^t‖/(α_t ε_t); left out are
    NaN costs, and points where a sigmoid is 1 up to rounding. `beta` >= ‖W_1^t‖ on T, `gamma` of Assumption 1.
    `consistent`: what `assumption1` found; `trajectory` and its `rows` that T is, one a point: with it the ledger is
    checked as far as it can be.

    `steps` has λ ("value") and the bound ("upper", NaN: no statement) of each x; `value` and `upper` are the largest
    over the x with a statement. No lower side. Raises `TrajectoryError` where the graph is no chain, or arguments do
    not fit each other.
    """
    at, sampled, costs, rounded = _inputs(graph, model, x, points, costs, beta, gamma, consistent, trajectory, rows)
    ledger = region_ledger(model, sampled, costs, beta, gamma, consistent, trajectory, rows)
    sums = least_costs(sampled, rounded, at)
    return _statement("Theorem L2", FORMULA, at, sampled, sums, beta, gamma, ledger)


def theorem2_sum(
    graph: ComputationGraph, model: nn.Module | Mapping[str, Tensor], x: Tensor, points: Tensor, costs: Floats,
    *, beta: float, gamma: float, consistent: Consistency | None = None, trajectory: Trajectory | None = None,
    rows: slice = slice(None),
) -> Statement:
    """The corollary: s(x) = Σ_{j<=k} s(x_{i_j}) implies λ_f(R_x) <= (1+γ) β φ k ‖a_T‖_∞, with the least k.

    Arguments, result and errors as of `theorem2`.
    """
    at, sampled, costs, rounded = _inputs(graph, model, x, points, costs, beta, gamma, consistent, trajectory, rows)
    ledger = region_ledger(model, sampled, costs, beta, gamma, consistent, trajectory, rows)
    sums = np.outer(rounded.max(axis=1), fewest(sampled, at))
    return _statement("Corollary of Theorem L2", FORMULA_SUM, at, sampled, sums, beta, gamma, ledger)


def least_costs(sampled: Patterns, costs: Floats, at: Patterns) -> Floats:
    """min{‖a ⊙ a_T‖_1 : S_T a = s(x)} of each x, or slightly more, NaN where infeasible.

    `costs` (c, m): the first row is a_T; of the others the same sums Σ|a_i| are formed, all rounded up. Returns (c, k).

    Whether a exists, and that the a used solves S_T a = s(x), is settled in integers (`exact`). HiGHS only chooses
    among the solutions, as a = (y - R z, z) with S_others = S_basis R: any z gives a valid bound, the best the least.
    """
    rows, costs = _cheapest(sampled, costs)
    targets, positions = at.distinct()
    span, found = Span(sampled[rows]), at[targets]
    products, squares = inner(span.columns, found), _squares(found)
    values = np.full((len(costs), len(targets)), np.nan)
    members = np.flatnonzero(span.contains(products, squares))
    coordinates = span.approximate(products[span.basis][:, members])
    for y, k in zip(coordinates.T, members, strict=True):
        z = _choose(span, costs[0], y) if len(span.others) else np.zeros(0)
        a = span.weights(products[:, k], int(squares[k]), z)
        if a is not None:
            values[:, k] = costs @ np.array([abs(v) / a[1] for v in a[0]]) * BOUND
    return values[:, positions]


def fewest(sampled: Patterns, at: Patterns) -> Floats:
    """The least k with s(x) = Σ_{j<=k} s(x_{i_j}) of each x (k,), NaN where there is none.

    Only patterns below s(x) can take part: c_i = ‖s(x_i)‖². Binary a with G a = c and cᵀa = ‖s(x)‖²; the solution is
    accepted if S a = s(x) holds in integers.
    """
    span, (targets, positions) = Span(sampled[sampled.distinct()[0]]), at.distinct()
    found = at[targets]
    products, squares, own = inner(span.columns, found), _squares(found), np.diag(span.gram)
    values = np.full(len(targets), np.nan)
    for k in range(len(targets)):
        inside = np.flatnonzero((products[:, k] == own) & (own > 0))
        if squares[k] == 0:  # a layer is dead at x: s(x) = 0 is the empty sum, and f is constant
            values[k] = 0
        elif len(inside) and own[inside].sum() >= squares[k]:
            chosen = inside[_binary(span.gram[np.ix_(inside, inside)], int(squares[k]))]
            ones = np.zeros(len(span.columns), dtype=int)
            ones[chosen] = 1
            if span.solves(ones.tolist(), 1, products[:, k], int(squares[k])):
                values[k] = len(chosen)
    return values[positions]


def factor(sampled: Patterns) -> float:
    """φ: 1, or 0.25/(γ_T (1-γ_T)) with a sigmoid, γ_T the least min(f, 1-f) over the points, at the model's time."""
    if not sampled.sigmoid:
        return 1.0
    least = float(sampled.indecision.min())
    return 0.25 / (least * (1 - least)) if least > 0 else np.inf


def _inputs(
    graph: ComputationGraph, model: nn.Module | Mapping[str, Tensor], x: Tensor, points: Tensor, costs: Floats,
    beta: float, gamma: float, consistent: Consistency | None, trajectory: Trajectory | None, rows: slice,
) -> tuple[Patterns, Patterns, Floats, Floats]:
    """Patterns of x and of the k points that are used, all costs (NaN of the other points), (2, k) costs and rounding.

    Left out are points without a cost, and those where rounding may have taken half of it, or more.
    """
    require(
        "theorem2", REGIONS, graph=graph, model=model, x=x, points=points, costs=costs, beta=beta, gamma=gamma,
        consistent=consistent, trajectory=trajectory, rows=rows,
    )
    costs = np.asarray(costs, dtype=np.float64)
    if not (0 <= beta < np.inf and gamma >= 0):
        raise TrajectoryError(f"theorem 2: beta {beta}, gamma {gamma}; expected both at least 0, beta finite")
    if costs.shape != (len(points),) or np.any(costs < 0):
        raise TrajectoryError(
            f"theorem 2: costs of shape {costs.shape}, least {np.nanmin(costs, initial=np.inf):g}, for {len(points)} "
            "points; expected one norm a_T >= 0 a point, as Trajectory.normalized has them (NaN: no gradient there)"
        )
    if trajectory is not None and len(trajectory["step"][rows]) != len(costs):
        raise TrajectoryError(
            f"theorem 2: {len(trajectory['step'][rows])} rows of the trajectory for {len(costs)} points, expected one "
            "a point; give `rows` as the slice that the costs are of"
        )
    known = np.isfinite(costs)
    if not known.any():
        raise TrajectoryError("theorem 2: no sampled point has a finite cost a_T; choose rows T with gradients")
    sampled = patterns(graph, model, points[torch.from_numpy(known)])
    lost = _lost(sampled)
    used = lost < 0.5
    if not used.any():
        raise TrajectoryError("theorem 2: the sigmoid is 1 up to rounding at all points; give others, or an earlier t")
    known[known] = used
    costs = np.where(known, costs, np.nan)
    room = _rounding(trajectory, rows, len(costs))[known] + costs[known] * (lost / (1 - lost))[used]
    return patterns(graph, model, x), sampled[used], costs, np.stack([costs[known], room])


def _lost(sampled: Patterns) -> Floats:
    """The share of its slope f' = f(1-f) that a sigmoid may lose in training, as 1 - f cancels (m,); below 1."""
    if not sampled.sigmoid:
        return np.zeros(len(sampled))
    eps = np.finfo(np.float32 if sampled.single else np.float64).eps
    return np.exp(np.minimum(np.log(8 * eps) + np.logaddexp(0, sampled.logits), -1e-3))


def _statement(
    theorem: str, formula: str, at: Patterns, sampled: Patterns, sums: Floats, beta: float, gamma: float, ledger: Ledger
) -> Statement:
    """The statement of all x, both sides of each in `steps`; sums (2, k): Σ|a_i|a_T, and what rounding adds to it."""
    phi = factor(sampled)
    if not np.isfinite(phi):
        means = "f(1-f) is divided by: where it is 0 the slope of the logit is not known, and nothing is stated"
        ledger = Ledger((*ledger, Assumption("0 < f < 1 at the points", "false", means)))
    if not ledger.states("upper"):
        sums = np.full_like(sums, np.nan)
    upper, moved = (1 + gamma) * beta * phi * sums * BOUND
    stated = ~np.isnan(upper)
    room = RELATIVE["float32" if at.single else "float64"] * at.lam + np.nan_to_num(moved)
    steps = {"lower": np.full_like(upper, np.nan), "value": at.lam, "upper": upper, "rounding": room}
    details = {
        "beta": beta, "gamma": gamma, "phi": phi, "points": float(len(sampled)),
        "patterns": float(len(sampled.distinct()[0])), "regions": float(len(at.distinct()[0])),
        "stated": float(stated.sum()), "no statement": float((~stated).sum()),
    }
    shown = at.lam[stated] if stated.any() else at.lam
    largest = float(upper[stated].max()) if stated.any() else None
    return Statement(theorem, formula, float(shown.max()), None, largest, ledger, float(room.max()), steps, details)


def _cheapest(sampled: Patterns, costs: Floats) -> tuple[NDArray[np.intp], Floats]:
    """One row a pattern, that of least cost: the costs of all points that share the pattern bound the same slope."""
    order = np.argsort(costs[0], kind="stable")
    rows = order[sampled[order].distinct()[0]]  # distinct() takes the first row of each pattern
    return rows, costs[:, rows]


def _rounding(trajectory: Trajectory | None, rows: slice, count: int) -> Floats:
    """By how much rounding may have made each cost too small (m,): 0 for costs that were given as numbers."""
    if trajectory is None:
        return np.zeros(count)
    scale = (trajectory["alpha"] * trajectory["epsilon"])[rows]
    room = np.divide(move_rounding(trajectory)[rows], scale, out=np.zeros_like(scale), where=scale != 0)
    return room + allowance(trajectory) * np.nan_to_num(trajectory.normalized[rows])


def _choose(span: Span, costs: Floats, y: Floats) -> Floats:
    """Weights z of the columns outside the basis that make Σ costs|a| small: min over a = a⁺ - a⁻ with [1 R] a = y."""
    order = np.concatenate([span.basis, span.others])
    equations = np.hstack([np.eye(len(span.basis)), span.relations])
    scale = costs.max() or 1.0
    objective = np.tile(costs[order] / scale, 2)
    found = linprog(objective, A_eq=np.hstack([equations, -equations]), b_eq=y, method="highs")
    if found.x is None:
        return np.zeros(len(span.others))
    a = found.x[: len(order)] - found.x[len(order) :]
    return np.asarray(a[len(span.basis) :])


def _binary(gram: NDArray[Any], square: int) -> NDArray[np.bool_]:
    """Binary a of least sum with G a = diag G and (diag G)ᵀa = square, by HiGHS; nothing chosen if infeasible."""
    own = np.diag(gram).astype(np.float64)
    rows = np.vstack([gram.astype(np.float64) / own[:, None], own[None] / square])
    n = len(own)
    found = milp(
        np.ones(n), integrality=np.ones(n), bounds=Bounds(0, 1), constraints=LinearConstraint(rows, 1 - 1e-7, 1 + 1e-7)
    )
    return np.zeros(n, dtype=bool) if found.x is None else np.asarray(found.x > 0.5)


def _squares(targets: Patterns) -> NDArray[Any]:
    """‖s(x)‖² (k,), exact."""
    own = (inner(targets[k : k + 1], targets[k : k + 1])[0, 0] for k in range(len(targets)))
    return np.array([int(value) for value in own], dtype=object)
