"""Linear index maps against numpy: values, shapes, and the map written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from operation_cases import random
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
    View,
    index_map,
    result_shape,
    run,
)

Positions = NDArray[np.int64]
Draw = Callable[[st.SearchStrategy[Any]], Any]
LARGEST = 60


def moved(step: RearrangeStep, sources: Positions) -> Positions:
    """The positions of the sources after one step, by numpy; -1 stands for a zero."""
    match step:
        case View(shape):
            return sources.reshape(shape)
        case Permute(order):
            return np.transpose(sources, order)
        case Expand(shape):
            return np.broadcast_to(sources, shape)
        case Slice(axis, start, stop, stride):
            return sources[(slice(None),) * axis + (slice(start, stop, stride),)]
        case Pick(axis, indices):
            return np.stack([np.take(sources, i, axis) for i in indices], axis)
        case Pad(axis, before, after):
            widths = [(before, after) if i == axis else (0, 0) for i in range(sources.ndim)]
            return np.pad(sources, widths, constant_values=-1)
        case Join(axis, branches):
            return np.concatenate([all_moved(branch, sources) for branch in branches], axis)


def all_moved(steps: tuple[RearrangeStep, ...], sources: Positions) -> Positions:
    for step in steps:
        sources = moved(step, sources)
    return sources


def views(draw: Draw, shape: Shape) -> View:
    size = math.prod(shape)
    first = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    return View(draw(st.sampled_from([(size,), (first, size // first), (first, 1, size // first)])))


def slices(draw: Draw, shape: Shape, axis: int) -> Slice:
    start = draw(st.integers(0, shape[axis] - 1))
    return Slice(axis, start, draw(st.integers(start + 1, shape[axis])), draw(st.integers(1, 3)))


def joins(draw: Draw, shape: Shape, axis: int) -> Join:
    """Branches of several lengths along one axis: the argument, slices of it, and padded ones."""
    ways = [
        lambda: (),
        lambda: (slices(draw, shape, axis),),
        lambda: (Pad(axis, 1, 0), Permute(tuple(range(len(shape))))),
    ]
    return Join(axis, tuple(draw(st.sampled_from(ways))() for _ in range(draw(st.integers(1, 3)))))


def steps_on(draw: Draw, shape: Shape) -> RearrangeStep:
    """Any step that fits the shape."""
    if not shape:
        return View((1,))
    axis = draw(st.integers(0, len(shape) - 1))
    match draw(st.sampled_from(["view", "permute", "expand", "slice", "pick", "pad", "join"])):
        case "view":
            return views(draw, shape)
        case "permute":
            return Permute(tuple(draw(st.permutations(range(len(shape))))))
        case "expand":
            return Expand(tuple(draw(st.integers(1, 3)) if n == 1 else n for n in shape))
        case "slice":
            return slices(draw, shape, axis)
        case "pick":
            return Pick(axis, tuple(draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))))
        case "pad":
            return Pad(axis, draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        case _:
            return joins(draw, shape, axis)


@st.composite
def chains(draw: Draw) -> tuple[Shape, tuple[RearrangeStep, ...]]:
    shape = draw(st.sampled_from([(4,), (2, 3), (1, 3), (2, 1, 3), (2, 2, 3), ()]))
    sources, steps = np.arange(math.prod(shape)).reshape(shape), []
    for _ in range(draw(st.integers(1, 6))):
        step = steps_on(draw, sources.shape)
        after = moved(step, sources)
        if after.size <= LARGEST:
            steps.append(step)
            sources = after
    return shape, tuple(steps)


@given(chains())
@examples(300)
def test_maps_are_those_of_numpy(chain: tuple[Shape, tuple[RearrangeStep, ...]]) -> None:
    shape, steps = chain
    expected = all_moved(steps, np.arange(math.prod(shape)).reshape(shape))
    assert result_shape(steps, shape) == expected.shape
    assert index_map(steps, shape).tolist() == expected.flatten().tolist()
    x = random(2, *shape)
    found = run(steps, x)
    assert found.shape == (2, *expected.shape)
    for sample, value in zip(x.numpy(), found.numpy(), strict=True):
        assert np.array_equal(value, np.where(expected < 0, 0.0, sample.reshape(-1)[expected]))


@given(chains())
@examples(50)
def test_a_join_of_one_branch_is_the_branch(chain: tuple[Shape, tuple[RearrangeStep, ...]]) -> None:
    shape, steps = chain
    if result_shape(steps, shape):
        assert torch.equal(index_map((Join(0, (steps,)),), shape), index_map(steps, shape))


@pytest.mark.parametrize(
    ("steps", "shape", "expected"),
    [
        ((), (2, 2), [0, 1, 2, 3]),
        ((Permute((1, 0)),), (2, 3), [0, 3, 1, 4, 2, 5]),
        ((Expand((2, 2)),), (1, 2), [0, 1, 0, 1]),
        ((Slice(0, 1, 6, 2),), (6,), [1, 3, 5]),
        ((Pick(1, (1, 1, 0)),), (2, 2), [1, 1, 0, 3, 3, 2]),
        ((Pad(1, 1, 0),), (2, 2), [-1, 0, 1, -1, 2, 3]),
        ((Pad(0, 0, 1), Slice(0, 1, 3)), (2, 2), [2, 3, -1, -1]),
        ((Join(0, ((), (Slice(0, 0, 1),))),), (2, 2), [0, 1, 2, 3, 0, 1]),
        ((Join(1, ((Permute((1, 0)),), (Pad(1, 1, 0),))),), (2, 2), [0, 2, -1, 0, 1, 1, 3, -1, 2, 3]),
    ],
)
def test_maps_by_hand(steps: tuple[RearrangeStep, ...], shape: Shape, expected: list[int]) -> None:
    assert index_map(steps, shape).tolist() == expected


def test_nothing_can_be_picked() -> None:
    assert result_shape((Pick(0, ()),), (2, 3)) == (0, 3)
    assert run((Pick(0, ()),), random(4, 2, 3)).shape == (4, 0, 3)


def test_large_maps_are_not_written_out_for_their_shape() -> None:
    """The shape of a map of 10^12 entries takes no memory."""
    assert result_shape((Expand((10**6, 10**6)), View((10**12,))), (1, 1)) == (10**12,)
