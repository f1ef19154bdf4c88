"""On a path Theorem 2 gives the sums of the sequential case, symbol for symbol (Corollary 2.2)."""

from __future__ import annotations

from itertools import product

import pytest
import sympy
from oracles import SequentialSums
from strategies import Builder

from covergraph.bound.derive import Bound, derive
from covergraph.graph.augmented import Mode
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import SIN, SOFTPLUS, TANH
from covergraph.graph.operations import AveragePool, Maximum, Reshape
from covergraph.passes.augment import augment

TAUBAR = {"t": 4 / (3 * sympy.sqrt(3)), "s": sympy.Integer(1), "p": sympy.Rational(1, 4)}
ACTIVATIONS = {*TAUBAR, "k"}
GAMMA = sympy.Symbol("gamma", positive=True)
SLOPE = {1: 1 / GAMMA, 2: sympy.sqrt(2) / GAMMA}

PATTERNS = ["".join(p) for k in (1, 2, 3) for p in product("lt", repeat=k) if "l" in p]
PATTERNS += ["ltlt", "ttll", "lltt", "tlst", "ltltl", "lllll", "lttpl", "plrlt", "ltltlt", "tltltl", "ltaslp"]
PATTERNS += ["lk", "lkl", "kl", "lklkl", "ltlkl", "kltkl", "lkalkl", "lkrlkp"]
"""One letter a layer: linear, tanh, sin, softPlus, reshape, average pool, ReLU (it has a kink)."""


def path(pattern: str) -> Builder:
    """The path of a pattern, its node j called str(j); values have two entries (four before a pool)."""
    builder = Builder()
    builder.input(1, 4 if "a" in pattern else 2, name="0")
    for j, letter in enumerate(pattern, 1):
        last, name = str(j - 1), str(j)
        match letter:
            case "l":
                builder.linear(last, builder.shape(last)[-1], bias=j % 2 == 0, name=name)
            case "a":
                builder.add(AveragePool((2,), (2,), (0,)), last, name=name)
            case "r":
                builder.add(Reshape(), last, name=name, shape=builder.shape(last))
            case _:
                builder.smooth({"t": TANH, "s": SIN, "p": SOFTPLUS, "k": RELU}[letter], last, name=name)
    return builder


def bound_of(pattern: str, mode: Mode) -> Bound:
    builder = path(pattern)
    size = builder.nodes[-1].size
    output = builder.add(Reshape(), str(len(pattern)), name=str(len(pattern) + 1), shape=(size,))
    return derive(augment(builder.graph(output), mode=mode))


def sums_of(pattern: str, bound: Bound, pairs: set[tuple[str, str]]) -> SequentialSums:
    """The sums by hand over S and the symbols of the levels; layer k is the reshape to a vector."""
    layers = pattern + "r"
    fed = {j for j, letter in enumerate(layers) if letter == "l"}
    hidden = {j for j in fed if "l" in layers[:j]}
    if bound.augmented.mode == "paper":
        hidden |= {j for j, letter in enumerate(layers, 1) if letter in ACTIVATIONS and "l" in layers[: j - 1]}

    def kappa(j1: int, j: int) -> sympy.Expr:
        return sympy.Symbol(rf"\kappa_{{{j1} \leftarrow {j - 1}}}", positive=True)

    return SequentialSums(
        k=len(layers),
        slope=SLOPE[min(bound.graph[bound.graph.output].size, 2)],
        s={j: sympy.Symbol(f"s_{{{j}}}", positive=True) for j in hidden},
        tau={j: TAUBAR[letter] for j, letter in enumerate(layers, 1) if letter in TAUBAR},
        rho={
            j: sympy.Symbol(rf"\rho_{{{j}}}", positive=True)
            for j, letter in enumerate(layers, 1)
            if letter == "k" and "l" in layers[: j - 1]
        },
        kappa=kappa,
        has=lambda j1, j: (str(j1), str(j - 1)) in pairs,
    )


