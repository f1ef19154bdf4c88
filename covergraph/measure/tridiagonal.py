"""What the numbers of Lanczos' recurrence prove: ends of the largest eigenvalue (Lemma 21).

From a start with overlap at least t with a top eigenvector, all eigenvalues of A are below a level l if l - T is
positive definite and
    beta_2 ... beta_{k+1} / det(l - T) + 3 eta l ||(l - T)^{-1} e_1||_1 < t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from covergraph.rounding import LENGTHS, PRODUCT


@dataclass
class Steps:
    """What the steps of some rows gave: alpha, beta and asymmetry, (rows, k), of s^2 A, with the scales s, (rows,)."""

    alpha: Tensor
    beta: Tensor
    asymmetry: Tensor
    scale: Tensor

    @staticmethod
    def of(numbers: Tensor, scale: Tensor) -> Steps:
        """From (3, rows, k) and as many scales as rows, on any device."""
        alpha, beta, asymmetry = numbers.cpu().unbind()
        return Steps(alpha, beta, asymmetry, scale.reshape(-1).cpu())

    def finite(self) -> Tensor:
        """Rows without inf and NaN: (rows,)."""
        return torch.isfinite(self.alpha + self.beta).all(1)

    def certified(self, ends: Tensor, t: float) -> Tensor:
        """Where the numbers prove that the largest singular value is at most `ends`: (rows,).

        Products are seen to be more inexact than PRODUCT if A is not symmetric up to five times that of its largest
        eigenvalue.
        """
        level = self._squared(ends)
        return certified(self.alpha, self.beta, level, t) & (self.asymmetry.amax(1) <= 5 * PRODUCT * level)

    def below(self, ends: Tensor) -> Tensor:
        """Where no Ritz value exceeds the square of `ends`: (rows,)."""
        return (_pivots(self.alpha, self.beta, self._squared(ends))[0] > 0).all(1)

    def lower(self, chosen: Tensor) -> Tensor:
        """Lower ends of the chosen rows by their largest Ritz values (Lemma 21)."""
        alpha, beta = self.alpha[chosen], self.beta[chosen]
        matrix = torch.diag_embed(alpha) + torch.diag_embed(beta[:, :-1], 1) + torch.diag_embed(beta[:, :-1], -1)
        theta = torch.linalg.eigvalsh(matrix)[:, -1].clamp_min(0)
        return theta.sqrt() / self.scale[chosen] * (1 - 3 * PRODUCT * alpha.shape[1] ** 2.5)

    def _squared(self, ends: Tensor) -> Tensor:
        """A little less than the squares, scaled; less still where these would overflow."""
        return ((ends * self.scale).clamp_max(2.0**300) * (1 - 2.0**-48)).square()


def _pivots(alpha: Tensor, beta: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Pivots of level - T, all positive exactly above the Ritz values, and their ratios to the next beta: (rows, k)."""
    pivots: list[Tensor] = []
    ratios: list[Tensor] = []
    for j in range(alpha.shape[1]):
        before = beta[:, j - 1] / ratios[-1] if j else torch.zeros_like(level)
        pivots.append(level - alpha[:, j] - before)
        ratios.append(pivots[-1] / beta[:, j])
    return torch.stack(pivots, 1), torch.stack(ratios, 1)


def certified(alpha: Tensor, beta: Tensor, level: Tensor, t: float) -> Tensor:
    """Where the numbers of k steps prove that no eigenvalue exceeds `level`, if the overlap is at least t: (rows,).

    alpha_1, ..., alpha_k and beta_2, ..., beta_{k+1}: (rows, k). What is not finite proves nothing.
    """
    pivots, ratios = _pivots(alpha, beta, level)
    logs = ratios.log().cumsum(1)  # of 1 / (beta_2 ... beta_{j+1}) times the leading minors of level - T
    row, total = torch.zeros_like(level), torch.zeros_like(level)
    for j in reversed(range(alpha.shape[1])):  # the entries of (level - T)^{-1} e_1
        start = (-logs[:, j - 1]).exp() if j else torch.ones_like(level)
        row = start / pivots[:, j] + row / ratios[:, j]
        total = total + row
    rounding = 3 * PRODUCT * level * total
    left = (t - rounding).log()
    return (pivots > 0).all(1) & (rounding < t) & (logs[:, -1] + left > LENGTHS)
