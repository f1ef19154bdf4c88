"""The visible step between measuring and certifying: which numbers the bound is stated at (Proposition 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from covergraph.bound.certificate import certify
from covergraph.bound.checks import check_same_model
from covergraph.bound.derive import Bound
from covergraph.bound.rademacher import grid_down, grid_up, union_cost
from covergraph.errors import MarginError, ParameterError
from covergraph.kinds import BOUND, MEASUREMENTS, NUMBER, QUANTILE, Kind, require
from covergraph.values import Floats, Measurement, Measurements, Parameters

QUANTILES = (0.0, 0.01, 0.05, 0.10, 0.25)

_KINDS: Mapping[str, Kind] = {
    "bound": BOUND,
    "measurements": MEASUREMENTS,
    "quantile": QUANTILE,
    "grid": NUMBER,
    "floor": NUMBER.or_none(),
    "condition_quantile": QUANTILE,
}


def choose(
    bound: Bound,
    measurements: Measurements,
    quantile: float | Literal["auto"] = "auto",
    grid: float = 1.05,
    floor: float | None = None,
    condition_quantile: float | Literal["auto"] = "auto",
) -> Parameters:
    """Round the measured numbers outwards on the grid beta^m and pick gamma; the union cost is recorded.

    s, kappa, a, b, t: the measured maxima (upper ends), at least `floor` (default 1/k, k the position of the
    output), rounded up. gamma: the given quantile of the margins, rounded down. rho: of `condition_quantile` each
    condition gets an equal share, and that quantile of its positive q, rounded down; z is 1 where q <= rho/2, so a
    quantile trades a larger mean of z, on at most that part of the samples, for a smaller C. "auto" takes that of 0, 1,
    5, 10, 25 % whose certificate is smallest. `grid` and `floor` must be fixed before the data are seen.
    Raises `MarginError` if no margin is positive, `ParameterError` for a grid <= 1 or a quantile outside [0, 1).
    """
    require(
        "choose", _KINDS, bound=bound, measurements=measurements, quantile=quantile, grid=grid, floor=floor,
        condition_quantile=condition_quantile,
    )
    check_same_model(bound, measurements)
    if not 1 < grid <= 10:
        raise ParameterError(f"choose: the grid is {grid}, expected a ratio above 1 and at most 10, e.g. 1.05")
    floor = 1 / max(bound.symbols.last, 1) if floor is None else floor
    if not 0 < floor < 1e100:
        raise ParameterError(f"choose: the floor is {floor}, expected a positive number, e.g. 1/k")
    shares = QUANTILES if condition_quantile == "auto" else (_share(condition_quantile),)
    rounded = _rounded(bound, measurements, grid, floor, shares[0])
    gammas = _gammas(bound, measurements, quantile)
    best = _best(bound, measurements, [_parameters(rounded, g, q, grid, floor, shares[0]) for q, g in gammas])
    if not bound.augmented.conditions:
        return best
    gamma = next(g for q, g in gammas if q == best.quantile)
    tables = [(share, rounded | {"rho": _levels(bound, measurements, grid, share)}) for share in shares[1:]]
    others = [_parameters(table, gamma, best.quantile, grid, floor, share) for share, table in tables]
    return _best(bound, measurements, [best, *others])


def _best(bound: Bound, measurements: Measurements, candidates: list[Parameters]) -> Parameters:
    """Those of the smallest certificate; of equal ones the largest gamma, then the first."""
    return min(candidates, key=lambda p: (certify(bound, measurements, p, 0.05).value, -(p.gamma or 0)))


def _share(quantile: float) -> float:
    if not 0 <= quantile < 1:
        raise ParameterError(
            f"choose: condition_quantile is {quantile}, expected a number in [0, 1), or 'auto'"
        )
    return quantile


def _rounded(
    bound: Bound, measured: Measurements, grid: float, floor: float, share: float
) -> dict[str, dict[Any, int]]:
    """Exponents of s, kappa, a, b, t, rho."""

    def up(values: Mapping[Any, Measurement]) -> dict[Any, int]:
        for key, value in values.items():
            if not math.isfinite(value.upper):
                raise ParameterError(f"choose: the measured {value.norm} of {key!r} is infinite; rescale the network")
        return {key: grid_up(max(value.upper, floor), grid) for key, value in values.items()}

    exponents = {
        "s": up({v: measured.hidden[v] for v in bound.augmented.hidden}),
        "kappa": up({pair: measured.pairs[pair] for pair in bound.augmented.pair_names}),
        "a": up({name: layer.a for name, layer in measured.layers.items()}),
        "b": up({c.node: measured.layers[c.node].b for c in bound.contributions if c.kind == "derivative"}),
        "shared": up({group.nodes[0]: measured.shared[group.nodes[0]] for group in bound.groups}),
        "rho": _levels(bound, measured, grid, share),
    }
    largest = max(e for table in exponents.values() for e in table.values())
    if largest * math.log(grid) > 650:
        raise ParameterError(f"choose: a parameter is {grid:g}^{largest}, beyond double precision; rescale the network")
    return exponents


def _levels(bound: Bound, measured: Measurements, grid: float, share: float) -> dict[str, int]:
    """Exponents of rho; at most `share` of the samples lies below some of these levels, and is not undefined."""
    each = share / max(len(bound.augmented.conditions), 1)
    return {name: _level(measured.condition_values[name], grid, each) for name in bound.augmented.conditions}


def _level(values: Floats, grid: float, share: float) -> int:
    """The exponent of rho: the quantile of the positive q rounded down; 0 if there is none, or none that is finite.

    If no sample fulfills the condition, z = 1 on all whatever rho is; if nothing can fail it, every rho will do.
    """
    usable = values[(values > 0) & np.isfinite(values)]
    return grid_down(float(np.quantile(usable, share, method="lower")), grid) if len(usable) else 0


def _parameters(
    exponents: dict[str, dict[Any, int]],
    gamma: float | None,
    quantile: float | None,
    grid: float,
    floor: float,
    share: float,
) -> Parameters:
    m = None if gamma is None else grid_down(gamma, grid)
    used = [e for table in exponents.values() for e in table.values()] + ([] if m is None else [m])
    values = {name: {key: grid**e for key, e in table.items()} for name, table in exponents.items()}
    return Parameters(
        None if m is None else grid**m,
        **values,
        union_cost=union_cost(used),
        grid=grid,
        quantile=quantile,
        floor=floor,
        condition_quantile=share if exponents["rho"] else None,
    )


def _gammas(
    bound: Bound, measured: Measurements, quantile: float | Literal["auto"]
) -> list[tuple[float | None, float | None]]:
    """Candidates (quantile, gamma > 0).

    If the wanted quantiles of all margins are not positive, those of the positive margins are taken instead, and
    named by the share of all margins that they exceed.
    """
    if not bound.augmented.loss.has_margin:
        return [(None, None)]
    assert measured.margins is not None
    wanted = QUANTILES if quantile == "auto" else (float(quantile),)
    if not all(0 <= q < 1 for q in wanted):
        raise ParameterError(f"choose: the quantile is {quantile}, expected a number in [0, 1) or 'auto'")
    positive: Floats = measured.margins[measured.margins > 0]
    if not len(positive):
        raise MarginError(
            f"choose: the largest of {measured.n} margins is {measured.margins.max():.3g}, expected a positive one; "
            "train the network further, or pass a loss of your own with LipschitzLoss"
        )
    found = [(q, float(np.quantile(measured.margins, q, method="lower"))) for q in wanted]
    usable: list[tuple[float | None, float | None]] = [(q, g) for q, g in found if g > 0]
    if usable:
        return usable
    others = [float(np.quantile(positive, q, method="lower")) for q in wanted]
    return [(float(np.mean(measured.margins < g)), g) for g in others]
