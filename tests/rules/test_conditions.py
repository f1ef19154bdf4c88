"""The quantities q_c by brute force: how far entries, windows and groups are from kinks, ties and poles (Lemma 10)."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from operation_cases import random
from operation_cases.curved import CURVED
from strategies import examples
from torch import Tensor
from torch.nn import functional as F

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.function_rows import UNARY
from covergraph.graph.functions import TANH, affine
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.rules.conditions import condition
from covergraph.rules.norms import norm_bound

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def value_of(operation: op.Operation, shape: tuple[int, ...], *slots: Tensor) -> Tensor:
    node = Node("v", operation, tuple(f"u{i}" for i in range(len(slots))), shape)
    return condition_value(operation, node, slots, Context({}))


def windows(pool: op.MaxPool, image: Tensor, counts: tuple[int, ...]) -> list[list[float]]:
    """The entries of every window of one channel, without padding, by loops."""
    found = []
    for place in product(*map(range, counts)):
        entries = []
        for tap in product(*map(range, pool.kernel)):
            sides = zip(place, pool.stride, pool.padding, tap, pool.dilation, strict=True)
            at = tuple(o * s - p + t * d for o, s, p, t, d in sides)
            if all(0 <= i < n for i, n in zip(at, image.shape, strict=True)):
                entries.append(float(image[at]))
        found.append(sorted(entries, reverse=True))
    return found


def by_loops(pool: op.MaxPool, image: Tensor, counts: tuple[int, ...]) -> float:
    """The smallest gap of a window, or distance of its rectified maximum to a change, of one channel."""
    smallest = math.inf
    for entries in windows(pool, image, counts):
        if not entries:
            continue
        gap = entries[0] - entries[1] if len(entries) > 1 else math.inf
        largest = entries[0]
        smallest = min(smallest, max(-largest, min(largest, gap)) if pool.rectify else gap)
    return smallest


@st.composite
def pools(draw: st.DrawFn) -> tuple[op.MaxPool, tuple[int, ...]]:
    rank = draw(st.integers(1, 3))

    def sides(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation, more = sides(1, 3), sides(1, 3), sides(1, 2), sides(0, 3 if rank < 3 else 1)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(d * (k - 1) + 1 + m for d, k, m in zip(dilation, kernel, more, strict=True))
    return op.MaxPool(kernel, stride, padding, dilation, draw(st.booleans()), draw(st.booleans())), size


@examples(150)
@given(pools(), st.lists(st.integers(1, 2), max_size=2), st.integers(0, 10**6))
def test_windows_of_max_pools(pool: tuple[op.MaxPool, tuple[int, ...]], positions: list[int], seed: int) -> None:
    """With strides, padding, dilation, windows that leave the image, and positions before the channels."""
    operation, size = pool
    rank = len(size)
    x = random(2, *positions, 2, *size, seed=seed)
    sides = (operation.stride, operation.padding, operation.dilation, operation.ceil_mode)
    after = POOLS[rank](x.reshape(-1, 2, *size), operation.kernel, *sides)
    found = value_of(operation, (*positions, 2, *after.shape[2:]), x)
    expected = [min(by_loops(operation, image, tuple(after.shape[2:])) for image in s.reshape(-1, *size)) for s in x]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_padding_and_single_entries_never_tie() -> None:
    """A window of one entry and padding keeps away from nothing; rectified, from 0 alone."""
    x = torch.tensor([[[0.25, -3.0, 5.0]]]).double()
    pool = op.MaxPool((2,), (2,), (1,), (1,))
    assert value_of(pool, (1, 2), x).tolist() == [8.0]  # windows (pad, 0.25) and (-3, 5)
    assert value_of(op.MaxPool((2,), (2,), (1,), (1,), rectify=True), (1, 2), x).tolist() == [0.25]
    assert value_of(pool, (1, 1), x[..., :1]).tolist() == [math.inf]


@pytest.mark.parametrize("rectify", [False, True])
def test_windows_of_padding_alone_never_change(rectify: bool) -> None:
    """The taps of the first window lie at -1 and 2, on either side of the two entries."""
    pool = op.MaxPool((2,), (1,), (1,), (3,), rectify=rectify)
    x = torch.tensor([[[0.5, 3.0]]]).double()
    assert F.max_pool1d(x, 2, 1, 1, 3).tolist() == [[[-math.inf]]]
    assert value_of(pool, (1, 1), x).tolist() == [math.inf]


def test_ties_and_zeros_give_zero() -> None:
    tie = torch.tensor([[[1.0, 1.0, -2.0, -2.0]]]).double()
    pool = op.MaxPool((2,), (2,), (0,), (1,))
    assert value_of(pool, (1, 2), tie).tolist() == [0.0]
    assert value_of(pool, (1, 2), tie - 3).tolist() == [0.0]
    # Below 0 a tie does not matter to the rectified maximum: it stays 0.
    assert value_of(op.MaxPool((2,), (2,), (0,), (1,), rectify=True), (1, 2), tie - 3).tolist() == [2.0]
    assert value_of(op.Maximum((1,)), (1,), tie).tolist() == [0.0]
    assert value_of(op.VectorNorm((1,)), (1,), 0 * tie).tolist() == [0.0]
    assert value_of(op.Divide(), (1, 4), tie, 0 * tie).tolist() == [0.0]
    assert value_of(op.ParametricReLU(), (1, 4), tie * torch.tensor([1, 0, 1, 1])).tolist() == [0.0]
    assert value_of(op.Elementwise(UNARY["relu"]), (1, 4), tie * torch.tensor([1, 0, 1, 1])).tolist() == [0.0]


@examples(60)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.sets(st.integers(0, 2), min_size=1),
    st.integers(0, 10**6),
)
def test_groups_of_maxima_and_norms(size: list[int], axes: set[int], seed: int) -> None:
    """By loops over the entries of each group; groups of one entry have no second largest one."""
    assume(max(axes) < len(size))
    x = random(2, *size, seed=seed)
    chosen = tuple(sorted(axes))
    rest = tuple(n for i, n in enumerate(size) if i not in axes)
    expected: tuple[list[float], list[float]] = ([], [])
    for sample in x:
        groups: dict[tuple[int, ...], list[float]] = {}
        for at in product(*map(range, size)):
            groups.setdefault(tuple(i for k, i in enumerate(at) if k not in axes), []).append(float(sample[at]))
        ordered = [sorted(group)[::-1] for group in groups.values()]
        expected[0].append(min(g[0] - g[1] if len(g) > 1 else math.inf for g in ordered))
        expected[1].append(min(math.hypot(*g) for g in ordered))
    assert value_of(op.Maximum(chosen), rest, x).tolist() == pytest.approx(expected[0])
    assert value_of(op.VectorNorm(chosen), rest, x).tolist() == pytest.approx(expected[1])


@pytest.mark.parametrize("center", [True, False])
def test_groups_of_norm_layers(center: bool) -> None:
    x = random(3, 2, 6, seed=5)
    groups = x.reshape(3, 3, 4)
    spread = groups.var(2, unbiased=False) if center else (groups**2).mean(2)
    expected = torch.sqrt(spread + 0.01).min(1).values
    assert value_of(op.Normalize(4, 0.01, center), (2, 6), x).tolist() == pytest.approx(expected.tolist())


def test_entries() -> None:
    """Distances to the points of the function, of the slope's change, and of the divisor to 0."""
    x = torch.tensor([[0.5, -2.0], [1.0, 0.25]]).double()
    assert value_of(op.Elementwise(UNARY["relu"]), (2,), x).tolist() == [0.5, 0.25]
    assert value_of(op.Elementwise(UNARY["hardsigmoid"]), (2,), x).tolist() == [1.0, 2.0]
    assert value_of(op.ParametricReLU(), (2,), x).tolist() == [0.5, 0.25]
    assert value_of(op.Divide(), (2,), 0 * x, -x).tolist() == [0.5, 0.25]


