"""Products and norms of matrices with what rounding can have done to them (Lemma 23).

A sum of m terms is allowed any order, with or without fused operations, and flushing to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from covergraph.rounding import BOUND, UNIT

EXCESS = 2.0**-10
"""Squaring in single precision stops when its end is known to be so little (relative) above the norm."""
SQUARINGS = 16
ENTRIES = 2**17
"""On a CPU matrices are squared so many entries at a time, for the sake of its cache."""
WIDER = 8
"""Levels are tried at 1, 8, 8^2, ... times the rounding of a Cholesky factorization above the norm as computed."""


@dataclass(frozen=True)
class Arithmetic:
    """In which a chain of products is computed.

    `unit`: half the distance from 1 to the next number; `tiny`: what flushing to zero can take from a number; `block`:
    longer sums in matrix products are cut into sums of so many terms, which shortens the way of each rounding error.
    """

    dtype: torch.dtype
    unit: float
    tiny: float
    block: int

    def gamma(self, terms: float) -> float:
        """gamma_m = m u / (1 - m u): relative error of m roundings one after the other; infinite from m u = 1 on."""
        return terms * self.unit / (1 - terms * self.unit) if terms * self.unit < 1 else math.inf

    def product(self, left: Tensor, right: Tensor, into: Tensor | None = None) -> Tensor:
        """(..., m, d) (..., d, n) with sums over at most `block` terms at a time; see `longest`."""
        made = torch.matmul(left[..., : self.block], right[..., : self.block, :], out=into)
        for i in range(self.block, left.shape[-1], self.block):
            made += left[..., i : i + self.block] @ right[..., i : i + self.block, :]
        return made

    def longest(self, terms: int) -> int:
        """How many roundings a term of `product` goes through: its own, and those of the sums."""
        return min(terms, self.block) + max(-(-terms // self.block) - 1, 0)

    def frobenius(self, matrices: Tensor) -> Tensor:
        """Upper bounds of ||A||_F, (rows,), in double precision, for (rows, m, d); 0 only for A = 0."""
        return _frobenius_single(matrices) if self.dtype == torch.float32 else _frobenius_double(matrices)

    def ends(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """A lower and a proved upper end of ||A||_op, (rows,), for (rows, m, d).

        (0, inf) for what is not finite, or out of range. In double precision the lower end trusts the eigenvalues of
        a library up to their usual backward error.
        """
        small = max(min(matrices.shape[1:]), 1)
        count = max(1, ENTRIES // small**2) if matrices.device.type == "cpu" else len(matrices)
        of_part = _ends_single if self.dtype == torch.float32 else _ends_double
        found = [of_part(part) for part in torch.split(matrices, max(count, 1))]
        return torch.cat([computed for computed, _ in found]), torch.cat([upper for _, upper in found])


SINGLE = Arithmetic(torch.float32, 2.0**-24, 2.0**-126, 128)
DOUBLE = Arithmetic(torch.float64, UNIT, 2.0**-1022, 2**40)


def _frobenius_single(matrices: Tensor) -> Tensor:
    """The norms of rows are in single precision: squares below its range are lost, each at most 2^-125."""
    made = torch.linalg.vector_norm(torch.linalg.vector_norm(matrices, dim=2).double(), dim=1)
    count = matrices.shape[2]
    bound = made * (1 + SINGLE.gamma(count + 2)) + math.sqrt(2 * SINGLE.tiny * count * matrices.shape[1])
    zero = made == 0
    return torch.where(zero & (matrices == 0).all(2).all(1), 0.0, bound) if bool(zero.any()) else bound


def _frobenius_double(matrices: Tensor) -> Tensor:
    """Where squares could leave the range, the matrix is scaled by a power of two before."""
    made = torch.linalg.vector_norm(matrices.flatten(1), dim=1)
    above = 1 + DOUBLE.gamma(matrices[0].numel() + 8) if len(matrices) else 1.0
    usual = (made > 1e-120) & (made < 1e150)
    if bool(usual.all()):
        return made * above
    scale = power_of_two(matrices)
    scaled = torch.linalg.vector_norm(matrices.flatten(1) / scale[:, None], dim=1)
    return torch.where(usual, made * above, scaled * scale * above)


def power_of_two(matrices: Tensor) -> Tensor:
    """Of each matrix (rows, ...) a power of two next to its largest entry, 1 for 0 and what is not finite: (rows,)."""
    top = matrices.abs().flatten(1).amax(1) if matrices[0].numel() else matrices.new_zeros(len(matrices))
    exponent = torch.frexp(torch.where(torch.isfinite(top) & (top > 0), top, 1.0)).exponent.clamp(-1000, 1000)
    return torch.ldexp(torch.ones_like(top), exponent)


def _ends_double(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """By the eigenvalues of the smaller Gram matrix B, and a Cholesky factorization that proves the upper end.

    ||A||^2 <= ||B|| + gamma_d ||A||_F^2, and ||B|| <= c (1 + 2 gamma_{(n + 4) n}) if c - B has a Cholesky factor.
    """
    m, d = matrices.shape[1:]
    norm, scale = _frobenius_double(matrices), matrices.new_ones(len(matrices))
    zero, finite = norm == 0, torch.isfinite(norm)
    if not bool((zero | ((norm > 1e-60) & (norm < 1e60))).all()):  # squares may leave the range of the numbers
        finite, scale = torch.isfinite(matrices).all(2).all(1), power_of_two(matrices)
        matrices = torch.where(finite[:, None, None], matrices / scale[:, None, None], 0.0)
        norm = _frobenius_double(matrices)
    gram = matrices @ matrices.mT if m <= d else matrices.mT @ matrices
    lost = DOUBLE.gamma(max(m, d)) * norm.square() + DOUBLE.tiny * m * d
    if min(m, d) == 1:
        square = top = gram.reshape(-1)
    else:
        square = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0)
        top = proved(gram, square)
    computed = (square - lost - 4 * DOUBLE.gamma(min(m, d) ** 2) * square).clamp_min(0).sqrt() * scale / BOUND
    upper = (top + lost).sqrt() * scale * BOUND + DOUBLE.tiny
    upper = torch.where(zero, 0.0, torch.where(finite, upper, torch.inf))
    return torch.where(finite, computed, 0.0), upper


def proved(gram: Tensor, square: Tensor) -> Tensor:
    """Upper ends of the largest eigenvalues of symmetric matrices (rows, n, n), near `square` where these are right."""
    n = gram.shape[-1]
    rounded = DOUBLE.gamma((n + 4) * n) * (4 if gram.is_complex() else 1)
    trace = gram.diagonal(dim1=1, dim2=2).real.sum(1) * (1 + DOUBLE.gamma(n))
    upper, left = trace.clone(), torch.arange(len(gram), device=gram.device)
    one = torch.eye(n, dtype=gram.dtype, device=gram.device)
    for k in range(13):
        level = square[left] * (1 + rounded * WIDER**k) + 2.0**-900
        works = torch.linalg.cholesky_ex(level[:, None, None] * one - gram[left]).info == 0
        upper[left[works]] = torch.minimum(level * (1 + 2 * rounded), trace[left])[works]
        left = left[~works]
        if not len(left):
            break
    return upper


def _ends_single(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """||A||^2 = ||A A'|| <= ||B|| + gamma ||A||_F^2 for B = fl(A A'), again and again; at last ||B|| <= ||B||_F.

    ||A A'||_F / ||A||_F is a lower bound; by it is seen which matrices are to be squared again.
    Infinite for what is not within 2^-60 to 2^60.
    """
    whole = _frobenius_single(matrices)
    usable = (whole > 2.0**-60) & (whole < 2.0**60)
    made = torch.where(usable[:, None, None], matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT, 0.0)
    norm, rows = torch.where(usable, whole, 1.0), torch.arange(len(made), device=made.device)
    levels: list[tuple[Tensor, ...]] = []
    for step in range(SQUARINGS):
        scale = torch.ldexp(torch.ones_like(norm), torch.frexp(norm).exponent)
        made *= (1 / scale).float()[:, None, None]  # so that Frobenius norms are between 1/2 and 1
        size, terms = norm / scale, SINGLE.longest(made.shape[2])
        made = SINGLE.product(made, made.mT)
        norm = _frobenius_single(made)
        lost = SINGLE.gamma(terms) * size**2 + 2.0**-80
        least = (norm * (1 - 3 * SINGLE.gamma(made.shape[2] + 2)) - lost).clamp_min(0) / size
        levels.append((rows, scale, least**2, norm, lost))
        rows = (norm.sqrt() * size > (1 + 2**step * EXCESS) * norm).nonzero()[:, 0]
        if not len(rows):
            break
        made, norm = (made, norm) if len(rows) == len(made) else (made[rows], norm[rows])
    lower, upper, deeper = norm.new_zeros(0), norm.new_zeros(0), rows[:0]
    for rows, scale, least, most, lost in reversed(levels):
        low = least.index_copy(0, deeper, (lower - lost[deeper]).clamp_min(0))
        high = most.index_copy(0, deeper, upper)
        lower, upper, deeper = low.sqrt() * scale / BOUND, (high + lost).sqrt() * scale * BOUND, rows
    return torch.where(usable, lower, 0.0), torch.where(usable, upper, torch.where(whole == 0, 0.0, torch.inf))
