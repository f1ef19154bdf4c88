"""Random ReLU networks with sampled points and their costs, by torch alone, for the tests of Theorem L2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import SIGMOID
from covergraph.graph.node import Node
from covergraph.graph.operations import Elementwise, Input, Linear
from covergraph.trajectory.patterns import Patterns

HIDDEN = [(4,), (6,), (9,), (3, 3), (4, 3), (6, 4), (5, 5), (3, 3, 2)]


@dataclass
class Case:
    """A network with sampled points, their costs at one time (γ = 0), and points x elsewhere."""

    model: nn.Sequential
    graph: ComputationGraph
    points: torch.Tensor
    costs: np.ndarray
    x: torch.Tensor
    beta: float


def network(widths: tuple[int, ...], sigmoid: bool) -> nn.Sequential:
    """A ReLU network with random parameters, in double precision."""
    parts: list[nn.Module] = []
    for d, n in pairwise(widths):
        parts += [nn.Linear(d, n), nn.ReLU()]
    parts[-1:] = [nn.Sigmoid()] if sigmoid else []
    model = nn.Sequential(*parts).double()
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                part.weight.normal_()
                part.bias.normal_(std=0.7)
    return model


def graph_of(model: nn.Sequential) -> ComputationGraph:
    """The graph of such a network, as tracing it gives it; a test compares them."""
    nodes = [Node("input", Input(), (), (model[0].in_features,))]
    for name, part in model.named_children():
        before = nodes[-1]
        if isinstance(part, nn.Linear):
            parameters = (("weight", f"{name}.weight"), ("bias", f"{name}.bias"))
            nodes.append(Node(name, Linear(True), (before.name,), (part.out_features,), parameters, name))
        else:
            row = RELU if isinstance(part, nn.ReLU) else SIGMOID
            nodes.append(Node(name, Elementwise(row), (before.name,), before.shape, (), name))
    return ComputationGraph(nodes, nodes[-1].name)


def slopes(model: nn.Sequential, X: torch.Tensor, wrt: str) -> np.ndarray:
    """‖∇_x f‖ or ‖∂f/∂b_1‖ of each sample, by torch alone."""
    found = []
    for x in X:
        x = x[None].clone().requires_grad_()
        target = x if wrt == "x" else model[0].bias
        found.append(torch.autograd.grad(model(x).sum(), target)[0].norm().item())
    return np.array(found)


def norm(model: nn.Sequential) -> float:
    """σ_1(W_1), with room for its rounding."""
    return float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) * (1 + 1e-12)


def random_case(seed: int) -> Case:
    torch.manual_seed(seed)
    hidden = HIDDEN[seed % len(HIDDEN)]
    inputs = 2 + seed % 3
    model = network((inputs, *hidden, 1), sigmoid=seed % 2 == 1)
    points = torch.randn(int(3 + 2.5 * (seed % 11)), inputs, dtype=torch.float64)
    x = 1.5 * torch.randn(60, inputs, dtype=torch.float64)
    return Case(model, graph_of(model), points, slopes(model, points, "b"), x, norm(model))


def dense(found: Patterns) -> np.ndarray:
    """S with its Π n_l rows, a column a sample."""
    rows = zip(*found.layers, strict=True)
    return np.array([reduce(np.kron, [layer.astype(float) for layer in row[::-1]]) for row in rows]).T


def two_neurons() -> nn.Sequential:
    """h = relu(x), f = 3 h_1 + 4 h_2."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[3.0, 4.0]]))
        model[2].bias.zero_()
    return model
