"""Where a long drawing is cut into columns: the cheapest cuts that leave columns of about one height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

TALLEST = 11.0
"""Drawings higher than this, in inches, are cut."""

UNEVEN, SLACK = 20.0, 1.35
"""The cost of a column of twice, or none of, the wanted height; the largest height in terms of the wanted one."""


def guess(size: tuple[float, float]) -> int:
    """In how many columns a drawing of this width and height would be about as wide as high; at least 2."""
    return max(2, round(math.sqrt(size[1] / size[0])))


def cut(rows: Sequence[float], costs: Sequence[float], columns: int) -> tuple[range, ...]:
    """Consecutive ranges of rows, about `columns` many; `costs[i]` is what a cut below row i costs."""
    if columns == 1:
        return (range(len(rows)),)
    below = [0.0, *accumulate(rows)]
    target = below[-1] / columns
    best, start = [0.0, *(math.inf for _ in rows)], [0 for _ in below]
    for end in range(1, len(below)):
        for begin in range(end - 1, -1, -1):
            height = (below[end] - below[begin]) / target
            if height > SLACK and end - begin > 1:
                break
            cost = best[begin] + _unevenness(height, end == len(rows)) + (costs[end - 1] if end < len(rows) else 0.0)
            if cost < best[end]:
                best[end], start[end] = cost, begin
    ends = [len(rows)]
    while ends[-1]:
        ends.append(start[ends[-1]])
    return tuple(range(a, b) for a, b in zip(ends[:0:-1], ends[-2::-1], strict=True))


def _unevenness(height: float, last: bool) -> float:
    """The last column may be short."""
    return (UNEVEN / 4 if last and height < 1 else UNEVEN) * (height - 1) ** 2
