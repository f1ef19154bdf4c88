"""Theorem 3 piece by piece: z by hand, entropies by hand, constants by plain sums, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from dense import dense_derivative, spectral
from handmade import Network, convolutional, mlp, residual, two_inputs
from measured import N, measured

from covergraph.bound.certificate import Certificate, augmented_loss
from covergraph.bound.choose import choose
from covergraph.graph.losses import LipschitzLoss
from covergraph.measure.measure import measure
from covergraph.values import Parameters


def shrunk(parameters: Parameters, share: float) -> Parameters:
    """Thresholds below the measured norms, so that indicators are partly active, as if fixed in advance."""
    return replace(
        parameters,
        grid=None, quantile=None,
        s={v: share * s for v, s in parameters.s.items()},
        kappa={pair: share * k for pair, k in parameters.kappa.items()},
    )


@pytest.mark.parametrize("make", [residual, two_inputs, mlp])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.75])
def test_z_by_hand(make: Any, share: float) -> None:
    """1 + (l - 1) times the product of clip(2 - norm/threshold, 0, 1), norms by jacrev and SVD."""
    net = make()
    bound, found, parameters = measured(net, mode="paper")
    parameters = shrunk(parameters, share)
    inputs, labels = net.sample(N)
    expected = []
    for i in range(N):
        one = [x[i : i + 1] for x in inputs]
        net.module(*one)
        logits, y = net.module.seen[net.graph.output].flatten().tolist(), int(labels[i])
        margin = (
            (2 * y - 1) * logits[0] if len(logits) == 1 else logits[y] - max(logits[:y] + logits[y + 1 :])
        )
        loss = min(max(1 - margin / parameters.gamma, 0.0), 1.0)
        factors = [2 - float(net.module.seen[v].detach().norm()) / s for v, s in parameters.s.items()]
        pairs = parameters.kappa.items()
        factors += [2 - spectral(dense_derivative(net.module, one, w, a)) / k for (w, a), k in pairs]
        expected.append(1 + (loss - 1) * math.prod(min(max(f, 0.0), 1.0) for f in factors))
    z = augmented_loss(bound, found, parameters)
    np.testing.assert_allclose(z, expected, rtol=1e-9)
    training = bound.evaluate(found, parameters).training
    assert np.mean(expected) <= training <= np.mean(expected) + 1e-6  # with its allowance for rounding
    assert (z >= np.clip(1 - found.margins / parameters.gamma, 0, 1)).all()
    assert (z >= (found.margins <= 0)).all()
    assert (share < 1) == bool((z > np.clip(1 - found.margins / parameters.gamma, 0, 1) + 1e-6).any())


def plain_constants(
    net: Network, parameters: Parameters, tau: float, taubar: dict[tuple[str, str, str], float]
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Theorem 2 as it is stated, by plain sums; all ancestor pairs are in P."""
    graph = net.graph
    names = [node.name for node in graph.nodes]
    kappa = parameters.kappa

    def bar(w: str, a: str) -> float:
        return 1.0 if w == a else 2 * kappa.get((w, a), 0.0)

    def through(x: str, u: str) -> float:
        return sum(bar(w, x) * bar(u, a) / k for (w, a), k in kappa.items())

    jacobian = {(node.name, u): through(node.name, u) for node in graph.nodes for u in node.predecessors}
    hidden = {}
    for v in names:
        value = tau * bar(graph.output, v) + sum(bar(w, v) / s for w, s in parameters.s.items())
        hidden[v] = value + sum(t * bar(u1, v) * through(x, u) for (x, u, u1), t in taubar.items())
    return hidden, jacobian


TANH_CURVE, GELU_CURVE = 4 / (3 * math.sqrt(3)), math.sqrt(2 / math.pi)


