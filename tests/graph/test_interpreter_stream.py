"""`stream` yields what `evaluate` collects, and lets go of what nobody reads any more."""

from __future__ import annotations

import weakref
from itertools import pairwise

import pytest
import torch
from handmade import NETWORKS
from hypothesis import given
from operation_cases import random
from strategies import Case, cases, examples
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.graph.interpreter import Context, evaluate, stream
from covergraph.graph.node import Node


def tanh(name: str, source: str) -> Node:
    return Node(name, op.Elementwise(TANH), (source,), (4,))


X = Node("x", op.Input(), (), (4,))
SKIP = ComputationGraph(
    [
        X,
        tanh("a", "x"),
        tanh("unused", "a"),
        tanh("b", "a"),
        tanh("c", "b"),
        Node("d", op.Add(), ("c", "a"), (4,)),
        tanh("e", "d"),
    ],
    "e",
)


def alive(graph: ComputationGraph, keep: bool) -> dict[str, set[str]]:
    """For each node the values other than its own that exist when it is yielded."""
    held: dict[str, weakref.ref[Tensor]] = {}
    found: dict[str, set[str]] = {}
    context, inputs = Context({}), {"x": random(2, 4)}
    for name, value in stream(graph, context, inputs, keep=keep):
        found[name] = {other for other, reference in held.items() if reference() is not None}
        held[name] = weakref.ref(value)
        del value
    return found


def test_values_live_until_their_last_use() -> None:
    """When a node is yielded, what later nodes read still exists, and of the others only its own slots."""
    found = alive(SKIP, keep=False)
    assert found["b"] == {"x", "a"}  # the caller holds x
    assert found["c"] == {"x", "a", "b"}
    assert found["d"] == {"x", "a", "c"}
    assert found["e"] == {"x", "d"}


def test_values_are_kept_on_demand() -> None:
    assert alive(SKIP, keep=True)["e"] == {"x", "a", "unused", "b", "c", "d"}


def test_a_long_chain_needs_two_values() -> None:
    names = ["x", *(f"t{i}" for i in range(50))]
    chain = ComputationGraph([X, *(tanh(v, u) for u, v in pairwise(names))], names[-1])
    assert max(len(others - {"x"}) for others in alive(chain, keep=False).values()) == 1


@given(cases())
@examples(40)
def test_streamed_values_are_those_of_a_run(case: Case) -> None:
    expected = case.graph.run(case.state, *case.inputs)
    inputs = case.graph.named_inputs(case.inputs)
    found = list(stream(case.graph, Context.of(case.state, case.graph), inputs))
    assert [name for name, _ in found] == [node.name for node in case.graph.nodes]
    for name, value in found:
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_take_cut_values(name: str) -> None:
    net = NETWORKS[name]()
    inputs, _ = net.sample(4)
    context, named = Context.of(net.module, net.graph), net.graph.named_inputs(inputs)
    for node in net.graph.nodes:
        cut = {node.name: random(4, *node.shape, seed=9)}
        expected = evaluate(net.graph, context, named, cut)
        assert expected[node.name] is cut[node.name]
        for v, value in stream(net.graph, context, named, cut):
            torch.testing.assert_close(value, expected[v], rtol=0, atol=0)


def test_parameters_and_constants_are_repeated_to_the_batch() -> None:
    """The batch is that of the inputs, or of the cut values, or 1."""
    token = Node("token", op.Parameter(), (), (4,), (("value", "token"),))
    graph = ComputationGraph([X, token, Node("out", op.Add(), ("x", "token"), (4,))], "out")
    state = {"token": random(1, 4)}
    values = graph.run(state, torch.zeros(3, 4, dtype=torch.float64))
    torch.testing.assert_close(values["token"], state["token"].repeat(3, 1))
    torch.testing.assert_close(values["out"], state["token"].repeat(3, 1))
    alone = ComputationGraph([token, tanh("t", "token")], "t")
    assert alone.run(state)["t"].shape == (1, 4)
    assert alone.run(state, cut={"t": torch.zeros(5, 4)})["token"].shape == (5, 4)
