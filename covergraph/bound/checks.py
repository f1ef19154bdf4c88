"""May these measurements and parameters enter a certificate of this bound?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from covergraph.bound.derive import Bound
from covergraph.bound.rademacher import union_cost
from covergraph.errors import ForeignModelError, ParameterError
from covergraph.values import Measurements, Parameters


def lookup(values: Mapping[Any, float], key: Any, symbol: str) -> float:
    """The value of a parameter; raises `ParameterError` if there is none."""
    if key not in values:
        raise ParameterError(f"bound: the parameters have no {symbol} for {key!r}; use choose(...)")
    return values[key]


def price(parameters: Parameters, choices: int) -> float:
    """What is paid for choosing after seeing the data; raises `ParameterError` for a price that is too low.

    Parameters that name a grid must lie on it, and cost at least what their exponents cost (Proposition 6).
    """
    if parameters.grid is not None:
        _check_grid(parameters, parameters.grid)
    elif parameters.quantile is not None:
        raise ParameterError(
            f"bound: gamma is the quantile {parameters.quantile:g} of the margins, so it was read off the data, but "
            "there is no grid that pays for it; use choose(...), or set quantile=None if gamma was fixed in advance"
        )
    if not (isinstance(choices, int) and choices >= 1):
        raise ParameterError(f"bound: choices is {choices}, expected how many losses were tried, at least 1")
    if not parameters.union_cost >= 0:
        raise ParameterError(f"bound: the union cost is {parameters.union_cost}, expected at least 0; use choose(...)")
    return parameters.union_cost + math.log(choices)


def _check_grid(parameters: Parameters, grid: float) -> None:
    if not 1 < grid <= 10:
        raise ParameterError(f"bound: the grid is {grid}, expected a ratio above 1 and at most 10, e.g. 1.05")
    tables = (parameters.s, parameters.kappa, parameters.a, parameters.b, parameters.rho, parameters.shared)
    values = [v for table in tables for v in table.values()] + ([parameters.gamma] if parameters.gamma else [])
    exponents = [round(math.log(v) / math.log(grid)) if v > 0 else 0 for v in values]
    off = [v for v, m in zip(values, exponents, strict=True) if not math.isclose(grid**m, v, rel_tol=1e-9)]
    if off:
        raise ParameterError(
            f"bound: the parameter {off[0]:.8g} is not on the grid {grid:g}^m whose price was paid; use choose(...), "
            "or set grid=None if all parameters were fixed before the data were seen"
        )
    if parameters.union_cost < union_cost(exponents) * (1 - 1e-12):
        raise ParameterError(
            f"bound: the union cost is {parameters.union_cost:.6g}, expected {union_cost(exponents):.6g} for these "
            "parameters; use choose(...)"
        )


def check_same_model(bound: Bound, measurements: Measurements) -> None:
    """Raise `ForeignModelError` if the measurements are not of the bound's model, `ParameterError` if they were
    made for another loss or lack a pair.
    """
    if measurements.fingerprint != bound.graph.fingerprint:
        raise ForeignModelError(
            f"bound: the measurements have the fingerprint {measurements.fingerprint!r}, expected "
            f"{bound.graph.fingerprint!r}; measure the model that was traced, with the same weights"
        )
    if measurements.loss.measured != bound.augmented.loss.measured:
        raise ParameterError(
            f"bound: the measurements are of the loss {measurements.loss!r}, expected {bound.augmented.loss!r}; "
            "measure with this bound"
        )
    unmeasured = [name for name in bound.augmented.conditions if name not in measurements.condition_values]
    if unmeasured:
        raise ParameterError(
            f"bound: the measurements lack the condition of {unmeasured[0]!r}; measure with this bound"
        )
    lacking = [pair for pair in bound.augmented.pair_names if pair not in measurements.pairs]
    if lacking:
        raise ParameterError(
            f"bound: the measurements lack the pair {lacking[0]}; they were made for another mode: measure with this "
            "bound"
        )


def check_membership(measurements: Measurements, parameters: Parameters) -> None:
    """The class radii a, b, t must not be below the measured distances (rounding aside)."""
    for name, distance in measurements.shared.items():
        if not lookup(parameters.shared, name, "t") >= distance.lower:
            raise ParameterError(
                f"bound: t of {name!r} is {parameters.shared[name]:.6g}, expected at least the measured distance "
                f"{distance.lower:.6g}: the trained network must lie in the class; raise it"
            )
    for symbol, radii in (("a", parameters.a), ("b", parameters.b)):
        for name, layer in measurements.layers.items():
            if symbol == "b" and name not in radii:
                continue  # without a class of derivatives nothing reads b
            measured: float = getattr(layer, symbol).lower
            if not lookup(radii, name, symbol) >= measured:
                raise ParameterError(
                    f"bound: {symbol} of {name!r} is {radii[name]:.6g}, expected at least the measured distance "
                    f"{measured:.6g}: the trained network must lie in the class; raise it"
                )
