"""The papers' own expressions against nested loops written from their statements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from handmade import (
    Network,
    mlp,
)

from covergraph.bound import paper
from covergraph.bound.certificate import Certificate
from covergraph.bound.choose import choose
from covergraph.graph.function_rows import ABS, RELU, leaky_relu
from covergraph.graph.functions import SIGMOID, SIN, TANH, ScalarFunction
from covergraph.measure.measure import measure

N, DELTA = 15, 0.07


def certified(net: Network, mode: Any = "minimal") -> Certificate:
    bound = net.bound(mode)
    found = measure(bound, net.module, net.loader(N, 6))
    return bound.evaluate(found, choose(bound, found, condition_quantile=0), DELTA)


def value_of(certificate: Certificate, name: str) -> tuple[float | None, str]:
    (row,) = [v for v in certificate.paper if v.expression.name == name]
    return row.value, row.note


class Sizes:
    """What the expressions read, by layer: layer 2i - 1 is W_i, layer 2i the activation; plain torch."""

    def __init__(self, net: Network, samples: int = N) -> None:
        (x,), _ = net.sample(samples)
        weights = [p.detach().numpy() for p in net.module.parameters()]
        self.r = r = len(weights)
        values: dict[int, np.ndarray] = {0: x.numpy()}
        slopes: dict[int, np.ndarray] = {}
        for i in range(1, r + 1):
            values[2 * i - 1] = values[2 * i - 2] @ weights[i - 1].T
            if i < r:
                before = torch.tensor(values[2 * i - 1], requires_grad=True)
                after = net.module.activation(before)
                values[2 * i] = after.detach().numpy()
                slopes[2 * i] = torch.autograd.grad(after.sum(), before)[0].numpy()
        self.t = [float(np.linalg.norm(values[2 * i], axis=1).max()) for i in range(r)]
        self.values, self.slopes, self.weights = values, slopes, weights
        self.norms = {(w, j): self.jacobian_norms(w, j) for w in range(1, 2 * r) for j in range(1, w + 1)}
        self.a = [float(np.linalg.norm(W, axis=1).sum()) for W in weights]
        self.b = [float(np.abs(W).sum()) for W in weights]

    def jacobian_norms(self, w: int, j: int) -> np.ndarray:
        """||D|| of the layers j..w, per sample."""
        result = []
        for n in range(len(self.values[0])):
            matrix = np.eye(self.values[j - 1].shape[1])
            for layer in range(j, w + 1):
                matrix = (
                    self.weights[layer // 2] @ matrix
                    if layer % 2
                    else self.slopes[layer][n][:, None] * matrix
                )
            result.append(np.linalg.svd(matrix, compute_uv=False)[0])
        return np.array(result)

    def sigma(self, w: int, j: int) -> float:
        """sigma_{w<-j}, the largest over the samples; 1 for the empty product j = w + 1."""
        return 1.0 if j == w + 1 else float(self.norms[w, j].max())


def kappa_jacobian(z: Sizes, i: int) -> float:
    total = 0.0
    for j in range(1, 2 * i):
        for j1 in range(2 * i - 1, 2 * z.r):
            total += z.sigma(j1, 2 * i) * z.sigma(2 * i - 2, j) / z.sigma(j1, j)
    return total


def kappa_hidden(z: Sizes, i: int, gamma: float, curve: float) -> float:
    total = z.sigma(2 * z.r - 1, 2 * i) / gamma
    for i1 in range(i, z.r):
        total += z.sigma(2 * i1, 2 * i) / z.t[i1]
    for j in range(1, 2 * z.r):
        for j1 in range(j, 2 * z.r):
            for j2 in range(max(2 * i, j), j1 + 1):
                if j2 % 2 == 0:
                    product = z.sigma(j1, j2 + 1) * z.sigma(j2 - 1, 2 * i) * z.sigma(j2 - 1, j)
                    total += curve * product / z.sigma(j1, j)
    return total


def theorem_51(z: Sizes, gamma: float, curve: float) -> float:
    total = 0.0
    for i in range(1, z.r + 1):
        total += (kappa_hidden(z, i, gamma, curve) * z.a[i - 1] * z.t[i - 1]) ** (2 / 3)
        total += (kappa_jacobian(z, i) * z.b[i - 1]) ** (2 / 3)
    return total**1.5 / math.sqrt(N) + z.r * math.sqrt(math.log(1 / DELTA) / N)


def relu_hidden(z: Sizes, i: int, gamma: float, rho: list[float]) -> float:
    """Section H: 1/rho_i' of the condition on the output of W_i' in place of the curvature; rho[0] is not used."""
    total = z.sigma(2 * z.r - 1, 2 * i) / gamma
    for i1 in range(i, z.r):
        total += z.sigma(2 * i1, 2 * i) / z.t[i1] + z.sigma(2 * i1 - 1, 2 * i) / rho[i1]
    return total


@pytest.mark.parametrize("widths", [(4, 5, 3), (3, 4, 5, 2), (5, 4, 4, 3, 2)])
@pytest.mark.parametrize("function", [RELU, leaky_relu(0.1), ABS], ids=lambda f: f.name)
def test_section_h_by_nested_loops(widths: tuple[int, ...], function: ScalarFunction) -> None:
    net = mlp(widths, function=function, seed=len(widths), scale=1.7)
    z, got = Sizes(net), certified(net)
    gamma, rho = got.parameters.gamma, [0.0]
    for i in range(1, z.r):
        rho.append(got.parameters.rho[f"t{i}"])
        smallest = float(np.abs(z.values[2 * i - 1]).min())
        assert smallest / 1.05 <= rho[i] * (1 + 1e-9) and rho[i] <= smallest
    total = 0.0
    for i in range(1, z.r + 1):
        total += (relu_hidden(z, i, gamma, rho) * z.a[i - 1] * z.t[i - 1]) ** (2 / 3)
        total += (kappa_jacobian(z, i) * z.b[i - 1]) ** (2 / 3)
    expected = total**1.5 / math.sqrt(N) + z.r * math.sqrt(math.log(1 / DELTA) / N)
    assert value_of(got, "Section H")[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("i", [1, 2, 3])
def test_the_displayed_definition_of_section_h_is_the_loop(i: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp((4, 5, 4, 3), scale=1.5, function=RELU)
    z, rho = Sizes(net), [0.0, 0.3, 0.7]
    (_, hidden), (_, jacobian) = paper.paper_expressions(net.bound())[6].definitions
    values = {paper.i: i, paper.r: z.r, paper.GAMMA: 0.31, **{paper._rho[k]: rho[k] for k in (1, 2)}}
    assert evaluate(jacobian, z, values, monkeypatch) == pytest.approx(kappa_jacobian(z, i), rel=1e-12)
    assert evaluate(hidden, z, values, monkeypatch) == pytest.approx(relu_hidden(z, i, 0.31, rho), rel=1e-12)


CURVES: list[tuple[ScalarFunction, float]] = [
    (TANH, 4 / (3 * math.sqrt(3))),
    (SIGMOID, 1 / (6 * math.sqrt(3))),
    (SIN, 1.0),
]


@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (3, 4, 5, 2), (5, 4, 4, 3, 2)])
@pytest.mark.parametrize(("function", "curve"), CURVES, ids=lambda v: getattr(v, "name", ""))
def test_theorem_51_by_nested_loops(widths: tuple[int, ...], function: ScalarFunction, curve: float) -> None:
    net = mlp(widths, function=function, seed=len(widths), scale=1.7)
    got = certified(net)
    value, _ = value_of(got, "Theorem 5.1")
    assert value == pytest.approx(theorem_51(Sizes(net), got.parameters.gamma, curve), rel=1e-9)


def evaluate(expression: sympy.Expr, z: Sizes, values: dict[sympy.Symbol, float], monkeypatch: Any) -> float:
    """A displayed formula in numbers: its table of sigmas is filled, its sums are expanded."""
    sympy.core.cache.clear_cache()  # it may hold values of another table
    monkeypatch.setattr(paper._sigma, "lookup", lambda w, j: sympy.Float(z.sigma(w, j), 17), raising=False)
    result = expression.subs(values)
    result = result.replace(lambda e: isinstance(e, paper.IndexedSum), lambda e: e.doit())
    return float(result.subs({paper._t[k]: t for k, t in enumerate(z.t)}).subs(values))


@pytest.mark.parametrize("i", [1, 2, 3])
def test_the_displayed_definitions_are_the_loops(i: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp((4, 5, 4, 3), scale=1.5)
    z = Sizes(net)
    gamma, curve = 0.31, 0.77
    (_, hidden), (_, jacobian) = paper.paper_expressions(net.bound())[4].definitions
    values = {paper.i: i, paper.r: z.r, paper.GAMMA: gamma, paper._curve: curve}
    assert evaluate(jacobian, z, values, monkeypatch) == pytest.approx(kappa_jacobian(z, i), rel=1e-12)
    assert evaluate(hidden, z, values, monkeypatch) == pytest.approx(
        kappa_hidden(z, i, gamma, curve), rel=1e-12
    )


def test_theorem_11_by_hand() -> None:
    net = mlp((4, 5, 4, 3), scale=3.0)
    z, got = Sizes(net), certified(net)
    sigma = max(z.sigma(w, j) for w in range(1, 2 * z.r) for j in range(1, w + 1))
    t, r, gamma = max(z.t), z.r, got.parameters.gamma
    assert min(sigma, t) >= 1
    first = (sigma / gamma + r**3 * sigma**2) * t * (1 + sum(a ** (2 / 3) for a in z.a)) ** 1.5
    second = r**2 * sigma * (1 + sum(b ** (2 / 3) for b in z.b)) ** 1.5
    expected = (first + second) / math.sqrt(N) + r * math.sqrt(math.log(1 / DELTA) / N)
    assert value_of(got, "Theorem 1.1")[0] == pytest.approx(expected, rel=1e-9)


def test_theorem_11_supposes_large_norms() -> None:
    value, note = value_of(certified(mlp(scale=0.1)), "Theorem 1.1")
    assert value is None and "supposes sigma, t >= 1" in note


def release_constant(z: Sizes, parameters: Any, names: list[str], i: int, tau: float, curve: float) -> float:
    """kappatilde of layer i in paper mode: the sums of Theorem 2, each 2 of an empty product a 1."""
    k = 2 * z.r - 1

    def kappa(w: int, j: int) -> float:
        return parameters.kappa[names[w], names[j - 1]]

    def bar(w: int, j: int) -> float:
        return 1.0 if j == w + 1 else 2 * kappa(w, j)

    total = tau * bar(k, i + 1)
    for j in range(i, k + 1):
        if j % 2 == 0:
            total += bar(j, i + 1) / parameters.s[names[j]]
    for j in range(1, k + 1):
        for j1 in range(j, k + 1):
            for j2 in range(max(i + 1, j), j1 + 1):
                if j2 % 2 == 0:
                    total += curve * bar(j1, j2 + 1) * bar(j2 - 1, i + 1) * bar(j2 - 1, j) / kappa(j1, j)
    return total


def test_equation_4_by_the_sequential_sums() -> None:
    net = mlp((4, 5, 4, 3), scale=1.5)
    z, got = Sizes(net), certified(net, "paper")
    names = [node.name for node in net.graph.nodes]
    tau = math.sqrt(2) / got.parameters.gamma
    radii = [math.sqrt((z.values[0] ** 2).sum() / N), *(got.parameters.s[f"t{i}"] for i in range(1, z.r))]
    total = 0.0
    for i in range(1, z.r + 1):
        constant = release_constant(z, got.parameters, names, 2 * i - 1, tau, CURVES[0][1])
        total += (constant * radii[i - 1]) ** (2 / 3)
    expected = total**1.5 / math.sqrt(N) + math.sqrt(math.log(1 / DELTA) / N)
    assert value_of(got, "eq. (4)")[0] == pytest.approx(expected, rel=1e-9)


def test_figure_1_by_hand() -> None:
    """Mean over the correctly classified samples of sum ||h_i|| ||J_i|| / gamma."""
    net = mlp((4, 5, 4, 3))
    got, z = certified(net), Sizes(net)
    (x,), y = net.sample(N)
    logits = net.module(x).detach().numpy()
    terms = []
    for n in range(N):
        margin = logits[n, y[n]] - max(np.delete(logits[n], int(y[n])))
        hidden = sum(
            np.linalg.norm(z.values[2 * i][n]) * z.norms[2 * z.r - 1, 2 * i + 1][n] for i in range(1, z.r)
        )
        if margin > 0:
            terms.append(hidden / margin)
    assert value_of(got, "Fig. 1")[0] == pytest.approx(np.mean(terms), rel=1e-9)


def test_covering_statements_carry_the_root_of_the_log_covering_number() -> None:
    net = mlp((4, 5, 3))
    got, z = certified(net), Sizes(net)
    assert value_of(got, "Theorem 4.2")[0] == value_of(got, "Theorem 4.3 (eq. 5)")[0] == got.C
    norms = [np.linalg.svd(W, compute_uv=False)[0] for W in z.weights]
    tau = math.sqrt(2) / got.parameters.gamma
    x = math.sqrt((z.values[0] ** 2).sum() / N)
    first = tau * norms[1] * z.a[0] * x * math.sqrt(2 * math.log(2 * 4 * 5))
    second = tau * z.a[1] * norms[0] * x * math.sqrt(2 * math.log(2 * 5 * 3))
    expected = (first ** (2 / 3) + second ** (2 / 3)) ** 1.5
    assert value_of(got, "Lemma 4.1")[0] == pytest.approx(expected, rel=1e-9)
