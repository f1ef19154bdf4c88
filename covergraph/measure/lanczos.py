"""Certified largest singular values without matrices: Lanczos from a random start (Lemma 21).

Of A = J'J (or J J') the recurrence A v_j = beta_{j+1} v_{j+1} + alpha_j v_j + beta_j v_{j-1} gives the symmetric
tridiagonal matrix T, alpha on its diagonal and beta beside it. Let the start have an overlap of at least t with a top
eigenvector; it has less with probability at most t sqrt(2 d / pi). Then all eigenvalues of A are below a level l if
l - T is positive definite and
    beta_2 ... beta_{k+1} / det(l - T) + 3 eta l ||(l - T)^{-1} e_1||_1 < t,
where eta bounds the relative rounding of products with J and J' (Lemma 22). Neither orthogonality nor a fixed number
of steps is needed: the only random event is the overlap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from covergraph.measure.tridiagonal import Steps
from covergraph.rounding import PRODUCT

CHECKS = (3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 56, 63, 70, 80, 90, 100, 120, 150, 200)
"""After so many steps the rows are looked at; after the last, the upper end is what it is."""
SCALES = (2.0**600, 2.0**300, 2.0**-300, 2.0**-600)
"""J is multiplied by one of these where J'J without them under- or overflows."""
RANGE = (2.0**-400, 2.0**400)
"""Between these the largest entry of a first product has to be."""
NOTHING = 2.0**-500
"""Shorter vectors count as 0: less than the rounding of what is within `RANGE`, and their squares are not."""


def overlap(failure: float, size: int) -> float:
    """t <= 1 so that a random direction in `size` dimensions has |<u, b>| < t with probability at most `failure`."""
    return min(failure / math.sqrt(2 * size / math.pi), 1.0)


def random_start(shape: Sequence[int], keys: Sequence[str]) -> Tensor:
    """One random direction of Euclidean norm 1 for each key: (rows, *shape), in double precision."""
    starts = torch.empty(len(keys), *shape, dtype=torch.float64)
    for i, key in enumerate(keys):
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest(), "big"))
        starts[i] = torch.from_numpy(generator.standard_normal(shape))
    return starts / _lengths(starts)


def _flat(vectors: Tensor) -> Tensor:
    return vectors.reshape(len(vectors), math.prod(vectors.shape[1:]))


def _lengths(vectors: Tensor) -> Tensor:
    """Euclidean norms, with the axes of the vectors kept: (rows, 1, ..., 1)."""
    return _like(torch.linalg.vector_norm(_flat(vectors), dim=1), vectors)


def _dots(one: Tensor, two: Tensor) -> Tensor:
    """Inner products: (rows, 1, ..., 1)."""
    return _like(_flat(one * two).sum(1), one)


def _like(numbers: Tensor, vectors: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (vectors.dim() - 1))


