"""Networks, and a slow loop that measures what a recorder does: by autograd.grad, and with a dense W at each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import covergraph as cg

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Shift(nn.Module):
    """x + b."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(0.1 * torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class ScaleShift(Shift):
    """s x + b."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Unshared(nn.Module):
    """A convolution with a bias for each entry of its output."""

    def __init__(self, shape: Sequence[int], *sides: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*sides, bias=False)
        self.bias = nn.Parameter(0.1 * torch.randn(tuple(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.bias


class MeanPositions(nn.Module):
    """The mean over axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutional(first: nn.Module, entries: int) -> nn.Sequential:
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(entries, 3), nn.ReLU(), nn.Linear(3, 1))


@dataclass
class Case:
    """A network whose first module is the watched layer, its loss, and batches for each step."""

    model: nn.Sequential
    steps: list[list[Batch]]
    loss: Loss = nn.functional.mse_loss
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = lambda model: torch.optim.SGD(model.parameters(), 0.1)


def batches(steps: int, size: int, inputs: Sequence[int], outputs: int, passes: int = 1) -> list[list[Batch]]:
    def one() -> Batch:
        return torch.randn(size, *inputs), torch.randn(size, outputs)

    return [[one() for _ in range(passes)] for _ in range(steps)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: list[list[Batch]], loss: Loss) -> None:
    """A plain loop."""
    for passes in steps:
        optimizer.zero_grad()
        for x, y in passes:
            loss(model(x), y).backward()
        optimizer.step()


GRAPHS: dict[str, cg.ComputationGraph] = {}
"""Networks that were traced, by their text: a trace takes longer than a run."""


def recorded(case: Case, flush: int = 7, **options: object) -> cg.Trajectory:
    """The trajectory of a copy of the network."""
    model = copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    known = GRAPHS.get(repr(model))
    with cg.TrajectoryRecorder(model, optimizer, flush=flush, graph=known, **options) as recorder:  # type: ignore[arg-type]
        train(model, optimizer, case.steps, case.loss)
    if recorder._graph is not None:
        GRAPHS[repr(model)] = recorder._graph
    return recorder.trajectory


def slow(case: Case) -> dict[str, np.ndarray]:
    """The columns, and every singular value of W^t as "sigma", by a loop of its own."""
    model = copy.deepcopy(case.model)
    optimizer, first = case.optimizer(model), model[0]
    bias, rest = first.bias, model[1:]
    start, rows = bias.detach().clone(), []
    for passes in case.steps:
        optimizer.zero_grad()
        row: dict[str, float] = {"loss": 0.0, "samples": 0, "epsilon": 0.0, "pulls": 0.0, "input": float("nan")}
        gradient, pulled = torch.zeros_like(bias), torch.zeros(passes[0][0][0].numel())
        for x, y in passes:
            h = x.clone().requires_grad_()
            output = rest(first(h))
            loss = case.loss(output, y)
            at_h, at_output, at_bias = torch.autograd.grad(loss, (h, output, bias), retain_graph=True)
            loss.backward()
            row["loss"] += float(loss.detach())
            row["samples"] += len(x)
            row["epsilon"] += sum(float(g.norm()) for g in at_output)
            row["pulls"] += sum(float(g.norm()) for g in at_h)
            pulled, gradient = pulled + at_h.sum(0).reshape(-1), gradient + at_bias
        if row["samples"] == 1:
            row["input"] = float(passes[0][0].norm())
        matrix = dense(first, passes[0][0][:1])
        weight = getattr(first, "weight", getattr(getattr(first, "conv", None), "weight", None))
        before, rate = bias.detach().clone(), optimizer.param_groups[0]["lr"]
        sigma = torch.linalg.svdvals(matrix)
        row |= {
            "alpha": rate, "pull": float(pulled.norm()), "gradient": float(gradient.norm()),
            "frobenius": float(matrix.norm() if weight is None else weight.detach().norm()),
            "top": float(sigma[0]), "bottom": 0.0 if matrix.shape[0] > matrix.shape[1] else float(sigma[-1]),
        }
        optimizer.step()
        after = bias.detach()
        row |= {
            "move": float((after - before).norm()), "residual": float((after - before + rate * gradient).norm()),
            "distance": float((after - start).norm()), "bias": float(after.norm()),
        }
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    """W of the layer as an affine map (n_1, n), by automatic differentiation."""
    jacobian = torch.func.jacrev(lambda h: layer(h[None])[0])(x[0].detach())
    return jacobian.reshape(-1, x[0].numel()).detach()
