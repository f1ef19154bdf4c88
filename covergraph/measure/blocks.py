"""Blocks: consecutive samples that are measured together, whatever batches the loader makes.

Their borders depend on the position of the samples only, so that results, random starts and checkpoints do not depend
on the loader's batch size or on the number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covergraph.errors import LoaderChangedError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.measure.loader import Batch, Census, batches
from covergraph.values import Floats, Pair

Columns = dict[Any, Floats]
"""Numbers by sample, (rows,): of a node its norm, of a pair the upper end of its norm; see LOSS and CONDITION."""
LOSS = ("loss",)
"""The column of margins or losses; no name of a node and no pair."""
CONDITION = ("condition",)
"""With a node's name, the column of its condition."""


@dataclass(frozen=True)
class Top:
    """The largest norm of a pair among some samples: lower end, upper end, and the sample whose upper end it is."""

    lower: float
    upper: float
    sample: int

    def or_larger(self, other: Top) -> Top:
        """Of both together."""
        upper, sample = (self.upper, self.sample) if self.upper >= other.upper else (other.upper, other.sample)
        return Top(max(self.lower, other.lower), upper, sample)


@dataclass(frozen=True)
class Measured:
    """What was measured on one block: columns, and of every pair the largest norm and the steps that it took."""

    columns: Columns
    tops: dict[Pair, Top] = field(default_factory=dict)
    steps: dict[Pair, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FirstPass:
    """What the first pass saw.

    `order`: digest of the samples as they came; `size`: the mean of |margin| or |loss|; `repeated`: samples that are
    like an earlier one.
    """

    census: Census
    order: str
    size: float
    repeated: int = 0


@dataclass(frozen=True)
class Share:
    """What one process measured: blocks by number. `order`: digest of all samples as they came."""

    blocks: Mapping[int, Measured]
    order: str


class Kept:
    """Keeps the columns of blocks in arrays for all n samples, made once.

    As arrays of their own they would lie between the large tensors of the blocks, and memory would never be given back.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._whole: Columns = {}

    def block(self, measured: Measured, start: int) -> Measured:
        """The same block, whose columns are now parts of these arrays."""
        columns: Columns = {}
        for key, values in measured.columns.items():
            if key not in self._whole:
                self._whole[key] = np.empty(self._n)
            columns[key] = self._whole[key][start : start + len(values)]
            columns[key][:] = values
        return replace(measured, columns=columns)


@contextmanager
def same_bits() -> Iterator[None]:
    """On GPUs, convolutions by algorithms that give the same bits again."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def joined(shares: Sequence[Share]) -> list[Measured]:
    """The blocks of all processes in order."""
    everything = {number: block for share in shares for number, block in share.blocks.items()}
    return [everything[number] for number in sorted(everything)]


class Order:
    """The digest of samples in their order, whatever batches they come in."""

    def __init__(self) -> None:
        self._columns: list[Any] = []

    def add(self, batch: Batch) -> Order:
        """The same with one more batch."""
        columns = (*batch.inputs, batch.labels)
        self._columns = self._columns or [hashlib.sha256() for _ in columns]
        for digest, column in zip(self._columns, columns, strict=True):
            digest.update(column.cpu().reshape(len(batch), -1).contiguous().view(torch.uint8).numpy())
        return self

    def digest(self) -> str:
        """Of what was added so far."""
        return hashlib.sha256(b"".join(column.digest() for column in self._columns)).hexdigest()[:32]


def blocks(loader: Iterable[Any], graph: ComputationGraph, size: int) -> Iterator[Batch]:
    """The samples of the loader in order, `size` at a time; the last block may be smaller.

    Raises `LoaderChangedError` for batches that do not fit together.
    """
    kept: list[Batch] = []
    rows = start = 0
    for batch in batches(loader, graph):
        kept.append(_part(batch, slice(None), batch.start))
        rows += len(batch)
        if rows < size:
            continue
        whole = _joined(kept)
        for row in range(0, rows - size + 1, size):
            yield _part(whole, slice(row, row + size), start + row)
        start, rows = start + rows - rows % size, rows % size
        kept = [_part(whole, slice(len(whole) - rows, None), start)] if rows else []
    if kept:
        yield _part(_joined(kept), slice(None), start)


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    try:
        inputs = tuple(torch.cat(columns) for columns in zip(*(part.inputs for part in parts), strict=True))
        return Batch(inputs, torch.cat([part.labels for part in parts]), parts[0].start)
    except RuntimeError as reason:
        raise LoaderChangedError(
            f"measure: the batches from sample {parts[0].start} to {parts[-1].start} do not fit together ({reason}), "
            "expected inputs and labels of the same form in each, on the same device; convert the dataset"
        ) from None


def _part(batch: Batch, rows: slice, start: int) -> Batch:
    """Some rows of a batch, in memory of their own: the bits of products may depend on where operands lie."""
    own = [x[rows].clone(memory_format=torch.contiguous_format) for x in (*batch.inputs, batch.labels)]
    return Batch(tuple(own[:-1]), own[-1], start)


def tops_of(upper: Mapping[Pair, Tensor], lower: Mapping[Pair, float], start: int) -> dict[Pair, Top]:
    """The largest norms on a block that starts at sample `start`."""
    found: dict[Pair, Top] = {}
    for pair, ends in upper.items():
        sample = int(ends.argmax())
        high = float(ends[sample])
        found[pair] = Top(min(lower[pair], high), high, start + sample)
    return found