def test_nothing_to_keep_away_from_is_infinity() -> None:
    empty = torch.zeros(2, 0, 3).double()
    assert value_of(op.ParametricReLU(), (0, 3), empty).tolist() == [math.inf] * 2
    assert value_of(op.Maximum((0,)), (3,), torch.ones(2, 1, 3).double()).tolist() == [math.inf] * 2


@pytest.mark.parametrize(
    "operation",
    [
        op.Linear(True),
        op.Elementwise(TANH),
        op.Elementwise(affine(2, 1)),
        op.Softmax(0),
        op.Product(),
        op.MaxPool((1, 1), (2, 2), (0, 0), (1, 1)),
        op.Maximum(()),
    ],
    ids=lambda o: o.label,
)
def test_what_is_smooth_everywhere_has_no_condition(operation: op.Operation) -> None:
    assert condition(operation, Node("v", operation, ("u",), (4,))) is None


@pytest.mark.parametrize("name", ["tanh", "product", "softmax last"])
def test_there_is_no_quantity_without_a_condition(name: str) -> None:
    case = CURVED[name]
    if isinstance(case.operation, op.Elementwise):  # the distance to no point
        assert condition_value(case.operation, case.node, case.values(), case.context).tolist() == [math.inf] * 3
    else:
        with pytest.raises(UnsupportedOperationError, match=f"'v'.*'{case.operation.label}' has no condition"):
            condition_value(case.operation, case.node, case.values(), case.context)


WORDS = [
    (op.Elementwise(UNARY["relu"]), "distance of the entries to 0", r"\min_i |h_{0,i}|"),
    (
        op.Elementwise(UNARY["hardswish"]),
        "distance of the entries to -3, 3",
        r"\min_i \mathrm{dist}(h_{0,i}, \{-3, 3\})",
    ),
    (op.Divide(), "distance of the divisor's entries to 0", r"\min_i |h_{1,i}|"),
    (op.Maximum((0,)), "gap of the two largest entries of the groups", r"\min_i (M_i - M_{2,i})"),
    (op.VectorNorm((0,)), "norm of the vectors", r"\min_i \|h_{0,i}\|"),
    (op.Normalize(4, 0.1), "standard deviation of the groups", r"\min_i \sqrt{\mathrm{var}_i + \varepsilon}"),
]


@pytest.mark.parametrize(("operation", "text", "latex"), WORDS, ids=lambda w: getattr(w, "label", ""))
def test_the_words(operation: op.Operation, text: str, latex: str) -> None:
    found = condition(operation, Node("v", operation, ("u", "w"), (4,)))
    assert found is not None
    assert (found.text, found.latex) == (text, latex)


@pytest.mark.parametrize("name", ["layer norm", "group norm", "rms norm", "softmax first", "softmax causal"])
def test_norms_that_hold_for_all_values(name: str) -> None:
    """Nearly attained where entries are large and far apart."""
    case = CURVED[name]
    bound = norm_bound(case.operation, case.node)
    assert bound is not None
    values = case.plain(100 * case.values()[0]).flatten(1).norm(dim=1)
    assert (values <= float(bound) * (1 + 1e-12)).all()
    assert float(values.max()) > 0.9 * float(bound)
