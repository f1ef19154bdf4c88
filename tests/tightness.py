"""How tight is a rule? The largest found ratio of what happens to what the rule allows; above 1 the rule is wrong.

What happens is computed from the cases' plain torch, by random starts and gradient ascent, so that every ratio is a
lower bound of the true one. Everything is float64 with fixed seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sympy
import torch
from operation_cases import Case
from torch import Tensor
from torch.func import jvp

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.node import Node
from covergraph.measure.edges import edge_bound
from covergraph.measure.edges_weights import weight_ends
from covergraph.rules import composition as composition  # registers the rule of chains
from covergraph.rules.conditions import condition
from covergraph.rules.lipschitz import slot_lipschitz
from covergraph.rules.norms import norm_bound
from covergraph.rules.placeholders import RHO, radius
from covergraph.rules.smoothness import slot_smoothness

SLACK = 1e-6
"""Of the arithmetic: a ratio above 1 + SLACK refutes the rule."""
Ratio = Callable[[Sequence[Tensor], Sequence[Sequence[Tensor]]], Tensor]
"""From the values of the slots and some directions, (batch, *shape) each, to (batch,)."""
Tau = Callable[..., Tensor]


@dataclass(frozen=True)
class Budget:
    """Random points, how many of the best are improved, and by how many steps."""

    starts: int = 1024
    kept: int = 16
    steps: int = 300


class _Starts:
    """Points of all sizes from 1e-3.5 to 30 with directions, as one matrix with a row per start."""

    def __init__(self, case: Case, directions: int, starts: int) -> None:
        generator = torch.Generator().manual_seed(len(case.slots) + directions)
        self.shapes = case.slots
        self.size = sum(math.prod(shape) for shape in self.shapes)
        self.rows = torch.randn(starts, self.size * (1 + directions), generator=generator, dtype=torch.float64)
        self.rows[:, self.size :].pow_(3)  # some directions are nearly along few entries
        if not _defined(case):
            self.rows[:, : self.size].abs_()
        self.scales = 10 ** (5 * torch.rand(starts, 1, generator=generator, dtype=torch.float64) - 3.5)

    def split(self, rows: Tensor, scales: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        point, *directions = torch.split(rows, self.size, 1)
        return self._slots(point * scales), [self._slots(direction) for direction in directions]

    def _slots(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _defined(case: Case) -> bool:
    """False if the operation is not defined at negative numbers."""
    return bool(torch.isfinite(case.plain(*(-torch.ones(1, *shape).double() for shape in case.slots))).all())


def maximum(ratio: Ratio, case: Case, directions: int, budget: Budget) -> float:
    """The largest value of `ratio` found; NaN, where nothing is defined, counts as 0."""
    starts = _Starts(case, directions, budget.starts)
    with torch.no_grad():
        first = ratio(*starts.split(starts.rows, starts.scales)).nan_to_num(nan=0.0)
    chosen = first.topk(min(budget.kept, len(first))).indices
    rows, scales = starts.rows[chosen].requires_grad_(), starts.scales[chosen]
    highest, summits = first[chosen], rows.detach().clone()
    ascent = torch.optim.Adam([rows], lr=0.1)
    for step in range(budget.steps):
        ascent.param_groups[0]["lr"] = 0.1 * 10 ** (-3 * step / budget.steps)
        found = ratio(*starts.split(rows, scales))
        value = found.detach().nan_to_num(nan=0.0)
        summits = torch.where((value > highest)[:, None], rows.detach(), summits)
        highest = torch.maximum(value, highest)
        (slope,) = torch.autograd.grad(-found.clamp_min(1e-300).log().sum(), rows, allow_unused=True)
        if slope is None or not bool(slope.any()):
            break
        rows.grad = slope.nan_to_num(0.0, 0.0, 0.0)
        ascent.step()
        with torch.no_grad():  # over an edge: back, to try a shorter step
            rows.copy_(torch.where((value < 0.97 * highest)[:, None], summits, rows))
    return float(torch.maximum(first.max(), highest.max()))


def norm(x: Tensor) -> Tensor:
    """Euclidean norms of the samples: (batch,)."""
    found: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return found


def along(case: Case, values: Sequence[Tensor], direction: Sequence[Tensor], slots: Sequence[int]) -> Tensor:
    """The derivative of the plain computation in a direction of some slots, itself differentiable."""
    return _derivative(case.plain, values, direction, slots)


def _derivative(
    function: Callable[..., Tensor], values: Sequence[Tensor], direction: Sequence[Tensor], slots: Sequence[int]
) -> Tensor:
    moved = tuple(d if i in slots else torch.zeros_like(d) for i, d in enumerate(direction))
    found: Tensor = jvp(function, tuple(values), moved)[1]
    return found


def smoothness_tightness(case: Case, budget: Budget) -> float | None:
    """||D^2 f [w, delta]|| / (||w|| sum_j taubar_ij ||delta_j||), w in slot i, rho = 2 q, radii the norms at the point.

    This is how fast the Jacobian of slot i changes next to a point, times w. None where all taubar are 0, and nothing
    changes at random points.
    """
    table = slot_smoothness(case.operation, case.node)
    every = range(len(case.slots))
    numbers = {pair: _numeric(value) for pair, value in table.items()}

    def second(values: Sequence[Tensor], directions: Sequence[Sequence[Tensor]], i: int) -> Tensor:
        w, delta = directions
        return norm(_derivative(lambda *h: along(case, h, w, [i]), values, delta, every))

    def ratio(values: Sequence[Tensor], directions: Sequence[Sequence[Tensor]], i: int) -> Tensor:
        w, delta = directions
        rho, radii = 2 * _quantity(case, values), [norm(value) for value in values]
        allowed = [tau(rho, *radii) * norm(delta[j]) for (k, j), tau in numbers.items() if k == i]
        return second(values, directions, i) / (norm(w[i]) * torch.stack(allowed).sum(0))

    curved = {i for i, _ in table}
    flat = [i for i in case.moving if i not in curved]
    if any(maximum(lambda v, d, i=i: second(v, d, i), case, 2, Budget(64, 1, 0)) > 0 for i in flat):  # type: ignore
        return math.inf
    if not table:
        return None

    return max(
        maximum(lambda v, d, i=i: ratio(v, d, i), case, 2, budget)  # type: ignore[misc]
        for i in sorted(curved)
    )


def _quantity(case: Case, values: Sequence[Tensor]) -> Tensor:
    """q at the values, 1 without a condition, where it is not read."""
    if condition(case.operation, case.node) is None:
        return torch.ones(len(values[0]), dtype=torch.float64)
    return condition_value(case.operation, case.node, values, case.context)


def _numeric(value: sympy.Expr) -> Tau:
    """An expression in RHO and radii as a function of tensors."""
    known = {
        "sqrt": lambda x: torch.as_tensor(x, dtype=torch.float64).sqrt(),
        "exp": lambda x: torch.as_tensor(x, dtype=torch.float64).exp(),
        "Max": lambda *x: _extreme(torch.maximum, x),
        "Min": lambda *x: _extreme(torch.minimum, x),
        "pi": math.pi,
    }
    symbols = [RHO, *(radius(i) for i in range(3))]
    unknown = value.free_symbols - set(symbols)
    assert not unknown, f"{value} has the symbols {unknown}"
    made = sympy.lambdify(symbols, value, modules=[known])

    def tau(rho: Tensor, *radii: Tensor) -> Tensor:
        return torch.as_tensor(made(rho, *[*radii, rho, rho][:3]), dtype=torch.float64).expand(len(rho))

    return tau


def _extreme(better: Callable[[Tensor, Tensor], Tensor], numbers: Sequence[Tensor | float]) -> Tensor:
    first, *others = (torch.as_tensor(x, dtype=torch.float64) for x in numbers)
    for other in others:
        first = better(first, other)
    return first


def condition_tightness(case: Case, budget: Budget) -> float | None:
    """The norm of the gradient of q in a slot over the stated constant; None without a condition."""
    found = condition(case.operation, case.node)
    if found is None:
        return None
    starts = _Starts(case, 0, budget.starts)
    values = [value.requires_grad_() for value in starts.split(starts.rows, starts.scales)[0]]
    q = condition_value(case.operation, case.node, values, case.context)
    slopes = torch.autograd.grad(q.sum(), values, allow_unused=True)
    ratios = [
        norm(slope) / float(found.slopes[i]) if i in found.slopes else norm(slope) / 0.0
        for i, slope in enumerate(slopes)
        if slope is not None
    ]
    return float(torch.stack(ratios).nan_to_num(nan=0.0).max())


def lipschitz_constants(case: Case) -> dict[int, float] | None:
    """The worst-case constant of each moving slot with the measured norm of the weights; None if one is infinite."""
    try:
        return {i: float(slot_lipschitz(case.operation, case.node, _tail(case, i), _norm(case))) for i in case.moving}
    except UnsupportedOperationError:
        return None


def _tail(case: Case, slot: int) -> Node:
    return Node(case.node.inputs[slot], op.Input(), (), case.slots[slot])


def _norm(case: Case) -> float | None:
    roles = dict(case.parameters + case.constants)
    if isinstance(case.operation, op.ParametricReLU):
        return float(roles["slope"].abs().max())
    if isinstance(case.operation, op.Affine) and not case.operation.scale:
        return 1.0
    if {"weight", "scale"} & set(roles) and case.moving:
        return weight_ends(case.node, case.slots[0], case.context).upper
    return None


def lipschitz_tightness(case: Case, budget: Budget) -> float | None:
    """||J w|| / (||w|| L) over points and directions; None without a finite constant."""
    constants = lipschitz_constants(case)
    if not constants:
        return None

    def ratio(values: Sequence[Tensor], directions: Sequence[Sequence[Tensor]], i: int, constant: float) -> Tensor:
        return norm(along(case, values, directions[0], [i])) / (norm(directions[0][i]) * constant)

    if not slot_smoothness(case.operation, case.node) and condition(case.operation, case.node) is None:
        return max(spectral(case.dense(i, 0)) / c for i, c in constants.items())  # the same Jacobian everywhere
    return max(
        maximum(lambda v, d, i=i, c=c: ratio(v, d, i, c), case, 1, budget)  # type: ignore[misc]
        for i, c in constants.items()
    )


def spectral(matrix: Tensor) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(matrix, 2))


def norm_tightness(case: Case, budget: Budget) -> float | None:
    """||h_v|| over its a-priori bound; None without one."""
    bound = norm_bound(case.operation, case.node)
    if bound is None:
        return None
    return maximum(lambda values, _: norm(case.plain(*values)) / float(bound), case, 0, budget)


def edge_tightness(case: Case, points: int = 12) -> tuple[float, float] | None:
    """The least and the largest ||J||_op / edge_bound over slots and standard normal points; None if nothing moves."""
    if not case.moving or not case.is_float:
        return None
    generator = torch.Generator().manual_seed(7)
    values = [
        case.special[i][:1].expand(points, *shape)
        if i in case.special
        else torch.randn(points, *shape, generator=generator, dtype=torch.float64)
        for i, shape in enumerate(case.slots)
    ]
    values = values if _defined(case) else [value.abs() for value in values]
    ratios = []
    for slot in case.moving:
        bounds = edge_bound(case.operation, case.node, slot, values, case.context)
        for t in range(points):
            found = spectral(_dense(case, [value[t : t + 1] for value in values], slot))
            ratios += [found / float(bounds[t])] if bounds[t] > 0 else [1.0] if found == 0 else [math.inf]
    return min(ratios), max(ratios)


def _dense(case: Case, values: Sequence[Tensor], slot: int) -> Tensor:
    def rule(x: Tensor) -> Tensor:
        made: Tensor = case.plain(*values[:slot], x, *values[slot + 1 :])
        return made

    return jacobian(rule, values[slot]).reshape(case.node.size, -1)


def jacobian(rule: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The dense Jacobian, of shape (*value, *argument)."""
    found: Tensor = torch.autograd.functional.jacobian(rule, x, vectorize=True)  # type: ignore[no-untyped-call]
    return found
