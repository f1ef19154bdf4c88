"""A loop beside the recorder: every column of a row from copies of the network that no recorder sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from trajectory.recorded import mlp

import covergraph as cg

Score = Callable[[Tensor], Tensor]
COLUMNS = ("loss", "samples", "epsilon", "pull", "pulls", "gradient", "move", "bias", "alpha", "frobenius", "top_upper")


@cache
def graph() -> cg.ComputationGraph:
    """Of mlp(5, 4, 2): a trace takes longer than a run."""
    with torch.random.fork_rng():  # whichever test comes first, the data of the others stay
        return cg.trace(mlp(5, 4, 2), torch.randn(2, 5))


class Truth:
    """The rows, from autograd.grad on copies of the network, which no recorder sees."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.rows: list[dict[str, float]] = []
        self.forget()

    def forget(self) -> None:
        """The gradients are zeroed."""
        self.sums: dict[str, Any] = {"loss": 0.0, "samples": 0, "epsilon": 0.0, "pulls": 0.0}
        self.gradient, self.pulled = torch.zeros(4), torch.zeros(5)

    def passes(self, x: Tensor, loss: Score) -> None:
        """loss(model(x)).backward() at the present weights."""
        twin, h = mlp(5, 4, 2), x.detach().clone().requires_grad_()
        twin.load_state_dict(self.model.state_dict())
        output = twin(h)
        value = loss(output)
        at_h, at_output, at_bias = torch.autograd.grad(value, (h, output, twin[0].bias))
        self.sums["loss"] += float(value.detach())
        self.sums["samples"] += len(x)
        self.sums["epsilon"] += float(at_output.norm(dim=1).sum())
        self.sums["pulls"] += float(at_h.norm(dim=1).sum())
        self.gradient, self.pulled = self.gradient + at_bias, self.pulled + at_h.sum(0)

    def steps(self, step: Callable[[], Any]) -> None:
        """The optimizer's step, which ends the row."""
        weight = self.model.get_parameter("0.weight").detach().clone()
        bias, rate = self.model.get_parameter("0.bias"), self.optimizer.param_groups[0]["lr"]
        before = bias.detach().clone()
        step()
        self.rows.append({
            **self.sums, "pull": float(self.pulled.norm()), "gradient": float(self.gradient.norm()), "alpha": rate,
            "move": float((bias.detach() - before).norm()), "bias": float(bias.detach().norm()),
            "frobenius": float(weight.norm()), "top_upper": float(torch.linalg.matrix_norm(weight, 2)),
        })
        self.forget()


def watch(
    loop: Callable[[nn.Module, Any, Truth], None], make: Callable[[nn.Module], Any] | None = None, **options: Any
) -> cg.Trajectory:
    """The trajectory of the loop, every column compared."""
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.05) if make is None else make(model)
    truth = Truth(model, optimizer)
    known = {"graph": graph(), "flush": 1, "strict": True} | options
    with cg.TrajectoryRecorder(model, optimizer, **known) as recorder:
        loop(model, optimizer, truth)
    found = recorder.trajectory
    for name in COLUMNS:
        expected = [row[name] for row in truth.rows]
        np.testing.assert_allclose(found[name], expected, rtol=1e-8, atol=1e-13, err_msg=name)
    return found


def data() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(3, 5), torch.randn(3, 2)) for _ in range(4)]
