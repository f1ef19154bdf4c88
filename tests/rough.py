"""Small certificates of networks with kinks and poles, and of a network whose nodes share their parameters."""

from __future__ import annotations

from functools import cache

import torch
from strategies import Builder
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from covergraph.bound.certificate import Certificate
from covergraph.bound.derive import derive
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import SOFTPLUS, TANH
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment

DEAD = 4
"""So many samples are 0, where a ReLU without bias has no derivative."""


def _certificate(graph: ComputationGraph, state: dict[str, Tensor], x: Tensor) -> Certificate:
    y = graph.run(state, x)[graph.output].argmax(1)
    bound = derive(augment(graph))
    loader = DataLoader(TensorDataset(x, y), batch_size=20)
    return bound.evaluate(measure(bound, state, loader, progress=False, duplicates="iid"))


def _graph(builder: Builder, output: str) -> ComputationGraph:
    shapes = {name: tuple(value.shape) for name, value in builder.state.items()}
    return ComputationGraph(builder.nodes, output, fingerprint(builder.nodes, builder.state), Weights(shapes=shapes))


@cache
def conditioned() -> Certificate:
    """h(norm(g(relu(f(x)))) / softplus(d(relu(f(x)))) + value): a kink, a norm, a quotient, a learned value."""
    builder = Builder(seed=3)
    x = builder.input(3, name="x")
    r = builder.smooth(RELU, builder.linear(x, 4, name="f"), name="relu_f")
    n = builder.add(op.Normalize(4, 1e-3), builder.linear(r, 4, bias=True, name="g"), name="norm")
    d = builder.smooth(SOFTPLUS, builder.linear(r, 4, bias=True, name="d"), name="positive")
    q = builder.add(op.Divide(), n, d, name="quotient")
    builder.nodes.append(Node("value", op.Parameter(), (), (4,), (("value", "value"),)))
    builder.state["value"] = builder.normal(4)
    h = builder.linear(builder.add(op.Add(), q, "value", name="sum"), 3, name="h")
    inputs = builder.normal(50, 3)
    inputs[:DEAD] = 0
    return _certificate(_graph(builder, h), builder.state, inputs)


@cache
def tied() -> Certificate:
    """h(tanh(W tanh(W f(x) + b) + b)): two nodes share W and b; W is diagonal, which favors one cover for both."""
    builder = Builder(seed=8)
    builder.state |= {"W": torch.diag(builder.normal(4)), "b": builder.normal(4) / 100}
    last = builder.linear(builder.input(3, name="x"), 4, name="f")
    for i in range(2):
        roles = (("weight", "W"), ("bias", "b"))
        builder.nodes.append(Node(f"step_{i}", op.Linear(True), (last,), (4,), roles))
        last = f"tanh_{i}"
        builder.nodes.append(Node(last, op.Elementwise(TANH), (f"step_{i}",), (4,)))
    h = builder.linear(last, 3, name="h")
    return _certificate(_graph(builder, h), builder.state, builder.normal(50, 3))
