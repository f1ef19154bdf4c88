"""Products and norms of matrices in single precision, and how far these can be off (Lemma 23).

A sum of m terms is allowed any order, with or without fused operations, and flushing to zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT = 2.0**-24
"""Half the distance from 1 to the next number."""
TINY = 2.0**-126
"""What flushing to zero can take from a number."""
BLOCK = 128
"""Longer sums in matrix products are cut into sums of so many terms, which shortens the way of each rounding error."""
EXCESS = 2.0**-10
"""Squaring stops when the end that it gives is known to be so little (relative) above the norm."""
SQUARINGS = 16
ENTRIES = 2**17
"""On a CPU matrices are squared so many entries at a time, for the sake of its cache."""


def gamma(terms: float) -> float:
    """gamma_m = m u / (1 - m u): relative error of m roundings one after the other; infinite if m u is not below 1."""
    return terms * UNIT / (1 - terms * UNIT) if terms * UNIT < 1 else math.inf


def product(left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
    """(..., m, d) (..., d, n) with sums over at most BLOCK terms at a time; see `longest`."""
    made = torch.matmul(left[..., :BLOCK], right[..., :BLOCK, :], out=into)
    for i in range(BLOCK, left.shape[-1], BLOCK):
        made += left[..., i : i + BLOCK] @ right[..., i : i + BLOCK, :]
    return made


def longest(terms: int) -> int:
    """How many roundings a term of `product` goes through: its own, and those of the sums."""
    return min(terms, BLOCK) + max(-(-terms // BLOCK) - 1, 0)


def frobenius(matrices: Tensor) -> Tensor:
    """Upper bounds of ||A||_F, (rows,), in double precision, for (rows, m, d) in single; 0 only for A = 0.

    The norms of rows are in single precision: squares below its range are lost, each at most 2^-125.
    """
    made = torch.linalg.vector_norm(torch.linalg.vector_norm(matrices, dim=2).double(), dim=1)
    count = matrices.shape[2]
    bound = made * (1 + gamma(count + 2)) + math.sqrt(2 * TINY * count * matrices.shape[1])
    zero = made == 0
    return torch.where(zero & (matrices == 0).all(2).all(1), 0.0, bound) if bool(zero.any()) else bound


def dense_ends(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """(the norm as computed, an upper end of ||A||_op), (rows,), for matrices in single precision (rows, m, d).

    Infinite for what is not finite, or not within 2^-60 to 2^60.
    """
    small = min(matrices.shape[1:])
    count = max(1, ENTRIES // small**2) if matrices.device.type == "cpu" else len(matrices)
    ends = [_dense_ends(part) for part in torch.split(matrices, max(count, 1))]
    return torch.cat([computed for computed, _ in ends]), torch.cat([upper for _, upper in ends])


def _dense_ends(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """||A||^2 = ||A A'|| <= ||B|| + gamma ||A||_F^2 for B = fl(A A'), again and again; at last ||B|| <= ||B||_F.

    ||A A'||_F / ||A||_F is a lower bound but for rounding; by it is seen which matrices are to be squared again.
    """
    whole = frobenius(matrices)
    usable = (whole > 2.0**-60) & (whole < 2.0**60)
    made = torch.where(usable[:, None, None], matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT, 0.0)
    norm, rows = torch.where(usable, whole, 1.0), torch.arange(len(made), device=made.device)
    levels: list[tuple[Tensor, ...]] = []
    for step in range(SQUARINGS):
        scale = torch.ldexp(torch.ones_like(norm), torch.frexp(norm).exponent)
        made *= (1 / scale).float()[:, None, None]  # so that Frobenius norms are between 1/2 and 1
        size, terms = norm / scale, longest(made.shape[2])
        made = product(made, made.mT)
        norm = frobenius(made)
        levels.append((rows, scale, (norm / size) ** 2, norm, gamma(terms) * size**2 + 2.0**-80))
        rows = (norm.sqrt() * size > (1 + 2**step * EXCESS) * norm).nonzero()[:, 0]
        if not len(rows):
            break
        made, norm = (made, norm) if len(rows) == len(made) else (made[rows], norm[rows])
    lower, upper, deeper = levels[-1][2].new_zeros(0), levels[-1][2].new_zeros(0), rows[:0]
    for rows, scale, least, most, lost in reversed(levels):
        low, high = least.index_copy(0, deeper, lower), most.index_copy(0, deeper, upper)
        lower, upper, deeper = low.sqrt() * scale, (high + lost).sqrt() * scale * (1 + 2.0**-40), rows
    other = torch.where(whole == 0, 0.0, torch.inf)
    return torch.where(usable, lower, other), torch.where(usable, upper, other)
