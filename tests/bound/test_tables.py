"""Theorem 2 three times: as expressions, in matrix form, by loops. Absent pairs raise, minimal <= paper mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sympy
from hand_rules import learned_multiplier
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import Theorem2
from prober import sample_norms
from strategies import Builder, Case, cases, examples

from covergraph.bound.choose import choose
from covergraph.bound.constants import ReleaseLipschitz, release_lipschitz
from covergraph.bound.derive import Bound, derive
from covergraph.errors import MissingPairError, ParameterError
from covergraph.graph.augmented import AugmentedGraph, Mode
from covergraph.graph.functions import TANH
from covergraph.graph.node import Node
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.values import Pair, Parameters

MODES: tuple[Mode, ...] = ("minimal", "paper", "output-only")
seeds = st.integers(0, 2**16)



@dataclass(frozen=True)
class Levels:
    """gamma, s, kappa, rho, and the norms of nodes that are functions of the sample alone."""

    gamma: float
    s: dict[str, float]
    kappa: dict[Pair, float]
    rho: dict[str, float]
    norms: dict[str, float]

    def constants(self, bound: Bound, tau: float) -> ReleaseLipschitz:
        parameters = Parameters(self.gamma, self.s, self.kappa, {}, {}, rho=self.rho)
        taubar = bound.taubar(parameters, sample_norms(self.norms))
        return release_lipschitz(bound.augmented, tau, self.s, self.kappa, taubar, self.rho)


def random_levels(augmented: AugmentedGraph, seed: int) -> Levels:
    """All levels over three orders of magnitude, s over less: curvatures may be exponential in it."""
    random = np.random.default_rng(seed)

    def levels(keys: Iterable[Any], least: float = -1.5, most: float = 1.5) -> dict[Any, float]:
        return {key: float(10 ** random.uniform(least, most)) for key in keys}

    gamma = levels(["gamma"])["gamma"]
    s, kappa, rho = levels(augmented.hidden, -1, 0.7), levels(augmented.pair_names), levels(augmented.conditions)
    return Levels(gamma, s, kappa, rho, levels(augmented.base.data_only))


def margin_slope(augmented: AugmentedGraph, gamma: float) -> float:
    return (1 if augmented.base[augmented.base.output].size == 1 else 2**0.5) / gamma


def number(bound: Bound, expression: sympy.Expr, levels: Levels) -> float:
    """The expanded expression at the levels, with 30 digits on the way."""
    symbols = bound.symbols
    values: dict[Any, float] = {symbols.s(v): value for v, value in levels.s.items()}
    values |= {symbols.kappa(pair): value for pair, value in levels.kappa.items()}
    values |= {symbols.rho(c): value for c, value in levels.rho.items()}
    values |= {symbols.limit(v): value for v, value in levels.norms.items()}
    values[sympy.Symbol("gamma", positive=True)] = levels.gamma
    exact = {symbol: sympy.Float(value, 30) for symbol, value in values.items()}
    return float(sympy.N(expression.doit().xreplace(exact), 20))


def outcome(read: Callable[[], float]) -> float | None:
    """A constant, or None if it needs a pair outside P."""
    try:
        return read()
    except (MissingPairError, KeyError):
        return None


@pytest.mark.parametrize("mode", MODES)
def test_expressions_matrix_and_loops_agree(mode: Mode) -> None:
    read, absent = [0], [0]

    @examples(15)
    @given(cases(largest=5), seeds)
    def agree(case: Case, seed: int) -> None:
        augmented = augment(case.graph, mode=mode)
        bound, at = derive(augmented), random_levels(augmented, seed)
        tau = margin_slope(augmented, at.gamma)
        matrix = at.constants(bound, tau)
        loops = Theorem2(augmented.base, augmented.pair_names, tau, at.s, at.kappa, at.rho, at.norms)
        ways: list[tuple[Callable[[], float], ...]] = [
            (
                lambda v=v: matrix.hidden(v),
                lambda v=v: sum(loops.hidden(v).values()),
                lambda v=v: number(bound, bound.kappa_h[v], at),
            )
            for v in bound.kappa_h
        ]
        ways += [
            (
                lambda e=e: matrix.jacobian(*e),
                lambda e=e: loops.jacobian(*e),
                lambda e=e: number(bound, bound.kappa_J[e], at),
            )
            for e in bound.kappa_J
        ]
        for way in ways:
            one, two, three = map(outcome, way)
            read[0] += one is not None
            absent[0] += one is None
            assert one == (None if two is None else pytest.approx(two, rel=1e-12, abs=0))
            assert one == (None if three is None else pytest.approx(three, rel=1e-12, abs=0))

    agree()
    assert read[0] > 20
    assert (absent[0] > 0) == (mode != "paper")


def learned_edges(node: Node) -> tuple[str, ...]:
    """The predecessors of a covered node if its Jacobian is learned, too: not of one that only adds a parameter."""
    return node.predecessors if learned_multiplier(node) else ()


@examples(40)
@given(cases(), seeds)
def test_covered_constants_of_minimal_mode_can_be_read(case: Case, seed: int) -> None:
    augmented = augment(case.graph, mode="minimal")
    bound = derive(augmented)
    at = random_levels(augmented, seed)
    found = at.constants(bound, margin_slope(augmented, at.gamma))
    for name in augmented.base.covered:
        assert 0 < found.hidden(name) < np.inf
        for u in learned_edges(augmented.base[name]):
            assert 0 <= found.jacobian(name, u) < np.inf


@examples(10)
@given(cases(largest=5))
def test_covered_expressions_of_minimal_mode_can_be_expanded(case: Case) -> None:
    bound = derive(augment(case.graph, mode="minimal"))
    for name in bound.graph.covered:
        assert bound.kappa_h[name].doit().is_positive
        for u in learned_edges(bound.graph[name]):
            assert bound.kappa_J[name, u].doit().is_nonnegative


def deep() -> Builder:
    """x -> f -> tanh1 -> g -> tanh2 -> h."""
    builder = Builder()
    last = builder.input(2, name="x")
    for name in ("f", "tanh1", "g", "tanh2", "h"):
        is_linear = len(name) == 1
        last = builder.linear(last, 2, name=name) if is_linear else builder.smooth(TANH, last, name=name)
    return builder


@pytest.mark.parametrize(("mode", "node"), [("output-only", "f"), ("output-only", "g"), ("minimal", "x")])
def test_an_absent_pair_raises_when_it_is_read(mode: Mode, node: str) -> None:
    augmented = augment(deep().graph("h"), mode=mode)
    bound = derive(augmented)
    matrix = random_levels(augmented, 0).constants(bound, 1.0)
    with pytest.raises(MissingPairError, match="not in P"):
        matrix.hidden(node)
    if node in bound.kappa_h:
        with pytest.raises(MissingPairError, match="not in P"):
            bound.kappa_h[node].doit()


def test_absent_jacobian_constants_raise_too() -> None:
    augmented = augment(deep().graph("h"), mode="output-only")
    bound = derive(augmented)
    constants = random_levels(augmented, 0).constants(bound, 1.0)
    with pytest.raises(MissingPairError, match=r"J\[g,tanh1\]"):
        constants.jacobian("g", "tanh1")
    with pytest.raises(MissingPairError, match="not in P"):
        bound.kappa_J["g", "tanh1"].doit()


@pytest.mark.parametrize("bad", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_levels_must_be_positive_and_finite(bad: float | None) -> None:
    augmented = augment(deep().graph("h"), mode="minimal")
    s, kappa = (at := random_levels(augmented, 0)).s, at.kappa
    with pytest.raises(ParameterError, match=r"s of 'tanh1'.*positive"):
        release_lipschitz(augmented, 1.0, {**s, "tanh1": bad}, kappa, {})  # type: ignore[dict-item]
    with pytest.raises(ParameterError, match=r"kappa of \('h', 'f'\).*positive"):
        release_lipschitz(augmented, 1.0, s, {**kappa, ("h", "f"): bad}, {})  # type: ignore[dict-item]


@examples(40)
@given(cases(), seeds)
def test_no_constant_of_minimal_mode_exceeds_paper_mode(case: Case, seed: int) -> None:
    minimal, paper = (augment(case.graph, mode=mode) for mode in MODES[:2])
    assert set(minimal.hidden) <= set(paper.hidden)
    assert set(minimal.pair_names) <= set(paper.pair_names)
    at = random_levels(paper, seed)
    small, large = (at.constants(derive(a), margin_slope(paper, at.gamma)) for a in (minimal, paper))
    for name in minimal.base.covered:
        assert small.hidden(name) <= large.hidden(name) * (1 + 1e-12)
        for u in learned_edges(minimal.base[name]):
            assert small.jacobian(name, u) <= large.jacobian(name, u) * (1 + 1e-12)


@examples(15)
@given(cases(largest=5))
def test_the_certificate_of_minimal_mode_is_not_looser(case: Case) -> None:
    output = case.graph.run(case.state, *case.inputs)[case.graph.output]
    labels = (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)
    gaps = output.abs() if output.shape[1] == 1 else output.topk(2).values.diff().abs()
    assume(float(gaps.max()) > 1e-6)
    bounds = [derive(augment(case.graph, mode=mode)) for mode in MODES[:2]]
    loader = [(*case.inputs, labels)]
    measured = [measure(bound, case.state, loader) for bound in bounds]
    common = choose(bounds[1], measured[1])
    small, large = (b.evaluate(m, common) for b, m in zip(bounds, measured, strict=True))
    assert 0 <= small.C <= large.C * (1 + 1e-12)
    assert small.training <= large.training * (1 + 1e-12)
