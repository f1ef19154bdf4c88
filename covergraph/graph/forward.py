"""Derivatives in forward mode, whatever mode of autograd the caller is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def pushed(function: Callable[..., Any], values: Sequence[Tensor], directions: Sequence[Tensor]) -> Any:
    """The Jacobian of `function` at `values` times `directions`.

    Out of inference mode, in which older versions of torch give wrong derivatives without a word.
    """
    with torch.inference_mode(False):
        usable = [value.clone() if value.is_inference() else value for value in (*values, *directions)]
        return torch.func.jvp(function, tuple(usable[: len(values)]), tuple(usable[len(values) :]))[1]
