"""Values that are NaN or infinite are refused, with the sample."""

from __future__ import annotations

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


def _worst(value: Tensor) -> str:
    return "NaN" if bool(torch.isnan(value).any()) else "infinite"
