"""Why no way of tracing succeeded, in a few lines; torch's own words go to the log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from covergraph.errors import TracingError
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.mixing import mixing

STEERED = ("data-dependent", "used as inputs to control flow", "get value out of a tracing tensor")
"""What torch says where a value of the data is read into Python."""


def no_way(model: nn.Module, arguments: Arguments, reasons: Sequence[str], places: Sequence[str]) -> TracingError:
    """The error for a model that no way could trace: steered by its data, mixing samples, or torch's own reasons.

    `reasons` and `places` are those of the ways, in order.
    """
    place = next(filter(None, places), type(model).__name__)
    telling = [r for r in reasons if "trace_by_fx" not in r] or reasons  # torch.fx takes sizes for data
    if any(words in reason for words in STEERED for reason in telling):
        return TracingError(
            f"{place}: control flow depends on values of the data or of parameters, expected the same operations for "
            "all values; replace the branch or loop by torch.where or a fixed number of steps, and use no .item(), "
            "float() or bool() on them"
        )
    return mixing(model, arguments, f"{reasons[0]:.160}") or TracingError(
        f"{place}: no way of tracing succeeded; rewrite what torch cannot follow, or trace the model without it\n  "
        + "\n  ".join(reasons)
    )


def innermost_call(error: BaseException, model: nn.Module) -> str:
    """module 'path' (file.py:12): the innermost of the model's modules that was running; "" if none was."""
    paths = {id(module): path for path, module in model.named_modules()}
    for cause in (error, error.__cause__, error.__context__):
        frames = [] if cause is None else list(traceback.walk_tb(cause.__traceback__))
        for frame, line in reversed(frames):
            path = paths.get(id(frame.f_locals.get("self")))
            if path is not None and frame.f_code.co_name == "forward":
                where = f"module {path!r}" if path else "the model's top level"
                return f"{where} ({Path(frame.f_code.co_filename).name}:{line})"
    return ""


def log_dump(logger: logging.Logger, way: str, error: BaseException) -> None:
    """Torch's whole message at debug level, although `quiet` silences everybody else."""
    level = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    try:
        logger.debug("%s failed", way, exc_info=error)
    finally:
        logging.disable(level)