def test_constants_entropies_and_C_by_hand() -> None:
    """Every number of the residual network's certificate in paper mode."""
    net = residual()
    bound, found, parameters = measured(net, mode="paper")
    taubar = {("t", "a", "a"): TANH_CURVE, ("bent", "joined", "joined"): GELU_CURVE}
    taubar |= {("square", "plus", "plus"): 2.0, ("gate", "square", "t"): 1.0, ("gate", "t", "square"): 1.0}
    hidden, jacobian = plain_constants(net, parameters, math.sqrt(2) / parameters.gamma, taubar)
    mean_square = float((net.sample(N)[0][0] ** 2).sum()) / N
    a, b, s = parameters.a, parameters.b, parameters.s
    E = {
        ("a", "value"): a["a"] ** 2 * (mean_square + 1) * math.log(2 * (4 + 1) * 5),
        ("b", "value"): a["b"] ** 2 * 4 * s["t"] ** 2 * math.log(2 * 5 * 5),
        ("c", "value"): a["c"] ** 2 * (4 * s["bent"] ** 2 + 1) * math.log(2 * (15 + 1) * 3),
        ("a", "derivative"): b["a"] ** 2 * math.log(2 * 4 * 5),
        ("b", "derivative"): b["b"] ** 2 * math.log(2 * 5 * 5),
        ("c", "derivative"): b["c"] ** 2 * math.log(2 * 15 * 3),
    }
    K = {(v, "value"): hidden[v] for v in "abc"}
    K |= {(v, "derivative"): jacobian[v, u] for v, u in (("a", "x"), ("b", "t"), ("c", "bent"))}
    terms = {key: (K[key] * math.sqrt(2 * E[key])) ** (2 / 3) for key in E}
    certificate = bound.evaluate(found, parameters)
    assert math.isclose(certificate.C, sum(terms.values()) ** 1.5, rel_tol=1e-8)
    assert len(certificate.shares) == 6
    for share in certificate.shares:
        key = share.contribution.node, share.contribution.kind
        assert share.weight == pytest.approx(K[key], rel=1e-10)
        assert share.root == pytest.approx(math.sqrt(2 * E[key]), rel=1e-10)
        assert share.share == pytest.approx(terms[key] / sum(terms.values()), rel=1e-9)


def test_entropies_of_convolutions_by_hand() -> None:
    """k1: kernel 3x2, stride 2x1, dilation 2x3: an entry lies in 3 * 2 patches, 12 positions, 2 groups."""
    net = convolutional()
    bound, found, parameters = measured(net)
    mean_square = float((net.sample(N)[0][0] ** 2).sum()) / N
    a, b, s = parameters.a, parameters.b, parameters.s
    expected = {
        ("k1", "value"): a["k1"] ** 2 * (6 * mean_square + 12) * math.log(2 * (6 + 1) * 4),
        ("k1", "derivative"): b["k1"] ** 2 * 6 * math.log(2 * 6 * 4),
        ("k2", "value"): a["k2"] ** 2 * 4 * (2 * s["pool"]) ** 2 * math.log(2 * 16 * 2),
        ("k2", "derivative"): b["k2"] ** 2 * 4 * math.log(2 * 16 * 2),
        ("f", "value"): a["f"] ** 2 * ((2 * s["flat"]) ** 2 + 1) * math.log(2 * 13 * 3),
        ("f", "derivative"): b["f"] ** 2 * math.log(2 * 12 * 3),
    }
    shares = bound.evaluate(found, parameters).shares
    assert {(g.contribution.node, g.contribution.kind) for g in shares} == set(expected)
    for share in shares:
        square = expected[share.contribution.node, share.contribution.kind]
        assert share.root == pytest.approx(math.sqrt(2 * square), rel=1e-10)


def test_terms_add_up_and_are_stated() -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    delta = 0.01
    got = bound.evaluate(found, parameters, delta)
    one_step = 2**0.75 * math.sqrt(got.C / math.sqrt(N))
    assert got.route == "one step" and got.complexity_term == pytest.approx(2 * one_step, rel=1e-9)
    ln = math.log(2 / delta) + parameters.union_cost
    assert got.deviation_term == pytest.approx(3 * math.sqrt(ln / (2 * N)), rel=1e-12)
    assert got.value == pytest.approx(got.training + got.complexity_term + got.deviation_term, rel=1e-8)
    assert got.value >= got.training + got.complexity_term + got.deviation_term
    assert (got.n, got.delta) == (N, delta)
    assert got.normalized == pytest.approx(got.C / math.sqrt(N))
    assert got.log10 == pytest.approx(math.log10(got.C / math.sqrt(N)))
    assert got.vacuous == (got.value >= 1)


