"""What a bound has no rule for: all of it is named at once."""

from __future__ import annotations

import pytest

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.graph.node import Node
from covergraph.passes.augment import augment

X = Node("x", op.Input(), (), (3,))


def linear(name: str, source: str, shape: tuple[int, ...] = (3,)) -> Node:
    return Node(name, op.Linear(False), (source,), shape, (("weight", f"{name}.weight"),), name)


def refusal(*nodes: Node) -> str:
    with pytest.raises(UnsupportedOperationError) as caught:
        augment(ComputationGraph([X, *nodes], nodes[-1].name))
    return str(caught.value)


def softmax(name: str, source: str) -> Node:
    return Node(name, op.Softmax(0), (source,), (3,), origin=f"block.{name}")


def scaled(name: str, source: str) -> Node:
    return Node(name, op.Affine(True, False), (source,), (3,), (("scale", f"{name}.scale"),), f"block.{name}")


def test_one_operation_is_named_with_its_node_and_module() -> None:
    message = refusal(linear("f", "x"), softmax("s", "f"), linear("g", "s"))
    assert "node 's' (block.s)" in message
    assert "no derivative-Lipschitz rule for 'softmax'" in message
    assert "without rule are" not in message


def test_all_operations_without_rule_are_listed_with_their_counts() -> None:
    divided = Node("d", op.Divide(), ("s2", "a"), (3,))
    message = refusal(
        linear("f", "x"), softmax("s1", "f"), scaled("a", "s1"), softmax("s2", "a"), divided, linear("g", "d")
    )
    assert message.startswith("node 's1' (block.s1)")
    assert message.endswith("; without rule are softmax (2), scale (1), divide (1)")
    assert "linear" not in message


def test_operations_that_the_output_does_not_use_are_not_listed() -> None:
    message = refusal(linear("f", "x"), scaled("unused", "f"), softmax("s", "f"), linear("g", "s"))
    assert "scale" not in message


def test_a_block_of_a_coarsened_graph_says_so() -> None:
    inner = (linear("f", "x"), Node("t", op.Elementwise(TANH), ("f",), (3,)))
    block = Node("t", op.Composite("body", inner, ("x",), "t"), ("x",), (3,), inner[0].parameters, "body")
    message = refusal(block, linear("g", "t"))
    assert "'body' is a block of a coarsened graph; derive bounds on the graph before coarsening" in message


def test_an_affine_map_is_called_by_the_layers_it_comes_from() -> None:
    message = refusal(linear("f", "x"), scaled("a", "f"), linear("g", "a"))
    assert "node 'a' (block.a)" in message
    assert "'scale' (BatchNorm in eval mode" in message
