"""A table of digits as few steps: view, slices, permute, expand, view, each only where it does something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

from covergraph.graph.rearrange import Expand, Permute, Pick, RearrangeStep, Shape, Slice, Steps, View
from covergraph.passes.digits import Digit, Digits, Place, regular

Item: TypeAlias = Place | None
"""What an axis holds on the way: a digit, a repetition to come (of length 1 so far), or nothing (length 1)."""


def spell(table: Digits) -> Steps:
    """The shortest chain of that form that makes the result of `table` from its argument."""
    found = [
        steps
        for by_argument, by_result in product((True, False), repeat=2)
        for writer in [_Writer(merge(table, by_argument, by_result), table.result)]
        for first, last in product((False, True), repeat=2)
        if (steps := writer.steps(first, last)) is not None
    ]
    return min(found, key=len)


def merge(table: Digits, by_argument: bool, by_result: bool) -> Digits:
    """Neighbors among the argument's digits, and among repetitions, made one where the result reads them as one.

    Digits of two axes of the argument (`by_argument`), of two axes of the result (`by_result`) are left apart. The
    axes of the merged table are those of a view of the result.
    """
    digits, axes = dict(table.digits), [list(axis) for axis in table.axes]
    read = sorted(place for place in digits if place[0] >= 0)
    for places in (read, [place for axis in axes for place in axis if place[0] < 0]):
        for left, right in reversed(list(pairwise(places))):
            apart = by_argument and left[0] >= 0 and left[0] != right[0]
            one = None if apart else _one(digits[left], digits[right], _adjacent(axes, left, right, by_result))
            if one is not None:
                digits[left] = one
                del digits[right]
                _stand(axes, left, right)
    return Digits(table.shape, digits, tuple(map(tuple, axes)))


def _adjacent(axes: Sequence[Sequence[Place]], left: Place, right: Place, within: bool) -> bool:
    """True if `right` follows `left` in the result, `within` one axis."""
    rows = axes if within else [[place for axis in axes for place in axis]]
    return any(pair == (left, right) for row in rows for pair in pairwise(row))


def _one(outer: Digit, inner: Digit, adjacent: bool) -> Digit | None:
    """One digit for two neighbors of the argument, None if the result does not read them as one."""
    if outer.count == 1 or inner.count == 1:
        return Digit(outer.size * inner.size, regular(i * inner.size + j for i in outer.entries for j in inner.entries))
    if not adjacent:
        return None
    if not outer.size:
        return Digit(0, range(outer.count * inner.count))
    values = outer.entries
    if not inner.whole or not isinstance(values, range) or values.step != 1:
        return None
    return Digit(outer.size * inner.size, range(values.start * inner.size, values.stop * inner.size))


def _stand(axes: list[list[Place]], left: Place, right: Place) -> None:
    """`left` stands for both; a digit that is read at one entry stood nowhere."""
    for axis in axes:
        if right in axis:
            axis[axis.index(right)] = left
    places = [(axis, i) for axis in axes for i, place in enumerate(axis) if place == left]
    for axis, i in places[1:]:
        del axis[i]


@dataclass(frozen=True)
class _Writer:
    """A merged table, and the shape that the result has in the end."""

    table: Digits
    result: Shape

    def steps(self, first: bool, last: bool) -> Steps | None:
        """The chain, with or without a view at the beginning and at the end; None if it needs one."""
        target = self._flat() if last else self._exact()
        if target is None:
            return None
        start = self._opened(target) if first else self._argument()
        if start is None:
            return None
        target = self._padded(start, target) if last else target
        before, after = ([item if self._moves(item) else None for item in items] for items in (start, target))
        if before.count(None) != after.count(None):
            return None
        found: list[RearrangeStep] = [View(tuple(self._size(item) for item in start))] if first else []
        found += self._slices(start)
        order, expanded = _order(before, after), tuple(self._count(item) for item in target)
        found += [Permute(order)] * (order != tuple(range(len(order))))
        found += [Expand(expanded)] * (expanded != tuple(self._count(item) for item in after))
        return tuple(found + [View(self.result)] * (expanded != self.result))

    def _moves(self, item: Item) -> bool:
        """True for a digit that is read at several entries."""
        return item is not None and item[0] >= 0 and self._count(item) > 1

    def _size(self, item: Item) -> int:
        return 1 if item is None or item[0] < 0 else self.table.digits[item].size

    def _count(self, item: Item) -> int:
        return 1 if item is None else self.table.digits[item].count

    def _read(self) -> list[Item]:
        places: list[Item] = []
        places += sorted(place for place in self.table.digits if place[0] >= 0)
        return places

    def _flat(self) -> list[Item]:
        return [place for axis in self.table.axes for place in axis]

    def _exact(self) -> list[Item] | None:
        """What the axes of the result hold; None if one of them holds several digits."""
        whole = tuple(math.prod(map(self._count, axis)) for axis in self.table.axes) == self.result
        one = all(len(axis) < 2 for axis in self.table.axes)
        return [axis[0] if axis else None for axis in self.table.axes] if whole and one else None

    def _argument(self) -> list[Item] | None:
        """What the axes of the argument hold; None if one of them holds several digits."""
        read = self._read()
        if [n for n in self.table.shape if n > 1] != [self._size(place) for place in read]:
            return None
        rest = iter(read)
        return [next(rest) if n > 1 else None for n in self.table.shape]

    def _opened(self, target: list[Item]) -> list[Item]:
        """A view of the argument: its digits in order, and axes of length 1 for the target's, in place if possible."""
        read = self._read()
        if [item for item in target if self._moves(item)] == read:
            return target
        single = sum(not self._moves(place) for place in read)
        return [*[item for item in target if not self._moves(item)][single:], *read]

    def _padded(self, start: list[Item], target: list[Item]) -> list[Item]:
        """The target with the start's surplus axes of length 1, which the last view removes."""
        if [item for item in start if self._moves(item)] == target:
            return [item if self._moves(item) else None for item in start]
        spare = sum(not self._moves(item) for item in start) - sum(not self._moves(item) for item in target)
        return [None] * spare + target

    def _slices(self, start: Sequence[Item]) -> list[RearrangeStep]:
        found: list[RearrangeStep] = []
        for axis, item in enumerate(start):
            if item is None or item[0] < 0 or self.table.digits[item].whole:
                continue
            values = self.table.digits[item].entries
            if isinstance(values, range) and values.step > 0:
                found.append(Slice(axis, values[0], values[-1] + 1, values.step if len(values) > 1 else 1))
            else:
                found.append(Pick(axis, tuple(values)))
        return found


def _order(before: Sequence[Item], after: Sequence[Item]) -> tuple[int, ...]:
    """Where each item of `after` stands in `before`; axes of length 1 keep their order."""
    free = iter([i for i, item in enumerate(before) if item is None])
    position = {item: i for i, item in enumerate(before)}
    return tuple(next(free) if item is None else position[item] for item in after)
