"""What forward and backward passes show between two steps: ∂ℓ/∂ŷ, ∂ℓ/∂h, ∂ℓ/∂b and the loss."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from covergraph.errors import TrajectoryError
from covergraph.trajectory.buffers import Buffers
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.hooks import BackwardWatch, transformed
from covergraph.trajectory.layer import Convolutions, Watched
from covergraph.trajectory.sight import Sight, Sights, StandIn
from covergraph.trajectory.tally import Seen, Tally

PER_STEP = 2**13
"""Of so many weights, ∂ℓ/∂h and the drift of W are taken at every step; of k times as many, at every k-th."""
WORK = 2**20
"""Likewise for the multiplications that make ∂ℓ/∂h."""


class Passes:
    """The hooks on the model, the layer and the bias; they tell the tally of the step in progress what passes by.

    `measures`: whether ∂ℓ/∂h is taken in this step. Gradients count only inside of backward(), and where the bias was
    trained at the forward pass and gets a gradient of its own; what came of backward passes whose gradients were zeroed
    without a step is forgotten. `ignores`: passes are not counted, as those of a closure that runs again. `size`: ‖h‖
    in the forward pass under way, of one sample. `coarse`: the relative rounding of W under autocast. `given`: the
    model's input in the first pass, if h is said to be a reordering of it. `scaled`: a scaler has scaled a loss.
    `owner`: the module that holds the bias. `left`: the gradient that the last step left behind. `stand_in`: for W,
    where the layer may take one.
    """

    def __init__(
        self, watched: Watched, bias: nn.Parameter, weight: nn.Parameter | None, buffers: Buffers, watch: BackwardWatch,
        every: int | None, output: str | int | None, guard: Guard,
    ) -> None:
        self.watched, self.bias, self.weight, self.watch = watched, bias, weight, watch
        self.every, self.output, self.guard = every, output, guard
        self.tally = Tally(buffers)
        self.measures, self.ignores, self.counts = watched.module is not None, False, False
        self.mark, self.accumulated = _mark(None), False
        self.owner: nn.Module | None = None
        self.sights = Sights(bias, weight, watched.bias)
        self.stand_in: StandIn | None = None
        self.left: tuple[int, int] | None = None
        self.arrived: Tensor | None = None
        self.slot: tuple[int, ...] | None = None
        self.met = False
        self.outputs = 0
        self.handles: list[Any] = []
        self.size: Tensor | None = None
        self.coarse = 0.0
        self.given: Tensor | None = None
        self.scaled = False
        self._scaler: object = None
        watch.on_begin, watch.on_end = guard(self._begin), guard(self._end)
        watch.on_scale = guard(self._on_scale)
        if watch.depth:  # the first forward pass with gradients is that of a checkpoint
            self._begin()

    @property
    def now(self) -> Seen:
        """What was seen since the last step."""
        return self.tally.now

    @property
    def trains(self) -> bool:
        """Whether a forward pass at this point is one with the bias itself, and may train it."""
        own = self.owner is None or self.owner._parameters.get(self.watched.bias.rpartition(".")[2]) is self.bias
        return torch.is_grad_enabled() and self.bias.requires_grad and own and not transformed()

    def hooks(self) -> list[Any]:
        """The handles of the hooks on the bias."""
        bias: Any = self.bias  # torch's methods have no types
        self.handles = [
            bias.register_hook(self.guard(self._on_gradient)),
            bias.register_post_accumulate_grad_hook(self.guard(self._on_accumulated)),
        ]
        return self.handles

    def release(self) -> None:
        """Take the hooks off the bias, which keep its place on the graph; within a backward pass, at its end."""
        if self.watch.depth:
            self.watch.on_end = self.release
            return
        for handle in self.handles:
            handle.remove()

    def on_input(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, compiled: bool = False
    ) -> Any:
        """The layer is about to run: its input is passed on by an alias that tells its gradient."""
        self.sights.require_form()
        if not self.trains:
            return None
        place, h = first_tensor(args, kwargs, self.watched.name)
        if h.shape[1:] != self.slot:
            self._meet(h)
        casts = torch.is_autocast_enabled(h.device.type)  # then autograd keeps a copy of W
        if casts:
            self.coarse = max(self.coarse, torch.finfo(torch.get_autocast_dtype(h.device.type)).eps / 2)
        self.size = torch.linalg.vector_norm(h.detach(), dtype=torch.float64) if len(h) == 1 else None
        if self.counts:  # checkpointed activations, computed again after the output was
            self.tally.set_input(self.size)
            self.size = None
        if not self.measures:
            return None
        alias = h.view_as(h) if h.requires_grad else h.detach().requires_grad_()
        told = self.guard(partial(self._on_pull, self.sights.versions[0]))
        alias.register_hook(told)  # type: ignore[no-untyped-call]
        if self.stand_in is not None and not (h.requires_grad or compiled or casts):
            self.stand_in.enter()
        if isinstance(place, int):
            return (*args[:place], alias, *args[place + 1 :]), kwargs
        return args, {**kwargs, place: alias}

    def on_output(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        """The model has run."""
        if not self.trains:
            return
        size, self.size = self.size, None
        output = chosen(result, self.output)
        if not output.requires_grad:
            return
        if output.dim() == 0:
            raise TrajectoryError(
                "trajectory: the model's output has no batch dimension, expected (batch, ...); if the model squeezes "
                "it, let it use squeeze(-1); if it is the loss, let the model return what the loss is computed from"
            )
        if output.is_complex():
            raise TrajectoryError(
                f"trajectory: the model's output has type {output.dtype}, expected real numbers; let the model return "
                "torch.view_as_real(...) of it"
            )
        self.outputs = output.shape[1:].numel()
        told = self.guard(partial(self._on_output_gradient, size, self.sights.look()))
        output.register_hook(told)  # type: ignore[no-untyped-call]

    def forget_zeroed(self) -> None:
        """Forget gradients that were zeroed without a step; what changes them otherwise, such as clipping, may stay.

        An accelerator is waited for only where they were replaced, or changed in place.
        """
        if not self.now.gradients:
            return
        grad = self.bias.grad
        if grad is None or ((_mark(grad) != self.mark or self._emptied(grad)) and not bool(grad.any())):
            self.take()

    def forget_emptied(self) -> None:
        """The same before a step, where nothing that clipping has changed is waited for."""
        grad = self.bias.grad
        if self.now.gradients and (grad is None or self._emptied(grad)):
            self.take()

    def _emptied(self, grad: Tensor) -> bool:
        """Whether it is 0, and what was added to it is not: `grad.data.zero_()` changes no version."""
        row = self.tally.buffers.gradient_rows[self.tally.row]
        return grad.device.type == "cpu" and not bool(grad.any()) and bool(row.any())

    def take(self) -> Seen:
        """What was seen since the last time."""
        self.accumulated = False
        return self.tally.take()

    def finish(self) -> Seen:
        """At the end of a step: what was seen, with the rest of its row filled in."""
        self.accumulated, self.left = False, _mark(self.bias.grad)
        return self.tally.finish()

    def require_seen(self) -> None:
        """Raise `TrajectoryError` if gradients came by a way that is not watched."""
        grad, unseen = self.bias.grad, self.bias.requires_grad and not self.now.gradients
        if unseen and grad is not None and (self.accumulated or (_mark(grad) != self.left and bool(grad.any()))):
            raise TrajectoryError(
                f"trajectory: {self.watched.bias!r} has a gradient that came neither by loss.backward() nor by "
                "torch.autograd.backward(), expected one of these inside of the recorder's `with`; call loss.backward()"
            )
        if self.now.gradients and not self.now.versions:  # an output of no samples is read as well
            picked = "its output" if self.output is None else f"its output {self.output!r}"
            raise TrajectoryError(
                f"trajectory: {self.watched.bias!r} has a gradient, and none has come through what the model returned "
                f"as {picked}, so that ε_t is not known; expected a loss that is computed from that tensor itself, not "
                "from what it was copied or converted from, nor from the parameters alone; say with output=... which "
                "entry the loss reads, or give the recorder the module inside whose output the loss reads"
            )

    def _meet(self, h: Tensor) -> None:
        """The first input, or one of another shape, which only a linear layer at every position may have."""
        if not h.is_floating_point():
            raise TrajectoryError(
                f"trajectory: the input of {self.watched.name!r} has type {h.dtype}, expected real numbers; name a "
                "later layer with layer='...'"
            )
        self._require_batch(h)
        self.slot, self.met = tuple(h.shape[1:]), True
        if self.given is not None:
            self._compare(self.given, h)
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

    def _require_batch(self, h: Tensor) -> None:
        """Raise `TrajectoryError` if a linear layer or a convolution gets one sample without a batch dimension."""
        module = self.watched.module
        needed = len(module.kernel_size) + 2 if isinstance(module, Convolutions) else 1 + isinstance(module, nn.Linear)
        if h.dim() < needed:
            raise TrajectoryError(
                f"trajectory: the input of {self.watched.name!r} has shape {tuple(h.shape)}, expected a batch in dim 0 "
                "of it; pass model(x[None]), and the target likewise"
            )

    def _compare(self, given: Tensor, h: Tensor) -> None:
        """Input dropout, noise and the like are not on the graph, which is of eval mode: has h the entries of x?"""
        ends = (values.detach().double().reshape(-1).sort().values for values in (given, h))
        if not torch.equal(*ends):
            self.watched = replace(self.watched, isometric=False)
        self.given = None

    def _begin(self) -> None:
        """A backward pass begins; what came of others whose gradients are zeroed is forgotten."""
        self.counts, self._scaler = not self.ignores, None
        if self.counts:
            self.forget_zeroed()
            self.tally.begin()

    def _end(self) -> None:
        if self.counts:
            self.tally.end()
        self.counts, self.arrived = False, None

    def _on_scale(self, inverse: Tensor, scaler: object) -> None:
        if not self.counts:
            return
        if self._scaler not in (None, scaler):
            raise TrajectoryError(
                "trajectory: one backward() goes through losses that two gradient scalers have scaled, so that it has "
                "no one scale; expected one scaler for each backward(); call backward() once for each"
            )
        self.tally.inverse, self._scaler, self.scaled = inverse, scaler, True

    def _on_output_gradient(self, size: Tensor | None, sight: Sight, gradient: Tensor) -> None:
        if self.counts:
            self.tally.add_output(gradient.detach(), size, sight)

    def _on_pull(self, version: int, gradient: Tensor) -> None:
        """∂ℓ/∂h, unless it was made with a later W than z was."""
        if self.counts and version == self.sights.versions[0]:
            self.tally.add_pull(gradient.detach())

    def _on_gradient(self, gradient: Tensor) -> None:
        if self.counts:
            self.arrived = gradient.detach()

    def _on_accumulated(self, parameter: Tensor) -> None:
        """The gradient has arrived, unless the bias was frozen after the forward pass."""
        if not parameter.requires_grad:
            return
        self.accumulated = True
        self.mark = _mark(parameter.grad)
        if self.counts and self.arrived is not None:
            self.tally.add_gradient(self.arrived)
            self.arrived = None
            if self.watch.loss is not None:
                self.tally.add_loss(self.watch.loss)
                self.watch.loss = None  # once for each backward()


def _mark(gradient: Tensor | None) -> tuple[int, int] | None:
    """What changes with a gradient, without keeping it alive."""
    return None if gradient is None else (gradient.data_ptr(), gradient._version)


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
