"""What forward and backward passes show between two steps: ∂ℓ/∂ŷ, ∂ℓ/∂h, ∂ℓ/∂b and the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from covergraph.errors import TrajectoryError
from covergraph.trajectory.buffers import Buffers
from covergraph.trajectory.hooks import BackwardWatch
from covergraph.trajectory.layer import Watched

PER_STEP = 2**14
"""Of so many weights, ∂ℓ/∂h and the drift of W are taken at every step; of k times as many, at every k-th."""
WORK = 2**20
"""Likewise for the multiplications that make ∂ℓ/∂h."""


@dataclass
class Seen:
    """Since the last step: the samples at the output and at the layer's input, the gradients of the bias, and Σ ∂ℓ/∂h.

    `version`: of W at the last gradient. `written`: the numbers of the row that hold something.
    """

    samples: int = 0
    inner: int = 0
    gradients: int = 0
    version: int = -1
    pulled: Tensor | None = None
    written: set[str] = field(default_factory=set)


class Passes:
    """The hooks on the model, the layer and the bias; they write to row `row` of the buffers, without synchronization.

    `measures`: whether ∂ℓ/∂h is taken in the step in progress. Gradients count only inside of backward(); what came of
    backward passes whose gradients were zeroed without a step is forgotten.
    """

    def __init__(
        self, watched: Watched, bias: nn.Parameter, weight: nn.Parameter | None, buffers: Buffers, watch: BackwardWatch,
        every: int | None, output: str | int | None,
    ) -> None:
        self.watched, self.bias, self.weight, self.buffers, self.watch = watched, bias, weight, buffers, watch
        self.every, self.output = every, output
        self.row, self.measures = 0, watched.module is not None
        self.now, self.stale = Seen(), set[str]()
        self.version, self.accumulated = -1, False
        self.slot: tuple[int, ...] | None = None
        self.met = False
        self.outputs = 0

    @property
    def weight_version(self) -> int:
        """Counts the changes of W."""
        return -1 if self.weight is None else self.weight._version

    def hooks(self) -> list[Any]:
        """The handles of the hooks on the bias."""
        bias: Any = self.bias  # torch's methods have no types
        return [bias.register_hook(self._on_gradient), bias.register_post_accumulate_grad_hook(self._on_accumulated)]

    def on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer is about to run: its input is passed on by an alias that tells its gradient."""
        if not torch.is_grad_enabled():
            return None
        place, h = first_tensor(args, kwargs, self.watched.name)
        if h.shape[1:] != self.slot:
            self._meet(h)
        if len(h) == 1:
            slot = self.buffers.slots[self.row]["input"]
            torch.linalg.vector_norm(h.detach(), dtype=torch.float64, out=slot)
            self.stale.add("input")
        if not self.measures:
            return None
        alias = h.view_as(h) if h.requires_grad else h.detach().requires_grad_()
        alias.register_hook(self._on_pull)  # type: ignore[no-untyped-call]
        if isinstance(place, int):
            return (*args[:place], alias, *args[place + 1 :]), kwargs
        return args, {**kwargs, place: alias}

    def on_output(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        """The model has run."""
        if not torch.is_grad_enabled():
            return
        if self.now.gradients and (self.bias.grad is None or self.bias.grad._version != self.version):
            self.take()  # gradients were zeroed without a step
        output = chosen(result, self.output)
        if not output.requires_grad:
            return
        if output.dim() == 0:
            raise TrajectoryError(
                "trajectory: the model's output has no batch dimension, expected (batch, ...); if it is the loss, let "
                "the model return what the loss is computed from"
            )
        self.outputs = output.shape[1:].numel()
        output.register_hook(self._on_output_gradient)  # type: ignore[no-untyped-call]

    def take(self) -> Seen:
        """What was seen since the last time; numbers that are not of it become stale."""
        seen = self.now
        self.now, self.accumulated = Seen(), False
        self.stale |= seen.written
        return seen

    def finish(self) -> Seen:
        """At the end of a step: what was seen, with the rest of its row filled in."""
        slots, fresh = self.buffers.slots[self.row], self.now.written
        if self.now.pulled is not None and self.now.inner > 1:  # of one sample it is in pulls
            torch.linalg.vector_norm(self.now.pulled, dtype=torch.float64, out=slots["pull"])
        if not self.now.gradients:
            self.buffers.gradient_rows[self.row].zero_()
        if self.now.samples == 1:
            self.stale.discard("input")
        for name in self.stale - fresh:
            slots[name].fill_(math.nan)
        seen = self.take()
        self.stale = set()
        return seen

    def require_seen(self) -> None:
        """Raise `TrajectoryError` if gradients came by a way that is not watched."""
        if self.accumulated and not self.now.gradients:
            raise TrajectoryError(
                f"trajectory: {self.watched.bias!r} has a gradient that came neither by loss.backward() nor by "
                "torch.autograd.backward(), expected one of these inside of the recorder's `with`; call loss.backward()"
            )

    def _meet(self, h: Tensor) -> None:
        """The first input, or one of another shape, which only a linear layer at every position may have."""
        if not h.is_floating_point():
            raise TrajectoryError(
                f"trajectory: the input of {self.watched.name!r} has type {h.dtype}, expected real numbers; name a "
                "later layer with layer='...'"
            )
        self.slot, self.met = tuple(h.shape[1:]), True
        completed = self.watched.completed(self.slot)
        moves = self.watched.kind == "linear" and isinstance(self.watched.module, nn.Linear)
        if not moves and math.prod(self.slot) != math.prod(completed.slot or ()):
            raise TrajectoryError(
                f"trajectory: the input of {self.watched.name!r} has shape {tuple(h.shape)}, expected a batch of "
                f"samples of shape {completed.slot}; pass samples of one shape, with the batch in dim 0"
            )
        self.watched = completed
        if self.every is None:
            weights = 0 if self.weight is None else self.weight.numel()
            work = len(h) * weights * math.prod(completed.shape or ()) // max(completed.channels, 1)
            self.every = max(1, -(-weights // PER_STEP), -(-work // WORK))

    def _on_output_gradient(self, gradient: Tensor) -> None:
        if self.watch.depth:
            self.now.samples += len(gradient)
            self._add_norms("epsilon", gradient.detach())

    def _on_pull(self, gradient: Tensor) -> None:
        if not self.watch.depth:
            return
        gradient, now = gradient.detach(), self.now
        now.inner += len(gradient)
        self._add_norms("pulls", gradient)
        pulled = gradient.reshape(-1) if len(gradient) == 1 else gradient.sum(0).reshape(-1)
        now.pulled = pulled if now.pulled is None else now.pulled + pulled

    def _on_gradient(self, gradient: Tensor) -> None:
        if not self.watch.depth:
            return
        row = self.buffers.gradient_rows[self.row]
        if self.now.gradients:
            row.add_(gradient.detach())
        else:
            row.copy_(gradient.detach())
        self.now.gradients += 1
        self.now.version = self.weight_version
        if self.watch.loss is not None:
            self._add("loss", self.watch.loss)

    def _on_accumulated(self, parameter: Tensor) -> None:
        self.accumulated = True
        self.version = -1 if parameter.grad is None else parameter.grad._version

    def _add_norms(self, name: str, gradient: Tensor) -> None:
        """Add the norm of each sample."""
        if len(gradient) > 1:
            rows = torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1, dtype=torch.float64)
            self._add(name, rows.sum())
        elif name in self.now.written:
            self._add(name, torch.linalg.vector_norm(gradient, dtype=torch.float64))
        else:
            torch.linalg.vector_norm(gradient, dtype=torch.float64, out=self.buffers.slots[self.row][name])
            self.now.written.add(name)

    def _add(self, name: str, value: Tensor) -> None:
        slot = self.buffers.slots[self.row][name]
        if name in self.now.written:
            slot.add_(value)
        else:
            slot.copy_(value)
            self.now.written.add(name)


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[int | str, Tensor]:
    """The first tensor among the arguments, and its place."""
    places: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *kwargs.items())
    for place, value in places:
        if isinstance(value, Tensor):
            return place, value
    raise TrajectoryError(
        f"trajectory: {name!r} was called without a tensor, expected its input as an argument; name another layer with "
        "layer='...'"
    )


def chosen(result: Any, output: str | int | None) -> Tensor:
    """The tensor that the loss is computed from. Raises `TrajectoryError` if that is not clear."""
    try:
        found = result if output is None else result[output]
    except (KeyError, IndexError, TypeError) as error:
        raise TrajectoryError(
            f"trajectory: the model's output, {type(result).__name__}, has no entry {output!r} ({error}); pass "
            "output=... as an index or a key of it"
        ) from None
    if isinstance(found, Tensor):
        return found
    raise TrajectoryError(
        f"trajectory: the model's output is {type(found).__name__}, expected a tensor; say with output=... which "
        "entry of it the loss is computed from, by index or key"
    )
