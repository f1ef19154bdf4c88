"""May `measure` start with these arguments? Said before anything is read."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from covergraph.errors import ParameterError
from covergraph.measure import processes
from covergraph.measure.checkpoint import require_folder


def check_arguments(
    device: torch.device | str | None,
    dtype: torch.dtype,
    width: float,
    failure: float,
    budget: float | None,
    fill: bool,
    checkpoint: Path | str | None,
) -> None:
    """Raise `ParameterError` or `CheckpointError` for arguments with which nothing can be measured."""
    _check_target(device, dtype)
    _check_numbers(width, failure)
    if budget is not None:
        _check_budget(budget, fill, checkpoint)
    if checkpoint is not None:
        require_folder(Path(checkpoint))


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ParameterError` unless the value is one of the choices."""
    if value not in choices:
        raise ParameterError(f"measure: {name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def _check_target(device: torch.device | str | None, dtype: torch.dtype) -> None:
    """Raise `ParameterError` for a dtype or a device on which nothing can be measured."""
    if dtype not in (torch.float64, torch.float32):
        raise ParameterError(f"measure: the dtype is {dtype}, expected torch.float64 or torch.float32")
    try:
        torch.zeros(1, device=device, dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"measure: the device {device!r} cannot be used ({reason}); try device='cpu'") from None


def _check_numbers(width: float, failure: float) -> None:
    if not 1.0001 <= width < 100:
        raise ParameterError(f"measure: the width is {width}, expected upper/lower from 1.0001 on, e.g. 1.01")
    if not 1e-12 <= failure < 1:
        raise ParameterError(f"measure: the failure probability is {failure}, expected 1e-12 to 1, e.g. 1e-3")


def _check_budget(budget: float, fill: bool, checkpoint: Path | str | None) -> None:
    """What does not go with a time budget: it would be another run each time, or have nothing to do."""
    if not 0 <= budget < math.inf:
        raise ParameterError(f"measure: the budget is {budget}, expected seconds, e.g. 600, or None for all norms")
    if fill:
        raise ParameterError("measure: fill=True measures no pairs, so there is nothing to spend a budget on; pass one")
    if checkpoint is not None or processes.world() > 1:
        what = "a checkpoint" if checkpoint is not None else f"{processes.world()} processes"
        raise ParameterError(
            f"measure: a budget was given together with {what}, but which pairs are measured depends on the clock, so "
            "that runs do not fit together; pass budget=None, or one process without checkpoint"
        )
