"""Models that keep what their first batch gave them: their graph would hold numbers of the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.evaluation import evaluation_copy
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.shaking import shaken
from covergraph.tracers.verify import run_model


def contents(model: nn.Module) -> dict[tuple[str, str], Any]:
    """The sum of every tensor, and the value of every plain number, that a module of the model holds."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in model.named_modules():
        for held in (vars(module), module._parameters, module._buffers):
            for key, value in held.items():
                if isinstance(value, Tensor):
                    real = value.is_floating_point() or value.is_complex()
                    found[path, key] = float((value.detach() if real else value.double()).abs().sum())
                elif value is None or isinstance(value, (bool, int, float)):
                    found[path, key] = value
    return found


def changes(before: Mapping[tuple[str, str], Any], after: Mapping[tuple[str, str], Any]) -> list[tuple[str, str]]:
    """(module path, name) of what was changed, or was None and is no more."""
    return [key for key, value in after.items() if key not in before or repr(before[key]) != repr(value)]


def require_memoryless(
    model: nn.Module, used: nn.Module, arguments: Arguments, leaf: int, changed: Sequence[tuple[str, str]]
) -> None:
    """Raise `TracingError` if a copy that has run computes another function than one that has not.

    `used` has run with the example, which changed what `changed` names; caches that depend on shapes alone are fine.
    """
    if not changed:
        return
    case = shaken(arguments.at(max(arguments.batch, 2)))
    with evaluation_copy(model) as fresh:
        first, later = (pytree.tree_leaves(run_model(m, case))[leaf] for m in (fresh, used))
    if first.shape == later.shape and torch.allclose(first, later, rtol=1e-9, atol=0.0, equal_nan=True):
        return
    path, key = changed[0]
    raise TracingError(
        f"{f'module {path!r}' if path else 'the model'} keeps {key!r} from the first batch that it sees, so that its "
        "later results depend on it; expected a function of the sample alone; run the model before you trace it, with "
        "the value registered as a buffer"
    )
