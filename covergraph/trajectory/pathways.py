"""Condition (b) of Theorem L3: is every neural pathway of x active at some training point?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from covergraph.trajectory.patterns import Patterns

WORK = 20_000
"""Sets of training points that one x may need; past it nothing is said."""


def pathways_covered(points: Patterns, at: Patterns) -> list[bool | None]:
    """Of each x, whether s(x) <= Σ_i s(x_i), entry by entry; None where it was not settled.

    The entries are paths, one neuron a layer. Layer by layer, the sets of points at which a path so far is active; a
    set that holds a point with all that x has from there on covers every continuation, and so does each set above one
    that covers. A path whose set is empty is active at no training point.
    """
    rows, positions = at.distinct()
    trained = points[points.distinct()[0]]
    found = [_covered(trained, [layer[row] for layer in at.layers]) for row in rows]
    return [found[k] for k in positions]


def _covered(points: Patterns, active: Sequence[NDArray[np.bool_]]) -> bool | None:
    """The same of one x, `active` (n_l,) its layers."""
    if not all(layer.any() for layer in active):
        return True  # no pathway is active
    inside = [layer[:, on] for layer, on in zip(points.layers, active, strict=True)]  # (m, active neurons)
    whole = np.ones(len(points), dtype=bool)
    complete = [0] * len(inside)  # points with all of x from layer l + 1 on, as bits
    for depth in range(len(inside) - 1, -1, -1):
        complete[depth] = _bits(whole)
        whole = whole & inside[depth].all(axis=1)
    if whole.any():
        return True
    neurons_of = [{_bits(column) for column in layer.T} for layer in inside]
    rarest = (1 << len(points)) - 1
    for neurons in neurons_of:  # the path that is active at fewest points, chosen greedily, often settles it
        rarest = min((rarest & n for n in neurons), key=int.bit_count)
    if not rarest:
        return False
    sets = {(1 << len(points)) - 1}
    for neurons, settled in zip(neurons_of, complete, strict=True):
        if len(sets) * len(neurons) > WORK:
            return None
        sets = {s & n for s in sets for n in neurons}
        if 0 in sets:
            return False
        sets = _minimal({s for s in sets if not s & settled})
    return not sets


def _minimal(sets: set[int]) -> set[int]:
    """The sets that hold no other; all of them where there are too many to compare."""
    if len(sets) ** 2 > WORK * 10:
        return sets
    return {s for s in sets if not any(t != s and t & s == t for t in sets)}


def _bits(members: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(members, bitorder="little").tobytes(), "little")
