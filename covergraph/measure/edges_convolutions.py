"""Certified norms of convolutions on images of any size, from their symbols on a grid of frequencies (Lemma 19)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from covergraph.measure.edges_spectra import Ends, norm_ends

SAMPLING = (6, 4, 3, 2)
"""Frequencies per degree of the symbol: the finest that is not too much work is taken."""
WORK = 2**34
"""Complex multiplications for the norms of one symbol."""
CHUNK = 2**24
"""Entries of the matrices that are held at once."""


@dataclass(frozen=True)
class Correlation:
    """y[o, p] = sum_{c, i} K[o, c, i] x[c, s p + d i - padding] from images of sides `wide` to `narrow`, in groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    wide: tuple[int, ...]
    narrow: tuple[int, ...]


def correlation_ends(weight: Tensor, map_: Correlation) -> Ends:
    """Ends of the operator norm of a correlation with kernel `weight` (c_out, c_in/groups, *kernel).

    Upper end: the smaller of rho max_g ||K_g||_op and the largest norm of the symbol. Exact for kernels of one tap.
    """
    kernel = _touching(weight.double(), map_)
    kernel = kernel.reshape(map_.groups, -1, *kernel.shape[1:])
    sides = zip(weight.shape[2:], map_.stride, map_.dilation, strict=True)
    rho = math.sqrt(math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in sides))
    patches = norm_ends(kernel.flatten(2))
    if math.prod(weight.shape[2:]) == 1:
        return patches
    symbols = _symbol_ends(kernel, map_)
    return Ends(0.0, min(rho * patches.upper, symbols.upper))


def _touching(weight: Tensor, map_: Correlation) -> Tensor:
    """The kernel without the taps that read nothing but padding."""
    for axis, k in enumerate(weight.shape[2:]):
        read = torch.arange(map_.narrow[axis]) * map_.stride[axis] - map_.padding[axis]
        read = read + torch.arange(k)[:, None] * map_.dilation[axis]
        inside = ((read >= 0) & (read < map_.wide[axis])).any(1).to(weight)
        weight = weight * inside.reshape(-1, *[1] * (weight.dim() - 3 - axis))
    return weight


@dataclass(frozen=True)
class _Axis:
    """Tap i stands at s q + r: its place q among the blocks of s entries, its place in the block among `residues`."""

    places: Tensor
    blocks: Tensor
    residues: int
    outputs: int

    @property
    def degree(self) -> int:
        return int(self.places.max() - self.places.min())

    def frequencies(self, sampling: int) -> int:
        """So many that the correlation fits on a torus, or `sampling` for each degree."""
        return min(self.outputs + self.degree, max(1, sampling * self.degree))

    def excess(self, sampling: int) -> float:
        """By how much the norm of the symbol can exceed its largest value on the grid; 1 on a torus that fits."""
        count = self.frequencies(sampling)
        return 1.0 if count == self.outputs + self.degree else 1 / math.cos(math.pi * self.degree / (2 * count))

    def waves(self, count: int, last: bool) -> Tensor:
        """(taps, residues, frequencies): exp(2 pi i f q / count); of real kernels half of the last axis is enough."""
        f = torch.arange(count // 2 + 1 if last else count, device=self.places.device)
        turns = (self.places[:, None] * f) % count
        wave = torch.polar(torch.ones_like(turns, dtype=torch.float64), 2 * math.pi * turns.double() / count)
        return torch.nn.functional.one_hot(self.blocks, self.residues)[:, :, None] * wave[:, None]


def _symbol_ends(kernel: Tensor, map_: Correlation) -> Ends:
    """Ends of the largest norm of the symbol, from a grid of frequencies; the upper one holds between them, too."""
    axes = [_axis(kernel, axis, map_) for axis in range(kernel.dim() - 3)]
    sampling = next((n for n in SAMPLING if _work(kernel, axes, n) <= WORK), None)
    if sampling is None:
        return Ends(0.0, math.inf)
    further = math.prod(kernel.shape[3:]) + 8
    ends = [norm_ends(symbols, further, exact=1) for symbols in _symbols(kernel, axes, sampling)]
    excess = math.prod(axis.excess(sampling) for axis in axes)
    return Ends(0.0, max(e.upper for e in ends) * excess)


def _axis(kernel: Tensor, axis: int, map_: Correlation) -> _Axis:
    taps = torch.arange(kernel.shape[3 + axis], device=kernel.device) * map_.dilation[axis]
    residues, blocks = torch.unique(taps % map_.stride[axis], return_inverse=True)
    return _Axis(taps // map_.stride[axis], blocks, len(residues), map_.narrow[axis])


def _work(kernel: Tensor, axes: Sequence[_Axis], sampling: int) -> int:
    groups, rows, columns = kernel.shape[:3]
    columns *= math.prod(axis.residues for axis in axes)
    side, count = min(rows, columns), math.prod(axis.frequencies(sampling) for axis in axes)
    return groups * count * side**2 * (max(rows, columns) + side)


def _symbols(kernel: Tensor, axes: Sequence[_Axis], sampling: int) -> Iterator[Tensor]:
    """The symbol's matrices (frequencies and groups, rows, columns and residues), in parts."""
    waves = [axis.waves(axis.frequencies(sampling), axis is axes[-1]) for axis in axes]
    entries = kernel.shape[:3].numel() * math.prod(w.shape[1:].numel() for w in waves)
    parts = min(-(-entries // CHUNK), waves[0].shape[2])
    for wave in waves[0].chunk(parts, 2):
        symbol = kernel.to(torch.complex128)
        for factor in (wave, *waves[1:]):
            symbol = torch.tensordot(symbol, factor, ([3], [0]))
        order = [0, *range(4, symbol.dim(), 2), 1, 2, *range(3, symbol.dim(), 2)]
        symbol = symbol.permute(order)
        yield symbol.flatten(len(axes) + 2).flatten(0, len(axes))
