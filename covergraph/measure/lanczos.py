"""Certified largest singular values without matrices: Lanczos from a random start (Lemma 21).

Of A = J'J (or J J') the recurrence A v_j = beta_{j+1} v_{j+1} + alpha_j v_j + beta_j v_{j-1} gives numbers alpha and
beta, and these the polynomials q_1 = 1, beta_{j+1} q_{j+1} = (x - alpha_j) q_j - beta_j q_{j-1}. Let the overlap of the
start with a top eigenvector be at least t; it fails to be so with probability at most t sqrt(2 d / pi). Then A has no
eigenvalue above a level l that exceeds the largest eigenvalue theta of the tridiagonal matrix, if
    1 / q_{k+1}(l) + 3 eta sqrt(k) l / (l - theta) < t,
where eta bounds the relative rounding of products with J and J'. Neither orthogonality nor a fixed number of steps is
needed: the only random event is the overlap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ETA = 2.0**-40
"""Rounding of a product with J in double precision, relative to ||J|| times the length of the vector."""
CHECKS = (3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 70, 80, 90, 100, 120, 150, 200)
"""After so many steps the rows are looked at; after the last, the upper end is what it is."""
SLACK = 1e-6
"""For the logarithms of q, computed from up to 200 ratios."""


def overlap(failure: float, size: int) -> float:
    """t such that a random direction in `size` dimensions has |<u, b>| < t with probability at most `failure`."""
    return failure / math.sqrt(2 * size / math.pi)


def random_start(shape: Sequence[int], keys: Sequence[str]) -> Tensor:
    """One random direction of Euclidean norm 1 for each key: (rows, *shape), in double precision."""
    starts = torch.empty(len(keys), *shape, dtype=torch.float64)
    for row, key in zip(starts, keys, strict=True):
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return starts / _lengths(starts)


def _lengths(vectors: Tensor) -> Tensor:
    """Euclidean norms, with the axes of the vectors kept: (rows, 1, ..., 1)."""
    norms = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return norms.reshape(-1, *[1] * (vectors.dim() - 1))


@dataclass
class Interval:
    """Lower and upper ends of the largest singular values, (rows,), and how many steps each row took."""

    lower: Tensor
    upper: Tensor
    steps: Tensor


@dataclass
class Goal:
    """When is a row done? If its upper end is at most `width` times the level, a lower end of the maximum over rows.

    `own`: each row is taken to `width` of its own lower end. `cheap`: upper ends that are known already, (rows,).
    """

    width: float
    level: float = 0.0
    own: bool = False
    cheap: Tensor | None = None


Product = Callable[[Tensor], Tensor]
SHRINK = 0.7
"""Rows that are done leave as soon as at most this share is left; before, they cost less than leaving."""


def largest_singular_values(narrowed: Callable[[Tensor], Product], start: Tensor, t: float, goal: Goal) -> Interval:
    """Intervals that hold the largest singular values of the maps behind A, one for each row of `start`.

    `narrowed(rows)` gives the products with A of these rows, (rows, *shape) -> (rows, *shape). Rows whose cheap upper
    ends suffice keep these, with lower end 0.
    """
    return _Run(narrowed, start, t, goal).result()


class _Run:
    """One run: `rows` are those that take part in products, `active` marks those among them that are not done."""

    def __init__(self, narrowed: Callable[[Tensor], Product], start: Tensor, t: float, goal: Goal) -> None:
        self.narrowed, self.start, self.t, self.goal, self.level = narrowed, start, t, goal, goal.level
        cheap = torch.full((len(start),), math.inf, dtype=torch.float64) if goal.cheap is None else goal.cheap.cpu()
        self.found = Interval(torch.zeros_like(cheap), cheap.clone(), torch.zeros(len(start), dtype=torch.int64))
        self.rows = (~self._cheap_enough(torch.arange(len(start)))).nonzero()[:, 0]
        self.active = torch.ones(len(self.rows), dtype=torch.bool)

    def result(self) -> Interval:
        if len(self.rows):
            self._iterate()
        return self.found

    def _cheap_enough(self, rows: Tensor) -> Tensor:
        enough: Tensor = self.found.upper[rows] <= self.goal.width * self.level
        return torch.zeros_like(enough) if self.goal.own else enough

    def _iterate(self) -> None:
        product, v = self.narrowed(self.rows), self.start[self.rows.to(self.start.device)]
        shape = (-1, *[1] * (v.dim() - 1))
        previous, length = torch.zeros_like(v), v.new_zeros(len(v)).reshape(shape)
        alpha, beta = torch.zeros(len(v), 0, dtype=torch.float64), torch.zeros(len(v), 0, dtype=torch.float64)
        for k in range(1, CHECKS[-1] + 1):
            u = product(v)
            a = (u * v).flatten(1).sum(1).reshape(shape)
            u = u - a * v - length * previous
            length = _lengths(u)
            previous, v = v, u / length.clamp_min(torch.finfo(u.dtype).tiny)
            alpha, beta = (torch.cat([old, new.reshape(-1, 1).cpu()], 1) for old, new in ((alpha, a), (beta, length)))
            if k not in CHECKS:
                continue
            self._look(alpha, beta, last=k == CHECKS[-1])
            if not bool(self.active.any()):
                return
            if float(self.active.double().mean()) <= SHRINK:
                keep = self.active.nonzero()[:, 0]
                self.rows, self.active, alpha, beta = self.rows[keep], self.active[keep], alpha[keep], beta[keep]
                there = keep.to(v.device)
                v, previous, length, product = v[there], previous[there], length[there], self.narrowed(self.rows)

    def _look(self, alpha: Tensor, beta: Tensor, last: bool) -> None:
        """Write down the ends of rows that are done, and mark them."""
        goal, rows = self.goal, self.rows
        theta = self._ritz_values(alpha, beta)
        top = goal.width**2 * theta * (1 - 4 * ETA)
        proven = self.active & certified(alpha, beta, theta, top, self.t)
        if last:
            top = _enlarged(alpha, beta, theta, top, self.t)
            proven = self.active
        ends = torch.where(proven, top.sqrt() * (1 + 4 * ETA), torch.inf)
        self.found.upper[rows] = torch.minimum(self.found.upper[rows], ends)
        self.found.steps[rows[self.active]] = alpha.shape[1]
        self.active = self.active & ~proven & ~self._cheap_enough(rows)

    def _ritz_values(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """Per row a number that its largest Ritz value does not exceed, and that some row attains; or its own."""
        square = torch.full((len(alpha),), self.level**2, dtype=torch.float64)
        above = self.active & (torch.tensor(self.goal.own) | ~_below(alpha, beta, square))
        if bool(above.any()):
            theta = _ritz(alpha[above], beta[above]).clamp_min(0)
            low = self.rows[above]
            self.found.lower[low] = torch.maximum(self.found.lower[low], theta.sqrt() * (1 - ETA))
            self.level = max(self.level, float(theta.max().sqrt()))
            if self.goal.own:
                return square.masked_scatter(above, theta)
        return torch.full_like(square, self.level**2)


def _ritz(alpha: Tensor, beta: Tensor) -> Tensor:
    """The largest eigenvalue of each tridiagonal matrix: (rows,)."""
    matrix = torch.diag_embed(alpha)
    if alpha.shape[1] > 1:
        matrix = matrix + torch.diag_embed(beta[:, :-1], 1) + torch.diag_embed(beta[:, :-1], -1)
    return torch.linalg.eigvalsh(matrix)[:, -1]


def _ratios(alpha: Tensor, beta: Tensor, level: Tensor) -> Tensor:
    """q_{j+1}(level) / q_j(level) for j = 1, ..., k, (rows, k); all positive exactly above the Ritz values."""
    found: list[Tensor] = []
    for j in range(alpha.shape[1]):
        before = beta[:, j - 1] / found[-1] if j else torch.zeros_like(level)
        found.append((level - alpha[:, j] - before) / beta[:, j])
    return torch.stack(found, 1)


def _below(alpha: Tensor, beta: Tensor, level: Tensor) -> Tensor:
    """Where all Ritz values are below the level: (rows,)."""
    return (_ratios(alpha, beta, level) > 0).all(1)


def certified(alpha: Tensor, beta: Tensor, theta: Tensor, level: Tensor, t: float) -> Tensor:
    """Where the numbers of k steps prove that no eigenvalue exceeds `level`, if the overlap is at least t: (rows,).

    `theta` must not be below the largest Ritz value.
    """
    ratios = _ratios(alpha, beta, level)
    size = ratios.clamp_min(1e-300).log().sum(1)
    rounding = 3 * ETA * math.sqrt(alpha.shape[1]) * level / (level - theta)
    proven = (ratios > 0).all(1) & (level > theta) & (rounding < t)
    return (proven & (size > SLACK - (t - rounding).clamp_min(1e-300).log())) | (beta[:, 0] <= 0) & (alpha[:, 0] <= 0)


def _enlarged(alpha: Tensor, beta: Tensor, theta: Tensor, level: Tensor, t: float) -> Tensor:
    """Levels that are certified, from given ones upwards; infinite where rounding forbids it."""
    for _ in range(400):
        proven = certified(alpha, beta, theta, level, t)
        if bool(proven.all()):
            break
        level = torch.where(proven, level, level * 1.05)
    return torch.where(proven, level, torch.inf)
