"""A callback for Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from covergraph.api import TrajectoryRecorder
from covergraph.errors import TrajectoryError
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.trajectory import Trajectory


class TrajectoryCallback(Callback):
    """Records the trajectory of a fit: `Trainer(callbacks=[TrajectoryCallback("run.trajectory")])`.

    Args: `path`, the file; `model`, the dotted name of the network inside the LightningModule whose output the loss is
    computed from (default: the LightningModule itself, if `training_step` calls `self(x)`); `options`, those of
    `TrajectoryRecorder`. Its state goes into Lightning's checkpoints, so a resumed fit resumes the file. Each epoch's
    end is a border of the trajectory's moments. What cannot be recorded, as with several optimizers, is warned of once
    and ends no fit; with `strict=True` it raises `TrajectoryError`.
    """

    def __init__(self, path: str | Path | None = None, model: str = "", **options: Any) -> None:
        self.path, self.model, self.options = path, model, options
        self.recorder: TrajectoryRecorder | None = None
        self._state: dict[str, Any] | None = None
        self._guard = Guard(bool(options.get("strict")))

    @property
    def trajectory(self) -> Trajectory:
        """What was recorded so far; raises `TrajectoryError` before the fit."""
        if self.recorder is None:
            why = f" ({self._guard.reason})" * bool(self._guard.reason)
            raise TrajectoryError(
                f"adapters.lightning: nothing is recorded yet{why}, expected after fit(); call trainer.fit"
            )
        return self.recorder.trajectory

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to record, or go on."""
        self._guard(self._start)(trainer, pl_module)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise TrajectoryError(
                f"adapters.lightning: {len(trainer.optimizers)} optimizers, expected one; put a TrajectoryRecorder "
                "around your own loop"
            )
        known = dict(pl_module.named_modules())
        if self.model not in known:
            raise TrajectoryError(
                f"adapters.lightning: {type(pl_module).__name__} has no module {self.model!r}, expected the network "
                f"whose output the loss is computed from, such as {', '.join(map(repr, [*known][1:6]))}; name it with "
                "model='...'"
            )
        recorder = TrajectoryRecorder(known[self.model], trainer.optimizers[0], self.path, **self.options)
        if self._state is not None:
            recorder.load_state_dict(self._state)
        self.recorder = recorder.__enter__()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A border of the moments."""
        if self.recorder is not None:
            self.recorder.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is left."""
        if self.recorder is not None:
            self.recorder.__exit__(None, None, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is whole."""
        if self.recorder is not None:
            self.recorder.__exit__(type(exception), exception, exception.__traceback__)

    def state_dict(self) -> dict[str, Any]:
        """The recorder's state, for Lightning's checkpoint."""
        return {} if self.recorder is None else self.recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The recorder's state from Lightning's checkpoint."""
        self._state = state_dict or None
