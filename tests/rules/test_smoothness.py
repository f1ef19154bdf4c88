"""How fast Jacobians vary: taubar is sound, attained, and summed over slots (Lemmas 5-8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import sympy
import torch
from dense import spectral
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.function_rows import UNARY
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
from covergraph.rules.smoothness import curvature, slot_smoothness, smoothness

SMOOTH = [TANH, SIGMOID, SOFTPLUS, GELU, SILU, ELU, SIN]


def jacobian(node: Node, values: dict[str, Tensor], tail: str) -> Tensor:
    """J_{x,u} of a product or element-wise node, by torch.func.jacrev on plain torch."""

    def rule(h: Tensor) -> Tensor:
        slots = [h if name == tail else values[name] for name in node.inputs]
        if isinstance(node.operation, op.Elementwise):
            return node.operation.function.evaluate(slots[0])
        return slots[0] * slots[1]

    return torch.func.jacrev(rule)(values[tail])


def ratio(node: Node, before: dict[str, Tensor], after: dict[str, Tensor], tail: str) -> float:
    """||Delta J_{x,u}|| over the sum of taubar_{x;u,u'} ||Delta h_{u'}||."""
    change = spectral(jacobian(node, after, tail) - jacobian(node, before, tail))
    table = smoothness(node)
    allowed = sum(
        float(table.get((tail, v), 0)) * float((after[v] - before[v]).norm()) for v in node.predecessors
    )
    return 0.0 if change == 0 else change / allowed


NODES = [
    *(Node("x", op.Elementwise(f), ("u",), (4,)) for f in SMOOTH),
    Node("x", op.Product(), ("u", "v"), (4,)),
    Node("x", op.Product(), ("u", "u"), (4,)),
]


@pytest.mark.parametrize("node", NODES, ids=lambda n: n.operation.label + "".join(n.inputs))
def test_jacobians_change_at_most_as_fast_as_stated(node: Node) -> None:
    generator = torch.Generator().manual_seed(0)

    def values(scale: float) -> dict[str, Tensor]:
        return {u: scale * torch.randn(4, generator=generator, dtype=torch.float64) for u in ("u", "v")}

    found = []
    for scale in (0.1, 1.0, 3.0):
        for step in (1e-3, 0.3, 2.0):
            for _ in range(20):
                before, delta = values(scale), values(step)
                after = {u: before[u] + delta[u] for u in before}
                found += [ratio(node, before, after, tail) for tail in node.predecessors]
    assert max(found) <= 1 + 1e-6
    assert max(found) > 0.05


@pytest.mark.parametrize("function", SMOOTH, ids=lambda f: f.name)
def test_the_constant_of_a_function_is_attained(function: ScalarFunction) -> None:
    """One entry moves near the point of largest curvature, found on a grid of phi' alone."""
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    slopes = function.derivative(grid)
    steps = (slopes[1:] - slopes[:-1]).abs() / (grid[1:] - grid[:-1])
    table = smoothness(Node("x", op.Elementwise(function), ("u",), (4,)))
    assert float(table["u", "u"]) == pytest.approx(float(steps.max()), rel=1e-4)
    assert float(steps.max()) <= float(table["u", "u"]) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("function", "known"),
    [
        (TANH, 4 / (3 * math.sqrt(3))),
        (SIGMOID, 1 / (6 * math.sqrt(3))),
        (SOFTPLUS, 0.25),
        (GELU, math.sqrt(2 / math.pi)),
        (SILU, 0.5),
        (ELU, 1.0),
        (SIN, 1.0),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_constants_of_the_literature(function: ScalarFunction, known: float) -> None:
    assert float(curvature(op.Elementwise(function)).value) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_changed_function_changes_the_constant(scale: int) -> None:
    """(c phi(k t))'' = c k^2 phi''(k t)."""
    steep = ScalarFunction("steep", sympy.tanh(scale * T), lambda x: torch.tanh(scale * x))
    half = ScalarFunction("half", GELU.expression / 2, lambda x: GELU.evaluate(x) / 2)
    assert float(curvature(op.Elementwise(steep)).value) == pytest.approx(scale**2 * 4 / (3 * math.sqrt(3)))
    assert float(curvature(op.Elementwise(half)).value) == pytest.approx(math.sqrt(2 / math.pi) / 2)


def test_products_have_one_across_their_slots_and_nothing_within() -> None:
    assert slot_smoothness(op.Product(), Node("x", op.Product(), ("u", "v"), (2,))) == {(0, 1): 1, (1, 0): 1}
    assert smoothness(Node("x", op.Product(), ("u", "v"), (2,))) == {("u", "v"): 1, ("v", "u"): 1}


def test_slots_filled_by_one_node_add_up() -> None:
    """x * x has the Jacobian 2 diag(x), whose rate is 2."""
    assert smoothness(Node("x", op.Product(), ("u", "u"), (2,))) == {("u", "u"): 2}
    node = Node("x", op.Product(), ("u", "u"), (2,))
    before = {"u": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    after = {"u": torch.tensor([2.0, 0.0], dtype=torch.float64)}
    assert ratio(node, before, after, "u") == pytest.approx(1)


@pytest.mark.parametrize(
    "operation",
    [
        op.Input(),
        op.Linear(True),
        op.Add(),
        op.Subtract(),
        op.Concatenate(0),
        op.Reshape(),
        op.Elementwise(affine(3, 1)),
    ],
    ids=lambda o: o.label,
)
def test_linear_maps_have_constant_jacobians(operation: op.Operation) -> None:
    assert smoothness(Node("x", operation, ("u",) * (operation != op.Input()), (2,))) == {}


@dataclass(frozen=True)
class Unknown(op.Operation):
    pass


def test_refusals_name_the_node_and_the_function() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"'x' \(net\.x\).*'unknown'.*adding_an_op"):
        smoothness(Node("x", Unknown(), ("u",), (2,), origin="net.x"))
    with pytest.raises(UnsupportedOperationError, match=r"'x' \(net\.x\): activation 'floor'.*jumps"):
        smoothness(Node("x", op.Elementwise(UNARY["floor"]), ("u",), (2,), origin="net.x"))
