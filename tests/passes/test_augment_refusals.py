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


def unknown(name: str, source: str) -> Node:
    """A call of torch without a rule."""
    operation = op.Call("aten.cumprod.default", (op.Slot(0), 0), (), ((3,),))
    return Node(name, operation, (source,), (3,), origin=f"block.{name}")


def masked(name: str, source: str) -> Node:
    """A learned scale that masks, too, which has no entropy rule."""
    parameters = (("scale", f"{name}.scale"),)
    return Node(name, op.Affine(True, False, select=True), (source,), (3,), parameters, f"block.{name}")


def test_one_operation_is_named_with_its_node_and_module() -> None:
    message = refusal(linear("f", "x"), unknown("s", "f"), linear("g", "s"))
    assert "node 's' (block.s)" in message
    assert "cumprod" in message
    assert "without rule are" not in message


def test_all_operations_without_rule_are_listed_with_their_counts() -> None:
    message = refusal(
        linear("f", "x"), unknown("s1", "f"), masked("a", "s1"), unknown("s2", "a"), linear("g", "s2")
    )
    assert message.startswith("node 's1' (block.s1)")
    assert message.endswith("; without rule are cumprod (2), mask (1)")
    assert "linear" not in message


def test_operations_that_the_output_does_not_use_are_not_listed() -> None:
    message = refusal(linear("f", "x"), masked("unused", "f"), unknown("s", "f"), linear("g", "s"))
    assert "mask" not in message


def test_a_block_of_a_coarsened_graph_is_opened() -> None:
    inner = (linear("f", "x"), Node("t", op.Elementwise(TANH), ("f",), (3,)))
    block = Node("t", op.Composite("body", inner, ("x",), "t"), ("x",), (3,), inner[0].parameters, "body")
    opened = augment(ComputationGraph([X, block, linear("g", "t")], "g")).base
    assert [node.operation.label for node in opened.nodes] == ["input", "linear", "tanh", "linear"]


def test_a_learned_mask_says_why() -> None:
    message = refusal(linear("f", "x"), masked("a", "f"), linear("g", "a"))
    assert "node 'a' (block.a)" in message
    assert "a learned scale that also masks has no entropy rule" in message


def test_a_parameter_of_unknown_size_says_what_to_pass() -> None:
    node = Node("a", op.Affine(True, False), ("f",), (3,), (("scale", "a.scale"),), "block.a")
    message = refusal(linear("f", "x"), node, linear("g", "a"))
    assert "node 'a' (block.a)" in message
    assert "pass Weights(shapes={name: shape})" in message
