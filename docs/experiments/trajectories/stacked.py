"""Training many runs side by side with torch.func.

A step of all runs is one vectorized forward and backward pass. Runs are independent of each other: each has its own
parameters, data and order of samples, and leaves the stack when it has fitted its training set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from epochs import Arrays, Record, summary
from tasks import Data, Plan, Task
from torch import Tensor
from torch.func import functional_call, grad, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

BIAS = "0.bias"


class Optimizer:
    """Plain SGD, SGD with momentum 0.9, or Adam, as in torch.optim, on stacked parameters."""

    def __init__(self, rule: str, rate: float) -> None:
        self.rule, self.rate, self.count = rule, rate, 0
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
        self.count += 1
        for name, g in gradients.items():
            parameters[name].sub_(self._direction(name, g), alpha=self.rate)

    def _direction(self, name: str, g: Tensor) -> Tensor:
        if self.rule == "sgd":
            return g
        if self.rule == "momentum":
            return self._running(name, g, 0.9, 1.0)
        first = self._running(f"{name} first", g, 0.9, 0.1) / (1 - 0.9**self.count)
        second = self._running(f"{name} second", g * g, 0.999, 0.001) / (1 - 0.999**self.count)
        return first / (second.sqrt() + 1e-8)

    def _running(self, name: str, g: Tensor, keep: float, add: float) -> Tensor:
        kept = self.state.setdefault(name, torch.zeros_like(g))
        return kept.mul_(keep).add_(g, alpha=add)

    def select(self, chosen: Tensor) -> None:
        self.state = {name: kept[chosen] for name, kept in self.state.items()}


class Stack:
    """The runs of a plan that still train."""

    def __init__(self, task: Task, plan: Plan, dtype: torch.dtype = torch.float32) -> None:
        self.task, self.plan = task, plan
        self.runs = [(c, seed) for c in task.complexities for seed in plan.seeds]
        self.alive = np.arange(len(self.runs))
        networks = [task.network(seed, **dict(plan.options)).to(dtype) for _, seed in self.runs]
        self.network = networks[0]
        trained = [name for name, p in self.network.named_parameters() if p.requires_grad]
        self.parameters = {k: torch.stack([n.get_parameter(k).detach() for n in networks]) for k in trained}
        self.initial = self.parameters[BIAS].flatten(1).clone()
        self.optimizer = Optimizer(plan.optimizer, plan.rate * task.rate)
        self._gather([task.data(*run) for run in self.runs], dtype)
        self.epoch = 0
        self._traced: Callable[..., tuple[Tensor, dict[str, Tensor], Tensor]] | None = None

    def _gather(self, data: list[Data], dtype: torch.dtype) -> None:
        pools = list({id(d.inputs): d.inputs for d in data}.values())
        offsets = dict(zip(map(id, pools), np.cumsum([0, *map(len, pools)]).tolist(), strict=False))
        self.inputs = torch.cat(pools).to(dtype)
        self.train = torch.stack([d.train + offsets[id(d.inputs)] for d in data])
        self.held = torch.stack([d.held + offsets[id(d.inputs)] for d in data])
        self.train_targets = torch.stack([d.train_targets for d in data]).to(dtype)
        self.held_targets = torch.stack([d.held_targets for d in data]).to(dtype)

    def select(self, chosen: np.ndarray) -> None:
        """Goes on with these of the runs alone."""
        kept = torch.from_numpy(chosen)
        self.alive = self.alive[chosen]
        self.parameters = {name: p[kept] for name, p in self.parameters.items()}
        self.optimizer.select(kept)
        self._traced = None
        for name in ("initial", "train", "held", "train_targets", "held_targets"):
            setattr(self, name, getattr(self, name)[kept])

    def _output(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.network, parameters, (x,))

    def _step(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """∂ℓ/∂ŷ (B, 1), the gradients of the parameters, and ∂ℓ/∂x (B, ...) of one run."""
        output, back = vjp(self._output, parameters, x)
        slope = grad(lambda f: self.task.loss(f, y))(output)
        return slope, *back(slope)

    def _vectorized(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """`_step` of all runs, traced once into plain operations: vmap's own work would double the time of a step."""
        if self._traced is None:
            step = vmap(self._step, randomness="different")  # of the masks of dropout
            self._traced = make_fx(lambda p, x, y: step(p, x, y))(self.parameters, x, y)
        return self._traced(self.parameters, x, y)

    def _order(self, run: int) -> np.ndarray:
        return batches(self.plan, self.train.shape[1], self.runs[run][1], self.epoch)

    def train_epoch(self) -> Iterator[Record]:
        """One pass: as many samples as there are, each drawn with replacement, in batches.

        Its steps come in records of some 2^24 numbers, so that the memory does not grow with the images.
        """
        self.network.train()
        order = torch.stack([torch.from_numpy(self._order(r)) for r in self.alive], 1)
        each = torch.arange(len(self.alive))[:, None]
        for part in order.split(max(1, 2**24 // (order[0].numel() * self.inputs[0].numel()))):
            record = Record(self.parameters[BIAS].flatten(1).clone())
            for chosen in part:
                x, y = self.inputs[self.train[each, chosen]], self.train_targets[each, chosen]
                slope, gradients, pull = self._vectorized(x, y)
                self.optimizer.step(self.parameters, gradients)
                record.slopes.append(slope.flatten(1))
                record.pulls.append(pull.flatten(2))
                record.gradients.append(gradients[BIAS].flatten(1))
                record.biases.append(self.parameters[BIAS].flatten(1).clone())
                for name, g in gradients.items() if self.plan.watch_all else ():
                    record.norms.setdefault(name, []).append(g.flatten(1).norm(dim=1))
            yield record
        self.epoch += 1

    @torch.no_grad()
    def losses(self, rows: Tensor, targets: Tensor, chunk: int = 250) -> np.ndarray:
        """The mean loss of each run over its samples (R,)."""
        self.network.eval()
        loss = vmap(lambda p, x, y: self.task.loss(self._output(p, x), y))
        parts = [
            loss(self.parameters, self.inputs[some], y) * some.shape[1]
            for some, y in zip(rows.split(chunk, 1), targets.split(chunk, 1), strict=True)
        ]
        return torch.stack(parts).sum(0).div(rows.shape[1]).double().numpy()


def batches(plan: Plan, samples: int, seed: int, epoch: int) -> np.ndarray:
    """The samples of one run's epoch (steps, B), the same whatever trains beside it."""
    return np.random.default_rng([seed, epoch]).integers(samples, size=(samples // plan.batch, plan.batch))


def train(task: Task, plan: Plan, report: Callable[[float], None] = lambda share: None) -> Arrays:
    """All runs of a plan to their ends: arrays (epochs, runs), NaN after a run's last epoch."""
    torch.manual_seed(0)  # of the masks of dropout
    stack, found = Stack(task, plan), {}
    rate, runs = stack.optimizer.rate, len(stack.runs)
    for epoch, values in _epochs(stack, rate):
        for name, value in values.items():
            shape = (plan.epochs, runs, *value.shape[1:])
            found.setdefault(name, np.full(shape, np.nan, np.float32))[epoch, stack.alive] = value
        finished = values["loss"] < task.fitted if task.stops else np.zeros(len(stack.alive), bool)
        if finished.any():
            stack.select(~finished)
        report((epoch + 1) / plan.epochs)
        if not len(stack.alive):
            break
    return found | {"complexity": np.array([c for c, _ in stack.runs]), "seed": np.array([s for _, s in stack.runs])}


def _epochs(stack: Stack, rate: float) -> Iterator[tuple[int, Arrays]]:
    task, plan = stack.task, stack.plan
    for epoch in range(plan.epochs):
        values = summary(stack.train_epoch(), rate, plan.optimizer == "sgd", stack.initial)
        values["loss"] = stack.losses(stack.train, stack.train_targets)
        last = epoch + 1 == plan.epochs or (task.stops and (values["loss"] < task.fitted).any())
        if last or (epoch + 1) % task.held_every == 0:
            values["held"] = stack.losses(stack.held, stack.held_targets)
        yield epoch, values
