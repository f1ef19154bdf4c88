"""Ends of norms of Jacobians in double precision against the same Jacobians with 60 digits."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import sympy
import torch
from digits import DIGITS, below, matrix, total
from hypothesis import given
from hypothesis import strategies as st
from operation_cases import random
from strategies import Builder, examples
from torch import Tensor

from covergraph.graph import functions
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import (
    ATAN,
    ERF,
    HARDSWISH,
    LOG,
    LOGSIGMOID,
    MISH,
    RELU,
    RSQRT,
    SELU,
    SOFTSIGN,
    SQRT,
    SQUARE,
)
from covergraph.graph.functions import ROWS
from covergraph.graph.interpreter import Context
from covergraph.graph.rearrange import Permute
from covergraph.measure import chain
from covergraph.measure.chain import pair_norms
from covergraph.measure.rounded import Loss
from covergraph.measure.rounded_chains import Chained
from covergraph.measure.roundings import DOUBLE, Arithmetic
from covergraph.values import Pair

Made = tuple[ComputationGraph, dict[str, Tensor], dict[str, Tensor]]


def finished(builder: Builder, output: str, inputs: list[Tensor] | None = None) -> Made:
    """A graph, the values at two random inputs or at those given, and its weights."""
    graph = builder.graph(output)
    entries = [node for node in graph.nodes if isinstance(node.operation, op.Input)]
    inputs = inputs or [builder.normal(2, *node.shape) for node in entries]
    return graph, dict(graph.run(builder.state, *inputs)), builder.state


def plain(seed: int) -> Made:
    builder = Builder(seed, 2.0)
    u = builder.input(4)
    for i in range(4):
        function = (functions.TANH, functions.GELU, functions.SOFTPLUS, RELU)[(seed + i) % 4]
        u = builder.smooth(function, builder.linear(u, 4))
    return finished(builder, builder.linear(u, 3))


def canceling(seed: int) -> Made:
    """A difference of two ways that agree to 10 or more digits, and what follows."""
    builder = Builder(seed)
    x = builder.input(4)
    left, right = builder.linear(x, 4), builder.linear(x, 4)
    noise = 10.0 ** -(10 + seed % 6) * builder.normal(4, 4)
    builder.state[f"{right}.weight"] = builder.state[f"{left}.weight"] + noise
    hidden = [builder.linear(builder.smooth(functions.TANH, u), 3, name=f"h{i}") for i, u in enumerate((left, right))]
    builder.state["h1.weight"] = builder.state["h0.weight"]
    return finished(builder, builder.linear(builder.add(op.Subtract(), *hidden), 2))


def two_entries(seed: int) -> Made:
    """A normalization of two entries without eps has derivative 0: what is computed is rounding."""
    builder = Builder(seed)
    u = builder.add(op.Normalize(2, 0.0, True), builder.linear(builder.input(3), 4))
    return finished(builder, builder.linear(builder.smooth(functions.TANH, u), 3))


def far_from_zero(seed: int) -> Made:
    """Groups whose mean is up to 1e12 times their deviation, or 1e14 with an eps."""
    builder = Builder(seed)
    x = builder.input(6)
    u = builder.add(op.Normalize(3, (0.0, 1e-5)[seed // 5 % 2], seed % 2 == 0), x)
    inputs = [builder.normal(2, 6) + 10.0 ** (3 * (seed % 5) + 2 * (seed // 5 % 2))]
    return finished(builder, builder.linear(u, 3), inputs)


def scaled(seed: int) -> Made:
    """Layers of sizes 1e-70 to 1e70."""
    builder = Builder(seed)
    u = builder.input(3)
    for i in range(3):
        u = builder.linear(u, 3, name=f"l{i}")
        builder.state[f"l{i}.weight"] *= 10.0 ** (((seed + i) % 3 - 1) * 70)
    return finished(builder, u)


def subnormal(seed: int) -> Made:
    """A chain that goes through numbers below 2^-1022 and back."""
    builder = Builder(seed)
    u = builder.input(3)
    for i, size in enumerate((1e-160, 1e-155, 1e155, 1e140)):
        u = builder.linear(u, 3, name=f"l{i}")
        builder.state[f"l{i}.weight"] *= size
    return finished(builder, u)


def attention(seed: int) -> Made:
    builder = Builder(seed, (1.0, 8.0)[seed % 2])
    x = builder.add(op.Normalize(3, (0.0, 1e-5)[seed % 2], seed % 3 > 0), builder.input(2, 3))
    q, k, v = (builder.linear(x, 3) for _ in range(3))
    scores = builder.add(op.MatrixProduct(), q, builder.add(op.Rearrange((Permute((1, 0)),)), k))
    mixed = builder.add(op.MatrixProduct(), builder.add(op.Softmax(1), scores), v)
    return finished(builder, builder.linear(builder.flat(builder.add(op.Add(), x, mixed)), 2))


def gated(seed: int) -> Made:
    builder = Builder(seed)
    t = builder.smooth(functions.SIN, builder.linear(builder.input(3), 3))
    square = builder.smooth(SQUARE, t)
    quotient = builder.add(op.Divide(), builder.add(op.Product(), t, square), builder.smooth(functions.SIGMOID, t))
    return finished(builder, builder.add(op.VectorNorm((0,)), quotient))


def saturated(seed: int) -> Made:
    """tanh' and sigmoid' between 1 and 1e-30; by 1 - tanh^2 many of them are 0."""
    builder = Builder(seed)
    x = builder.input(3)
    hidden = builder.smooth((functions.TANH, functions.SIGMOID)[seed % 2], builder.linear(x, 3))
    inputs = [(5.0 + 10 * (seed % 7)) * torch.sign(builder.normal(2, 3))]
    return finished(builder, builder.linear(hidden, 2), inputs)


FAMILIES = (saturated, plain, canceling, two_entries, far_from_zero, scaled, subnormal, attention, gated)


def violations(made: Made, ends: dict[Pair, tuple[Tensor, Tensor]]) -> tuple[int, list[Pair], list[Pair]]:
    """How many norms there are, the pairs of those above their upper end, and of those below their lower end."""
    graph, values, state = made
    at = [{name: value[row] for name, value in values.items()} for row in range(2)]
    count, high, low = 0, [], []
    with mpmath.workdps(DIGITS):
        for a in graph.nodes:
            for row in range(2):
                for w, jacobian in total(graph, at, state, a.name, row).items():
                    if w != a.name:
                        count += 1
                        lower, upper = (float(end[row]) for end in ends[w, a.name])
                        high += [] if below(jacobian, upper) else [(w, a.name)]
                        low += [(w, a.name)] if lower > 0 and below(jacobian, lower * (1 - 1e-15)) else []
    return count, high, low


def measured(made: Made) -> dict[Pair, tuple[Tensor, Tensor]]:
    graph, values, state = made
    pairs = [(graph.nodes[w].name, graph.nodes[a].name) for w, a in np.argwhere(graph.reach)]
    with torch.no_grad():
        return pair_norms(graph, values, Context(state), pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_hold_the_norms_with_sixty_digits(family: Callable[[int], Made], seed: int) -> None:
    count = 0
    for i in range(10 if family is far_from_zero else 3):
        made = family(10 * seed + i)
        found, high, low = violations(made, measured(made))
        assert not high and not low, (10 * seed + i, high, low)
        count += found
    assert count >= 18


@pytest.mark.parametrize("family", [saturated, plain, canceling, far_from_zero, attention, gated])
def test_norms_as_computed_are_not_upper_ends(family: Callable[[int], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the margins some number is too small: this is what exact meant before."""
    monkeypatch.setattr(Loss, "of", lambda self, norm, *rest: torch.zeros_like(norm))
    monkeypatch.setattr(Arithmetic, "ends", lambda self, matrices: 2 * (torch.linalg.matrix_norm(matrices, 2),))
    monkeypatch.setattr(chain, "BOUND", 1.0)
    assert any(violations(made, measured(made))[1] for made in map(family, range(5)))


