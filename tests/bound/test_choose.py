"""The visible step: quantiles of the margins, rounding outwards, floors, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import Network, mlp, network, residual, two_inputs
from torch import Tensor

from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound
from covergraph.errors import ForeignModelError, MarginError, ParameterError
from covergraph.graph.functions import COS
from covergraph.graph.losses import LipschitzLoss
from covergraph.measure.measure import measure
from covergraph.values import Measurements

N = 40


def measured(net: Network, labels: Tensor | None = None) -> tuple[Bound, Measurements]:
    inputs, own = net.sample(N)
    bound = net.bound()
    return bound, measure(bound, net.module, [(*inputs, own if labels is None else labels)])


def flipped(net: Network, wrong: int) -> Tensor:
    """The network's own labels, of which the first `wrong` are moved to another class."""
    labels = net.sample(N)[1]
    labels[:wrong] = (labels[:wrong] + 1) % 2
    return labels


@pytest.mark.parametrize("make", [mlp, residual, two_inputs])
@pytest.mark.parametrize("grid", [1.05, 1.5])
def test_everything_is_rounded_outwards_to_the_next_point_of_the_grid(make: Any, grid: float) -> None:
    net = make()
    bound, found = measured(net)
    floor = 0.3
    got = choose(bound, found, grid=grid, floor=floor)
    expected = {
        "s": {v: found.hidden[v].upper for v in got.s},
        "kappa": {pair: found.pairs[pair].upper for pair in got.kappa},
        "a": {v: layer.a.upper for v, layer in found.layers.items()},
        "b": {v: layer.b.upper for v, layer in found.layers.items()},
    }
    for symbol, table in expected.items():
        values = getattr(got, symbol)
        assert set(values) == set(table)
        for key, upper in table.items():
            assert max(upper, floor) <= values[key] < max(upper, floor) * grid
            m = math.log(values[key]) / math.log(grid)
            assert abs(m - round(m)) < 1e-9
    assert (got.grid, got.floor) == (grid, floor)
    assert set(got.s) == set(bound.augmented.hidden)
    assert set(got.kappa) == set(bound.augmented.pair_names)


@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.99])
def test_gamma_is_a_quantile_of_the_margins_rounded_down(quantile: float) -> None:
    """The value below which at most this share of the samples lies."""
    bound, found = measured(mlp())
    got = choose(bound, found, quantile=quantile)
    ordered = sorted(found.margins)
    at = ordered[math.floor(quantile * (N - 1))]
    assert got.gamma is not None
    assert at / 1.05 < got.gamma <= at
    assert got.quantile == quantile
    assert sum(m < got.gamma for m in found.margins) <= math.ceil(quantile * N)


@pytest.mark.parametrize("wrong", [0, 3, 15])
def test_auto_takes_the_quantile_with_the_smallest_certificate(wrong: int) -> None:
    net = mlp()
    bound, found = measured(net, flipped(net, wrong))
    best = bound.evaluate(found, choose(bound, found)).value
    usable = [q for q in (0.0, 0.01, 0.05, 0.1, 0.25) if np.quantile(found.margins, q, method="lower") > 0]
    others = [
        bound.evaluate(found, choose(bound, found, quantile=q)).value for q in usable or (0.0, 0.05, 0.25)
    ]
    assert best == min(others) if usable else best <= min(others)


@pytest.mark.parametrize("wrong", [1, 4, 12, 39])
def test_training_errors_count_in_the_training_term(wrong: int) -> None:
    """Misclassified samples have loss 1; a quarter of them makes all quantiles negative."""
    net = mlp()
    bound, found = measured(net, flipped(net, wrong))
    mistakes = int((found.margins <= 0).sum())
    assert mistakes == wrong
    got = choose(bound, found)
    assert got.gamma is not None and got.gamma > 0
    certificate = bound.evaluate(found, got)
    assert certificate.training >= wrong / N
    assert found.training_error == wrong / N
    assert got.gamma <= max(found.margins)


def test_quantiles_below_zero_fall_back_on_those_of_the_positive_margins() -> None:
    net = mlp()
    bound, found = measured(net, flipped(net, 30))
    positive = sorted(m for m in found.margins if m > 0)
    got = choose(bound, found, quantile=0.25)
    assert positive[math.floor(0.25 * (len(positive) - 1))] / 1.05 < got.gamma <= positive[-1]


