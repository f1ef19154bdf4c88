"""What a certificate refuses, each with its own error."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest
from handmade import mlp, residual
from measured import N, measured
from rough import tied

from covergraph.errors import ForeignModelError, MissingPairError, ParameterError
from covergraph.graph.losses import LipschitzLoss
from covergraph.measure.measure import measure


def lowered(table: Any, key: Any, value: float) -> dict[Any, float]:
    return {**table, key: value}


@pytest.mark.parametrize("symbol", ["a", "b"])
@pytest.mark.parametrize("share", [0.999999, 0.5, 0.0, math.nan])
def test_the_trained_network_must_lie_in_the_class(symbol: str, share: float) -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    size = getattr(found.layers["f2"], symbol)
    changed = lowered(getattr(parameters, symbol), "f2", size.lower * share)
    with pytest.raises(ParameterError, match=rf"{symbol} of 'f2'.*at least the measured distance"):
        bound.evaluate(found, replace(parameters, **{symbol: changed}))
    exact = lowered(getattr(parameters, symbol), "f2", size.upper)
    assert bound.evaluate(found, replace(parameters, grid=None, quantile=None, **{symbol: exact})).value > 0


@pytest.mark.parametrize(("table", "key"), [("s", "t1"), ("kappa", ("f3", "f1")), ("a", "f1"), ("b", "f3")])
def test_missing_parameters_are_named(table: str, key: Any) -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    fewer = {k: v for k, v in getattr(parameters, table).items() if k != key}
    with pytest.raises(ParameterError, match=rf"\b{table}\b.*f[13]|\bs\b.*'t1'"):
        bound.evaluate(found, replace(parameters, **{table: fewer}))


@pytest.mark.parametrize(("table", "key"), [("s", "t1"), ("kappa", ("f3", "f1"))])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_thresholds_must_be_positive(table: str, key: Any, value: float) -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    changed = lowered(getattr(parameters, table), key, value)
    with pytest.raises(ParameterError, match="expected a positive number"):
        bound.evaluate(found, replace(parameters, **{table: changed}))


@pytest.mark.parametrize("gamma", [None, 0.0, -1.0, math.nan])
def test_gamma_must_be_positive(gamma: float | None) -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    with pytest.raises(ParameterError, match="gamma is"):
        bound.evaluate(found, replace(parameters, gamma=gamma))


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"choices": 0}, "choices"),
        ({"choices": 0.5}, "choices"),
    ],
)
def test_confidence_and_choices(options: dict[str, Any], pattern: str) -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    with pytest.raises(ParameterError, match=pattern):
        bound.evaluate(found, parameters, **options)
    with pytest.raises(ParameterError, match="union cost is -1"):
        bound.evaluate(found, replace(parameters, union_cost=-1.0))


def test_measurements_of_another_model_mode_or_loss_are_refused() -> None:
    net = residual()
    bound, found, parameters = measured(net)
    with pytest.raises(ForeignModelError, match="fingerprint 'another'"):
        bound.evaluate(dataclasses.replace(found, fingerprint="another"), parameters)
    with pytest.raises(ParameterError, match=r"lack the pair .*measure with this bound"):
        net.bound(mode="paper").evaluate(found)
    with pytest.raises(ParameterError, match="are of the loss MarginLoss"):
        net.bound(loss=LipschitzLoss(lambda h, y: h[:, 0] * 0, 1.0)).evaluate(found)


def test_the_failed_first_attempt_has_no_certificate() -> None:
    net = mlp()
    bound = net.bound(mode="output-only")
    found = measure(bound, net.module, net.loader(N, 5))
    parameters = measured(net)[2]
    with pytest.raises(MissingPairError, match="not in P"):
        bound.evaluate(found, parameters)


def test_shared_parameters_must_lie_in_the_class_and_on_the_grid() -> None:
    """t of Theorem 1': not below the measured distance, and a point of the grid whose price is paid."""
    certificate = tied()
    bound, found, parameters = certificate.bound, certificate.measurements, certificate.parameters
    ((name, distance),) = found.shared.items()
    for share in (0.999999, 0.5, 0.0, math.nan):
        low = replace(parameters, grid=None, quantile=None, shared={name: distance.lower * share})
        with pytest.raises(ParameterError, match=rf"t of '{name}'.*at least the measured distance"):
            bound.evaluate(found, low)
    with pytest.raises(ParameterError, match="not on the grid"):
        bound.evaluate(found, replace(parameters, shared={name: parameters.shared[name] * 1.01}))
    with pytest.raises(ParameterError, match=f"no t for '{name}'"):
        bound.evaluate(found, replace(parameters, shared={}))
    exact = replace(parameters, grid=None, quantile=None, shared={name: distance.upper})
    assert bound.evaluate(found, exact).C <= certificate.C
