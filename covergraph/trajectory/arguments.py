"""What a user asks of a recorder, and what is said of arguments of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from covergraph.errors import TrajectoryError
from covergraph.kinds import FLAG, GRAPH
from covergraph.trajectory.layer import require_known

FLAGS = {"active_rows": FLAG, "overwrite": FLAG, "strict": FLAG, "graph": GRAPH.or_none()}
"""Options of the recorder that are on or off, and its graph."""
_RUNNING = {"step", "row", "every", "blocks", "alphas", "samples", "setting", "layer", "written", "buffers", "memory"}


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    every: int | None = None
    flush: int = 100
    product: int | None = None
    active_rows: bool = False
    subspace: Tensor | None = None
    output: str | int | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("flush", self.flush), ("product", self.product)):
            absent = value is None and name != "flush"
            if not absent and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise TrajectoryError(f"trajectory: {name} = {value!r}, expected a whole number, at least 1")
        if self.active_rows and self.subspace is not None:
            raise TrajectoryError(
                "trajectory: active_rows and subspace are both given, expected at most one of them"
            )
        _require("subspace", self.subspace, (Tensor, type(None)), "a tensor (n_1, k), or None")
        _require("output", self.output, (str, int, type(None)), "a key or an index of the model's output, or None")


def require_kinds(model: Any, optimizer: Any, path: Any, layer: Any) -> None:
    """Raise `TrajectoryError` for arguments of the wrong kind, and for a layer that the model does not have."""
    if isinstance(model, torch.optim.Optimizer) and isinstance(optimizer, nn.Module):
        raise TrajectoryError(
            f"trajectory: the model is {_kind(model)} and the optimizer {_kind(optimizer)}, expected them the other "
            "way round; call TrajectoryRecorder(model, optimizer)"
        )
    _require("the model", model, nn.Module, "a torch.nn.Module; pass the module that the loop calls")
    _require("path", path, (str, PathLike, type(None)), "a file's path, or None to keep it in memory")
    _require("layer", layer, (str, type(None)), "the dotted name of a module or a parameter, or None")
    if isinstance(layer, str):
        require_known(layer, model)


def the_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer, without what other packages wrap around it. Raises `TrajectoryError` for anything else."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        remedy = "pass the one that holds the layer's bias; each recorder watches one"
        if isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            remedy = "pass its .optimizer; the learning rate is read at each step, schedules are seen"
        raise TrajectoryError(
            f"trajectory: the optimizer is {_kind(optimizer)}, expected one torch.optim.Optimizer; {remedy}"
        )
    within = getattr(optimizer, "optimizer", None)
    return the_optimizer(within) if isinstance(within, torch.optim.Optimizer) else optimizer


def is_state(state: Mapping[str, Any]) -> bool:
    """Whether a recorder has made it: before a run, of one that has stopped, or of one under way."""
    whole = isinstance(state.get("step"), int)
    return whole and (state["step"] == 0 or "stopped" in state or state.keys() >= _RUNNING)


def _require(name: str, value: Any, kinds: Any, expected: str) -> None:
    if not isinstance(value, kinds):
        raise TrajectoryError(f"trajectory: {name} is {_kind(value)}, expected {expected}")


def _kind(value: Any) -> str:
    """The type, with those of the first entries of a list."""
    name = type(value).__name__
    if isinstance(value, (list, tuple)):
        return f"a {name} of {', '.join(type(entry).__name__ for entry in value[:3]) or 'nothing'}"
    shown = repr(value) if isinstance(value, (str, int, float)) else ""
    return f"of type {name}" + (f" ({shown[:40]})" if shown else "")
