"""One run through an ordinary PyTorch loop under `covergraph.TrajectoryRecorder`, beside the same run in a stack."""

from __future__ import annotations

import numpy as np
import stacked
import torch
from epochs import Arrays, columns
from tasks import Plan, Task
from torch import Tensor, nn

import covergraph as cg


def ordinary(task: Task, plan: Plan, run: tuple[float, int], dtype: torch.dtype) -> tuple[cg.Trajectory, Tensor]:
    """The trajectory of one run, and b after each step (T, n)."""
    complexity, seed = run
    data, model = task.data(complexity, seed), task.network(seed).to(dtype)
    inputs, targets = data.inputs[data.train].to(dtype), data.train_targets.to(dtype)
    loss_of = {"sinusoid": nn.MSELoss(), "images": nn.BCELoss()}[task.name]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=task.rate)
    biases = []
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        for epoch in range(plan.epochs):
            for chosen in torch.from_numpy(stacked.batches(plan, len(inputs), seed, epoch)):
                optimizer.zero_grad()
                loss_of(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
                biases.append(model.get_parameter(stacked.BIAS).detach().flatten().clone())
    return recorder.trajectory, torch.stack(biases)


def compare(task: Task, plan: Plan) -> Arrays:
    """Largest differences of the hardest run's a_t, λ_t and b between both ways, relative to the largest value.

    One number each for single and double precision.
    """
    found: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.float64):
        stack = stacked.Stack(task, plan, dtype)
        records = [record for _ in range(plan.epochs) for record in stack.train_epoch()]
        trajectory, biases = ordinary(task, plan, stack.runs[-1], dtype)
        parts = [columns(record, task.rate, plain=True) for record in records]
        there = {name: np.concatenate([part[name][:, -1] for part in parts]) for name in ("a", "lambda")}
        there["b"] = torch.cat([torch.stack(record.biases)[:, -1] for record in records]).numpy()
        here = {"a": trajectory.normalized, "lambda": trajectory.lam, "b": biases.numpy()}
        for name, values in here.items():
            found.setdefault(name, []).append(float(np.abs(there[name] - values).max() / np.abs(values).max()))
    steps = len(biases)
    return {name: np.array(values) for name, values in found.items()} | {"steps": np.array(steps)}
