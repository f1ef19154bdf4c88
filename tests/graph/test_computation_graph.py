"""The graph itself: its checks, its groups of tied nodes, the names that it reads, and rewritten copies."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from operation_cases import random
from torch import Tensor

from covergraph.errors import ForeignModelError, GraphError
from covergraph.graph import operations as op
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.graph.losses import MarginLoss
from covergraph.graph.node import Node
from covergraph.graph.weights import Instruction, Program, Source, Weights
from covergraph.values import Parameters

X = Node("x", op.Input(), (), (3,))


def linear(name: str, source: str, weight: str, bias: str = "") -> Node:
    roles = (("weight", weight), ("bias", bias)) if bias else (("weight", weight),)
    return Node(name, op.Linear(bool(bias)), (source,), (3,), roles)


def transposed(name: str) -> Program:
    return Program((Instruction("aten.t.default", (Source(name),)),))


def test_graphs_are_checked_when_they_are_made() -> None:
    t = Node("t", op.Reshape(), ("x",), (3,))
    constant = Node("c", op.Constant(), (), (3,), constants=(("value", "table"),))
    for nodes, output, pattern in (
        ([X, X], "x", "two nodes are called 'x'"),
        ([t, X], "t", r"'t' uses \['x'\] before it is defined"),
        ([X, t], "z", "output 'z' is not a node"),
        ([X, Node("y", op.Input(), ("x",), (3,))], "y", "input 'y' has predecessors"),
        ([constant], "c", r"'c' reads the constants \['table'\], which the graph does not hold"),
    ):
        with pytest.raises(GraphError, match=pattern):
            ComputationGraph(nodes, output)
    assert len(ComputationGraph([constant], "c", weights=Weights(constants={"table": torch.zeros(3)}))) == 1


def test_untied_nodes_are_groups_of_their_own() -> None:
    graph = ComputationGraph([X, linear("f", "x", "f.weight"), linear("g", "f", "g.weight")], "g")
    assert graph.groups == (("f",), ("g",))


def test_nodes_that_name_one_parameter_are_a_group() -> None:
    """Also if the name is one of several, and through a third node."""
    nodes = [
        X,
        linear("f", "x", "a", "b"),
        linear("alone", "f", "z"),
        linear("g", "alone", "c", "b"),
        linear("h", "g", "c"),
    ]
    assert ComputationGraph(nodes, "h").groups == (("f", "g", "h"), ("alone",))


def test_effective_parameters_tie_the_nodes_that_use_their_sources() -> None:
    weights = Weights({"a.T": transposed("a"), "half": Program((Instruction("aten.mul.Tensor", (Source("d"), 0.5)),))})
    nodes = [X, linear("f", "x", "a"), linear("g", "f", "half"), linear("h", "g", "a.T")]
    graph = ComputationGraph(nodes, "h", weights=weights)
    assert graph.groups == (("f", "h"), ("g",))
    assert graph.state_names == ("a", "d")


def test_shared_storage_ties_nodes_under_different_names() -> None:
    nodes = [X, linear("f", "x", "encoder"), linear("g", "f", "decoder.T")]
    effective = {"decoder.T": transposed("decoder")}
    assert ComputationGraph(nodes, "g", weights=Weights(effective)).groups == (("f",), ("g",))
    tied = ComputationGraph(nodes, "g", weights=Weights(effective, ties={"decoder": "encoder"}))
    assert tied.groups == (("f", "g"),)
    assert tied.state_names == ("encoder",)


def test_constants_tie_nothing_and_are_not_learned() -> None:
    scale = Program((Instruction("aten.mul.Tensor", (Source("a"), Source("fixed"))),))
    other = Program((Instruction("aten.mul.Tensor", (Source("b"), Source("fixed"))),))
    weights = Weights({"one": scale, "two": other}, {"fixed": torch.ones(3, 3)})
    map_ = Node("m", op.AxisMap(0, "mix"), ("x",), (3,), constants=(("weight", "fixed"),))
    graph = ComputationGraph([X, map_, linear("f", "m", "one"), linear("g", "f", "two")], "g", weights=weights)
    assert graph.groups == (("f",), ("g",))
    assert graph.covered == ("f", "g")
    assert graph.data_only == {"x", "m"}
    assert graph.state_names == ("a", "b")


def test_the_state_of_a_graph_holds_what_its_nodes_name() -> None:
    weights = Weights({"a.T": transposed("a"), "unused": transposed("b")}, {"fixed": torch.ones(3, 3).double()})
    graph = ComputationGraph([X, linear("f", "x", "a.T")], "f", weights=weights)
    state = {"a": random(3, 3), "b": random(3, 3, seed=1)}
    assert set(graph.state(state)) == {"a", "b", "fixed", "a.T"}
    x = random(2, 3, seed=2)
    torch.testing.assert_close(graph.run(state, x)["f"], x @ state["a"])
    with pytest.raises(ForeignModelError, match=r"'f'.*no parameter 'a\.T'"):
        graph.run({"b": state["b"]}, x)


def test_replaced_keeps_weights_fingerprint_and_output() -> None:
    weights = Weights(constants={"fixed": torch.ones(3, 3)})
    graph = ComputationGraph([X, linear("f", "x", "a"), linear("g", "f", "a")], "g", "mark", weights)
    same = graph.replaced([X, linear("g", "x", "a")])
    assert (same.output, same.fingerprint) == ("g", "mark") and same.weights is weights
    assert [node.name for node in graph.nodes] == ["x", "f", "g"]
    assert graph.replaced(graph.nodes[:2], "f").output == "f"
    with pytest.raises(GraphError, match="output 'g' is not a node"):
        graph.replaced(graph.nodes[:2])


def test_the_digraph_is_frozen_and_carries_the_records() -> None:
    graph = ComputationGraph([X, Node("s", op.Product(), ("x", "x"), (3,))], "s")
    assert list(graph.digraph.edges) == [("x", "s")]
    assert graph.digraph.nodes["s"]["node"] is graph["s"]
    with pytest.raises(nx.NetworkXError):
        graph.digraph.add_node("t")


def test_the_text_shows_constants_and_integers() -> None:
    weights = Weights(constants={"fixed": torch.ones(4, 3)})
    nodes = [
        Node("tokens", op.Input(), (), (5,), kind="integer"),
        Node("e", op.Embedding(), ("tokens",), (5, 3), (("weight", "table"),), "emb"),
        Node("m", op.AxisMap(1, "mix"), ("e",), (5, 4), constants=(("weight", "fixed"),)),
    ]
    assert ComputationGraph(nodes, "m", weights=weights).text().splitlines() == [
        "tokens = input() : 5 integer",
        "e = embedding(tokens) : 5x3 {weight=table} @ emb",
        "m = mix(e; axis 1) : 5x4 [weight=fixed]",
        "return m",
    ]


MIX, MASK, W, V = random(4, 4, seed=5), random(2, 2, seed=6), random(4, 4, seed=7), random(3, 4, seed=8)


def with_constants() -> ComputationGraph:
    """x -> W.T x -> fixed map -> attention with a mask (on itself, three slots) -> tanh -> V."""
    weights = Weights({"f.weight.T": transposed("f.weight")}, {"mix": MIX, "mask": MASK})
    nodes = [
        Node("x", op.Input(), (), (2, 4)),
        Node("f", op.Linear(False), ("x",), (2, 4), (("weight", "f.weight.T"),)),
        Node("m", op.AxisMap(1, "mix"), ("f",), (2, 4), constants=(("weight", "mix"),)),
        Node("a", op.Attention(0.5), ("m", "m", "f"), (2, 4), constants=(("mask", "mask"),)),
        Node("t", op.Elementwise(TANH), ("a",), (2, 4)),
        Node("flat", op.Sum((0,), True), ("t",), (4,)),
        Node("g", op.Linear(False), ("flat",), (3,), (("weight", "g.weight"),)),
    ]
    return ComputationGraph(nodes, "g", weights=weights)


def after(f: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a and g from that of f, for one sample."""
    m = f @ MIX.T
    a = torch.softmax(m @ m.T / 2 + MASK, -1) @ f
    return a, V @ a.tanh().mean(0)


def test_jacobian_nodes_read_constants_and_effective_parameters() -> None:
    graph = with_constants()
    state = {"f.weight": W, "g.weight": V}
    augmented = AugmentedGraph(graph, MarginLoss(), "paper", ("flat",), graph.reach)
    assert dict(augmented.graph["J[m,f]"].constants) == {"weight": "mix"}
    x, y = random(3, 2, 4, seed=9), torch.tensor([0, 1, 2])
    level = {"s": {"flat": 1e3}, "kappa": {pair: 1e3 for pair in augmented.pair_names}}
    values = augmented.values(state, x, y, Parameters(1.0, level["s"], level["kappa"], {}, {}))
    for n in range(3):
        f = x[n] @ W
        a, g = (torch.autograd.functional.jacobian(lambda f, i=i: after(f)[i], f).reshape(-1, 8) for i in (0, 1))
        first = torch.autograd.functional.jacobian(lambda x: x @ W, x[n]).reshape(8, 8)
        for name, expected in {"D[a,f]": a, "D[g,f]": g, "J[f,x]": first, "D[g,x]": g @ first}.items():
            torch.testing.assert_close(values[name][n], expected, rtol=1e-9, atol=1e-11)
