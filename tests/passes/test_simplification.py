"""Index maps in few steps: the same map always, and the shortest form at named chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import examples

from covergraph.graph.rearrange import (
    Expand,
    Join,
    Pad,
    Permute,
    Pick,
    RearrangeStep,
    Shape,
    Slice,
    Steps,
    View,
    index_map,
    result_shape,
)
from covergraph.passes.simplification import simplify

Draw = Callable[[st.SearchStrategy[Any]], Any]


def some_view(draw: Draw, shape: Shape) -> View:
    size, sides = math.prod(shape), []
    while size > 1:
        sides.append(draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0])))
        size //= sides[-1]
    for _ in range(draw(st.integers(0, 2))):
        sides.insert(draw(st.integers(0, len(sides))), 1)
    return View(tuple(sides))


def some_slice(draw: Draw, axis: int, length: int) -> Slice:
    start = draw(st.integers(0, length - 1))
    return Slice(axis, start, draw(st.integers(start + 1, length)), draw(st.sampled_from([1, 1, 2, 3])))


def some_step(draw: Draw, shape: Shape, depth: int) -> RearrangeStep:
    kinds = ["view", "permute", "slice", "pick", "expand", "pad"] + ["join"] * (depth < 2)
    kind = draw(st.sampled_from(kinds)) if shape else "view"
    axis = draw(st.integers(0, max(len(shape) - 1, 0)))
    match kind:
        case "permute":
            return Permute(tuple(draw(st.permutations(range(len(shape))))))
        case "slice":
            return some_slice(draw, axis, shape[axis])
        case "pick":
            return Pick(axis, tuple(draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))))
        case "expand":
            return Expand(tuple(draw(st.integers(1, 3)) if n == 1 else n for n in shape))
        case "pad":
            return Pad(axis, draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        case "join":
            return some_join(draw, axis, shape, depth)
        case _:
            return some_view(draw, shape)


def some_join(draw: Draw, axis: int, shape: Shape, depth: int) -> Join:
    """Slices of the axis, or one chain several times with or without a last slice."""
    if draw(st.booleans()):
        return Join(axis, tuple((some_slice(draw, axis, shape[axis]),) for _ in range(draw(st.integers(1, 3)))))
    chain = some_chain(draw, shape, 2, depth + 1)
    made = result_shape(chain, shape)
    along = draw(st.integers(0, max(len(made) - 1, 0)))
    if not made:
        return Join(0, ((*chain, View((1,))),))
    ends: list[Steps] = [(), (some_slice(draw, along, made[along]),)]
    return Join(along, tuple(chain + draw(st.sampled_from(ends)) for _ in range(draw(st.integers(1, 3)))))


def some_chain(draw: Draw, shape: Shape, length: int, depth: int = 0) -> Steps:
    steps: list[RearrangeStep] = []
    for _ in range(draw(st.integers(0, length))):
        if math.prod(shape) <= 500:
            steps.append(some_step(draw, shape, depth))
            shape = result_shape(steps[-1:], shape)
    return tuple(steps)


@st.composite
def chains(draw: Draw) -> tuple[Shape, Steps]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), max_size=3)))
    return shape, some_chain(draw, shape, 7)


@examples(300)
@given(chains())
def test_the_map_stays(case: tuple[Shape, Steps]) -> None:
    shape, steps = case
    short = simplify(steps, shape)
    assert result_shape(short, shape) == result_shape(steps, shape)
    assert torch.equal(index_map(short, shape), index_map(steps, shape))


@examples(100)
@given(st.lists(st.permutations(range(3)), max_size=4))
def test_permutations_undone_one_by_one_are_nothing(orders: list[list[int]]) -> None:
    """With a view as a flat list in the middle, so that no two permutations meet."""
    shape = (2, 3, 4)
    there: Steps = tuple(Permute(tuple(order)) for order in orders)
    back: Steps = tuple(Permute(tuple(order.index(i) for i in range(3))) for order in reversed(orders))
    assert simplify((*there, View((24,)), View(result_shape(there, shape)), *back), shape) == ()


CASES: list[tuple[str, Shape, Steps, Steps]] = [
    ("nothing", (2, 3), (), ()),
    ("two views", (2, 3), (View((6,)), View((3, 2))), (View((3, 2)),)),
    ("a view back", (2, 3), (View((6,)), View((2, 3))), ()),
    ("two permutations", (2, 3, 4), (Permute((1, 2, 0)), Permute((1, 0, 2))), (Permute((2, 1, 0)),)),
    ("unit axes moved", (1, 3), (Permute((1, 0)),), (Permute((1, 0)),)),
    ("unit axes out and in", (1, 3, 2), (View((3, 2)), Permute((1, 0)), View((2, 3, 1))), (Permute((2, 1, 0)),)),
    ("slice of a slice", (9,), (Slice(0, 1, 9), Slice(0, 2, 6, 2)), (Slice(0, 3, 6, 2),)),
    ("slice of all", (9,), (Slice(0, 0, 9),), ()),
    ("pick of all", (3,), (Pick(0, (0, 1, 2)),), ()),
    ("pick of a pick", (3,), (Pick(0, (2, 1, 0)), Pick(0, (2, 1, 0))), ()),
    ("expansion of nothing", (3, 1), (Expand((3, 1)),), ()),
    ("padding by nothing", (3,), (Pad(0, 0, 0),), ()),
    ("padding cut off", (3,), (Pad(0, 2, 2), Slice(0, 2, 5)), ()),
    ("padding half cut off", (3,), (Pad(0, 2, 2), Slice(0, 1, 4)), (Slice(0, 0, 2), Pad(0, 1, 0))),
    ("paddings joined", (2, 3), (Pad(1, 1, 0), Pad(0, 1, 1), Pad(1, 0, 2)), (Pad(0, 1, 1), Pad(1, 1, 2))),
    ("windows and back", (4, 6, 2), (View((2, 2, 2, 3, 2)), Permute((0, 2, 1, 3, 4)), View((4, 6, 2)),
        View((2, 2, 2, 3, 2)), Permute((0, 2, 1, 3, 4)), View((4, 6, 2))), ()),
    ("one third of the heads", (5, 12), (View((5, 3, 2, 2)), Permute((1, 2, 0, 3)), Slice(0, 2, 3), View((2, 5, 2))),
        (View((5, 6, 2)), Slice(1, 4, 6), Permute((1, 0, 2)))),
    ("heads repeated", (2, 5, 3), (View((2, 1, 5, 3)), Expand((2, 4, 5, 3)), View((8, 5, 3))),
        (View((2, 1, 5, 3)), Expand((2, 4, 5, 3)), View((8, 5, 3)))),
    ("a roll", (5,), (Join(0, ((Slice(0, 3, 5),), (Slice(0, 0, 3),))),), (Pick(0, (3, 4, 0, 1, 2)),)),
    ("a roll and back", (5,), (Pick(0, (3, 4, 0, 1, 2)), Join(0, ((Slice(0, 2, 5),), (Slice(0, 0, 2),)))), ()),
    ("un-stacked and stacked elsewhere", (3, 4),
        (Join(1, tuple((Slice(0, i, i + 1), View((4, 1))) for i in range(3))),),
        (Permute((1, 0)),)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "steps", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_short_form(shape: Shape, steps: Steps, expected: Steps) -> None:
    assert simplify(steps, shape) == expected


FOUR = [(2, 2), (4, 1), (1, 2, 2)]


@pytest.mark.parametrize("length", range(4, 9))
def test_slices_seen_as_several_axes(length: int) -> None:
    """Every slice of four entries, aligned or not, in every view, alone and beside a second axis."""
    for start in range(length - 3):
        for shape in FOUR:
            order = Permute(tuple(reversed(range(len(shape)))))
            alone: Steps = (Slice(0, start, start + 4), View(shape), order)
            assert torch.equal(index_map(simplify(alone, (length,)), (length,)), index_map(alone, (length,)))
            beside: Steps = (Slice(0, start, start + 4), View((*shape, 2)), Permute((*order.order, len(shape))))
            assert torch.equal(index_map(simplify(beside, (length, 2)), (length, 2)), index_map(beside, (length, 2)))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_other_row_in_one_list(stride: int) -> None:
    """Rows 1, 1 + stride, ... of two entries each are no evenly spaced slice of the list of all."""
    steps: Steps = (Slice(0, 1, 6, stride), View((result_shape((Slice(0, 1, 6, stride),), (6, 2))[0] * 2,)))
    expected = [2 * row + column for row in range(1, 6, stride) for column in (0, 1)]
    assert index_map(simplify(steps, (6, 2)), (6, 2)).tolist() == expected


def test_empty_tensors_are_left_alone() -> None:
    steps = (View((3, 0)), Permute((1, 0)))
    assert simplify(steps, (0, 3)) == steps


def test_a_slice_may_be_empty() -> None:
    steps = (Permute((1, 0)), Slice(0, 0, 0), View((0,)))
    assert torch.equal(index_map(simplify(steps, (2, 3)), (2, 3)), torch.empty(0, dtype=torch.long))
