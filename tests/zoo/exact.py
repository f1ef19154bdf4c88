"""Theorem 2 on a tiny model as it stands: the whole augmented graph is run with one value or one Jacobian given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from zoo.bounds import Derived, evaluated

from covergraph.bound.certificate import loss_slope
from covergraph.bound.constants import release_lipschitz
from covergraph.graph.augmented import SINK
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.values import Parameters

NODES = 25
ENTRIES = 2**19
"""Only graphs of at most so many nodes, and of so many entries of Jacobians, are small."""
POINTS = 6
"""Values at which z is compared with each other, along each direction."""
DRAWS = 12
"""Cut nodes, drawn with replacement."""


def is_small(graph: ComputationGraph) -> bool:
    """True if every Jacobian can be held at once."""
    sizes = np.array([node.size for node in graph.nodes])
    return len(graph) <= NODES and int((graph.reach * sizes[:, None] * sizes).sum()) <= ENTRIES


def exact_ratio(derived: Derived, model: nn.Module) -> tuple[int, float]:
    """How many pairs of points were compared, and the largest |dz| / (kappatilde |d|); (0, 0.0) for a large model."""
    if not is_small(derived.bound.graph):
        return 0, 0.0
    dense = evaluated(derived.bound, derived.sample, model, fill=False)
    generator = torch.Generator().manual_seed(0)
    found = [_cut(dense, sample, generator) for sample in range(dense.measurements.n) for _ in range(DRAWS // 4)]
    return sum(count for count, _ in found), max(ratio for _, ratio in found)


def ramps(derived: Derived, sample: int) -> Parameters:
    """Levels at which all m factors of z are 1 - 1/m at a sample, so that all of them move."""
    measured, chosen, bound = derived.measurements, derived.parameters, derived.bound
    count = 2 + len(bound.augmented.hidden) + int(bound.augmented.pairs.sum()) + len(bound.augmented.conditions)

    def level(value: float, fallback: float) -> float:
        return value / (1 + 1 / count) if value > 0 else fallback

    q = {name: float(values[sample]) for name, values in measured.condition_values.items()}
    margin = 0.0 if measured.margins is None else float(measured.margins[sample])
    return replace(
        chosen,
        gamma=None if chosen.gamma is None else margin / 0.7 if margin > 0 else chosen.gamma,
        s={w: level(float(measured.hidden_values[w][sample]), s) for w, s in chosen.s.items()},
        kappa={pair: level(float(measured.pair_values[pair][sample]), k) for pair, k in chosen.kappa.items()},
        rho={c: q[c] / (1 - 0.5 / count) if 0 < q[c] < np.inf else rho for c, rho in chosen.rho.items()},
    )


def _cut(derived: Derived, sample: int, generator: torch.Generator) -> tuple[int, float]:
    """Give one node other values, in a random direction and in that of the gradient."""
    bound, levels, measured = derived.bound, ramps(derived, sample), derived.measurements
    taubar, tau = bound.taubar(levels, measured), loss_slope(bound, levels)
    constants = release_lipschitz(bound.augmented, tau, levels.s, levels.kappa, taubar, levels.rho)
    c = bound.contributions[int(torch.randint(len(bound.contributions), (), generator=generator))]
    if c.kind == "derivative":
        (tail,) = bound.graph[c.node].predecessors
        name, constant = f"J[{c.node},{tail}]", constants.jacobian(c.node, tail)
    else:
        name, constant = c.node, constants.hidden(c.node)
    if name not in bound.augmented.graph.by_name or constant == 0:
        return 0, 0.0
    given = bound.augmented.values(*_arguments(derived, sample, 1), levels)[name].detach()
    gradient = _gradient(derived, sample, levels, name, given)
    directions = [torch.randn(given.shape, generator=generator, dtype=given.dtype), gradient]
    ratios = [_ratio(derived, sample, levels, name, given, d) for d in directions if float(d.norm()) > 0]
    return len(ratios) * (POINTS - 1), max((r / constant for r in ratios), default=0.0)


def _arguments(derived: Derived, sample: int, count: int) -> tuple[dict[str, Tensor], tuple[Tensor, ...], Tensor]:
    given = derived.sample
    inputs = tuple(x[sample : sample + 1].expand(count, *x.shape[1:]) for x in given.inputs)
    return dict(given.state), inputs, given.labels[sample : sample + 1].expand(count)


def _gradient(derived: Derived, sample: int, levels: Parameters, name: str, given: Tensor) -> Tensor:
    value = given.clone().requires_grad_(True)
    z = derived.bound.augmented.run(*_arguments(derived, sample, 1), levels, {name: value})
    (gradient,) = torch.autograd.grad(z.sum(), value, allow_unused=True) if z.requires_grad else (None,)
    return torch.zeros_like(given) if gradient is None else gradient.nan_to_num()


def _ratio(derived: Derived, sample: int, levels: Parameters, name: str, given: Tensor, direction: Tensor) -> float:
    """The largest |dz| / |d| of neighbors among points at distances of 0 to 1 times the value."""
    size = max(float(given.norm()), 1e-3)
    steps = torch.cat([torch.zeros(1), torch.logspace(-5, -0.5, POINTS - 1)]).to(given.dtype)
    step = (direction / direction.norm() * size).expand(POINTS, *direction.shape[1:])
    points = given + steps.reshape(-1, *[1] * (given.dim() - 1)) * step
    with torch.no_grad():
        z = derived.bound.augmented.values(*_arguments(derived, sample, POINTS), levels, {name: points})[SINK]
    gaps = (points[1:] - points[:-1]).flatten(1).norm(dim=1)
    rounding = 1e-12  # of z itself, in a product of many factors
    return float((((z[1:] - z[:-1]).abs() - rounding).clamp_min(0) / gaps).max())
