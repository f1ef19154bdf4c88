"""Theorem L3's numbers against their formulas, its explicit form as an inequality, its ledger by cases."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import nn

import covergraph
from covergraph.errors import TrajectoryError
from covergraph.trajectory import pathways
from covergraph.trajectory.covering import manifold_cover
from covergraph.trajectory.dropout import Dropout
from covergraph.trajectory.ledger import Assumption
from covergraph.trajectory.pathways import pathways_covered
from covergraph.trajectory.patterns import Patterns
from covergraph.trajectory.region_ledger import Consistency
from covergraph.trajectory.robustness import GRID, Robustness, grid_exponent, robustness_form, theorem3


def network(hidden: tuple[int, ...] = (4, 3), seed: int = 0, spread: float = 1.5) -> nn.Sequential:
    """A ReLU network with a sigmoid whose neurons are all active at 0."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for d, n in zip((2, *hidden), hidden, strict=False):
        parts += [nn.Linear(d, n), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(hidden[-1], 1), nn.Sigmoid()).double()
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                part.bias.uniform_(spread, 2 * spread)
    return model


def slopes(model: nn.Module, X: torch.Tensor) -> list[float]:
    """‖∇_x f‖ of each sample, by torch."""
    X = X.clone().requires_grad_()
    return torch.autograd.grad(model(X).sum(), X)[0].norm(dim=1).tolist()