@dataclass
class Interval:
    """Lower and upper ends of the largest singular values, (rows,), and how many steps each row took.

    Upper ends hold if the start has the overlap t. Lower ends decide only when to stop.
    """

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
    ends suffice keep these, with lower end 0. The upper end is infinite where a product is not finite, and 0 where it
    is 0 even if J is multiplied by 2^600.
    """
    return _Run(narrowed, start, t, goal).result()


class _Run:
    """One run: `rows` are those that take part in products, `active` marks those among them that are not done."""

    def __init__(self, narrowed: Callable[[Tensor], Product], start: Tensor, t: float, goal: Goal) -> None:
        self.narrowed, self.start, self.t, self.goal, self.level = narrowed, start, t, goal, goal.level
        cheap = torch.full((len(start),), math.inf, dtype=torch.float64)
        if goal.cheap is not None:
            cheap = goal.cheap.cpu().nan_to_num(math.inf, math.inf, math.inf)
        self.found = Interval(torch.zeros_like(cheap), cheap, torch.zeros(len(start), dtype=torch.int64))
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
        v = self.start[self.rows.to(self.start.device)]
        plain = self.narrowed(self.rows)
        scale, w = _first(plain, v)
        product = _scaled(plain, scale)
        self._vanish((_flat(w) == 0).all(1).cpu())
        previous, length, crossed = torch.zeros_like(v), torch.zeros_like(scale), torch.zeros_like(scale)
        numbers = torch.zeros(3, len(v), 0, dtype=v.dtype, device=v.device)  # alpha, beta and asymmetry by step
        for k in range(1, CHECKS[-1] + 1):
            if not bool(self.active.any()):
                return
            if k > 1:
                w = product(v)
            alpha = _dots(w, v).clamp_min(0)
            asymmetry = (_dots(w, previous) - crossed).abs()
            u = w - alpha * v - length * previous
            length = _lengths(u)
            length = torch.where(length > NOTHING, length, 0.0)
            previous, v = v, torch.where(length > 0, u / length, 0.0)
            crossed = _dots(w, v)
            numbers = torch.cat([numbers, torch.stack([alpha, length, asymmetry]).reshape(3, -1, 1)], 2)
            if k not in CHECKS:
                continue
            self._look(Steps.of(numbers, scale), last=k == CHECKS[-1])
            if 0 < float(self.active.double().mean()) <= SHRINK:
                keep = self.active.nonzero()[:, 0]
                self.rows, self.active = self.rows[keep], self.active[keep]
                there = keep.to(v.device)
                v, previous, length, crossed, scale = (x[there] for x in (v, previous, length, crossed, scale))
                numbers, product = numbers[:, there], _scaled(self.narrowed(self.rows), scale)

    def _vanish(self, zero: Tensor) -> None:
        """Write down the rows whose first product is 0."""
        self.found.upper[self.rows[zero]] = 0.0 if self.t > 3 * PRODUCT else math.inf
        self.found.steps[self.rows[zero]] = 1
        self.active &= ~zero

    def _look(self, steps: Steps, last: bool) -> None:
        """Write down the ends of rows that are done, and mark them."""
        self.active &= steps.finite()
        self._raise_lower_ends(steps)
        rows, goal = self.rows, self.goal
        ends = goal.width * (self.found.lower[rows] if goal.own else torch.full_like(steps.scale, self.level))
        proven = steps.certified(ends, self.t)
        for i in range(1, 41 if last else 0):
            if bool(proven[self.active].all()):
                break
            ends = torch.where(proven, ends, ends * 1.02**i)
            proven = steps.certified(ends, self.t)
        proven &= self.active
        self.found.upper[rows] = torch.minimum(self.found.upper[rows], torch.where(proven, ends, torch.inf))
        self.found.steps[rows[self.active]] = steps.alpha.shape[1]
        self.active &= ~proven & ~self._cheap_enough(rows)

    def _raise_lower_ends(self, steps: Steps) -> None:
        """By the largest Ritz values, of the rows where they exceed the level, or of all."""
        level = torch.full_like(steps.scale, self.level)
        above = self.active & (torch.tensor(self.goal.own) | ~steps.below(level))
        if bool(above.any()):
            low, rows = steps.lower(above), self.rows[above]
            self.found.lower[rows] = torch.maximum(self.found.lower[rows], low)
            self.level = max(self.level, float(low.max()))


def _scaled(product: Product, scale: Tensor) -> Product:
    """The product with s^2 A."""
    return product if bool((scale == 1).all()) else lambda v: product(v * scale) * scale


def _first(product: Product, v: Tensor) -> tuple[Tensor, Tensor]:
    """Scales s of J, (rows, 1, ..., 1), for which J'J neither under- nor overflows, and the products s A(s v).

    These are 0 if they vanish at the largest scale, and NaN if no scale is fit.
    """
    w, scale = product(v), _like(torch.ones(len(v), dtype=v.dtype, device=v.device), v)
    fit = _within(w)
    for s in SCALES:
        if bool(fit.all()):
            break
        tried = product(v * s) * s
        vanishes = _like((_flat(tried) == 0).all(1), v) & (s == SCALES[0])
        fits = ~fit & (_within(tried) | vanishes)
        w, scale, fit = torch.where(fits, tried, w), torch.where(fits, s, scale), fit | fits
    return scale, torch.where(fit, w, torch.nan)


def _within(w: Tensor) -> Tensor:
    """Where the largest entry is within `RANGE`: (rows, 1, ..., 1)."""
    size = _like(_flat(w).abs().amax(1), w)
    return (size >= RANGE[0]) & (size <= RANGE[1])
