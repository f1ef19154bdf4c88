"""Where the papers' expressions apply, and the reason beside a dash where they do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy
import torch
from handmade import (
    Marked,
    Network,
    convolutional,
    linear_node,
    mlp,
    network,
    normal,
    positions,
    residual,
    unary,
)
from measured import measured

from covergraph.bound import paper
from covergraph.graph import operations as op
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import GELU, SIN, TANH, ScalarFunction, T, affine
from covergraph.graph.losses import LipschitzLoss
from covergraph.graph.node import Node

EVERY = ["Lemma 4.1", "Theorem 4.2", "Theorem 4.3 (eq. 5)", "eq. (4)"]
EVERY += ["Theorem 5.1", "Theorem 1.1", "Section H", "Fig. 1"]

CHAIN_OF_MATRICES = EVERY[4:]
ELU_HALF = ScalarFunction(
    "elu(0.5)",
    sympy.Piecewise((sympy.exp(T) / 2 - sympy.Rational(1, 2), T < 0), (T, True)),
    lambda x: torch.nn.functional.elu(x, 0.5),
)


@pytest.mark.parametrize(
    ("make", "reason", "without"),
    [
        (lambda: mlp(bias=True), r"'f1' has a bias", CHAIN_OF_MATRICES),
        (lambda: mlp(function=GELU), r"gelu is not 1-Lipschitz \(its constant is 1\.1", CHAIN_OF_MATRICES),
        (lambda: mlp(function=affine(0.5, 0)), "stands where an activation is expected", CHAIN_OF_MATRICES),
        (convolutional, r"'k1' \(conv2d\) stands where a matrix is expected", CHAIN_OF_MATRICES),
        (positions, "'one' has a bias", CHAIN_OF_MATRICES),
        (residual, "the graph is not sequential", EVERY),
    ],
    ids=["bias", "GELU", "affine", "convolution", "per position", "residual"],
)
def test_a_dash_with_the_reason_off_the_domain(
    make: Callable[[], Network], reason: str, without: list[str]
) -> None:
    bound, found, parameters = measured(make())
    got = bound.evaluate(found, parameters)
    assert [v.expression.name for v in got.paper] == EVERY
    for row in got.paper:
        if row.expression.name in without:
            assert row.value is None and re.search(reason, row.note), row
        else:
            assert row.value is not None and row.value > 0


SMOOTH, PIECEWISE = ["Theorem 5.1", "Theorem 1.1"], ["Section H"]


@pytest.mark.parametrize(
    ("net", "reasons"),
    [
        (mlp(), dict.fromkeys(PIECEWISE, "tanh is smooth; Theorem 5.1 applies")),
        (mlp(function=RELU), dict.fromkeys(SMOOTH, "relu has kinks; Section H applies")),
        (mlp((4, 3)), {"Section H": "there is no activation", "Fig. 1": "mean over"}),
        (
            mlp(function=ELU_HALF),
            dict.fromkeys(SMOOTH, r"elu\(0\.5\) has kinks") | dict.fromkeys(PIECEWISE, r"elu\(0\.5\) is not piecewise"),
        ),
    ],
    ids=["tanh", "ReLU", "one matrix", "ELU with a kink"],
)
def test_smooth_and_piecewise_linear_activations_have_expressions_of_their_own(
    net: Network, reasons: dict[str, str]
) -> None:
    bound, found, parameters = measured(net)
    for row in bound.evaluate(found, parameters).paper:
        if row.expression.name in reasons:
            assert not row.value and re.match(reasons[row.expression.name], row.note), row
        else:
            assert (row.value is not None and row.value > 0) or "supposes sigma, t >= 1" in row.note, row


def test_a_last_activation_and_different_activations_are_off_the_domain() -> None:
    class Two(Marked):
        def __init__(self) -> None:
            super().__init__()
            self.f1, self.f2, self.f3 = (torch.nn.Linear(3, 3, bias=False) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.f3(torch.sin(self.f2(torch.tanh(self.f1(x)))))

    nodes = [
        Node("x", op.Input(), (), (3,)),
        linear_node("f1", "x", (3,), False),
        unary("t1", TANH, "f1", (3,)),
    ]
    nodes += [
        linear_node("f2", "t1", (3,), False),
        unary("t2", SIN, "f2", (3,)),
        linear_node("f3", "t2", (3,), False),
    ]
    net = network(Two(), nodes, normal((3,)))
    assert paper.layers_of(net.bound())[1] == "the activations differ"
    cut = replace(net, graph=type(net.graph)(nodes[:5], "t2"))
    assert "last layer 't2' is an activation" in paper.layers_of(cut.bound())[1]


def test_losses_without_margin_have_no_values() -> None:
    loss = LipschitzLoss(lambda h, y: torch.sigmoid(h[:, 0]), 0.25)
    bound, found, parameters = measured(mlp(), loss=loss)
    got = bound.evaluate(found, parameters)
    assert {v.value for v in got.paper} == {None}
    notes = {v.expression.name: v.note for v in got.paper}
    assert notes.pop("Section H") == "tanh is smooth; Theorem 5.1 applies"
    assert set(notes.values()) == {"the loss has no margin"}


def test_fixed_operations_on_the_data_do_not_spoil_the_domain() -> None:
    """An image that is flattened before the first matrix."""

    class Flat(Marked):
        def __init__(self) -> None:
            super().__init__()
            self.f1 = torch.nn.Linear(4, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.f1(x.flatten(1))

    image = Node("x", op.Input(), (), (2, 2))
    nodes = [image, Node("flat", op.Reshape(), ("x",), (4,)), linear_node("f1", "flat", (2,), False)]
    net = network(Flat(), nodes, normal((2, 2)))
    assert paper.layers_of(net.bound()) == (("flat", "f1"), "")
    bound, found, parameters = measured(net)
    assert {v.expression.name: v.value for v in bound.evaluate(found, parameters).paper}[
        "Theorem 5.1"
    ] is not None
