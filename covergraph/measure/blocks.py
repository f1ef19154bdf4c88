"""Blocks: consecutive samples that are measured together, whatever batches the loader makes.

Their borders depend on the position of the samples only, so that results, random starts and checkpoints do not depend
on the loader's batch size or on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.measure.loader import Batch, batches
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


def blocks(loader: Iterable[Any], graph: ComputationGraph, size: int) -> Iterator[Batch]:
    """The samples of the loader in order, `size` at a time; the last block may be smaller."""
    kept: list[Batch] = []
    start = 0
    for batch in batches(loader, graph):
        kept.append(batch)
        while sum(map(len, kept)) >= size:
            whole, kept = _split(_joined(kept, start), size)
            yield whole
            start += size
    if kept:
        yield _joined(kept, start)


def _joined(parts: list[Batch], start: int) -> Batch:
    if len(parts) == 1:
        return Batch(parts[0].inputs, parts[0].labels, start)
    inputs = tuple(torch.cat(columns) for columns in zip(*(part.inputs for part in parts), strict=True))
    return Batch(inputs, torch.cat([part.labels for part in parts]), start)


def _split(batch: Batch, size: int) -> tuple[Batch, list[Batch]]:
    def part(rows: slice, start: int) -> Batch:
        return Batch(tuple(x[rows] for x in batch.inputs), batch.labels[rows], start)

    rest = [part(slice(size, None), batch.start + size)] if len(batch) > size else []
    return part(slice(size), batch.start), rest


def tops_of(upper: Mapping[Pair, Tensor], lower: Mapping[Pair, float], start: int) -> dict[Pair, Top]:
    """The largest norms on a block that starts at sample `start`."""
    found: dict[Pair, Top] = {}
    for pair, ends in upper.items():
        sample = int(ends.argmax())
        high = float(ends[sample])
        found[pair] = Top(min(lower[pair], high), high, start + sample)
    return found
