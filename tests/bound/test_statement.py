"""The expressions that are printed, with numbers put in, are the numbers that are certified."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import sympy
from rough import conditioned, tied
from strategies import Builder
from torch.utils.data import DataLoader, TensorDataset

from covergraph.bound.certificate import Certificate
from covergraph.bound.derive import derive
from covergraph.bound.theorem import TRAINING, UNION_COST
from covergraph.bound.theorem import C as C_SYMBOL
from covergraph.graph.functions import TANH
from covergraph.graph.losses import GAMMA
from covergraph.graph.operations import Add
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.report.formulas import release_lipschitz_expressions


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
    """The symbols of C, and of what it is made of, and their values."""
    symbols, parameters = certificate.bound.symbols, certificate.parameters
    values = {symbols.s(v): s for v, s in parameters.s.items()}
    values |= {symbols.a(v): a for v, a in parameters.a.items()}
    values |= {symbols.b(v): b for v, b in parameters.b.items()}
    values |= {symbols.kappa(pair): kappa for pair, kappa in parameters.kappa.items()}
    values |= {symbols.rho(v): rho for v, rho in parameters.rho.items()}
    values |= {symbols.t(v): t for v, t in parameters.shared.items()}
    values[symbols.radius("f")] = certificate.measurements.root_mean_square["x"].upper
    values[GAMMA] = parameters.gamma
    return values


def weights(certificate: Certificate) -> dict[sympy.Symbol, float]:
    """K_g of every class from the formulas of Theorem 2' and of Theorem 1'."""
    bound, values = certificate.bound, numbers(certificate)
    found = {
        symbol: float(expression.doit().subs(values)) for symbol, expression in release_lipschitz_expressions(bound)
    }
    groups = {group.contribution.weight: float(group.weight.subs(values | found)) for group in bound.groups}
    return found | groups


ALL = [residual_certificate, conditioned, tied]


@pytest.mark.parametrize("make", ALL)
def test_C(make: Callable[[], Certificate]) -> None:
    certificate = make()
    values = numbers(certificate) | weights(certificate)
    assert float(certificate.bound.C.subs(values)) == pytest.approx(certificate.C, rel=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_each_K(make: Callable[[], Certificate]) -> None:
    found = weights(make())
    for share in make().shares:
        assert found[share.contribution.weight] == pytest.approx(share.weight, rel=1e-9)


@pytest.mark.parametrize("make", ALL)
def test_each_E(make: Callable[[], Certificate]) -> None:
    values = numbers(make())
    for share in make().shares:
        assert float(share.contribution.E.subs(values)) == pytest.approx(share.root, rel=1e-9)


def test_of_two_covers_of_a_group_the_smaller_one_counts() -> None:
    """Covered one by one, the tied network has a larger C; the group's share is that of Theorem 1'."""
    certificate = tied()
    values, found = numbers(certificate), weights(certificate)
    alone = sum((found[c.weight] * float(c.E.subs(values))) ** (2 / 3) for c in certificate.bound.contributions)
    assert alone**1.5 > certificate.C
    assert [share.contribution.kind for share in certificate.shares].count("shared") == 1


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
