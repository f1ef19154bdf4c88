"""Worst-case constants are upper bounds of Jacobian norms and hidden norms, attained in some cases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch
from dense import spectral
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor
from torch.nn import functional as F

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import (
    ELU,
    GELU,
    SIGMOID,
    SILU,
    SIN,
    SOFTPLUS,
    TANH,
    ScalarFunction,
    T,
    affine,
)
from covergraph.graph.node import Node
from covergraph.rules.lipschitz import slot_lipschitz
from covergraph.rules.radii import worst_radius

BIASED = (("weight", "v.weight"), ("bias", "v.bias"))


def slope_of(operation: op.Operation, slots: int = 1) -> mpmath.mpf:
    """The constant in a predecessor u that fills the given number of slots."""
    tail = Node("u", op.Input(), (), (4,))
    return slot_lipschitz(operation, Node("v", operation, ("u",) * slots, (4,)), tail)


def radius_of(node: Node, radii: list[mpmath.mpf], norm: float | None, shift: float | None) -> mpmath.mpf:
    graph = ComputationGraph([*(Node(u, op.Input(), (), (2, 4)) for u in node.predecessors), node], node.name)
    return worst_radius(node, graph, radii, norm, shift)


def pool_matrix(operation: op.AveragePool, shape: tuple[int, ...]) -> np.ndarray:
    """The dense matrix of torch's own pooling on one sample."""
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d}[len(operation.kernel)]
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    arguments = (
        operation.kernel,
        operation.stride,
        operation.padding,
        operation.ceil_mode,
        operation.count_include_pad,
    )
    return pool(basis, *arguments).flatten(1).T.numpy()


sides = st.tuples(st.integers(1, 4), st.integers(1, 4))


@examples(150)
@given(sides, sides, st.tuples(st.integers(0, 2), st.integers(0, 2)), st.booleans(), st.booleans(), sides)
def test_average_pools_never_exceed_their_constant(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    ceil_mode: bool,
    count_include_pad: bool,
    more: tuple[int, int],
) -> None:
    """With overlapping windows, padding that counts or not, and windows that leave the input."""
    assume(all(2 * p <= k for p, k in zip(padding, kernel, strict=True)))
    operation = op.AveragePool(kernel, stride, padding, ceil_mode, count_include_pad)
    shape = tuple(k + m for k, m in zip(kernel, more, strict=True))
    norm = spectral(pool_matrix(operation, shape))
    assert norm <= slope_of(operation) * (1 + 1e-12)


@pytest.mark.parametrize("kernel", [(2,), (3,), (2, 3)])
def test_the_constant_of_disjoint_windows_is_attained(kernel: tuple[int, ...]) -> None:
    operation = op.AveragePool(kernel, kernel, (0,) * len(kernel))
    norm = spectral(pool_matrix(operation, tuple(2 * k for k in kernel)))
    assert float(slope_of(operation)) == pytest.approx(norm, rel=1e-12)
    assert norm == pytest.approx(1 / math.sqrt(math.prod(kernel)))


def test_padding_that_does_not_count_can_raise_the_norm() -> None:
    """A window with one real entry copies it: 1/sqrt(K) is no bound for such pools."""
    operation = op.AveragePool((4,), (4,), (2,), count_include_pad=False)
    norm = spectral(pool_matrix(operation, (3,)))
    assert norm > 1 / math.sqrt(4)
    assert norm <= slope_of(operation)


