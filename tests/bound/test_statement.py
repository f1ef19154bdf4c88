"""The expressions that are printed, with numbers put in, are the numbers that are certified."""

from __future__ import annotations

import math
from functools import cache

import pytest
import sympy
from strategies import Builder
from torch.utils.data import DataLoader, TensorDataset

from covergraph.bound.certificate import Certificate
from covergraph.bound.derive import derive
from covergraph.bound.theorem import TRAINING, UNION_COST
from covergraph.bound.theorem import C as C_SYMBOL
from covergraph.graph.functions import TANH
from covergraph.graph.operations import Add
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment


@cache
def residual_certificate() -> Certificate:
    """x -> f -> f + tanh(g(f)) -> h, with biases at f and h."""
    builder = Builder(seed=5)
    f = builder.linear(builder.input(3, name="x"), 4, bias=True, name="f")
    branch = builder.smooth(TANH, builder.linear(f, 4, name="g"), name="t")
    graph = builder.graph(builder.linear(builder.add(Add(), f, branch, name="sum"), 3, bias=True, name="h"))
    x = builder.normal(50, 3)
    y = graph.run(builder.state, x)["h"].argmax(1)
    bound = derive(augment(graph))
    return bound.evaluate(measure(bound, builder.state, DataLoader(TensorDataset(x, y), batch_size=20)))


def numbers(certificate: Certificate) -> dict[sympy.Symbol, float]:
    """The symbols of C and their values."""
    symbols, parameters = certificate.bound.symbols, certificate.parameters
    values = {symbols.s(v): s for v, s in parameters.s.items()}
    values |= {symbols.a(v): a for v, a in parameters.a.items()}
    values |= {symbols.b(v): b for v, b in parameters.b.items()}
    values |= {share.contribution.weight: share.weight for share in certificate.shares}
    values[symbols.radius("f")] = certificate.measurements.root_mean_square["x"].upper
    return values


def test_C() -> None:
    certificate = residual_certificate()
    assert float(certificate.bound.C.subs(numbers(certificate))) == pytest.approx(certificate.C, rel=1e-6)


def test_each_E() -> None:
    values = numbers(residual_certificate())
    for share in residual_certificate().shares:
        assert float(share.contribution.E.subs(values)) == pytest.approx(share.root, rel=1e-9)


@pytest.mark.parametrize("C", [0.01, 0.3, 1e4])
def test_the_certificate(C: float) -> None:
    """Theorem 3 written by hand, once with Dudley's route, twice with one step."""
    n, delta, training, cost = 500, 0.03, 0.2, 11.0
    values = {C_SYMBOL: C, TRAINING: training, UNION_COST: cost, sympy.Symbol("n", positive=True): n}
    values[sympy.Symbol("delta", positive=True)] = delta
    ratio = C / math.sqrt(n)
    routes = {"one step": 2**0.75 * math.sqrt(ratio), "Dudley": math.inf}
    if 12 * ratio < 1:
        routes["Dudley"] = 12 * ratio * (1 - math.log(12 * ratio))
    for name, expression in residual_certificate().bound.rademacher.items():
        assert float(expression.subs(values)) == pytest.approx(routes[name], rel=1e-12)
    by_hand = training + 2 * min(routes.values()) + 3 * math.sqrt((math.log(2 / delta) + cost) / (2 * n))
    assert float(residual_certificate().bound.certificate.subs(values)) == pytest.approx(by_hand, rel=1e-12)


def test_the_certified_number() -> None:
    certificate = residual_certificate()
    values = {C_SYMBOL: certificate.C, TRAINING: certificate.training, UNION_COST: certificate.union_cost}
    values |= {sympy.Symbol("n", positive=True): certificate.n, sympy.Symbol("delta", positive=True): certificate.delta}
    assert float(certificate.bound.certificate.subs(values)) == pytest.approx(certificate.value, rel=1e-6)
