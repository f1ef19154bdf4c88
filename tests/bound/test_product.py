"""The product of Lipschitz constants: the textbook's formula on a chain, sums over paths on a DAG."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense import dense_convolution, spectral
from handmade import (
    Marked,
    Network,
    convolutional,
    linear_node,
    mlp,
    network,
    normal,
    residual,
    two_inputs,
    unary,
)

from covergraph.bound.derive import Bound, derive
from covergraph.bound.product import ProductBound, lipschitz_to_output, product_of_lipschitz, worst_case_radii
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import SOFTPLUS, TANH, ScalarFunction, T, affine
from covergraph.graph.losses import MarginLoss
from covergraph.graph.node import Node
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.values import LayerSize, Measurement, Measurements

N = 14


def measured(net: Network) -> tuple[Bound, Measurements]:
    bound = net.bound()
    return bound, measure(bound, net.module, net.loader(N, 5))


def root_mean_square(x: torch.Tensor) -> float:
    return math.sqrt(float((x**2).sum()) / len(x))


@pytest.mark.parametrize("widths", [(5, 3), (5, 6, 3), (4, 6, 5, 4, 2)])
def test_chain_of_matrices_by_the_textbook_formula(widths: tuple[int, ...]) -> None:
    """tau X prod ||W_i||_op (sum (a_i/||W_i||_op)^(2/3))^(3/2) / sqrt(n), for 1-Lipschitz activations."""
    net = mlp(widths, scale=1.6)
    bound, found = measured(net)
    weights = [p.detach().numpy() for p in net.module.parameters()]
    x = root_mean_square(net.sample(N)[0][0])
    norms = [spectral(W) for W in weights]
    rows = [np.linalg.norm(W, axis=1).sum() for W in weights]
    tau = 1.7
    plain = [(a / s) ** (2 / 3) for a, s in zip(rows, norms, strict=True)]
    unit = tau * x * math.prod(norms) * sum(plain) ** 1.5 / math.sqrt(N)
    logs = [math.sqrt(2 * math.log(2 * W.size)) for W in weights]
    parts = [(a / s * ln) ** (2 / 3) for a, s, ln in zip(rows, norms, logs, strict=True)]
    explicit = tau * x * math.prod(norms) * sum(parts) ** 1.5 / math.sqrt(N)
    got = product_of_lipschitz(bound, found, tau)
    assert got.log10_unit == pytest.approx(math.log10(unit), abs=1e-10)
    assert got.log10 == pytest.approx(math.log10(explicit), abs=1e-10)
    assert got.reason == ""


def skip_net() -> Network:
    """tanh(Wx + b) plus softplus of another layer of it, joined with itself."""

    class Module(Marked):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                torch.nn.Linear(3, 4),
                torch.nn.Linear(4, 4, bias=False),
                torch.nn.Linear(8, 2),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = self.mark("t", torch.tanh(self.mark("a", self.a(self.mark("x", x)))))
            s = self.mark("s", torch.nn.functional.softplus(self.mark("b", self.b(t))))
            plus = self.mark("plus", s + t)
            joined = self.mark("joined", torch.cat([plus, plus], 1))
            return self.mark("c", self.c(joined))

    torch.manual_seed(4)
    nodes = [
        Node("x", op.Input(), (), (3,)),
        linear_node("a", "x", (4,)),
        unary("t", TANH, "a", (4,)),
        linear_node("b", "t", (4,), bias=False),
        unary("s", SOFTPLUS, "b", (4,)),
        Node("plus", op.Add(), ("s", "t"), (4,)),
        Node("joined", op.Concatenate(0), ("plus", "plus"), (8,)),
        linear_node("c", "joined", (2,)),
    ]
    return network(Module(), nodes, normal((3,)))


def test_residual_network_by_hand() -> None:
    """Slopes add over paths, radii add at the addition; softplus has slope 1 and the value ln 2 at 0."""
    net = skip_net()
    bound, found = measured(net)
    m = net.module
    A, B, C = (spectral(layer.weight.detach()) for layer in (m.a, m.b, m.c))
    slope = {"c": 1.0, "joined": C, "plus": math.sqrt(2) * C}
    slope |= {"s": slope["plus"], "b": slope["plus"], "t": slope["plus"] * (1 + B)}
    slope["a"] = slope["t"]
    for v, expected in slope.items():
        assert float(lipschitz_to_output(bound, found)[v]) == pytest.approx(expected, rel=1e-10)
    x = root_mean_square(net.sample(N)[0][0])
    a = A * x + float(m.a.bias.detach().norm())
    radius = {"x": x, "a": a, "t": a, "b": B * a, "s": B * a + math.log(2) * 2}
    radius["plus"] = radius["s"] + radius["t"]
    radius["joined"] = math.sqrt(2) * radius["plus"]
    for v, expected in radius.items():
        assert float(worst_case_radii(bound, found)[v]) == pytest.approx(expected, rel=1e-10)
    joint = {
        v: [layer.weight] if layer.bias is None else [layer.weight, layer.bias[:, None]]
        for v, layer in m.named_children()
    }
    sizes = {v: float(torch.cat(parts, 1).detach().norm(dim=1).sum()) for v, parts in joint.items()}
    parts = [
        slope["a"] * sizes["a"] * math.sqrt(x**2 + 1),
        slope["b"] * sizes["b"] * radius["t"],
        slope["c"] * sizes["c"] * math.sqrt(radius["joined"] ** 2 + 1),
    ]
    counts = [2 * 4 * 4, 2 * 4 * 4, 2 * 9 * 2]
    unit = sum(p ** (2 / 3) for p in parts) ** 1.5 / math.sqrt(N)
    roots = [p * math.sqrt(2 * math.log(c)) for p, c in zip(parts, counts, strict=True)]
    explicit = sum(p ** (2 / 3) for p in roots) ** 1.5 / math.sqrt(N)
    got = product_of_lipschitz(bound, found, 1.0)
    assert got.log10_unit == pytest.approx(math.log10(unit), abs=1e-10)
    assert got.log10 == pytest.approx(math.log10(explicit), abs=1e-10)


def turned(net: Network, generator: torch.Generator) -> Network:
    """Random weights with the operator norms and biases' norms of the given ones, at random directions."""
    with torch.no_grad():
        for parameter in net.module.parameters():
            other = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                parameter.copy_(other * parameter.norm() / other.norm())
            elif parameter.ndim == 2:
                norms = (torch.linalg.matrix_norm(w, ord=2) for w in (parameter, other))
                parameter.copy_(other * next(norms) / next(norms))
    return net


