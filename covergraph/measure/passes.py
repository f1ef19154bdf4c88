"""Passes over the samples, what they find, and the speed that they show."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from covergraph.errors import LoaderChangedError
from covergraph.measure.blocks import LOSS, Top, blocks, tops_of
from covergraph.measure.conditions import without
from covergraph.measure.engine import Norms
from covergraph.measure.plan import SPEED
from covergraph.values import Floats, Measurements, Pair

if TYPE_CHECKING:
    from covergraph.measure.measure import Job

Rows = tuple[int, dict[str, Tensor], Tensor]
"""The number of the first sample of a block, the nodes' values, and where everything is defined."""


def clock() -> float:
    """Seconds since some moment."""
    return time.monotonic()


@dataclass
class Samples:
    """The samples of a loader, as often as wanted, `size` at a time; a single block is kept, not made again.

    `filled`: what the first pass found. `seconds`: how long another pass takes to make its values.
    """

    job: Job
    loader: Iterable[Any]
    size: int
    filled: Measurements
    seconds: float = 0.0
    _kept: list[Rows] = field(default_factory=list)

    def __iter__(self) -> Iterator[Rows]:
        if self._kept:
            self.seconds = 0.0
            yield from self._kept
            return
        made, began = 0.0, clock()
        for batch in blocks(self.loader, self.job.wanted.graph, self.size):
            values, columns, defined = self.job.values(batch)
            self._require_order(columns[LOSS], batch.start)
            rows = batch.start, values, defined
            if len(batch) == self.filled.n:
                self._kept.append(rows)
            made += clock() - began
            yield rows
            began = clock()
        self.seconds = 0.0 if self._kept else made

    def until(self, end: float) -> Iterator[Rows]:
        """A pass that stops when its time is up."""
        for rows in self:
            yield rows
            if clock() >= end:
                return

    def _require_order(self, found: Floats, start: int) -> None:
        """Margins or losses show whether the samples come as in the first pass."""
        known = self.filled.losses if self.filled.margins is None else self.filled.margins
        assert known is not None
        expected = known[start : start + len(found)]
        if len(expected) < len(found) or not np.allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(known).max()):
            raise LoaderChangedError(
                f"measure: from sample {start} on the loader gave other samples than in an earlier pass, expected the "
                "same ones in the same order, since a budget makes several passes; pass shuffle=False"
            )


@dataclass
class Speed:
    """Seconds for an operation of the plan, from what was measured so far."""

    operations: float = 0.0
    seconds: float = 0.0
    guessed: bool = True

    def expected(self, operations: float) -> float:
        """How long it should take."""
        return operations * (self.seconds / self.operations if self.operations else 1 / SPEED)

    def learn(self, operations: float, seconds: float, guess: bool = False) -> None:
        """From work done; what guesses of norms took is forgotten as soon as norms are measured."""
        if self.guessed and not guess and operations:
            self.operations, self.seconds, self.guessed = 0.0, 0.0, False
        self.operations, self.seconds = self.operations + operations, self.seconds + seconds


@dataclass
class Found:
    """What a pass finds for one pair: its largest norm, the steps, and if they are kept the upper ends by sample."""

    pair: Pair
    keep: bool
    n: int = 0
    steps: int = 0
    top: Top = field(default_factory=lambda: Top(0.0, 0.0, 0))
    _upper: list[Tensor] = field(default_factory=list)

    def add(self, norms: Norms, defined: Tensor, start: int) -> None:
        """Take one more block."""
        ends = without(~defined, {self.pair: norms.upper[self.pair]})
        block = tops_of(ends, norms.lower, start)[self.pair]
        self.top = self.top.or_larger(block) if self.n else block
        self.n += len(defined)
        self.steps += norms.steps.get(self.pair, 0)
        if self.keep:
            self._upper.append(ends[self.pair])

    def ends(self) -> Floats:
        """Upper ends by sample, (n,)."""
        found: Floats = torch.cat(self._upper).double().numpy()
        return found
