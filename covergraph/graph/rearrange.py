"""Linear index maps: every entry of the result is one entry of the argument, or 0.

A map is a sequence of steps on the shape of one sample. The steps stay as they are written, so a map of a million
entries takes a few words; `index_map` writes it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """The same entries in the same order, in another shape."""

    shape: Shape


@dataclass(frozen=True)
class Permute:
    """Axis i of the result is axis order[i] of the argument."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Expand:
    """Axes of length 1 repeated to the lengths of `shape`, which has the argument's number of axes."""

    shape: Shape


@dataclass(frozen=True)
class Slice:
    """Every `step`-th entry from `start` up to `stop` along one axis."""

    axis: int
    start: int
    stop: int
    step: int = 1


@dataclass(frozen=True)
class Pick:
    """The entries at `indices` along one axis."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Pad:
    """Zeros before and after along one axis."""

    axis: int
    before: int
    after: int


@dataclass(frozen=True)
class Join:
    """The results of several maps of one argument, side by side along one axis."""

    axis: int
    branches: tuple[tuple[RearrangeStep, ...], ...]


RearrangeStep: TypeAlias = View | Permute | Expand | Slice | Pick | Pad | Join
Steps: TypeAlias = tuple[RearrangeStep, ...]


def run(steps: Sequence[RearrangeStep], x: Tensor) -> Tensor:
    """The map on a batch: (batch, *shape) -> (batch, *new shape)."""
    for step in steps:
        x = _run(step, x)
    return x


def _run(step: RearrangeStep, x: Tensor) -> Tensor:
    match step:
        case View(shape):
            return x.reshape(x.shape[0], *shape)
        case Permute(order):
            return x.permute(0, *(axis + 1 for axis in order))
        case Expand(shape):
            return x.expand(x.shape[0], *shape)
        case Slice(axis, start, stop, stride):
            index = torch.arange(start, stop, stride, device=x.device)
            return x.narrow(axis + 1, start, stop - start) if stride == 1 else x.index_select(axis + 1, index)
        case Pick(axis, indices):
            return x.index_select(axis + 1, torch.tensor(indices, dtype=torch.long, device=x.device))
        case Pad(axis, before, after):
            return F.pad(x, [0, 0] * (x.dim() - axis - 2) + [before, after])
        case Join(axis, branches):
            return torch.cat([run(branch, x) for branch in branches], axis + 1)


def result_shape(steps: Sequence[RearrangeStep], shape: Shape) -> Shape:
    """The shape that the map gives to a sample of `shape`."""
    return tuple(run(steps, torch.empty(1, *shape, device="meta")).shape[1:])


def index_map(steps: Sequence[RearrangeStep], shape: Shape) -> Tensor:
    """For each entry of the result, in order, the position of its source in the argument; -1 stands for 0."""
    positions = torch.arange(1, math.prod(shape) + 1).reshape(1, *shape)
    return run(steps, positions).reshape(-1) - 1


@lru_cache(maxsize=256)
def most_copies(steps: Steps, shape: Shape) -> int:
    """How often the result holds an entry of the argument, at most; the map's norm is the square root of it."""
    sources = index_map(steps, shape)
    return int(torch.bincount(sources[sources >= 0]).max()) if bool((sources >= 0).any()) else 0