def test_radii_and_slopes_hold_for_other_weights_of_the_same_norms() -> None:
    """Worst-case constants speak about the class, not about the trained weights."""
    net = skip_net()
    bound, found = measured(net)
    radii, slopes = worst_case_radii(bound, found), lipschitz_to_output(bound, found)
    (x,), _ = net.sample(N)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for _ in range(40):
        module = turned(net, generator).module
        module.cut = {}
        module(x)
        seen = {v: value.detach() for v, value in module.seen.items()}
        for v, value in seen.items():
            assert root_mean_square(value) <= float(radii[v]) * (1 + 1e-9)
            largest = max(largest, root_mean_square(value) / float(radii[v]) if v not in ("x",) else 0)
        for v in ("a", "t", "b", "plus"):
            step = 0.1 * torch.randn(seen[v].shape, generator=generator, dtype=torch.float64)
            module.cut = {v: seen[v] + step}
            change = module(x).detach() - seen["c"]
            assert (change.norm(dim=1) <= float(slopes[v]) * step.norm(dim=1) * (1 + 1e-9)).all()
    assert largest > 0.3


def test_convolutions_use_the_norm_of_the_true_operator() -> None:
    net = convolutional()
    bound, found = measured(net)
    k1, k2 = net.module.k1, net.module.k2
    first = spectral(dense_convolution(k1.weight, (2, 5, 5), (2, 1), (2, 1), (2, 3), 2))
    second = spectral(dense_convolution(k2.weight, (4, 4, 3), (1, 1), (0, 0), (1, 1), 1))
    head = spectral(net.module.f.weight.detach())
    slopes = lipschitz_to_output(bound, found)
    # A pool of 2x2 windows with stride 1x2: an entry lies in 2 windows, each divides by 4.
    assert float(slopes["k1"]) == pytest.approx(head * second * math.sqrt(2 / 4), rel=1e-9)
    x = root_mean_square(net.sample(N)[0][0])
    bias = float(k1.bias.detach().norm()) * math.sqrt(12)
    assert float(worst_case_radii(bound, found)["k1"]) == pytest.approx(first * x + bias, rel=1e-9)
    assert product_of_lipschitz(bound, found, 1.0).log10 is not None


