"""Composite nodes are opened, and the whole lowering keeps what it must."""

from __future__ import annotations

import torch
from hypothesis import given
from lowered import assert_lowered
from operation_cases.composed import COMPOSITES
from rewrites import Rows
from strategies import Case, cases, examples

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import SIN, TANH
from covergraph.graph.node import Node
from covergraph.passes.coarsen import coarsen, merge_chains
from covergraph.passes.lower import lower
from covergraph.passes.prune import prune


@examples(40)
@given(cases())
def test_merged_chains_are_opened_again(case: Case) -> None:
    """All but those of the data alone, whose last nodes have the names that the others read."""
    graph = prune(case.graph)
    merged, plain = lower(merge_chains(graph)), lower(graph)
    learned = [{n for n in g.nodes if n.name not in g.data_only} for g in (merged, plain)]
    assert learned[0] == learned[1]
    assert_lowered(merge_chains(graph), case.state, graph.run(case.state, *case.inputs)[graph.output], *case.inputs)


def block() -> Rows:
    """A learned layer, a chain of three, and a product."""
    rows = Rows()
    rows.input("x", 4)
    rows.add("w", op.Linear(True), "x", weight=(4, 4), bias=(4,))
    rows.row("t", TANH, "w")
    rows.row("s", SIN, "t")
    rows.add("square", op.Product(), "s", "s")
    rows.add("y", op.Product(), "square", "w")
    rows.nodes = [Node(*vars(n).values()) if n.name == "x" else _at("body", n) for n in rows.nodes]
    return rows


def _at(origin: str, node: Node) -> Node:
    return Node(node.name, node.operation, node.inputs, node.shape, node.parameters, origin)


def test_a_block_becomes_its_inner_nodes_under_their_names() -> None:
    rows = block()
    coarse = coarsen(merge_chains(rows.graph("y")), "body")
    assert len(coarse) == 2
    after = lower(coarse)
    assert after == rows.graph("y")
    assert after.text() == (
        "x = input() : 4\n"
        "w = linear(x) : 4 {weight=w.weight, bias=w.bias} @ body\n"
        "t = tanh(w) : 4 @ body\n"
        "s = sin(t) : 4 @ body\n"
        "square = product(s, s) : 4 @ body\n"
        "y = product(square, w) : 4 @ body\n"
        "return y"
    )


def test_chains_stay_if_they_are_to_be_kept() -> None:
    """Also inside a block that is opened."""
    merged = merge_chains(block().graph("y"))
    asked: list[str] = []

    def keep(node: Node) -> bool:
        asked.append(node.name)
        return not node.learned

    assert lower(merged, keep) == merged
    assert lower(coarsen(merged, "body"), keep) == merged
    assert asked == ["square", "y", "square"]


def composite(*nodes: Node, output: str) -> op.Composite:
    return op.Composite("block", nodes, ("u",), output)


def test_names_within_that_others_have_get_the_name_of_the_block() -> None:
    """The same block is used twice, and a node outside is called like one inside."""
    inner = (
        Node("t", op.Elementwise(TANH), ("u",), (4,)),
        Node("inside", op.Elementwise(SIN), ("t",), (4,)),
        Node("out", op.Product(), ("inside", "u"), (4,)),
    )
    rows = Rows()
    rows.input("x", 4)
    rows.add("t", op.Linear(False), "x", weight=(4, 4))
    rows.add("first", composite(*inner, output="out"), "t")
    rows.add("second", composite(*inner, output="out"), "first")
    after = lower(rows.graph("second"))
    rows.assert_same(after, "second")
    assert [(n.name, *n.inputs) for n in after.nodes] == [
        ("x",), ("t", "x"),
        ("first.t", "t"), ("inside", "first.t"), ("first", "inside", "t"),
        ("second.t", "first"), ("second.inside", "second.t"), ("second", "second.inside", "first"),
    ]  # fmt: skip


def test_every_case_of_the_operation() -> None:
    """Blocks within blocks, with constants, without slots."""
    for case in COMPOSITES.values():
        if case.parameters:
            expected = case.plain(*case.values()).expand(3, *case.shape)
            assert_lowered(case.graph, case.state, expected, torch.zeros(3).double(), *case.values())


def test_blocks_of_the_data_alone_stay() -> None:
    rows = Rows()
    rows.input("x", 4)
    rows.row("t", RELU, "x")
    rows.row("s", SIN, "t")
    rows.add("y", op.Linear(False), "s", weight=(4, 4))
    merged = merge_chains(rows.graph("y"))
    assert lower(merged) == merged


def test_fingerprint_and_weights_stay() -> None:
    """New constants come beside the given ones; without new ones the weights are the same object."""
    rows = block()
    graph = ComputationGraph(rows.graph("y").nodes, "y", "mark", rows.graph("y").weights)
    after = lower(merge_chains(graph))
    assert (after.fingerprint, after.output) == ("mark", "y")
    assert after.weights is graph.weights
    rows.fixed["held"] = torch.ones(4)
    rows.nodes.append(Node("h", op.Constant(), (), (4,), constants=(("value", "held"),)))
    rows.add("times", op.Reshape(), "y", shape=(2, 2))
    rows.add("r", op.Recurrent("rnn_tanh"), "times", "h", shape=(2, 4), weight_ih=(4, 2), weight_hh=(4, 4))
    rows.nodes.append(Node("z", op.Recurrent("rnn_tanh"), ("times",), (2, 4), rows.nodes[-1].parameters))
    rows.add("sum", op.Add(), "r", "z")
    last = lower(rows.graph("sum"))
    rows.assert_same(last, "sum")
    assert set(last.weights.constants) == {"held", "z.h0"}
    assert last.weights.shapes == rows.shapes
