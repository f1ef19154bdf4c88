"""Products with convolutions and their adjoints, without bias; torch in double precision on a CPU is slow at them.

There a convolution of stride 1 is one matrix product for each tap of the kernel, with a shifted view of the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

CACHE = 2**21
"""Padded images of about so many bytes are worked on at a time, so that they stay in a processor's cache."""
FORWARD: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
Shape = Sequence[int]


@dataclass(frozen=True)
class Correlation:
    """The map of a convolution from images (count, *wide) to (count, *narrow), channels first.

    `weight`: (c_out, c_in / groups, *kernel); the other settings as in `operations.Convolution`.
    """

    weight: Tensor
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    wide: Shape

    @property
    def rank(self) -> int:
        """The number of axes of an image."""
        return len(self.stride)

    @property
    def extents(self) -> list[int]:
        """How far the last tap is from the first, by axis."""
        return [d * (k - 1) for k, d in zip(self.weight.shape[2:], self.dilation, strict=True)]

    @cached_property
    def narrow(self) -> tuple[int, ...]:
        """The shape of a result."""
        sides = zip(self.wide[1:], self.padding, self.extents, self.stride, strict=True)
        return (len(self.weight), *((n + 2 * p - e - 1) // s + 1 for n, p, e, s in sides))

    @property
    def mirror(self) -> Correlation:
        """The adjoint, if the stride is 1: the kernel turned around, inputs and outputs exchanged."""
        kernel = self.weight.shape[2:]
        grouped = self.weight.reshape(self.groups, -1, *self.weight.shape[1:]).transpose(1, 2)
        weight = grouped.reshape(-1, grouped.shape[2], *kernel).flip(*range(2, self.rank + 2)).contiguous()
        padding = [e - p for e, p in zip(self.extents, self.padding, strict=True)]
        return Correlation(weight, self.stride, padding, self.dilation, self.groups, self.narrow)

    def maps(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The map and its adjoint, as fast as they are known to be here."""
        slow = self.weight.dtype == torch.float64 and self.weight.device.type == "cpu"
        inside = all(p <= e for p, e in zip(self.padding, self.extents, strict=True))
        c_out, c_in = len(self.weight) // self.groups, self.weight.shape[1]
        wide = min(c_out, c_in) >= 8 or c_out == c_in == 1  # products of thin matrices are slower than torch
        if slow and inside and wide and set(self.stride) == {1}:
            return Taps(self), Taps(self.mirror)
        return self.forward, self.adjoint

    def forward(self, images: Tensor) -> Tensor:
        """The convolution by torch."""
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return FORWARD[self.rank](images, self.weight, None, *settings)

    def adjoint(self, images: Tensor) -> Tensor:
        """(count, *narrow) -> (count, *wide) by torch's derivative, up to ten times faster than conv_transpose."""
        target = images.new_empty(1).expand(len(images), *self.wide)
        sides = (list(self.stride), list(self.padding), list(self.dilation), False, [0] * self.rank, self.groups)
        made: Tensor = torch.ops.aten.convolution_backward(
            images, target, self.weight, None, *sides, [True, False, False]
        )[0]
        return made


class Taps:
    """A correlation of stride 1, with no more padding than the kernel is wide, tap by tap.

    The rows of an image stand one after the other with zeros between them, so that a shift along any axis is a shift
    of the whole. What a shift carries from one row to the next falls on these zeros, and is cut off.
    """

    def __init__(self, map_: Correlation) -> None:
        self.map, groups, sides = map_, map_.groups, map_.wide[1:]
        self.pitch = [n + p for n, p in zip(sides[1:], map_.padding[1:], strict=True)]
        steps = [math.prod(self.pitch[i:]) for i in range(map_.rank)]
        lengths = [d * step for d, step in zip(map_.dilation, steps, strict=True)]
        kernel = map_.weight.shape[2:]
        self.shifts = [sum(map(int.__mul__, at, lengths)) for at in itertools.product(*map(range, kernel))]
        self.first = sum(p * step for p, step in zip(map_.padding, steps, strict=True))
        self.length = map_.narrow[1] * steps[0]
        weight = map_.weight.reshape(groups, -1, map_.weight.shape[1], len(self.shifts))
        self.taps = weight.movedim(3, 0).contiguous()  # (taps, groups, c_out / groups, c_in / groups)
        self.single = weight.shape[1:3] == (1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """(count, *wide) -> (count, *narrow)."""
        (channels, *sides), (c_out, *ends) = self.map.wide, self.map.narrow
        count, long = len(images), self.length + max(self.shifts)
        if count == 1:
            return self.map.forward(images)
        made = images.new_empty(count, c_out, self.length)
        if len(self.shifts) == 1:
            self._add(images.reshape(count, channels, long), made)
            return made.view(count, c_out, *ends)
        size = max(1, min(count, CACHE // (8 * channels * long)))
        padded = images.new_zeros(size, channels, long)
        middle = padded.narrow(2, self.first, sides[0] * math.prod(self.pitch))
        middle = cut(middle.view(size, channels, sides[0], *self.pitch), sides)
        for part, out in zip(torch.split(images, size), torch.split(made, size), strict=True):
            middle[: len(part)].copy_(part)
            self._add(padded[: len(part)], out)
        return cut(made.view(count, c_out, ends[0], *self.pitch), ends)

    def _add(self, padded: Tensor, out: Tensor) -> None:
        """The sum over taps, into `out`."""
        groups, count = self.map.groups, len(padded)
        pieces = [padded.narrow(2, shift, self.length) for shift in self.shifts]
        if self.single:
            out.zero_()
            for tap, piece in zip(self.taps, pieces, strict=True):
                out.addcmul_(piece, tap.reshape(-1, 1))
            return
        out = out.view(count * groups, -1, self.length)
        for k, (tap, piece) in enumerate(zip(self.taps, pieces, strict=True)):
            matrices = tap.expand(count, *tap.shape).reshape(-1, *tap.shape[1:])
            out.baddbmm_(matrices, piece.view(len(matrices), -1, self.length), beta=float(k > 0))


def cut(images: Tensor, sides: Shape) -> Tensor:
    """The first entries of the last axes."""
    for axis, side in enumerate(sides, images.dim() - len(sides)):
        images = images.narrow(axis, 0, side)
    return images
