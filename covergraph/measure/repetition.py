"""Samples that come again: n counts independent samples, and copies are none.

In discrete data a sample may come again by chance. With q_j the share of pairs of samples that agree in entry j, and
independent entries, q = prod_j q_j of the pairs agree in all, so that among n samples D pairs are expected to agree
with mean n(n-1)/2 q and, by Hoeffding's decomposition, variance at most that plus n^3 (prod_j t_j - q^2), t_j the share
of triples. By Chebyshev's inequality, D exceeds the mean by 1,000 standard deviations with probability 1e-6 at most.
Repetitions are explained by chance if it does not, or if there are no more possible samples than samples. Frequencies
come from different samples, those with the smallest digests, which are a random choice; entries that are not whole and
differ in all of them are continuous: q_j = 0. One sample that comes again and again is never chance.

Whatever the population: of m different samples, the number of those that come a multiple of p >= 2 times exceeds c with
probability at most e sqrt(n) P(Binomial(m, 1/2) >= c). For if n is Poisson's, so are the counts, independently, and a
count of mean t is a positive multiple of p with probability at most half of that to be positive: by roots of unity
sum_j t^(pj)/(pj)! = 1/p sum_w e^(t Re w) cos(t Im w) <= 1/p sum_w e^(t Re w) <= (e^t + e^-t)/2 <= (e^t + 1)/2, since
e^(tc) <= (1+c)/2 e^t + (1-c)/2 e^-t; and n has its own mean with probability at least 1/(e sqrt(n)).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtrc
from torch import Tensor

from covergraph.errors import RepetitionError
from covergraph.measure.loader import Batch
from covergraph.values import Floats

SHOWN, FEWEST, ENTRIES = 512, 16, 2**22
"""Frequencies are taken from so many samples, and from fewer, but 16, if they have more entries in all."""
DEVIATIONS = 1000.0
"""Chebyshev: exceeded with probability 1e-6 at most."""
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


@dataclass
class Repetition:
    """What a pass shows of samples that come again: a digest of each, and the entries of some different ones."""

    _digests: list[bytes] = field(default_factory=list)
    _kept: dict[bytes, Tensor] = field(default_factory=dict)

    def add(self, batch: Batch, digests: list[bytes]) -> None:
        """Take one more batch, and the digests of its samples, 16 bytes each."""
        self._digests += digests
        entries = sum(x[0].numel() for x in (*batch.inputs, batch.labels))
        wanted = max(FEWEST, min(SHOWN, ENTRIES // max(entries, 1)))
        last = max(self._kept) if len(self._kept) >= wanted else b"\xff" * 17
        for row, digest in enumerate(digests):
            if digest < last and digest not in self._kept:
                parts = [x[row].reshape(-1).double().cpu() for x in (*batch.inputs, batch.labels)]
                self._kept[digest] = torch.cat(parts)
        for digest in sorted(self._kept)[wanted:]:
            del self._kept[digest]

    def count(self) -> int:
        """How many samples are like an earlier one."""
        return len(self._digests) - len(set(self._digests))

    def require_chance(self) -> None:
        """Raise `RepetitionError` if chance does not explain how many pairs of samples agree."""
        n, repeated = len(self._digests), self.count()
        if not repeated:
            return
        counts = np.unique(np.array(self._digests, dtype="S16"), return_counts=True)[1]
        if not _multiples(counts) and _explained(_rows(self._kept), _agreeing(counts), n):
            return
        one, two = self._pair()
        digest, times = Counter(self._digests).most_common(1)[0]
        raise RepetitionError(
            f"measure: {repeated} of the {n} samples are exact copies of earlier ones (samples {one} and {two} have "
            f"the same input and label; sample {self._digests.index(digest)} comes {times} times, the most of all), "
            "expected independent samples, since the certificate counts n; a loader whose workers all read the whole "
            "of an IterableDataset gives copies, so do repeat, a bootstrap and a data set that is concatenated with "
            "itself: pass every sample once. If the population itself repeats (black pictures, rows of few values), "
            "and the samples were drawn independently, pass duplicates='iid'"
        )

    def _pair(self) -> tuple[int, int]:
        seen: dict[bytes, int] = {}
        for i, digest in enumerate(self._digests):
            if digest in seen:
                return seen[digest], i
            seen[digest] = i
        raise AssertionError("no sample comes again")


def _rows(kept: dict[bytes, Tensor]) -> Floats:
    rows: Floats = torch.stack(list(kept.values())).numpy()
    return rows


def _agreeing(counts: NDArray[np.int64]) -> float:
    """Pairs of equal samples."""
    return float((counts.astype(float) * (counts - 1) / 2).sum())


def _multiples(counts: NDArray[np.int64]) -> bool:
    """Whether more of the different samples come a multiple of 2, 3, 5, ... times than chance explains."""
    primes = [p for p in PRIMES if p <= counts.max()]
    allowed = 1e-6 / (math.e * math.sqrt(counts.sum()) * max(len(primes), 1))
    return any(bdtrc((counts % p == 0).sum() - 1, len(counts), 0.5) <= allowed for p in primes)


def _explained(different: Floats, agreeing: float, n: int) -> bool:
    """Whether so many agreeing pairs among n samples are chance, from the entries (rows, columns) of different ones."""
    doubles, triples, possible, rows = 0.0, 0.0, 0.0, len(different)
    if rows == 1:
        return False
    for column in different.T:
        values, counts = np.unique(column, return_counts=True)
        if len(values) == rows and bool((column != column.round()).any()):
            return False
        shares = counts.astype(float)
        doubles += _log((shares * (shares - 1)).sum() / (rows * (rows - 1)))
        triples += _log((shares * (shares - 1) * (shares - 2)).sum() / max(rows * (rows - 1) * (rows - 2), 1))
        possible += math.log(len(values))
    if possible <= math.log(n):
        return True
    mean = n * (n - 1) / 2 * math.exp(doubles)
    variance = mean + float(n) ** 3 * max(math.exp(triples) - math.exp(2 * doubles), 0.0)
    return agreeing <= mean + DEVIATIONS * math.sqrt(variance)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
