"""Certificates with conditions end to end: samples on which one fails, levels rounded down, a-priori norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import Network, mlp
from strategies import Builder
from torch import Tensor

from covergraph.bound.certificate import Certificate, augmented_loss
from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound, derive
from covergraph.errors import ParameterError
from covergraph.graph import operations as op
from covergraph.graph.function_rows import RELU
from covergraph.graph.losses import LipschitzLoss
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.values import Measurements, Parameters

N = 20


def relu_net() -> Network:
    return mlp((4, 3, 3, 2), function=RELU, seed=3)


def sample(net: Network) -> tuple[Tensor, Tensor]:
    (x,), y = net.sample(N)
    return x, y


def measured(net: Network, x: Tensor, y: Tensor, loss: LipschitzLoss | None = None) -> tuple[Bound, Measurements]:
    bound = net.bound(loss=loss)
    return bound, measure(bound, net.module, [(x, y)])


def smallest_entries(net: Network, x: Tensor, layer: str) -> list[float]:
    net.module(x)
    return [float(row.abs().min()) for row in net.module.seen[layer].detach()]


def test_rho_is_the_smallest_distance_rounded_down_and_paid_for() -> None:
    net = relu_net()
    x, y = sample(net)
    bound, found = measured(net, x, y)
    parameters = choose(bound, found, grid=1.3, condition_quantile=0)
    assert set(parameters.rho) == {"t1", "t2"}
    for t, f in (("t1", "f1"), ("t2", "f2")):
        distances = smallest_entries(net, x, f)
        assert (found.condition_values[t] <= distances).all()  # lower ends
        np.testing.assert_allclose(found.condition_values[t], distances, atol=1e-8)
        assert min(distances) / 1.3 < parameters.rho[t] * (1 + 1e-6) and parameters.rho[t] <= min(distances)
    tables = (parameters.s, parameters.kappa, parameters.a, parameters.b, parameters.rho)
    assert parameters.gamma is not None
    values = [parameters.gamma, *(v for table in tables for v in table.values())]
    exponents = [round(math.log(v) / math.log(1.3)) for v in values]
    price = sum(math.log(math.pi**2 / 3 - 1) + 2 * math.log(1 + abs(m)) for m in exponents)
    assert parameters.union_cost == pytest.approx(price, rel=1e-12)
    with pytest.raises(ParameterError, match="union cost"):
        bound.evaluate(found, replace(parameters, union_cost=price - 0.1))
    with pytest.raises(ParameterError, match="not on the grid"):
        bound.evaluate(found, replace(parameters, rho={**parameters.rho, "t1": parameters.rho["t1"] * 0.99}))


def test_z_is_the_loss_where_all_conditions_hold() -> None:
    net = relu_net()
    bound, found = measured(net, *sample(net))
    assert found.failing == {}
    parameters = choose(bound, found, quantile=0.25, condition_quantile=0)
    assert parameters.gamma is not None and found.margins is not None
    loss = np.clip(1 - found.margins / parameters.gamma, 0, 1)
    np.testing.assert_allclose(augmented_loss(bound, found, parameters), loss, atol=1e-12)


def test_a_sample_on_a_kink_counts_as_an_error() -> None:
    """An input of 0 has pre-activations of 0: z = 1 there, whatever rho is; the others choose rho."""
    net = relu_net()
    x, y = sample(net)
    x[7] = 0
    bound, found = measured(net, x, y)
    assert found.failing == {"t1": 1, "t2": 1}
    parameters = choose(bound, found, quantile=0.25, condition_quantile=0)
    others = [value for n, value in enumerate(smallest_entries(net, x, "f1")) if n != 7]
    assert min(others) / 1.05 < parameters.rho["t1"] * (1 + 1e-6) and parameters.rho["t1"] <= min(others)
    z = augmented_loss(bound, found, parameters)
    assert z[7] == 1 and np.isfinite(z).all()
    got = bound.evaluate(found, parameters)
    assert isinstance(got, Certificate) and math.isfinite(got.value)
    assert got.training == pytest.approx(z.mean(), abs=1e-6)
    inputs, labels = x[7:8], torch.zeros(1, dtype=torch.int64)
    assert bound.augmented.run(net.module, inputs, labels, parameters).item() == 1


def test_a_sample_near_a_kink_is_on_the_ramp() -> None:
    """rho as if fixed in advance: z rises to 1 while q falls from rho to rho / 2."""
    net = relu_net()
    bound, found = measured(net, *sample(net))
    parameters = replace(choose(bound, found, quantile=0.25, condition_quantile=0), grid=None, quantile=None)
    z = augmented_loss(bound, found, parameters)
    q = found.condition_values["t1"]
    n = int(np.argmin(q))
    for share, indicator in ((1.0, 1.0), (0.8, 0.6), (0.5, 0.0), (0.3, 0.0)):
        high = replace(parameters, rho={**parameters.rho, "t1": q[n] / share})
        assert augmented_loss(bound, found, high)[n] == pytest.approx(1 + (z[n] - 1) * indicator, abs=1e-9)


def test_if_no_sample_meets_a_condition_the_training_term_is_one() -> None:
    net = relu_net()
    x, y = sample(net)
    loss = LipschitzLoss(lambda h, y: torch.zeros(len(h), dtype=h.dtype), 0.5)
    bound, found = measured(net, 0 * x, y, loss)
    assert found.failing == {"t1": N, "t2": N}
    got = bound.evaluate(found, choose(bound, found, condition_quantile=0))
    assert got.training == 1 and got.value >= 1 and math.isfinite(got.value)


def test_rho_must_be_given_and_positive() -> None:
    net = relu_net()
    bound, found = measured(net, *sample(net))
    parameters = replace(choose(bound, found, condition_quantile=0), grid=None, quantile=None)
    for rho in ({"t1": 1.0}, {"t1": 1.0, "t2": 0.0}, {"t1": 1.0, "t2": math.nan}):
        with pytest.raises(ParameterError, match="rho of 't2'"):
            bound.evaluate(found, replace(parameters, rho=rho))


def test_a_larger_rho_lowers_the_constants_and_raises_z() -> None:
    net = relu_net()
    bound, found = measured(net, *sample(net))
    parameters = replace(choose(bound, found, condition_quantile=0), grid=None, quantile=None)
    double = replace(parameters, rho={c: 2 * rho for c, rho in parameters.rho.items()})
    one, two = bound.evaluate(found, parameters), bound.evaluate(found, double)
    assert two.training >= one.training
    for name in ("f1", "f2"):
        falls = one.constants.hidden(name) - two.constants.hidden(name)
        bars = {("f1", "t1"): 1.0, ("f1", "t2"): 2 * parameters.kappa.get(("f2", "f1"), math.nan), ("f2", "t2"): 1.0}
        expected = sum(bars[name, c] / parameters.rho[c] for c in ("t1", "t2") if (name, c) in bars)
        assert falls == pytest.approx(expected, rel=1e-9)


def bounded(operation: op.Operation) -> Callable[[Builder], str]:
    """x -> f -> the operation -> g."""

    def build(builder: Builder) -> str:
        f = builder.linear(builder.input(4, name="x"), 4, name="f")
        return builder.linear(builder.add(operation, f, name="p"), 3, name="g")

    return build


@pytest.mark.parametrize(
    ("operation", "radius"),
    [(op.Normalize(4, 1e-5), 2.0), (op.Normalize(2, 1e-3, center=False), 2.0), (op.Softmax(0), 1.0)],
    ids=["layer norm", "two groups", "softmax"],
)
def test_values_with_an_a_priori_norm_need_no_indicator(operation: op.Operation, radius: float) -> None:
    builder = Builder()
    graph = builder.graph(bounded(operation)(builder))
    bound = derive(augment(graph))
    assert bound.augmented.hidden == ()
    x = builder.normal(N, 4)
    y = graph.run(builder.state, x)["g"].argmax(1)
    got = bound.evaluate(measure(bound, builder.state, [(x, y)]))
    (share,) = [s for s in got.shares if (s.contribution.node, s.contribution.kind) == ("g", "value")]
    a = got.parameters.a["g"]
    assert share.root == pytest.approx(a * radius * math.sqrt(2 * math.log(2 * 4 * 3)), rel=1e-9)
    assert bound.augmented.conditions.keys() == ({"p"} if isinstance(operation, op.Normalize) else set())


def test_a_norm_of_zero_counts_as_an_error() -> None:
    """The Euclidean norm has no derivative at 0, and its measured Jacobian is of no use there."""
    builder = Builder()
    f = builder.linear(builder.input(1, 2, name="x"), 2, name="f")
    graph = builder.graph(builder.linear(builder.add(op.VectorNorm((1,)), f, name="p"), 2, name="g"))
    bound = derive(augment(graph))
    x = builder.normal(N, 1, 2)
    x[3] = 0
    y = graph.run(builder.state, x)["g"].argmax(1)
    y[3] = 0
    found = measure(bound, builder.state, [(x, y)])
    assert found.failing == {"p": 1}
    parameters = choose(bound, found, condition_quantile=0)
    z = augmented_loss(bound, found, parameters)
    assert z[3] == 1 and np.isfinite(z).all() and math.isfinite(bound.evaluate(found, parameters).value)
    assert float(bound.augmented.run(builder.state, x[3:4], y[3:4], parameters)) == 1


def test_curvatures_are_stated_at_twice_the_levels_of_their_radii() -> None:
    """2 |a| / |b|^3 of a quotient at |b| = rho/2, |a| = 2 s, or sqrt(size) where the numerator is normalized."""
    builder = Builder()
    x = builder.input(4, name="x")
    a, b = builder.linear(x, 4, name="a"), builder.linear(x, 4, name="b")
    q = builder.add(op.Divide(), a, b, name="q")
    d = builder.add(op.Divide(), builder.add(op.Normalize(4, 1e-5), a, name="n"), b, name="d")
    bound = derive(augment(builder.graph(builder.add(op.Add(), q, d, name="sum"))))
    assert bound.augmented.hidden == ("a",)
    place = bound.graph.index
    found = bound.taubar(Parameters(1.0, {"a": 3.0}, {}, {}, {}, rho={"q": 0.5, "d": 0.25, "n": 1.0}))
    assert found[place["q"], place["b"], place["b"]] == pytest.approx(2 * 6 / 0.25**3, rel=1e-12)
    assert found[place["d"], place["b"], place["b"]] == pytest.approx(2 * 2 / 0.125**3, rel=1e-12)