def test_a_normalization_of_two_entries_has_norms_of_rounding_alone() -> None:
    """The true Jacobian is 0; the upper end is what rounding can have made of it, some units of 2^-53 / r."""
    graph, values, state = two_entries(0)
    with torch.no_grad():
        ((lower, upper),) = pair_norms(graph, values, Context(state), [("normalize_2", "linear_1")]).values()
    r = (values["linear_1"].reshape(2, 2, 2).diff(dim=2).abs() / 2).amin((1, 2))
    assert (lower == 0).all() and (upper > 0).all() and (upper <= 400 * 2**-53 / r * (1 + 1 / r)).all()


@examples(20)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 999), st.integers(-150, 150), st.sampled_from([1, 3, 99]))
def test_ends_of_dense_matrices_in_double_precision(m: int, d: int, seed: int, size: int, rank: int) -> None:
    """Of any size, also where squares leave the range of the numbers; known singular values, with 60 digits."""
    few = min(rank, m, d)
    matrices = 10.0**size * random(2, m, few, seed=seed) @ random(2, few, d, seed=seed + 1)
    lower, upper = DOUBLE.ends(matrices)
    assert (upper <= lower * (1 + 1e-10)).all()
    with mpmath.workdps(DIGITS):
        for i in range(2):
            one = matrix(matrices[i].tolist())
            assert below(one, float(upper[i])) and not below(one, float(lower[i]) * (1 - 1e-15))


