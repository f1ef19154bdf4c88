"""The text of a node: with its settings, a line says what the node computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from covergraph.graph import operations as op
from covergraph.graph import rearrange as steps
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.description import settings
from covergraph.graph.functions import TANH
from covergraph.graph.node import LISTED, Node
from covergraph.graph.operation import Operation
from covergraph.graph.weights import Instruction, Program, Result, Source, Weights

CONVOLUTION = op.Convolution((1, 1), (0, 0), (1, 1), 1, (3, 3), bias=True)
TRANSPOSED = op.TransposedConvolution((2, 2), (0, 0), (0, 0), (1, 1), 1, (3, 3), bias=True)
AVERAGE = op.AveragePool((2, 2), (2, 2), (1, 1))
MAXIMUM = op.MaxPool((2, 2), (2, 2), (1, 1), (1, 1))
CALL = op.Call("aten.cumsum.default", (op.Slot(0), 1), (), ((1, 3),))


def rearranged(*chain: steps.RearrangeStep) -> op.Rearrange:
    return op.Rearrange(chain)


FAMILIES: dict[str, tuple[Operation, ...]] = {
    "convolution": (
        CONVOLUTION,
        replace(CONVOLUTION, stride=(2, 2)),
        replace(CONVOLUTION, stride=(2, 1)),
        replace(CONVOLUTION, stride=(1, 2)),
        replace(CONVOLUTION, padding=(2, 2)),
        replace(CONVOLUTION, dilation=(2, 2)),
        replace(CONVOLUTION, groups=2),
        replace(CONVOLUTION, kernel=(3, 1)),
        replace(CONVOLUTION, kernel=(1, 3)),
        replace(CONVOLUTION, kernel=(3, 1), padding=(1, 0)),
    ),
    "transposed convolution": (
        TRANSPOSED,
        replace(TRANSPOSED, stride=(3, 3)),
        replace(TRANSPOSED, padding=(1, 1)),
        replace(TRANSPOSED, output_padding=(1, 1)),
        replace(TRANSPOSED, output_padding=(0, 1)),
        replace(TRANSPOSED, dilation=(2, 2)),
        replace(TRANSPOSED, groups=3),
        replace(TRANSPOSED, kernel=(2, 2)),
    ),
    "average pool": (
        AVERAGE,
        replace(AVERAGE, kernel=(3, 2)),
        replace(AVERAGE, stride=(1, 1)),
        replace(AVERAGE, padding=(0, 0)),
        replace(AVERAGE, ceil_mode=True),
        replace(AVERAGE, count_include_pad=False),
    ),
    "max-pool": (
        MAXIMUM,
        replace(MAXIMUM, kernel=(3, 3)),
        replace(MAXIMUM, stride=(1, 2)),
        replace(MAXIMUM, padding=(0, 0)),
        replace(MAXIMUM, dilation=(2, 2)),
        replace(MAXIMUM, ceil_mode=True),
    ),
    "softmax": (op.Softmax(0), op.Softmax(1), op.Softmax(2), op.Softmax(2, causal=True)),
    "concatenation": (op.Concatenate(0), op.Concatenate(1)),
    "axis map": (op.AxisMap(0, "upsample"), op.AxisMap(1, "upsample")),
    "sum": (op.Sum((0,), False), op.Sum((1,), False), op.Sum((0, 1), False)),
    "maximum": (op.Maximum((0,)), op.Maximum((1,)), op.Maximum((0, 1))),
    "norm": (op.VectorNorm((0,)), op.VectorNorm((1,)), op.VectorNorm((0, 1))),
    "normalization": (op.Normalize(4, 1e-5), op.Normalize(4, 1e-6), op.Normalize(8, 1e-5), op.Normalize(4, 0.0)),
    "attention": (op.Attention(0.5), op.Attention(0.25), op.Attention(0.5, True), op.Attention(0.25, True)),
    "recurrent": (
        op.Recurrent("lstm"),
        op.Recurrent("lstm", reverse=True),
        op.Recurrent("lstm", cells=True),
        op.Recurrent("lstm", reverse=True, cells=True),
    ),
    "slice": (
        rearranged(steps.Slice(0, 0, 2)),
        rearranged(steps.Slice(0, 1, 3)),
        rearranged(steps.Slice(1, 0, 2)),
        rearranged(steps.Slice(0, 0, 2, 2)),
    ),
    "permutation": (rearranged(steps.Permute((1, 0, 2))), rearranged(steps.Permute((0, 2, 1)))),
    "pick": (
        rearranged(steps.Pick(0, (0, 2))),
        rearranged(steps.Pick(0, (2, 0))),
        rearranged(steps.Pick(1, (0, 2))),
        rearranged(steps.Pick(0, (0, 2, 2))),
    ),
    "pad": (rearranged(steps.Pad(0, 1, 2)), rearranged(steps.Pad(0, 2, 1)), rearranged(steps.Pad(1, 1, 2))),
    "join": (
        rearranged(steps.Join(0, ((), (steps.Slice(0, 0, 1),)))),
        rearranged(steps.Join(0, ((steps.Slice(0, 0, 1),), ()))),
        rearranged(steps.Join(1, ((), (steps.Slice(0, 0, 1),)))),
        rearranged(steps.Join(0, ((), (steps.Slice(0, 1, 2),)))),
    ),
    "chain": (
        rearranged(steps.View((2, 3)), steps.Permute((1, 0)), steps.Expand((3, 2))),
        rearranged(steps.Permute((1, 0)), steps.View((2, 3)), steps.Expand((3, 2))),
        rearranged(steps.View((3, 2)), steps.Permute((1, 0)), steps.Expand((3, 2))),
    ),
    "call": (
        CALL,
        replace(CALL, arguments=(op.Slot(0), 2)),
        replace(CALL, arguments=(op.Slot(0), (1, 2))),
        replace(CALL, arguments=(op.Slot(0), ())),
        replace(CALL, keywords=(("dtype", torch.float64),)),
        replace(CALL, keywords=(("exclusive", True),)),
        replace(CALL, output=0),
        replace(CALL, output=1),
    ),
}


def line(operation: Operation) -> str:
    return Node("y", operation, ("x",), (3,)).text()


@pytest.mark.parametrize("family", FAMILIES)
def test_two_operations_of_one_label_have_two_lines(family: str) -> None:
    operations = FAMILIES[family]
    assert len(set(operations)) == len(operations) > 1
    assert len({operation.label for operation in operations}) == 1
    assert len({line(operation) for operation in operations}) == len(operations)


PAIRS_OF_LABELS = [
    (op.Softmax(0), op.Softmax(0, log=True)),
    (op.Normalize(4, 1e-5), op.Normalize(4, 1e-5, center=False)),
    (op.Sum((0,), True), op.Sum((0,), False)),
    (MAXIMUM, replace(MAXIMUM, rectify=True)),
    (op.Affine(True, False), op.Affine(True, False, select=True)),
    (op.Recurrent("gru"), op.Recurrent("lstm")),
    (op.AxisMap(0, "upsample"), op.AxisMap(0, "pool")),
]


@pytest.mark.parametrize(("first", "second"), PAIRS_OF_LABELS, ids=lambda operation: operation.label)
def test_what_the_settings_do_not_say_the_label_does(first: Operation, second: Operation) -> None:
    assert line(first) != line(second)


def test_the_words() -> None:
    expected = {
        "3x3": CONVOLUTION,
        "3x1, stride 2x1, padding 1x0, dilation 2, groups 4": op.Convolution(
            (2, 1), (1, 0), (2, 2), 4, (3, 1), bias=False
        ),
        "3x3, stride 2, output padding 1": replace(TRANSPOSED, output_padding=(1, 1)),
        "2x2, stride 2, padding 1, padding not counted": replace(AVERAGE, count_include_pad=False),
        "2x2, stride 2, padding 1, dilation 2, ceil": replace(MAXIMUM, dilation=(2, 2), ceil_mode=True),
        "scale 0.125, causal": op.Attention(0.125, causal=True),
        "axes 0, 2": op.Maximum((0, 2)),
        "axes 1, 2": op.VectorNorm((1, 2)),
        "axis 2, causal": op.Softmax(2, causal=True),
        "axis 1 [0:4:2]": rearranged(steps.Slice(1, 0, 4, 2)),
        "view 2x3, permute 1 0": rearranged(steps.View((2, 3)), steps.Permute((1, 0))),
        "join axis 0 (all | axis 1 [3])": rearranged(steps.Join(0, ((), (steps.Pick(1, (3,)),)))),
        "": op.Linear(bias=True),
    }
    assert {settings(operation): operation for operation in expected.values()} == expected


def test_slots_are_no_settings() -> None:
    """They are the inputs, which the line shows anyhow."""
    call = op.Call("aten.stack.default", ((op.Slot(0), op.Slot(1)),), (("dim", 2),), ((1, 3), (1, 3)))
    assert Node("y", call, ("a", "b"), (3, 2)).text() == "y = stack(a, b; dim=2) : 3x2"


def test_parameters_stand_in_braces_and_constants_in_brackets() -> None:
    node = Node("y", op.Affine(True, True), ("x",), (3,), (("scale", "bn.weight"),), "bn", (("shift", "constant_0"),))
    assert node.text() == "y = scale_shift(x) : 3 {scale=bn.weight} [shift=constant_0] @ bn"
    assert replace(node, parameters=()).text() == "y = scale_shift(x) : 3 [shift=constant_0] @ bn"
    integer = Node("t", op.Constant(), (), (), constants=(("value", "c"),), kind="integer")
    assert integer.text() == "t = constant() : scalar integer [value=c]"


@pytest.mark.parametrize("count", [LISTED, LISTED + 1])
def test_many_parameters_are_counted(count: int) -> None:
    names = tuple((f"w{i}", f"block.w{i}") for i in range(count))
    inner = tuple(Node(f"n{i}", op.Elementwise(TANH), ("x",), (3,)) for i in range(2))
    text = Node("b", op.Composite("block", inner, ("x",), "n1"), ("x",), (3,), names, "block").text()
    listed = ", ".join(f"{role}={name}" for role, name in names)
    shown = listed if count == LISTED else f"{count} parameters"
    assert text == f"b = block(x; 2 nodes) : 3 {{{shown}}} @ block"


def test_the_formulas_of_effective_parameters() -> None:
    """The scale of a BatchNorm in eval mode, with a keyword and a list among the arguments."""
    scale = Program(
        (
            Instruction("aten.add.Tensor", (Source("bn.running_var"), 1e-5), (("alpha", 1),)),
            Instruction("aten.rsqrt.default", (Result(0),)),
            Instruction("aten.mul.Tensor", (Source("bn.weight"), Result(1))),
        )
    )
    shape = Program((Instruction("aten.view.default", (Source("bias"), (3, 1))),))
    nodes = [
        Node("x", op.Input(), (), (3,)),
        Node("y", op.Affine(True, True), ("x",), (3,), (("scale", "bn.scale"), ("shift", "bias.view"))),
    ]
    graph = ComputationGraph(nodes, "y", weights=Weights({"bn.scale": scale, "bias.view": shape}))
    assert graph.formulas == {
        "bn.scale": "mul(bn.weight, rsqrt(add(bn.running_var, 1e-05, alpha=1)))",
        "bias.view": "view(bias, [3, 1])",
    }
    assert ComputationGraph(nodes[:1], "x").formulas == {}
