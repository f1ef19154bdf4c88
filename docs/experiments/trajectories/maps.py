"""Local Lipschitz constants on the plane of the data, with Theorem 2's prediction from one pass (the paper's A.3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from epochs import Arrays
from stacked import Stack
from tasks import Data, Plan, Task
from torch import Tensor, nn

import covergraph as cg
from covergraph.trajectory import assumption1, lipschitz_map, patterns

SLOW = 1e-6
"""Times the learning rate, in the pass that Theorem 2 is about: so small that Assumption 1 has a chance to hold."""
RESOLUTION = 111
SAMPLED = {"small map": 25}
"""Of how many training points the pass consists, where not of all."""
KEPT = ("axis", "lam", "regions", "predictions", "share", "ratio", "count")


def compute(task: Task, plan: Plan, report: Callable[[float], None] = lambda share: None) -> Arrays:
    """Trains the plan's runs, then one map each: arrays whose first axis is the runs."""
    stack = Stack(task, plan)
    for epoch in range(plan.epochs):
        for _ in stack.train_epoch():
            report((epoch + 1) / plan.epochs)
    found = []
    for place, run in enumerate(stack.runs):
        model = task.network(run[1], **dict(plan.options))
        model.load_state_dict({name: p[place] for name, p in stack.parameters.items()}, strict=False)
        found.append(of_run(task, task.data(*run), model.double(), SAMPLED.get(plan.variant)))
    return {name: np.array([one[name] for one in found]) for name in found[0]} | {
        "complexity": np.array([c for c, _ in stack.runs]), "loss": stack.losses(stack.train, stack.train_targets),
    }


def of_run(task: Task, data: Data, model: nn.Sequential, count: int | None) -> Arrays:
    """The map of a trained network after one slow pass over `count` of its training points, in double precision."""
    if data.plane is None:
        raise ValueError(f"{task.name}: its inputs lie on no plane to draw a map of")
    X, plane = data.inputs[data.train][:count].double(), data.plane.double()
    trajectory, states = slow_pass(task, model, X, data.train_targets[:count].double())
    graph = cg.trace(model, X[:1])
    consistent = assumption1(graph, states, X, every=True)
    drawn = lipschitz_map(
        graph, model, torch.zeros_like(X[0]), *plane.T, extent=1.0, resolution=RESOLUTION, points=X,
        costs=trajectory.normalized, beta=float(trajectory["top_upper"].max()), gamma=consistent.gamma,
        consistent=consistent, trajectory=trajectory,
    )
    statement = drawn.statement
    assert statement is not None
    z = torch.cartesian_prod(*[torch.from_numpy(drawn.axis)] * 2)
    numbers = patterns(graph, model, torch.cat([z @ plane.T, X])).distinct()[1]
    visited = np.isin(numbers[: len(z)], numbers[len(z) :])
    return {name: np.array(getattr(drawn, name), dtype=float) for name in KEPT} | {
        "gamma": np.array(consistent.gamma), "holds": np.array(consistent.holds),
        "violations": np.array(statement.violations), "points": (X @ plane).numpy(),
        "lam_points": trajectory.lam, "visited": np.array(visited.mean()),
        "unproved": np.array(", ".join(a.name for a in statement.ledger if a.status != "true")),
    }


def slow_pass(task: Task, model: nn.Sequential, X: Tensor, y: Tensor) -> tuple[cg.Trajectory, list[dict[str, Tensor]]]:
    """An ordinary loop over all points under the recorder, and the parameters before it and after each step."""
    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(free, lr=SLOW * task.rate)
    states = [copied(model)]
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        for one, target in zip(X[:, None], y[:, None], strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(one), target).backward()
            optimizer.step()
            states.append(copied(model))
    return recorder.trajectory, states


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