def test_a_certificate_that_is_not_vacuous() -> None:
    """A class that almost is one network (reference weights a hair away), and many samples."""
    net = mlp((2, 2, 2), scale=0.1)
    bound = net.bound()
    start = mlp((2, 2, 2), scale=0.1).module
    inputs, labels = net.sample(3000)
    found = measure(bound, net.module, [(*inputs, labels)], init_model=start, trust_init=True)
    thresholds = {v: m.upper for v, m in found.hidden.items()}
    radii = dict.fromkeys(net.graph.covered, 1e-8)
    kappa = {pair: m.upper for pair, m in found.pairs.items()}
    fixed = Parameters(float(np.quantile(found.margins, 0.02)), thresholds, kappa, radii, radii)
    got = bound.evaluate(found, fixed)
    assert got.route == "Dudley"
    ratio = 12 * got.C / math.sqrt(3000)
    assert got.complexity_term == pytest.approx(2 * ratio * (1 - math.log(ratio)), rel=1e-7)
    assert not got.vacuous and got.training < 0.1
    assert got.samples_needed is not None and got.samples_needed < 3000


def test_parameters_fixed_in_advance_cost_nothing() -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    free = bound.evaluate(found, replace(parameters, grid=None, quantile=None, union_cost=0.0), 0.05)
    assert free.union_cost == 0
    assert free.deviation_term == pytest.approx(3 * math.sqrt(math.log(40) / (2 * N)))
    paid = bound.evaluate(found, replace(parameters, grid=None, quantile=None, union_cost=0.0), 0.05, choices=7)
    assert paid.deviation_term == pytest.approx(3 * math.sqrt(math.log(40 * 7) / (2 * N)))
    assert paid.value > free.value


def test_parameters_default_to_those_of_choose() -> None:
    net = mlp()
    bound, found, parameters = measured(net)
    assert bound.evaluate(found).parameters == parameters


def test_union_cost_counts_every_parameter_on_the_grid() -> None:
    net = mlp()
    bound, found, _ = measured(net)
    parameters = choose(bound, found, grid=1.3)
    values = [parameters.gamma]
    for table in (parameters.s, parameters.kappa, parameters.a, parameters.b):
        values += table.values()
    assert len(values) == 1 + 2 + int(bound.augmented.pairs.sum()) + 3 + 3
    exponents = [math.log(v) / math.log(1.3) for v in values]
    assert all(abs(m - round(m)) < 1e-9 for m in exponents)
    Z = math.pi**2 / 3 - 1
    direct = sum(math.log(Z) + 2 * math.log(1 + abs(round(m))) for m in exponents)
    assert bound.evaluate(found, parameters).union_cost == pytest.approx(direct, rel=1e-12)


def test_losses_of_the_user_have_a_certificate() -> None:
    net = mlp()
    square = LipschitzLoss(lambda h, y: (h.gather(1, y[:, None])[:, 0] - 1).clamp(-1, 1) ** 2, 2.0)
    bound, found, parameters = measured(net, loss=square)
    assert parameters.gamma is None and parameters.quantile is None
    got = bound.evaluate(found, parameters)
    (x,), y = net.sample(N)
    plain = ((net.module(x).gather(1, y[:, None])[:, 0] - 1).clamp(-1, 1) ** 2).mean()
    assert float(plain) <= got.training <= float(plain) + 1e-6  # with its allowance for rounding
    doubled = net.bound(loss=replace(square, lipschitz=4.0)).evaluate(found, parameters)
    f3, base = doubled.constants.hidden("f3"), got.constants.hidden("f3")
    assert f3 - base == pytest.approx(2.0, rel=1e-9)
    assert [v.value for v in got.paper] == [None] * len(got.paper)


def test_z_only_grows_when_thresholds_shrink() -> None:
    net = residual()
    bound, found, parameters = measured(net)
    means = [
        np.mean(augmented_loss(bound, found, shrunk(parameters, share)))
        for share in (2, 1, 0.9, 0.8, 0.7, 0.4)
    ]
    assert means == sorted(means) and means[0] < means[-1]


def test_certificates_fall_with_n_and_delta() -> None:
    net = mlp()
    values: dict[tuple[int, float], Certificate] = {}
    for n, delta in product((12, 48), (0.01, 0.2)):
        inputs, labels = (
            t.repeat(n // 12, *[1] * (t.ndim - 1)) for t in (net.sample(12)[0][0], net.sample(12)[1])
        )
        bound = net.bound()
        values[n, delta] = bound.evaluate(measure(bound, net.module, [(inputs, labels)], duplicates="iid"), delta=delta)
    assert values[48, 0.01].value < values[12, 0.01].value
    assert values[12, 0.2].value < values[12, 0.01].value
    assert math.isclose(values[48, 0.2].C, values[12, 0.2].C, rel_tol=1e-9)
