"""Small certificates that need neither training nor tracing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from covergraph.bound.certificate import Certificate
from covergraph.bound.derive import derive
from covergraph.graph import operations as op
from covergraph.graph.augmented import Mode
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.functions import GELU_TANH, TANH
from covergraph.graph.losses import LipschitzLoss, Loss
from covergraph.graph.node import Node
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment


def figure_2() -> ComputationGraph:
    """The two layers of the paper's Figure 2 before augmentation."""
    nodes = [
        Node("x", op.Input(), (), (2,)),
        Node("V1", op.Linear(False), ("x",), (2,), (("weight", "W"),)),
        Node("V2", op.Elementwise(TANH), ("V1",), (2,)),
    ]
    return ComputationGraph(nodes, "V2")


def linear(name: str, source: str, width: int, bias: bool = False) -> Node:
    parameters = (("weight", f"{name}.weight"), *((("bias", f"{name}.bias"),) if bias else ()))
    return Node(name, op.Linear(bias), (source,), (width,), parameters, name)


def sequential() -> list[Node]:
    """A network in the form of Theorem 5.1."""
    return [
        Node("x", op.Input(), (), (5,)),
        linear("fc.0", "x", 4),
        Node("act.0", op.Elementwise(TANH), ("fc.0",), (4,), (), "act.0"),
        linear("fc.1", "act.0", 4),
        Node("act.1", op.Elementwise(TANH), ("fc.1",), (4,), (), "act.1"),
        linear("fc.2", "act.1", 3),
    ]


def branching() -> list[Node]:
    """Biases, a certified constant, a product of a node with itself, a skip connection; names that TeX dislikes."""
    return [
        Node("x", op.Input(), (), (5,)),
        linear("block_1.fc_a", "x", 4, bias=True),
        Node("block_1.gelu", op.Elementwise(GELU_TANH), ("block_1.fc_a",), (4,), (), "block_1"),
        Node("square", op.Product(), ("block_1.gelu", "block_1.gelu"), (4,)),
        Node("add", op.Add(), ("square", "block_1.gelu"), (4,)),
        linear("decoder.a_rather_long.module_path.with_many.parts.head", "add", 3, bias=True),
    ]


@contextmanager
def random_starts() -> Iterator[None]:
    """Norms are measured as those of large networks: wherever it costs fewer operations, from random starts."""
    with patch("covergraph.measure.plan.PATIENCE", 0.0):
        yield


def certificate(nodes: list[Node], mode: Mode = "minimal", loss: Loss | None = None, n: int = 40) -> Certificate:
    """The certificate of random weights on a random sample."""
    source = torch.Generator().manual_seed(0)
    state = {}
    for node in nodes:
        for role, name in node.parameters:
            width = nodes[[other.name for other in nodes].index(node.inputs[0])].shape[0]
            shape = (node.shape[0], width) if role == "weight" else node.shape
            state[name] = torch.randn(shape, generator=source) / 2
    graph = ComputationGraph(nodes, nodes[-1].name, fingerprint(nodes, state))
    x = torch.randn(n, 5, generator=source)
    y = graph.run(state, x)[graph.output].argmax(1)
    y[:3] = (y[:3] + 1) % 3
    bound = derive(augment(graph, loss, mode))
    return bound.evaluate(measure(bound, state, DataLoader(TensorDataset(x, y), batch_size=16), progress=False))


def half(output: Tensor, labels: Tensor) -> Tensor:
    """A loss that is constant."""
    return torch.full((len(labels),), 0.5, dtype=output.dtype)


USER_LOSS = LipschitzLoss(half, 0.25)
