"""Maps of one argument side by side: `Join`, and what is shorter where the branches have something in common."""

from __future__ import annotations

from itertools import chain

from covergraph.graph.rearrange import Join, Permute, Pick, Shape, Slice, Steps

LONGEST_PICK = 4096
"""Slices side by side become one list of entries up to this length."""


def joined(axis: int, branches: tuple[Steps, ...], shape: Shape) -> Steps:
    """Steps that do what `Join(axis, branches)` does on `shape`: that join, unless it can be written shorter."""
    flat = tuple(chain.from_iterable(_opened(axis, branch) for branch in branches))
    if len(flat) == 1:
        return flat[0]
    shorter = _common_start(axis, flat) or _entries(axis, flat, shape) or _common_permutation(axis, flat)
    return shorter or (Join(axis, flat),)


def _opened(axis: int, branch: Steps) -> tuple[Steps, ...]:
    """The branches of a branch that ends with a join along the same axis."""
    if branch and isinstance(branch[-1], Join) and branch[-1].axis == axis:
        return tuple(branch[:-1] + inner for inner in branch[-1].branches)
    return (branch,)


def _common_start(axis: int, branches: tuple[Steps, ...]) -> Steps:
    """The first steps that all branches share, once, before the join; () if there are none."""
    count = 0
    while all(len(b) > count and b[count] == branches[0][count] for b in branches):
        count += 1
    start = branches[0][:count]
    return (*start, Join(axis, tuple(branch[count:] for branch in branches))) if count else ()


def _entries(axis: int, branches: tuple[Steps, ...], shape: Shape) -> Steps:
    """Slices of the joined axis, as the list of their entries; () if there are other branches."""
    if len(shape) <= axis or not all(_along(axis, branch) for branch in branches):
        return ()
    entries = [i for branch in branches for i in _chosen(branch, shape[axis])]
    return (Pick(axis, tuple(entries)),) if len(entries) <= LONGEST_PICK else ()


def _along(axis: int, branch: Steps) -> bool:
    return not branch or (len(branch) == 1 and isinstance(branch[0], (Slice, Pick)) and branch[0].axis == axis)


def _chosen(branch: Steps, length: int) -> tuple[int, ...]:
    match branch:
        case (Slice(_, start, stop, stride),):
            return tuple(range(start, stop, stride))
        case (Pick(_, indices),):
            return indices
        case _:
            return tuple(range(length))


def _common_permutation(axis: int, branches: tuple[Steps, ...]) -> Steps:
    """The permutation that ends all branches, once, after the join; () if they end otherwise."""
    last = branches[0][-1] if branches[0] else None
    if not isinstance(last, Permute) or any(branch[-1:] != (last,) for branch in branches):
        return ()
    return (Join(last.order[axis], tuple(branch[:-1] for branch in branches)), last)
