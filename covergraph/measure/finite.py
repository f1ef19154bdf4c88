"""Values and weights that are NaN or infinite are refused, with the sample, or the entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from covergraph.errors import NonFiniteError


def require_finite(values: dict[str, Tensor], start: int) -> None:
    """Raise `NonFiniteError` naming the first value, and its first sample, that is NaN or infinite."""
    for name, value in values.items():
        bad = ~torch.isfinite(value.reshape(value.shape[0], -1)).all(dim=1)
        if bad.any():
            i = int(bad.nonzero()[0])
            raise NonFiniteError(
                f"measure: {name} is {_worst(value[i])} on sample {start + i}, expected finite values; "
                "clean the data or lower the learning rate"
            )


def require_finite_state(state: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Raise `NonFiniteError` naming the first of these entries of the model's state that is not finite."""
    for name in names:
        if name in state and not bool(torch.isfinite(state[name]).all()):
            raise NonFiniteError(
                f"measure: the entry {name!r} of the model's state holds {_worst(state[name])} numbers, expected "
                "finite ones, since what is in the state counts as learned; register a mask as booleans (masked_fill), "
                "or with persistent=False; lower the learning rate if training made them"
            )


def _worst(value: Tensor) -> str:
    return "NaN" if bool(torch.isnan(value).any()) else "infinite"
