"""The algebra of index maps: views, permutations, expansions and slices of one argument, in one table.

An axis of length 12 that is seen as 3 x 4 has two *digits*: a position is 4 i + j. Every map of this kind reads some
entries of some digits of the argument, and puts the digits, and repetitions, into another order. Two chains with one
table are one map; `covergraph.passes.spelling` writes a table out as few steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from covergraph.graph.rearrange import Expand, Permute, Pick, RearrangeStep, Shape, Slice, View

Place: TypeAlias = tuple[int, ...]
"""Which digit: the argument's axis, then 0 (outer) or 1 (inner) for every split. Repetitions start with -1, -2, ..."""


@dataclass(frozen=True)
class Digit:
    """`size` values in the argument (0: a repetition, not read), of which the result has `entries`, in order."""

    size: int
    entries: range | tuple[int, ...]

    @property
    def count(self) -> int:
        """How often the digit advances in the result."""
        return len(self.entries)

    @property
    def whole(self) -> bool:
        """True if the result has all values in order."""
        return self.entries == range(self.size)

    def picked(self, indices: Sequence[int]) -> Digit:
        """The digit with those of its entries that are at `indices`."""
        read = [self.entries[i] for i in indices] if self.size else range(len(indices))
        return replace(self, entries=regular(read))

    def split(self, outer: int) -> tuple[Digit, Digit] | None:
        """Two digits for one, the first with `outer` values; None where the entries do not allow it."""
        inner, rest = divmod(self.count, outer)
        if rest:
            return None
        if not self.size:
            return Digit(0, range(outer)), Digit(0, range(inner))
        values = self.entries
        if not isinstance(values, range) or values.step != 1 or values.start % inner or self.size % inner:
            return None
        first = values.start // inner
        return Digit(self.size // inner, range(first, first + outer)), Digit(inner, range(inner))


def regular(values: Iterable[int]) -> range | tuple[int, ...]:
    """The values as a range if they are evenly spaced, else as a tuple."""
    listed = tuple(values)
    step = listed[1] - listed[0] if len(listed) > 1 else 1
    evenly = range(listed[0], listed[0] + step * len(listed), step) if step and listed else ()
    return evenly if tuple(evenly) == listed else listed


@dataclass(frozen=True)
class Digits:
    """A map: `digits` by place, and for every axis of the result the places that make it up, outermost first.

    A digit that is read at one entry only stands in no axis. `shape` is the argument's.
    """

    shape: Shape
    digits: dict[Place, Digit]
    axes: tuple[tuple[Place, ...], ...]

    @staticmethod
    def of(shape: Shape) -> Digits:
        """The identity on a shape without empty axes."""
        long = {i: Digit(n, range(n)) for i, n in enumerate(shape) if n > 1}
        axes = tuple(((i,),) if i in long else () for i in range(len(shape)))
        return Digits(shape, {(i,): digit for i, digit in long.items()}, axes)

    @property
    def result(self) -> Shape:
        """The shape of the result."""
        return tuple(math.prod(self.digits[place].count for place in axis) for axis in self.axes)

    def then(self, step: RearrangeStep) -> Digits | None:
        """The map followed by a step; None if no table says that (padding, joins, digits that do not fit)."""
        match step:
            case View(shape):
                return self._viewed(shape)
            case Permute(order):
                return replace(self, axes=tuple(self.axes[axis] for axis in order))
            case Expand(shape):
                return self._expanded(shape)
            case Slice(axis, start, stop, stride):
                return self._sliced(axis, range(self.result[axis])[start:stop:stride])
            case Pick(axis, indices):
                return self._picked(axis, self.axes[axis], indices)
            case _:
                return None

    def _viewed(self, shape: Shape) -> Digits | None:
        digits, axes = dict(self.digits), []
        left = deque(place for axis in self.axes for place in axis)
        for length in shape:
            axis: list[Place] = []
            while length > 1:
                place = left.popleft()
                if length % digits[place].count:
                    parts = digits.pop(place).split(length)
                    if parts is None:
                        return None
                    left.appendleft((*place, 1))
                    place = (*place, 0)
                    digits |= {place: parts[0], left[0]: parts[1]}
                axis.append(place)
                length //= digits[place].count
            axes.append(tuple(axis))
        return Digits(self.shape, digits, tuple(axes))

    def _expanded(self, shape: Shape) -> Digits:
        grown = self
        for axis, (before, after) in enumerate(zip(self.result, shape, strict=True)):
            grown = grown if before == after else grown._repeated(axis, after)
        return grown

    def _repeated(self, axis: int, times: int) -> Digits:
        place = (-1 - len(self.digits),)  # the table only grows, so the place is new
        axes = (*self.axes[:axis], (place,), *self.axes[axis + 1 :])
        return Digits(self.shape, self.digits | {place: Digit(0, range(times))}, axes)

    def _sliced(self, axis: int, chosen: range) -> Digits | None:
        """A slice of several digits is one of the outermost, or lies within one value of it."""
        group, table = self.axes[axis], self
        while len(group) > 1 and chosen:
            inner = math.prod(self.digits[place].count for place in group[1:])
            if chosen.step == 1 and chosen.start % inner == 0 and chosen.stop % inner == 0:
                chosen = range(chosen.start // inner, chosen.stop // inner)
                return table._picked(axis, group[:1], chosen)
            first = chosen[0] // inner
            if first != chosen[-1] // inner:
                return None
            narrowed = table._picked(axis, group[:1], [first])
            assert narrowed is not None
            group, table = group[1:], narrowed
            chosen = range(chosen[0] - first * inner, chosen[-1] + 1 - first * inner, chosen.step)
        return table._picked(axis, group, chosen)

    def _picked(self, axis: int, group: tuple[Place, ...], indices: Sequence[int]) -> Digits | None:
        """Indices of the one digit of `group`, which belongs to `axis`; no digit is an axis of length 1."""
        if len(group) > 1 or not indices:
            return None
        if not group:
            return self if len(indices) == 1 else self._repeated(axis, len(indices))
        digit = self.digits[group[0]].picked(indices)
        kept = tuple(place for place in self.axes[axis] if place != group[0] or digit.count > 1)
        axes = (*self.axes[:axis], kept, *self.axes[axis + 1 :])
        return Digits(self.shape, self.digits | {group[0]: digit}, axes)