@pytest.mark.parametrize("make", [residual, two_inputs])
def test_products_of_hidden_values_have_no_bound_of_this_kind(make: object) -> None:
    bound, found = measured(make())  # type: ignore[operator]
    got = product_of_lipschitz(bound, found, 1.0)
    assert got.log10 is None and got.log10_unit is None
    assert "'product' has no finite worst-case Lipschitz constant" in got.reason


def flat(value: float) -> Measurement:
    return Measurement(value, value, "exact", "")


def deep_chain(layers: int, norm: float, function: ScalarFunction) -> tuple[Bound, Measurements]:
    """Layers of width 2 with a given operator norm and unit distances; all numbers by hand."""
    nodes = [Node("x", op.Input(), (), (2,))]
    for i in range(layers):
        nodes.append(Node(f"f{i}", op.Linear(False), (nodes[-1].name,), (2,), (("weight", f"{i}.weight"),)))
        nodes.append(Node(f"t{i}", op.Elementwise(function), (f"f{i}",), (2,)))
    graph = ComputationGraph(nodes[:-1], nodes[-2].name, "deep")
    size = LayerSize(flat(1), flat(1), flat(1), flat(1), flat(norm), None)
    sizes = dict.fromkeys(graph.covered, size)
    found = Measurements(
        100, MarginLoss(), "deep", "float64", "zero", {}, {}, {"x": flat(1)}, sizes, np.ones(100), None, {}, {}
    )
    return derive(augment(graph)), found


def test_400_layers_do_not_overflow() -> None:
    """399 of 400 norms 1e3 remain for each layer: 10^1197, times 400^(3/2) for the sum, over sqrt(n) = 10."""
    bound, found = deep_chain(400, 1e3, TANH)
    got = product_of_lipschitz(bound, found, 1.0)
    assert got.log10_unit == pytest.approx(3 * 399 + 1.5 * math.log10(400) - 1, abs=1e-6)
    assert got.log10 == pytest.approx(got.log10_unit + 0.5 * math.log10(2 * math.log(8)), abs=1e-6)
    tiny = product_of_lipschitz(*deep_chain(400, 1e-3, TANH), 1.0)
    assert tiny.log10_unit == pytest.approx(-3 * 399 + 1.5 * math.log10(400) - 1, abs=1e-6)
    steep = product_of_lipschitz(*deep_chain(400, 1.0, affine(10.0, 0.0)), 1.0)
    assert steep.log10_unit == pytest.approx(399 + 1.5 * math.log10(400) - 1, abs=1e-6)


def test_a_zero_layer_makes_the_bound_zero() -> None:
    bound, found = deep_chain(3, 0.0, TANH)
    got = product_of_lipschitz(bound, found, 1.0)
    assert got == ProductBound(-math.inf, -math.inf)


def test_functions_without_finite_slope_give_a_dash() -> None:
    square = ScalarFunction("square", T**2, torch.square)
    bound, found = deep_chain(2, 1.0, square)
    got = product_of_lipschitz(bound, found, 1.0)
    assert got.log10 is None and "infinite" in got.reason


def test_the_reference_shortens_the_distances_but_not_the_norms() -> None:
    net = mlp()
    bound, found = measured(net)
    near = {v: replace(layer, a=flat(layer.a.upper / 100)) for v, layer in found.layers.items()}
    shorter = product_of_lipschitz(bound, replace(found, layers=near), 1.0)
    full = product_of_lipschitz(bound, found, 1.0)
    assert shorter.log10 == pytest.approx(full.log10 - 2, abs=1e-9)
