"""Norms with both ends: the value as computed, widened by what rounding can have done to it."""

from __future__ import annotations

import torch
from torch import Tensor

from covergraph.values import Floats, Measurement


def spectral_norms(matrices: Tensor) -> Tensor:
    """||.||_op of a batch of dense matrices (batch, m, d), by the eigenvalues of the smaller Gram matrix.

    Infinite for a matrix that is not finite.
    """
    m, d = matrices.shape[1:]
    # Scaled to entries of at most 1: the squares in the Gram matrix would overflow and underflow.
    scale = matrices.abs().amax((1, 2))
    usable = torch.isfinite(scale) & (scale > 0)
    scaled = torch.where(usable[:, None, None], matrices / scale[:, None, None], 0.0)
    gram = scaled @ scaled.mT if m <= d else scaled.mT @ scaled
    square = gram.reshape(-1) if min(m, d) == 1 else torch.linalg.eigvalsh(gram)[:, -1]
    norm = square.clamp_min(0).sqrt() * scale
    return torch.where(torch.isfinite(scale), norm, torch.inf)


def euclidean(rows: Tensor) -> Tensor:
    """The Euclidean norm of each row, (batch, size) -> (batch,), without under- or overflow of the squares."""
    scale = rows.abs().amax(1, keepdim=True) if rows.shape[1] else rows.new_zeros(len(rows), 1)
    safe = torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
    return (rows / safe).norm(dim=1) * safe[:, 0]


def rounding(dtype: torch.dtype, *sizes: int) -> float:
    """Relative rounding error allowed for a norm of a matrix with these sides: (sum of sides)^2 * eps.

    The Gram matrix has relative errors of at most (side * eps) in Frobenius norm, hence side^2 * eps relative to
    its largest eigenvalue, and a backward stable eigensolver adds a term of the same form. The entries of the
    matrix are taken as computed.
    """
    return float(torch.finfo(dtype).eps * sum(sizes) ** 2)


def largest(values: Floats, relative: float, norm: str) -> Measurement:
    """The maximum over samples of non-negative upper ends, which are `relative` above the computed values."""
    sample = int(values.argmax())
    upper = float(values[sample])
    return Measurement(max(upper * (1 - relative) / (1 + relative), 0.0), upper, "exact", norm, sample)


def exact(value: float, relative: float, norm: str) -> Measurement:
    """A number computed once, with its rounding error."""
    return Measurement(max(value * (1 - relative), 0.0), value * (1 + relative), "exact", norm)