def test_no_positive_margin_is_an_error() -> None:
    net = mlp()
    (x,), _ = net.sample(N)
    bound, found = measured(net, net.module(x).argmin(1))
    assert max(found.margins) < 0
    with pytest.raises(MarginError, match=rf"largest of {N} margins is -.*positive.*LipschitzLoss"):
        choose(bound, found)


def test_ties_are_no_positive_margins() -> None:
    net = mlp()
    with torch.no_grad():
        net.module.f3.weight.zero_()
    tied = network(net.module, net.graph.nodes, net.inputs)
    bound, found = measured(tied)
    assert set(found.margins) == {0.0} and found.training_error == 1
    with pytest.raises(MarginError, match="margins is 0,"):
        choose(bound, found)


def zeroed(net: Network, *names: str) -> Network:
    """The network with all parameters of these layers set to 0."""
    with torch.no_grad():
        for name in names:
            for parameter in net.module.get_submodule(name).parameters():
                parameter.zero_()
    return network(net.module, net.graph.nodes, net.inputs)


def test_zero_weights_and_zero_hidden_norms_never_divide_by_zero() -> None:
    """Only the last bias is left: hidden values, Jacobians and distances are 0, and margins are positive."""
    net = zeroed(mlp(bias=True), "f1", "f2")
    with torch.no_grad():
        net.module.f3.weight.zero_()
    net = network(net.module, net.graph.nodes, net.inputs)
    bound, found = measured(net)
    assert found.hidden["t1"].upper == found.pairs["f3", "f1"].upper == found.layers["f1"].a.upper == 0
    got = choose(bound, found)
    k = len(net.graph) - 1
    assert got.floor == 1 / k
    for values in (got.s, got.kappa, got.a, got.b):
        assert all(v >= 1 / k for v in values.values())
    assert 1 / k <= got.kappa["f3", "f1"] < 1.05 / k
    certificate = bound.evaluate(found, got)
    assert math.isfinite(certificate.value)
    assert certificate.product.log10 is not None and math.isfinite(certificate.product.log10)


def test_jacobians_that_vanish_leave_the_papers_sum_without_value() -> None:
    """cos(0) = 1 keeps hidden values and margins alive while the derivatives are 0."""
    net = zeroed(mlp(function=COS), "f2")
    bound, found = measured(net)
    assert found.pairs["t2", "t1"].upper == 0
    values = {v.expression.name: v for v in bound.evaluate(found).paper}
    assert values["Theorem 5.1"].value is None
    assert "divides by sigma" in values["Theorem 5.1"].note
    assert values["eq. (4)"].value is not None


def test_losses_without_margin_need_no_gamma() -> None:
    net = mlp()
    bound = net.bound(loss=LipschitzLoss(lambda h, y: torch.sigmoid(h[:, 0]), 0.25))
    got = choose(bound, measure(bound, net.module, net.loader(N, N)))
    assert got.gamma is None and got.quantile is None and got.union_cost > 0


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"grid": 1.0}, "grid is 1.0"),
        ({"grid": 0.5}, "grid is 0.5"),
        ({"grid": math.nan}, "grid is nan"),
        ({"grid": math.inf}, "grid is inf"),
        ({"quantile": 1.0}, "quantile is 1.0"),
        ({"quantile": -0.1}, "quantile is -0.1"),
        ({"quantile": math.nan}, "quantile is nan"),
        ({"floor": 0.0}, "floor is 0.0"),
        ({"floor": -1.0}, "floor is -1.0"),
        ({"floor": math.inf}, "floor is inf"),
    ],
)
def test_options_out_of_range(options: dict[str, float], pattern: str) -> None:
    bound, found = measured(mlp())
    with pytest.raises(ParameterError, match=pattern):
        choose(bound, found, **options)  # type: ignore[arg-type]


def test_measurements_of_another_model() -> None:
    bound, _ = measured(mlp())
    _, other = measured(mlp(seed=1))
    with pytest.raises(ForeignModelError):
        choose(bound, other)


def test_parameters_written_by_hand_cost_nothing_unless_they_say_so() -> None:
    bound, found = measured(mlp())
    got = choose(bound, found)
    assert got.union_cost > 0
    by_hand = type(got)(got.gamma, got.s, got.kappa, got.a, got.b)
    assert by_hand.union_cost == 0
    assert bound.evaluate(found, by_hand).value < bound.evaluate(found, got).value
    assert (
        bound.evaluate(found, replace(by_hand, union_cost=got.union_cost)).value
        == bound.evaluate(found, got).value
    )
