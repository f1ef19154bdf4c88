"""Graphs run by the interpreter: whole networks, cut nodes, inputs, weights, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from handmade import NETWORKS, mlp
from operation_cases import random

from covergraph.errors import ForeignModelError, GraphError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply, identity_tangents, state_of, tangent
from covergraph.graph.node import Node


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_identity_tangents(shape: tuple[int, ...]) -> None:
    basis = identity_tangents(torch.zeros(2, *shape))
    size = max(1, shape[0] * shape[-1] if len(shape) > 1 else 1)
    assert basis.shape == (2, size, *shape)
    torch.testing.assert_close(basis.reshape(2, size, -1)[0], torch.eye(size))


@dataclass(frozen=True)
class Sorting(op.Operation):
    """Unknown to covergraph."""


def test_unknown_operations_are_refused_by_name() -> None:
    node = Node("v", Sorting(), ("u",), (2,), origin="head.sort")
    with pytest.raises(UnsupportedOperationError, match=r"'v' \(head\.sort\).*no rule for 'sorting'"):
        apply(node.operation, node, [torch.zeros(1, 2)], Context({}))
    with pytest.raises(UnsupportedOperationError, match=r"'v' \(head\.sort\).*no rule for 'sorting'"):
        tangent(node.operation, node, [torch.zeros(1, 2)], [torch.zeros(1, 1, 2)], Context({}))


@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_run_like_the_modules(name: str) -> None:
    """Every marked value, at two batch sizes."""
    net = NETWORKS[name]()
    for n in (1, 5):
        inputs, _ = net.sample(n, seed=n)
        output = net.module(*inputs)
        values = net.graph.run(net.module, *inputs)
        torch.testing.assert_close(values[net.graph.output], output, rtol=1e-12, atol=1e-13)
        for v, expected in net.module.seen.items():
            torch.testing.assert_close(values[v], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_nodes_take_the_values_given(name: str) -> None:
    net = NETWORKS[name]()
    inputs, _ = net.sample(4)
    for node in net.graph.nodes:
        free = random(4, *node.shape, seed=9)
        net.module.cut = {node.name: free}
        expected = net.module(*inputs)
        net.module.cut = {}
        found = net.graph.run(net.module, *inputs, cut={node.name: free})
        torch.testing.assert_close(found[node.name], free)
        torch.testing.assert_close(found[net.graph.output], expected, rtol=1e-12, atol=1e-13)


def test_wrong_inputs_are_refused() -> None:
    net = mlp()
    with pytest.raises(GraphError, match=r"input 'x' has shape \(4, 6\), expected \(batch, 5\)"):
        net.graph.run(net.module, torch.zeros(4, 6))
    with pytest.raises(GraphError, match=r"input 'x' has shape \(5,\)"):
        net.graph.run(net.module, torch.zeros(5))
    with pytest.raises(GraphError, match=r"2 inputs given, expected 1: \['x'\]"):
        net.graph.run(net.module, torch.zeros(4, 5), torch.zeros(4, 5))
    with pytest.raises(GraphError, match="no node is called 'nowhere'"):
        net.graph.run(net.module, torch.zeros(4, 5), cut={"nowhere": torch.zeros(1)})


def test_missing_parameters_name_the_node() -> None:
    net = mlp()
    state = {k: v for k, v in net.module.state_dict().items() if k != "f2.weight"}
    with pytest.raises(ForeignModelError, match=r"'f2'.*no parameter 'f2\.weight'"):
        net.graph.run(state, torch.zeros(2, 5, dtype=torch.float64))


def test_state_holds_tied_names_and_buffers() -> None:
    module = torch.nn.Module()
    module.one = torch.nn.Linear(2, 2)
    module.two = module.one
    module.register_buffer("extra", torch.ones(1))
    assert set(state_of(module)) == {"one.weight", "one.bias", "two.weight", "two.bias", "extra"}


def test_the_type_is_that_of_the_weights() -> None:
    assert (
        Context({"steps": torch.zeros((), dtype=torch.long), "w": torch.zeros(2, dtype=torch.float32)}).dtype
        == torch.float32
    )
    assert Context({"steps": torch.zeros((), dtype=torch.long)}).dtype == torch.float64


def test_padding_never_wins_a_maximum() -> None:
    node = Node("v", op.MaxPool((3,), (1,), (1,), (1,)), ("u",), (1, 3))
    found = apply(node.operation, node, [torch.full((2, 1, 3), -5.0)], Context({}))
    assert found.tolist() == [[[-5.0] * 3]] * 2


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    """softmax of -inf alone is read as 0, as torch does it, not as NaN."""
    q, k, v = random(1, 2, 3, seed=1), random(1, 2, 3, seed=2), random(1, 2, 3, seed=3)
    mask = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]], dtype=torch.float64)
    node = Node("v", op.Attention(1.0), ("q", "k", "v", "m"), (2, 3))
    found = apply(node.operation, node, [q, k, v, mask[None]], Context({}))
    assert not found[0, 1].any()
    torch.testing.assert_close(found[0, 0], (q[0, 0] @ k[0].T).softmax(0) @ v[0])
