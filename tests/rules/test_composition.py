"""Lemma 17: constants of chains bound their Jacobians, and merged chains have certificates as the graph itself has."""

from __future__ import annotations

import math
from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor, nn

from covergraph import augment, choose, derive, measure, trace
from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.functions import GELU, SIGMOID, SIN, TANH, affine
from covergraph.graph.interpreter import Context, apply, edge_jacobian
from covergraph.graph.node import Node
from covergraph.passes.coarsen import merge_chains
from covergraph.rules.composition import chain_constants, composable

PARTS = (
    op.Elementwise(TANH),
    op.Elementwise(SIN),
    op.Elementwise(GELU),
    op.Elementwise(SIGMOID),
    op.Softmax(0),
    op.Softmax(0, log=True),
    op.Reshape(),
)
SIZE = 3


def chain(*parts: op.Operation, shape: tuple[int, ...] = (SIZE,)) -> Node:
    names = ["u", *(f"n{i}" for i in range(len(parts)))]
    inner = tuple(Node(names[i + 1], part, (names[i],), shape) for i, part in enumerate(parts))
    operation = op.Composite("chain", inner, ("u",), names[-1], (shape,))
    return Node("v", operation, ("u",), shape)


def jacobian(node: Node, h: Tensor) -> Tensor:
    return edge_jacobian(node, "u", (h,), Context({}))


@examples(60)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), st.integers(0, 2**16), st.sampled_from([0.1, 1, 5]))
def test_constants_bound_the_jacobian_and_its_changes(parts: list[op.Operation], seed: int, scale: float) -> None:
    node, generator = chain(*parts), torch.Generator().manual_seed(seed)
    h = scale * torch.randn(40, SIZE, generator=generator, dtype=torch.float64)
    other = h + 0.1 * torch.randn(40, SIZE, generator=generator, dtype=torch.float64)
    lipschitz, tau = chain_constants(node)
    norms = torch.linalg.matrix_norm(jacobian(node, h), ord=2)
    changes = torch.linalg.matrix_norm(jacobian(node, other) - jacobian(node, h), ord=2)
    assert (norms <= lipschitz * (1 + 1e-12)).all()
    assert (changes <= tau * (other - h).norm(dim=1) * (1 + 1e-9) + 1e-14).all()


@examples(40)
@given(st.lists(st.sampled_from(PARTS), min_size=2, max_size=4), st.data())
def test_composing_in_two_steps_gives_the_same_constants(parts: list[op.Operation], data: st.DataObject) -> None:
    """A chain of two chains is the chain of all parts: the formula is associative."""
    cut = data.draw(st.integers(1, len(parts) - 1))
    halves = chain(*(chain(*half).operation for half in (parts[:cut], parts[cut:])))
    for found, expected in zip(chain_constants(halves), chain_constants(chain(*parts)), strict=True):
        assert found == pytest.approx(expected, rel=1e-12)


def test_constants_of_two_sines_are_attained() -> None:
    """sin(sin t) has slope 1 at 0; its second derivative is at most tau = 1 * 1 + 1 * 1^2 = 2 by Lemma 17."""
    lipschitz, tau = chain_constants(chain(op.Elementwise(SIN), op.Elementwise(SIN), shape=(1,)))
    assert lipschitz == pytest.approx(1, rel=1e-12) and tau == pytest.approx(2, rel=1e-12)
    assert float(jacobian(chain(op.Elementwise(SIN), op.Elementwise(SIN), shape=(1,)), torch.zeros(1, 1).double())) == 1


@pytest.mark.parametrize(
    "part",
    [op.Maximum((0,)), op.Normalize(SIZE, 0.5), op.Divide(), op.Recurrent("gru")],
    ids=lambda part: part.label,
)
def test_parts_with_conditions_or_without_constants_stay_open(part: op.Operation) -> None:
    node = chain(op.Elementwise(TANH), part)
    assert not composable(node)
    with pytest.raises(UnsupportedOperationError):
        chain_constants(node)


def smooth_network() -> nn.Sequential:
    torch.manual_seed(1)
    layers = (nn.Linear(5, 6), nn.Tanh(), nn.Softmax(1), nn.Linear(6, 6), nn.Tanh(), nn.Sigmoid(), nn.Linear(6, 3))
    return nn.Sequential(*layers).double().eval()


def test_a_merged_chain_is_one_node_of_the_bound_and_the_values_stay() -> None:
    model, x = smooth_network(), torch.randn(30, 5).double()
    fine = trace(model, x[:2])
    merged = derive(augment(merge_chains(fine)))
    chains = [node for node in merged.graph.nodes if isinstance(node.operation, op.Composite)]
    assert [len(node.operation.nodes) for node in chains] == [2, 2]  # type: ignore[attr-defined]
    state = dict(model.state_dict())
    inner, context = chains[0].operation.nodes, Context(state)  # type: ignore[attr-defined]
    at = fine.run(model, x)
    by_parts = reduce(lambda h, n: apply(n.operation, n, [h], context), inner, at[chains[0].inputs[0]])
    assert torch.equal(merged.graph.run(model, x)[chains[0].name], by_parts)


def test_the_merged_graph_has_a_certificate_with_the_same_loss_and_fewer_indicators() -> None:
    """Neither certificate is always the smaller; both bound the error of one network on one sample."""
    model, x = smooth_network(), torch.randn(30, 5).double()
    with torch.no_grad():
        y = model(x).argmax(1)
    fine = trace(model, x[:2])
    certificates = []
    for graph in (fine, merge_chains(fine)):
        bound = derive(augment(graph))
        found = measure(bound, model, [(x, y)])
        certificates.append(bound.evaluate(found, choose(bound, found, 0.0)))
    one, other = certificates
    assert other.parameters.gamma == one.parameters.gamma
    assert len(other.parameters.kappa) < len(one.parameters.kappa)
    assert other.union_cost < one.union_cost and other.training <= one.training


def test_the_constants_of_a_scaled_sine_are_attained() -> None:
    """5 sin(3 t) + 1 has the slope 15 at 0, and a second derivative of size 45 at pi/6."""
    node = chain(*(op.Elementwise(f) for f in (affine(3, 0), SIN, affine(5, 1))))
    lipschitz, tau = chain_constants(node)
    steep, top = torch.zeros(1, SIZE).double(), torch.full((1, SIZE), math.pi / 6).double()
    assert float(torch.linalg.matrix_norm(jacobian(node, steep), ord=2)) == pytest.approx(lipschitz, rel=1e-12)
    step = torch.zeros(1, SIZE).double()
    step[0, 0] = 1e-5
    change = jacobian(node, top + step) - jacobian(node, top - step)
    assert float(torch.linalg.matrix_norm(change, ord=2)) / 2e-5 == pytest.approx(tau, rel=1e-6)