FUNCTIONS = [TANH, SIGMOID, SOFTPLUS, GELU, SILU, ELU, SIN, affine(-2.5, 1.0)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_slopes_on_a_grid_never_exceed_the_constant_and_come_near(function: ScalarFunction) -> None:
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    found = float(function.derivative(grid).abs().max())
    constant = float(slope_of(op.Elementwise(function)))
    assert found <= constant * (1 + 1e-12)
    assert found >= constant * (1 - 1e-6)


def test_functions_without_finite_slope_are_refused() -> None:
    square = ScalarFunction("square", T**2, torch.square)
    with pytest.raises(UnsupportedOperationError):
        slope_of(op.Elementwise(square))


@pytest.mark.parametrize("m", [1, 2, 5])
def test_slots_filled_by_one_node(m: int) -> None:
    """x + ... + x = m x, and m copies side by side have norm sqrt(m); x - x is bounded by 2, not by 0."""
    stacked = np.vstack([np.eye(3)] * m)
    assert float(slope_of(op.Add(), m)) == pytest.approx(spectral(m * np.eye(3)))
    assert float(slope_of(op.Concatenate(0), m)) == pytest.approx(spectral(stacked))
    assert float(slope_of(op.Subtract(), 2)) == 2
    assert float(slope_of(op.Reshape())) == 1


@pytest.mark.parametrize("operation", [op.Product(), op.Input()], ids=lambda o: o.label)
def test_products_have_no_worst_case_constant(operation: op.Operation) -> None:
    with pytest.raises(UnsupportedOperationError, match=f"'{operation.label}'.*worst-case"):
        slope_of(operation)


@dataclass(frozen=True)
class Case:
    node: Node
    weight: Tensor | None = None
    bias: Tensor | None = None

    def apply(self, *slots: Tensor) -> Tensor:
        """Plain torch."""
        match self.node.operation:
            case op.Linear():
                assert self.weight is not None
                return F.linear(slots[0], self.weight, self.bias)
            case op.Convolution():
                assert self.weight is not None
                return F.conv1d(slots[0], self.weight, self.bias, padding=1)
            case op.Elementwise(function):
                return function.evaluate(slots[0])
            case op.Add():
                return slots[0] + slots[1]
            case op.Subtract():
                return slots[0] - slots[1]
            case op.Concatenate():
                return torch.cat(slots, 1)
            case op.AveragePool():
                return F.avg_pool1d(slots[0], 2, 2)
            case _:
                return slots[0].flatten(1)


def cases() -> list[Case]:
    torch.manual_seed(0)
    double = torch.float64
    weight, bias = torch.randn(3, 4, dtype=double), torch.randn(3, dtype=double)
    kernel, shift = torch.randn(3, 2, 3, dtype=double), torch.randn(3, dtype=double)
    conv = op.Convolution((1,), (1,), (1,), 1, (3,), True)
    return [
        Case(Node("v", op.Linear(True), ("u",), (2, 3), BIASED), weight, bias),
        Case(Node("v", op.Linear(False), ("u",), (2, 3), BIASED[:1]), weight),
        Case(Node("v", conv, ("u",), (3, 4), BIASED), kernel, shift),
        *(Case(Node("v", op.Elementwise(f), ("u",), (2, 4))) for f in FUNCTIONS),
        Case(Node("v", op.Add(), ("u", "u2"), (2, 4))),
        Case(Node("v", op.Subtract(), ("u", "u2"), (2, 4))),
        Case(Node("v", op.Concatenate(0), ("u", "u2"), (4, 4))),
        Case(Node("v", op.AveragePool((2,), (2,), (0,)), ("u",), (2, 2))),
        Case(Node("v", op.Reshape(), ("u",), (8,))),
    ]


@pytest.mark.parametrize("case", cases(), ids=lambda c: c.node.operation.label)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_radii_bound_the_root_mean_square_of_hidden_values(case: Case, scale: float) -> None:
    """Slots of shape (2, 4), with any norms."""
    rng = torch.Generator().manual_seed(3)
    for _ in range(30):
        spread = torch.rand(6, 1, 1, generator=rng, dtype=torch.float64)
        slots = [
            scale * spread * torch.randn(6, 2, 4, generator=rng, dtype=torch.float64)
            for _ in case.node.inputs
        ]
        norm = None if case.weight is None else layer_norm(case)
        bias = None if case.bias is None else float(case.bias.norm())
        radii = [mpmath.mpf(root_mean_square(x)) for x in slots]
        value = root_mean_square(case.apply(*slots))
        assert value <= radius_of(case.node, radii, norm, bias) * (1 + 1e-12)


def layer_norm(case: Case) -> float:
    """The norm of the layer's matrix on inputs (2, 4), without bias."""
    basis = torch.eye(8, dtype=torch.float64).reshape(8, 2, 4)
    return spectral((case.apply(basis) - case.apply(torch.zeros_like(basis))).flatten(1).T)


def root_mean_square(x: Tensor) -> float:
    return math.sqrt(float((x**2).sum()) / len(x))


def test_radii_are_attained_where_they_can_be() -> None:
    """An aligned input of a linear layer; slots of equal direction; a bias alone at several positions."""
    weight = torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    x = torch.zeros(1, 2, 4, dtype=torch.float64)
    x[0, :, 0] = 1.0
    node = Node("v", op.Linear(False), ("u",), (2, 4))
    radius = mpmath.mpf(root_mean_square(x))
    assert float(radius_of(node, [radius], 3.0, None)) == pytest.approx(
        root_mean_square(F.linear(x, weight))
    )
    plus = Node("v", op.Add(), ("u", "u2"), (2, 4))
    assert float(radius_of(plus, [radius, 2 * radius], None, None)) == pytest.approx(
        root_mean_square(x + 2 * x)
    )
    biased = Node("v", op.Linear(True), ("u",), (2, 4), BIASED)
    assert float(radius_of(biased, [mpmath.mpf(0)], 3.0, 2.0)) == pytest.approx(2.0 * math.sqrt(2))
    half = Node("v", op.Elementwise(SIGMOID), ("u",), (2, 4))
    assert float(radius_of(half, [mpmath.mpf(0)], None, None)) == pytest.approx(0.5 * math.sqrt(8))


def test_numbers_beyond_the_doubles_are_kept() -> None:
    node = Node("v", op.Linear(False), ("u",), (2,))
    radius = mpmath.mpf(1)
    for _ in range(400):
        radius = radius_of(node, [radius], 1e3, None)
    assert float(mpmath.log10(radius)) == pytest.approx(1200)
