"""A callback for the Trainer of Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from covergraph.api import TrajectoryRecorder
from covergraph.errors import TrajectoryError
from covergraph.trajectory.guard import Guard
from covergraph.trajectory.trajectory import Trajectory

FILE = "covergraph_trajectory.pt"


class TrajectoryCallback(TrainerCallback):
    """Records the trajectory of a training: `Trainer(..., callbacks=[TrajectoryCallback("run.trajectory")])`.

    Args: `path`, the file; `options`, those of `TrajectoryRecorder`; `layer` has to be named where the model's input
    are tokens, and `output` says which entry of the model's output the loss is computed from (default: logits). The
    state is saved beside each of the trainer's checkpoints, so `train(resume_from_checkpoint=True)` resumes the file.
    What cannot be recorded is warned of once and ends no training; with `strict=True` it raises `TrajectoryError`.
    """

    def __init__(self, path: str | Path | None = None, output: str = "logits", **options: Any) -> None:
        self.path, self.options = path, {"output": output, **options}
        self.recorder: TrajectoryRecorder | None = None
        self._guard = Guard(bool(options.get("strict")))

    @property
    def trajectory(self) -> Trajectory:
        """What was recorded so far; raises `TrajectoryError` before the training."""
        if self.recorder is None:
            why = f" ({self._guard.reason})" * bool(self._guard.reason)
            raise TrajectoryError(
                f"adapters.transformers: nothing is recorded yet{why}, expected after train(); call train"
            )
        return self.recorder.trajectory

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start to record, or go on from the checkpoint that the trainer resumed."""
        self._guard(self._start)(kwargs["model"], kwargs["optimizer"], _beside(args, state), state.global_step)

    def _start(self, model: Any, optimizer: Any, saved: Path, step: int) -> None:
        recorder = TrajectoryRecorder(model, optimizer, self.path, **self.options)
        if step and saved.exists():
            recorder.load_state_dict(torch.load(saved, weights_only=True))
        self.recorder = recorder.__enter__()

    def on_epoch_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A border of the moments."""
        if self.recorder is not None:
            self.recorder.flush()

    def on_save(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The recorder's state, beside the checkpoint that was just written."""
        if self.recorder is not None:
            self._guard(self._save)(self.recorder.state_dict(), _beside(args, state))

    def _save(self, state: dict[str, Any], place: Path) -> None:
        if place.parent.is_dir():
            torch.save(state, place)

    def on_train_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what is left."""
        if self.recorder is not None:
            self.recorder.__exit__(None, None, None)


def _beside(args: Arguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / FILE
