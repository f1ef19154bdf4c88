"""Every operation: its value against plain torch, its tangent against derivatives that do not use it."""

from __future__ import annotations

import pytest
import torch
from operation_cases import BATCH, TANGENTS, Case, random
from operation_cases.every import CASES
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply, edge_jacobian, tangent
from covergraph.graph.node import Node

DIFFERENTIABLE = {name: case for name, case in CASES.items() if case.moving and case.is_float}
ALIKE = {
    name: case
    for name, case in DIFFERENTIABLE.items()
    if len(case.slots) > 1 and len(case.moving) == len(case.slots) and len(set(case.slots)) == 1
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_differentiable = pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
each_alike = pytest.mark.parametrize("case", ALIKE.values(), ids=ALIKE)


def test_every_operation_has_a_case() -> None:
    known = {type(case.operation) for case in CASES.values()}
    every = {c for c in vars(op).values() if isinstance(c, type) and issubclass(c, op.Operation)}
    assert every - known == {op.Operation, op.Input}


@pytest.mark.parametrize("batch", [1, BATCH])
@each_case
def test_values_are_those_of_plain_torch(case: Case, batch: int) -> None:
    values = case.values(batch)
    found = case.graph.run(case.state, torch.zeros(batch), *values)["v"]
    expected = case.plain(*values)
    assert found.shape == (batch, *case.shape)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected.expand(found.shape), rtol=1e-12, atol=1e-13)


@each_case
def test_single_precision_stays_single(case: Case) -> None:
    """Weights and inputs in float32, constants in float64."""
    narrow = [v.float() if v.is_floating_point() else v for v in case.values()]
    state = {"unused": torch.zeros(1)} | {name: value.float() for name, value in case.state.items()}
    found = case.graph.run(state, torch.zeros(BATCH), *narrow)["v"]
    expected = case.plain(*case.values())
    assert found.dtype == (torch.float32 if expected.is_floating_point() else expected.dtype)
    torch.testing.assert_close(found, expected.expand(found.shape), rtol=1e-3, atol=1e-4, check_dtype=False)


@each_case
def test_samples_do_not_see_each_other(case: Case) -> None:
    """Another second sample changes nothing but the second value."""
    values = case.values()
    others = [torch.stack([v[0], v[2], v[2]]) for v in values]
    found, changed = (apply(case.operation, case.node, v, case.context) for v in (values, others))
    torch.testing.assert_close(found[::2], changed[::2], rtol=1e-12, atol=1e-13)
    if values:
        torch.testing.assert_close(changed[1], changed[2], rtol=1e-12, atol=1e-13)


@each_differentiable
def test_tangents_are_dense_jacobians_times_directions(case: Case) -> None:
    """All slots together, and each slot alone with None in the others."""
    directions = {i: random(BATCH, TANGENTS, *case.slots[i], seed=50 + i) for i in case.moving}
    pushed = {
        i: torch.stack([d[n].reshape(TANGENTS, -1) @ case.dense(i, n).T for n in range(BATCH)])
        for i, d in directions.items()
    }
    for chosen in ([*directions], *([i] for i in directions)):
        slots = [directions[i] if i in chosen else None for i in range(len(case.slots))]
        found = tangent(case.operation, case.node, case.values(), slots, case.context)
        expected = torch.stack([pushed[i] for i in chosen]).sum(0)
        torch.testing.assert_close(found, expected.reshape(BATCH, TANGENTS, *case.shape), rtol=1e-9, atol=1e-11)


@each_differentiable
def test_edge_jacobians_are_dense_derivatives(case: Case) -> None:
    for i in case.moving:
        found = edge_jacobian(case.node, f"u{i}", case.values(), case.context)
        expected = torch.stack([case.dense(i, n) for n in range(BATCH)])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@each_alike
def test_slots_filled_by_one_node_are_summed(case: Case) -> None:
    """The Jacobian is the derivative of u -> rule(u, ..., u)."""
    x, count = case.values()[0], len(case.slots)
    node = Node("v", case.operation, ("u",) * count, case.shape, case.node.parameters, "", case.node.constants)
    found = edge_jacobian(node, "u", [x] * count, case.context)
    for n in range(BATCH):
        dense = torch.autograd.functional.jacobian(lambda u: case.plain(*[u] * count), x[n : n + 1])
        torch.testing.assert_close(found[n], dense.reshape(found[n].shape), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", [torch.func.jacrev, torch.func.jacfwd])
@each_differentiable
def test_every_mode_of_differentiation_goes_through(case: Case, mode: type) -> None:
    """Measuring differentiates values in both modes."""
    values = [value[:1] for value in case.values()]
    for i in case.moving:

        def rule(x: Tensor, i: int = i) -> Tensor:
            return apply(case.operation, case.node, [*values[:i], x, *values[i + 1 :]], case.context)

        found = mode(rule)(values[i]).reshape(case.node.size, -1)
        torch.testing.assert_close(found, case.dense(i, 0), rtol=1e-9, atol=1e-11)


def test_slots_filled_by_one_node_by_hand() -> None:
    x = random(BATCH, 3)
    context = Context({})
    square = Node("v", op.Product(), ("u", "u"), (3,))
    torch.testing.assert_close(edge_jacobian(square, "u", [x, x], context), torch.diag_embed(2 * x))
    double = Node("v", op.Add(), ("u", "u"), (3,))
    torch.testing.assert_close(edge_jacobian(double, "u", [x, x], context)[0], 2 * torch.eye(3, dtype=torch.float64))
    nothing = Node("v", op.Subtract(), ("u", "u"), (3,))
    assert not edge_jacobian(nothing, "u", [x, x], context).any()
