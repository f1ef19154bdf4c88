"""The optimizer's steps: when W^t is measured, and which runs of a closure count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from covergraph.errors import TrajectoryError
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.hooks import BackwardWatch
from covergraph.trajectory.run import Run


class Steps:
    """The hooks on the optimizer. `run`: from the first pass on that trains the bias; before, `waits` if it is frozen.

    Of the step in progress: `_depth`, how many calls of step() are within each other; `_begun`, the backward passes so
    far; `_runs` of its closure; `_measured`: W^t was, so that it is a row; None: it is still to be. `_steps`: how many
    were seen, the last one after so many (`_last`) backward passes. `_other`: another optimizer that steps, b before,
    and the steps so far.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, watch: BackwardWatch, guard: Guard) -> None:
        self.optimizer, self.watch, self.guard = optimizer, watch, guard
        self.run: Run | None = None
        self.waits = False
        self._depth, self._begun, self._runs = 0, 0, 0
        self._measured: bool | None = False
        self._steps, self._last = 0, 0
        self._other: tuple[torch.optim.Optimizer, Tensor, int] | None = None

    def hooks(self) -> list[Any]:
        """The handles of the hooks."""
        return [
            self.optimizer.register_step_pre_hook(self.before),
            self.optimizer.register_step_post_hook(self.after),
            register_optimizer_step_pre_hook(self.before_other),
            register_optimizer_step_post_hook(self.after_other),
        ]

    @property
    def _within(self) -> bool:
        """A step() is under way; not so after one that failed."""
        return self._depth > 0 and self._begun == self.watch.begun

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """W^t is measured before the update; of a step with a closure, after the closure has run for the first time.

        A step that another step() calls, as `super().step()` does, is a part of that one.
        """
        if self.guard.reason:
            return None
        if self._within:
            self._depth += 1
            return None
        self._measured, self._runs = None, 0
        known = callable(kwargs.get("closure"))
        closure = kwargs["closure"] if known else args[1] if len(args) > 1 and callable(args[1]) else None
        if closure is None:
            self.guard(self._measure)()
        self._depth, self._begun = 1, self.watch.begun
        if closure is None:
            return None
        watched = self._around(closure)
        return (args, {**kwargs, "closure": watched}) if known else ((args[0], watched, *args[2:]), kwargs)

    def before_other(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Any optimizer steps: one that holds the bias as well may change it unseen."""
        if optimizer is not self.optimizer and self.run is not None and not self._within:
            self.guard(self._look)(optimizer, self.run)

    def _look(self, optimizer: torch.optim.Optimizer, run: Run) -> None:
        run.require_same()
        if any(p is run.bias for group in optimizer.param_groups for p in group["params"]):
            self._other = optimizer, run.bias.detach().clone(), self._steps

    def after_other(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The other one has stepped, perhaps by a step of the recorder's own, which it wraps."""
        if self._other is None or self._other[0] is not optimizer:
            return
        (_, before, steps), self._other = self._other, None
        if self.run is not None and steps == self._steps:
            self.guard(self._require_own)(optimizer, before, self.run)

    def _require_own(self, optimizer: torch.optim.Optimizer, before: Tensor, run: Run) -> None:
        if not torch.equal(before, run.bias.detach()):
            own, other = type(self.optimizer).__name__, type(optimizer).__name__
            which = f"another {own}" if own == other else f"{other}, not of the {own},"
            raise TrajectoryError(
                f"trajectory: a step of {which} has changed {run.watched.bias!r}, expected steps of the recorder's "
                "optimizer alone; give the recorder the optimizer whose step() trains the bias, and begin a new one "
                "where that changes"
            )

    def require_seen(self) -> None:
        """At the end: raise `TrajectoryError` if training went on with another layer, or without a step."""
        run = self.run
        if run is None or self.watch.begun == self._last:
            return
        run.require_same()
        if not self._steps and not run.is_at_last():
            raise TrajectoryError(
                f"trajectory: {run.watched.bias!r} has changed, and no step of the {type(self.optimizer).__name__} was "
                "seen, expected optimizer.step(); give the recorder the optimizer whose step() trains the bias"
            )

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure; W^t is measured after its first run, and its further ones, at other weights, are not counted."""
        sight = None if self.run is None else self.run.passes.sights.look()

        def watched() -> Any:
            self._runs += 1
            try:
                if self._runs == 1 and self.run is not None and sight is not None:
                    self.guard(self.run.require_unmoved)(sight)
                if self.run is not None:
                    self.run.passes.ignores = self._runs > 1
                loss = closure()
                self._begun = self.watch.begun
                if self._runs == 1:
                    self.guard(self._measure)()
            except BaseException:
                self._depth = 0  # this step() has failed
                raise
            finally:
                if self.run is not None:
                    self.run.passes.ignores = False
            return loss

        return watched

    def _measure(self) -> None:
        """W^t, unless the optimizer will skip this step, or the layer is frozen and waited for."""
        if self.run is None and not self.waits:
            raise TrajectoryError(
                "trajectory: the optimizer steps, and the model has not been called with gradients; call model(x), not "
                "model.forward(x), and give the recorder the module that is called; if torch.compile has compiled it "
                "already, call torch.compiler.reset() first"
            )
        if self.watch.depth:
            raise TrajectoryError(
                "trajectory: the optimizer steps inside of backward(), so that there is no one W^t, expected "
                "loss.backward(), then optimizer.step(); take the step after the backward pass"
            )
        self._measured = False
        skips = getattr(self.optimizer, "found_inf", None)  # a gradient scaler leaves it to a fused optimizer to skip
        if self.run is not None and not (isinstance(skips, Tensor) and bool(skips.any())):
            self.run.before_step()
            self._measured = True

    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """A step() has returned; the outermost one makes a row."""
        self._depth -= 1
        if self._depth == 0:
            self.guard(self._complete)()

    def _complete(self) -> None:
        if self._measured is None:
            raise TrajectoryError(
                f"trajectory: {type(self.optimizer).__name__}.step(closure) has not run its closure, expected at least "
                "one run, after which W^t is measured"
            )
        self._steps, self._last = self._steps + 1, self.watch.begun
        if self.run is not None and self._measured:
            self.run.after_step(again=self._runs > 1)