def test_ends_of_orthogonal_matrices_and_of_zero_and_of_what_is_not_finite() -> None:
    matrices = torch.zeros(5, 40, 40).double()
    matrices[0] = torch.linalg.qr(random(40, 40)).Q
    matrices[2:, 3, 4] = torch.tensor([math.nan, math.inf, 5e-324], dtype=torch.float64)
    lower, upper = DOUBLE.ends(matrices)
    assert abs(float(upper[0]) - 1) < 1e-11 and abs(float(lower[0]) - 1) < 1e-11
    assert upper[1:4].tolist() == [0, math.inf, math.inf] and lower[1:4].tolist() == [0, 0, 0]
    assert 5e-324 <= float(upper[4]) < 1e-300


def test_an_upper_end_does_not_rest_on_the_eigenvalues_of_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far too small ones are not proved by a Cholesky factorization; the end grows until one is."""
    matrices = random(3, 6, 9)
    truth = torch.linalg.matrix_norm(matrices, 2)
    true = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: true(gram) * 0.9)
    upper = DOUBLE.ends(matrices)[1]
    assert (upper >= truth * (1 - 1e-12)).all() and (upper <= torch.linalg.matrix_norm(matrices) * (1 + 1e-11)).all()


POINTS = [-38.0137, -21.3, -9.77, -6.4863, -2.2381, -0.9713, -0.2239, 0.1171, 0.6053, 1.1287, 3.7189, 8.6311, 36.7]


@pytest.mark.parametrize("function", [*ROWS, HARDSWISH, SELU, MISH, LOGSIGMOID, SOFTSIGN, ERF, ATAN, LOG, SQRT, RSQRT])
def test_slopes_are_as_near_as_is_stated(function: functions.ScalarFunction) -> None:
    """Against the symbolic derivative with sixty digits, where that is a real number."""
    x = torch.tensor(POINTS, dtype=torch.float64)
    slopes = function.derivative(x)
    errors = function.slope_error(x, slopes)
    assert (errors <= 2**-46 * (1 + slopes.abs())).logical_or(~slopes.isfinite()).all()
    symbolic, compared = sympy.lambdify(functions.T, sympy.diff(function.expression, functions.T), "mpmath"), 0
    with mpmath.workdps(DIGITS):
        for point, slope, error in zip(POINTS, slopes.tolist(), errors.tolist(), strict=True):
            truth = mpmath.mpmathify(symbolic(mpmath.mpf(point)))
            if isinstance(truth, mpmath.mpf):
                assert abs(mpmath.mpf(slope) - truth) <= error, (function.name, point)
                compared += 1
    assert compared >= 6


def test_a_chain_carries_the_errors_of_its_parts_on() -> None:
    """Three parts of norm 5: what the first loses is multiplied by 25, and each loses as much by itself."""
    part, one = Loss(8, 5.0), torch.ones(1, dtype=torch.float64)
    alone = float(part.of(one, 4, False, slice(None), DOUBLE))
    chained = Chained.made_of(((part,),) * 3, (1.0,) * 3)
    nested = Chained.made_of(((Chained.made_of(((part,),) * 2, (1.0,) * 2),), (part,)), (1.0,) * 2)
    for chain_ in (chained, nested):
        assert float(chain_.of(one, 4, False, slice(None), DOUBLE)) == pytest.approx(3 * 25 * alone, rel=1e-6, abs=0)
