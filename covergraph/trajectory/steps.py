"""The optimizer's steps: when W^t is measured, and which runs of a closure count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from covergraph.errors import TrajectoryError
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.hooks import BackwardWatch
from covergraph.trajectory.run import Run


class Steps:
    """The hooks on the optimizer. `run`: from the first pass on that trains the bias; before, `waits` if it is frozen.

    Of the step in progress: `_depth`, how many calls of step() are within each other; `_begun`, the backward passes so
    far; `_runs` of its closure; `_measured`: W^t was, so that it is a row; None: it is still to be.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, watch: BackwardWatch, guard: Guard) -> None:
        self.optimizer, self.watch, self.guard = optimizer, watch, guard
        self.run: Run | None = None
        self.waits = False
        self._depth, self._begun, self._runs = 0, 0, 0
        self._measured: bool | None = False

    def hooks(self) -> list[Any]:
        """The handles of the hooks."""
        return [
            self.optimizer.register_step_pre_hook(self.before),
            self.optimizer.register_step_post_hook(self.after),
        ]

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """W^t is measured before the update; of a step with a closure, after the closure has run for the first time.

        A step that another step() calls, as `super().step()` does, is a part of that one; not so after one that failed.
        """
        if self.guard.reason:
            return None
        if self._depth > 0 and self._begun == self.watch.begun:
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

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure; W^t is measured after its first run, and its further ones, at other weights, are not counted."""
        versions = None if self.run is None else self.run.passes.versions

        def watched() -> Any:
            self._runs += 1
            try:
                if self._runs == 1 and self.run is not None and versions is not None:
                    self.guard(self.run.require_unmoved)(versions)
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
        if self.run is not None and self._measured:
            self.run.after_step(again=self._runs > 1)
