"""Index maps written as few steps: what every pass that makes or joins a `Rearrange` ends with."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from covergraph.graph.rearrange import Join, Pad, RearrangeStep, Shape, Slice, Steps, View, result_shape
from covergraph.passes.digits import Digits
from covergraph.passes.joining import joined
from covergraph.passes.spelling import merge, spell


@lru_cache(maxsize=4096)
def simplify(steps: Steps, shape: Shape) -> Steps:
    """Few steps with the same `index_map` on an argument of `shape`; () for the identity.

    Views, permutations, expansions and slices in a row become one short chain; padding and joins end such a row.
    """
    if 0 in shape:
        return steps
    found: list[RearrangeStep] = []
    table = Digits.of(shape)
    pending = [*reversed(steps)]
    while pending:
        step = pending.pop()
        parts, longer = _parts(step, table.result), _then(table, step)
        if parts != (step,):
            pending += reversed(parts)
        elif longer is not None:
            table = longer
        elif table != Digits.of(table.result):
            found += spell(table)
            table = Digits.of(table.result)
            pending.append(step)
        else:  # no table takes the step
            after = result_shape((step,), table.result)
            found.append(step)
            if 0 in after:
                return (*found, *reversed(pending))
            table = Digits.of(after)
    return _settled((*found, *spell(table)), steps, shape)


def _settled(found: Steps, steps: Steps, shape: Shape) -> Steps:
    """`found` in its turn simplified, as long as that makes it shorter."""
    tidied = _tidy_padding(found, shape)
    return simplify(tidied, shape) if tidied != found or len(tidied) < len(steps) else found


def _parts(step: RearrangeStep, shape: Shape) -> Steps:
    """A join written shorter where it can be; any other step itself."""
    if not isinstance(step, Join):
        return (step,)
    return joined(step.axis, tuple(simplify(branch, shape) for branch in step.branches), shape)


def _then(table: Digits, step: RearrangeStep) -> Digits | None:
    """The table followed by a step; a view may need the digits of a flat list."""
    longer = table.then(step)
    return merge(table, False, False).then(step) if longer is None and isinstance(step, View) else longer


def _tidy_padding(steps: Steps, shape: Shape) -> Steps:
    """Paddings of nothing dropped, of several axes in the order of these, of one axis joined; slices before them."""
    kept = tuple(step for step in steps if not (isinstance(step, Pad) and step.before == step.after == 0))
    for i, (left, right) in enumerate(pairwise(kept)):
        if isinstance(left, Pad):
            swapped = _swapped(left, right, result_shape(kept[:i], shape)[left.axis])
            if swapped is not None:
                return _tidy_padding((*kept[:i], *swapped, *kept[i + 2 :]), shape)
    return kept


def _swapped(pad: Pad, step: RearrangeStep, length: int) -> Steps | None:
    """What a padding of an axis of `length` and the next step become; None if they stay."""
    match step:
        case Pad(axis, before, after) if axis == pad.axis and min(before, after, pad.before, pad.after) >= 0:
            return (Pad(axis, pad.before + before, pad.after + after),)
        case Pad(axis) if axis < pad.axis:
            return (step, pad)
        case Slice(axis) if axis != pad.axis:
            return (step, pad)
        case Slice(axis, start, stop, 1) if min(pad.before, pad.after) >= 0:
            first, last = max(start - pad.before, 0), min(stop - pad.before, length)
            zeros = max(pad.before - start, 0), max(stop - pad.before - length, 0)
            return (Slice(axis, first, last), Pad(axis, *zeros)) if first < last else None
        case _:
            return None