def same(found: sympy.Expr, expected: sympy.Expr) -> bool:
    return bool(sympy.expand(found.doit() - expected) == 0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_all_constants_of_paper_mode(pattern: str) -> None:
    bound = bound_of(pattern, "paper")
    k = len(pattern) + 1
    every = {(str(j1), str(j)) for j1 in range(1, k + 1) for j in range(j1)}
    assert set(bound.augmented.pair_names) == every
    by_hand = sums_of(pattern, bound, every)
    for i in range(1, k + 1):
        assert same(bound.kappa_J[str(i), str(i - 1)], by_hand.jacobian(i))
        if str(i) in bound.kappa_h:
            assert same(bound.kappa_h[str(i)], by_hand.value(i))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_covered_constants_of_minimal_mode(pattern: str) -> None:
    bound = bound_of(pattern, "minimal")
    by_hand = sums_of(pattern, bound, set(bound.augmented.pair_names))
    for i, letter in enumerate(pattern, 1):
        if letter == "l":
            assert same(bound.kappa_J[str(i), str(i - 1)], by_hand.jacobian(i))
            assert same(bound.kappa_h[str(i)], by_hand.value(i))


def test_two_layers_written_out() -> None:
    """x -> linear -> tanh -> linear, the paper's Figure 2, without any loop in the expectation."""
    builder = Builder()
    builder.input(3, name="0")
    builder.linear("0", 2, name="1")
    builder.smooth(TANH, "1", name="2")
    builder.linear("2", 2, name="3")
    bound = derive(augment(builder.graph("3"), mode="minimal"))
    k31, k32, k21, s2 = sympy.symbols(
        r"\kappa_{3\ \leftarrow\ 1} \kappa_{3\ \leftarrow\ 2} \kappa_{2\ \leftarrow\ 1} s_{2}", positive=True
    )
    tau = 4 / (3 * sympy.sqrt(3))
    assert set(bound.augmented.pair_names) == {("3", "1"), ("3", "2"), ("2", "1")}
    first = 2 * sympy.sqrt(2) * k31 / GAMMA + 2 * k21 / s2 + tau * (2 * k32 / k31 + 1 / k21)
    assert same(bound.kappa_h["1"], first)
    assert same(bound.kappa_h["3"], sympy.sqrt(2) / GAMMA)
    assert same(bound.kappa_J["3", "2"], 2 * k21 / k31 + 1 / k32)
    assert bound.kappa_J["1", "0"].doit() == 0


def test_section_h_written_out() -> None:
    """x -> linear -> ReLU -> linear -> ReLU -> linear: conditions 1/rho in place of the curvatures (Corollary 2.3)."""
    bound = bound_of("lklkl", "minimal")
    k, s, rho = (
        lambda w, a: sympy.Symbol(rf"\kappa_{{{w} \leftarrow {a}}}", positive=True),
        lambda v: sympy.Symbol(f"s_{{{v}}}", positive=True),
        lambda c: sympy.Symbol(rf"\rho_{{{c}}}", positive=True),
    )
    first = 2 * sympy.sqrt(2) * k(6, 1) / GAMMA + 2 * k(2, 1) / s(2) + 2 * k(4, 1) / s(4)
    first += 2 / rho(2) + 2 * 2 * k(3, 1) / rho(4)
    assert same(bound.kappa_h["1"], first)
    assert same(bound.kappa_h["3"], 2 * sympy.sqrt(2) * k(6, 3) / GAMMA + 2 * k(4, 3) / s(4) + 2 / rho(4))
    assert same(bound.kappa_h["5"], 2 * sympy.sqrt(2) * k(6, 5) / GAMMA)
    assert bound.taubar() == {}


def test_the_slope_of_a_condition_written_out() -> None:
    """The gap of the two largest entries changes sqrt(2) times as fast as the values: 2 sqrt(2) / rho."""
    builder = Builder()
    builder.linear(builder.input(1, 1, name="0"), 2, name="1")
    bound = derive(augment(builder.graph(builder.add(Maximum((1,)), "1", name="2"))))
    k21, rho = sympy.symbols(r"\kappa_{2\ \leftarrow\ 1} \rho_{2}", positive=True)
    assert same(bound.kappa_h["1"], 2 * k21 / GAMMA + 2 * sympy.sqrt(2) / rho)