def points(n: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.cat([torch.zeros(1, 2), torch.rand(n - 1, 2, generator=generator) - 0.5]).double()


NUMBERS = {"phi": 0.02, "beta": 2.0, "gamma": 0.1, "zeta": 0.01}


def stated(model: nn.Module, X: torch.Tensor, **more: object) -> Robustness:
    graph = covergraph.trace(model.eval(), X[:1])
    return theorem3(graph, model, X, **{**NUMBERS, "dimension": 2.0, **more})  # type: ignore[arg-type]


def test_the_numbers_are_those_of_the_formulas() -> None:
    model, X = Dropout(network()), points()
    found = stated(model, X)
    h, frequency = X, []
    for part in model.network:
        h = part(h)
        if isinstance(part, nn.ReLU):
            frequency.append((h > 0).double().mean(dim=0).min().item())
    c = 1.1 * 2.0 / (0.99 * 0.01 * min(frequency))
    details = found.steady.details
    assert details["p_min"] == pytest.approx(min(frequency)) and details["c"] == pytest.approx(c)
    assert found.steady.upper == pytest.approx(c * 0.02 / 4 * math.log(7))
    radius = (1 - 2 * h).abs().min().item() / (c * 0.02 * math.log(7))
    assert found.radius == pytest.approx(radius)
    largest = max(slopes(model, X))
    assert found.steady.value == pytest.approx(largest)
    assert details["ratio"] == pytest.approx(found.steady.upper / largest)
    assert found.cover is not None and found.cover.radius < radius <= 2 * found.cover.radius
    cells = 2 * found.cover.number
    j = -round(math.log2(found.cover.radius))
    share = 0.05 / ((math.pi**2 / 3 - 1) * (1 + abs(j)) ** 2)
    expected = math.sqrt((2 * cells * math.log(2) + 2 * math.log(1 / share)) / 40)
    assert found.generalization.upper == pytest.approx(expected) == pytest.approx(math.exp(found.log_explicit))
    assert found.log_samples == pytest.approx(-2 * math.log(radius))


@given(st.floats(1e-300, 1e300))
def test_the_grid_is_strictly_below_and_not_far(radius: float) -> None:
    j = grid_exponent(radius)
    assert math.ldexp(1.0, -j) < radius <= math.ldexp(1.0, 1 - j)


def test_the_shares_of_the_grid_sum_to_at_most_one() -> None:
    shares = [1 / (GRID * (1 + abs(j)) ** 2) for j in range(-2000, 2001)]
    assert 0.999 < sum(shares) <= 1


def test_the_explicit_form_bounds_the_deviation_of_all_radii_at_once() -> None:
    """Σ_cells |frequency - probability| exceeds it at some radius less often than δ, and half of it often."""
    rng = np.random.default_rng(0)
    n, delta, trials, failures, halved = 200, 0.2, 300, 0, 0
    bounds = {j: math.exp(robustness_form(math.log(2**j), n, delta, j)) for j in range(5)}  # 2·2^j cells
    for _ in range(trials):
        sample = rng.random(n)
        deviation = {}
        for j in bounds:
            counts = np.histogram(sample, 2 ** (j + 1), (0, 1))[0]
            deviation[j] = float(np.abs(counts / n - 2.0 ** -(j + 1)).sum())
        failures += any(deviation[j] > bounds[j] for j in bounds)
        halved += any(deviation[j] > bounds[j] / 2 for j in bounds)
    assert failures <= delta * trials and halved > delta * trials


def test_within_a_cell_the_class_does_not_change() -> None:
    """A step of 2r from a training point towards the other class does not reach it if λ_f <= λ_steady; 4r may."""
    X, inside, beyond = points(), 0, 0
    graph = covergraph.trace(network(), X[:1])
    for seed in range(30):
        model = network(seed=seed)
        with torch.no_grad():
            model[-2].weight.mul_(8)
            model[-2].bias.sub_(model[:-1](X).quantile(0.5))  # so that both classes occur
        if (first := theorem3(graph, model, X, **{**NUMBERS, "phi": 1.0}).steady).details["p_min"] == 0:
            continue
        wide = 4 * torch.rand(500, 2).double() - 2
        phi = 1.02 * max(slopes(model, torch.cat([X, wide]))) / first.details["lambda_steady"]
        radius = theorem3(graph, model, X, **{**NUMBERS, "phi": phi}).radius
        x = X.clone().requires_grad_()
        f = model(x)
        (gradient,) = torch.autograd.grad(f.sum(), x)
        towards = gradient / gradient.norm(dim=1, keepdim=True) * torch.sign(0.5 - f).detach()
        inside += int(((model(X + 2 * radius * towards) > 0.5) != (f > 0.5)).sum())
        beyond += int(((model(X + 4 * radius * towards) > 0.5) != (f > 0.5)).sum())
    assert inside == 0 and beyond > 3


def false(found: Robustness) -> list[str]:
    return [a.name for a in found.steady.ledger.with_status("false")]


def test_dropout_beyond_two_layers_is_not_covered() -> None:
    X = points()

    def usual(hidden: tuple[int, ...]) -> nn.Sequential:
        plain = network(hidden)
        return nn.Sequential(*(part for p in plain for part in ((p, nn.Dropout()) if isinstance(p, nn.ReLU) else (p,))))

    deep, shallow = stated(usual((4, 3)), X), stated(usual((4,)), X)
    name = "Dropout 1/2, masks after the forward pass, unscaled"
    assert false(deep) == [name] and deep.steady.upper is None and deep.generalization.upper is None
    assert "not covered" in deep.steady.ledger.with_status("false")[0].consequence and "no statement" in deep.text()
    assert false(shallow) == [] and shallow.steady.upper is not None
    assert false(stated(network(), X)) == [name]  # no dropout at all
    assert false(stated(Dropout(network(), 0.2), X)) == [name]
    assert false(stated(Dropout(network()), X)) == []


def test_what_makes_the_statement_impossible() -> None:
    X = points()
    dead = network()
    with torch.no_grad():
        dead[0].bias[0] = -50.0
    assert false(stated(Dropout(dead), X)) == ["p_min > 0"]
    assert "d)" in false(stated(Dropout(network()), X, zeta=0.499))[0]
    assert false(stated(Dropout(network()[:-1]), X)) == ["a chain of affine maps and ReLUs, then a sigmoid"]
    worse = Consistency(True, 0.5, 3, True, "")
    assert false(stated(Dropout(network()), X, consistent=worse)) == ["Assumption 1"]
    single = stated(Dropout(network((1,))), X)  # one neuron: λ_steady = 0 < λ_f
    assert false(single) == ["λ_f <= λ_steady with o(1) = 0"] and single.steady.upper is None and single.steady.value
    with pytest.raises(TrajectoryError, match=r"zeta 0\.7"):
        stated(Dropout(network()), X, zeta=0.7)


def test_vacuous_values_are_called_so_and_overflow_is_no_error() -> None:
    found = stated(Dropout(network()), points(), phi=1e6)
    assert found.generalization.upper is not None and found.generalization.upper > 1 and "vacuous" in found.text()
    cover = lambda X, r: manifold_cover(r, 5000.0, 10.0)  # noqa: E731
    huge = stated(Dropout(network()), points(), cover=cover)
    assert huge.generalization.upper == math.inf and math.isfinite(huge.log_explicit) and "10^" in huge.text()
    flat = network()
    with torch.no_grad():
        flat[-2].weight.mul_(1e-10)
        flat[-2].bias.fill_(1.0)
    fine = stated(Dropout(flat), points(), phi=1e-9, gap=0.1)
    assert fine.cover is not None and fine.cover.number == 1 and fine.generalization.value == 0.1
    one_ball = robustness_form(0.0, 40, 0.05, -round(math.log2(fine.cover.radius)))
    assert fine.generalization.upper == pytest.approx(math.exp(one_ball))


def test_a_slope_above_lambda_steady_leaves_no_statement_of_generalization() -> None:
    found = stated(Dropout(network()), points(), phi=1e-9)
    assert found.steady.violations == 1 and found.cover is None and found.generalization.upper is None
    assert [a.name for a in found.generalization.ledger.with_status("false")] == ["no sampled slope exceeds λ_steady"]
    even = network()
    with torch.no_grad():
        even[-2].weight.zero_()
        even[-2].bias.zero_()
    none = stated(Dropout(even), points())
    assert none.steady.upper is not None and none.generalization.upper is None and none.radius == 0
    assert [a.name for a in none.generalization.ledger.with_status("false")] == ["no training point at f = 1/2"]


def test_dropout_of_a_part_of_the_network_is_not_the_papers() -> None:
    plain = network((4, 3))
    part = nn.Sequential(*plain[:2], Dropout(plain[2:]))
    assert false(stated(part, points())) == ["Dropout 1/2, masks after the forward pass, unscaled"]


@pytest.mark.parametrize("name", ["phi", "beta", "gamma", "dimension"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(TrajectoryError, match=f"{name} {value}"):
        stated(Dropout(network()), points(), **{name: value})


# Condition (b).


def dense(found: Patterns) -> np.ndarray:
    rows = zip(*found.layers, strict=True)
    return np.array([reduce(np.kron, [layer.astype(int) for layer in row[::-1]]) for row in rows])


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 6), st.floats(0.3, 0.95))
@examples(80)
def test_covered_pathways_are_those_of_the_product(seed: int, depth: int, m: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    layers = tuple(rng.random((m + 5, int(rng.integers(1, 4)))) < density for _ in range(depth))
    found = Patterns(layers, np.zeros(m + 5), np.zeros(m + 5), False)
    S = dense(found)
    expected = [bool(np.all(s <= S[:m].sum(axis=0))) for s in S[m:]]
    assert pathways_covered(found[:m], found[m:]) == expected


def test_both_answers_occur_and_the_work_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*rows: tuple[list[int], list[int]]) -> Patterns:
        layers = tuple(np.array([row[i] for row in rows], dtype=bool) for i in range(2))
        return Patterns(layers, np.zeros(len(rows)), np.zeros(len(rows)), False)

    halves, whole = of(([1, 1], [1, 0]), ([1, 1], [0, 1])), of(([1, 1], [1, 1]))
    assert pathways_covered(halves, whole) == [True]
    assert pathways_covered(of(([1, 1], [1, 0]), ([1, 0], [0, 1])), whole) == [False]
    assert pathways_covered(halves, of(([0, 0], [1, 1]))) == [True]  # no pathway is active
    # The first neuron is rarer, but its paths are covered; that of the second and the first neuron is not.
    hidden = of(([1, 0, 0], [1, 1]), ([0, 1, 0], [0, 1]), ([0, 1, 1], [0, 1]))
    assert pathways_covered(hidden, of(([1, 1, 0], [1, 1]))) == [False]
    monkeypatch.setattr(pathways, "WORK", 0)
    assert pathways_covered(halves, whole) == [None]


def test_condition_b_in_the_ledger() -> None:
    X = points()

    def entry(model: nn.Module, **more: object) -> Assumption:
        return next(a for a in stated(model, X, **more).steady.ledger if a.name.startswith("(b)"))

    assert entry(Dropout(network())).status == "true"  # all neurons are active at 0
    apart = network((2,))
    with torch.no_grad():  # the two neurons are active on the two sides of a strip, and far away both
        apart[0].weight.copy_(torch.tensor([[1.0, 0.1], [-1.0, 0.1]]))
        apart[0].bias.fill_(-0.2)
    assert entry(Dropout(apart)).status == "not checkable"
    assert entry(Dropout(apart), sample=torch.tensor([[0.0, 10.0]]).double()).status == "not checkable"
    chained = network((2, 2))
    with torch.no_grad():
        chained[0].weight.copy_(torch.tensor([[1.0, 0.1], [-1.0, 0.1]]))
        chained[0].bias.fill_(-0.2)
        chained[2].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        chained[2].bias.fill_(0.001)
    failing = entry(Dropout(chained), sample=torch.tensor([[0.0, 10.0]]).double())
    assert failing.status == "false" and "fails at 1" in failing.evidence
