"""Bounds of edges against dense Jacobians of the same computation in plain torch and numpy's SVD."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense import spectral
from hypothesis import assume, given
from hypothesis import strategies as st
from operation_cases import Case, random
from operation_cases.every import CASES
from strategies import examples
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Expand, Pick, Slice
from covergraph.measure import edges, edges_convolutions, edges_weights
from covergraph.measure.edges import edge_bound
from covergraph.measure.edges_convolutions import Correlation, correlation_ends
from covergraph.measure.edges_spectra import norm_ends, remembered
from covergraph.measure.edges_weights import weight_ends

EDGES = [(name, slot) for name, case in CASES.items() for slot in range(len(case.slots))]
LOOSE = {op.MaxPool: 3.0, op.Softmax: 1.5, op.Normalize: 1.1, op.Maximum: 1.0 + 1e-9}
"""How far above the norm the bounds of curved operations may be on the cases; the others are the norm itself."""


def dense(function: Callable[..., Tensor], values: list[Tensor], slot: int) -> list[float]:
    """The norm of the Jacobian in one slot for each sample, by torch.func.jacrev."""
    found = []
    for i in range(len(values[slot])):
        sample = [value[i : i + 1] for value in values]

        def moved(h: Tensor, sample: list[Tensor] = sample) -> Tensor:
            return function(*sample[:slot], h, *sample[slot + 1 :])

        jacobian = torch.func.jacrev(moved)(sample[slot])
        found.append(spectral(jacobian.detach().reshape(-1, sample[slot].numel())))
    return found


def bound(node: Node, slot: int, values: list[Tensor], state: dict[str, Tensor] | None = None) -> Tensor:
    with torch.no_grad():
        return edge_bound(node.operation, node, slot, values, Context(state or {}))


@pytest.mark.parametrize(("name", "slot"), EDGES)
def test_bound_of_every_operation_is_not_below_the_norm_and_close_to_it(name: str, slot: int) -> None:
    case: Case = CASES[name]
    values = case.values()
    real = case.plain(*values).is_floating_point()
    node = case.node if real else dataclasses.replace(case.node, kind="integer")
    with torch.no_grad():
        found = edge_bound(case.operation, node, slot, values, case.context)
    assert found.shape == (len(values[0]),)
    if slot not in case.moving or not real:
        assert found.tolist() == [0.0] * len(values[0])
        return
    truth = np.array(dense(case.plain, values, slot))
    assert (found.numpy() >= truth * (1 - 1e-13)).all()
    assert (found.numpy() <= truth * LOOSE.get(type(case.operation), 1 + 1e-9)).all()


sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


@examples(40)
@given(sizes, sizes, st.tuples(st.integers(0, 3), st.integers(0, 3)), sizes, st.integers(1, 2), st.integers(0, 999))
def test_symbols_bound_convolutions_of_every_kind_and_their_adjoints(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    seed: int,
) -> None:
    wide = (6, 5)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + 2 * p >= span for n, p, span in zip(wide, padding, spans, strict=True)))
    weight = random(2 * groups, 3, *kernel, seed=seed)

    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    x = torch.zeros(1, 3 * groups, *wide, dtype=torch.float64)
    matrix = torch.func.jacrev(convolve)(x).reshape(-1, x.numel())
    map_ = Correlation(stride, padding, dilation, groups, wide, tuple(convolve(x).shape[2:]))
    upper = correlation_ends(weight, map_).upper
    assert upper >= spectral(matrix) * (1 - 1e-13)
    patches = max(spectral(rows) for rows in weight.reshape(groups, 2, -1))
    steps = zip(kernel, stride, dilation, strict=True)
    rho = math.sqrt(math.prod(math.ceil(k * math.gcd(s, d) / s) for k, s, d in steps))
    assert upper <= rho * patches * (1 + 1e-9)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_symbols_are_nearly_exact_on_long_signals(stride: int, dilation: int) -> None:
    """On 120 entries the ends matter little; the grid of frequencies costs at most 1 / cos(pi / 12)."""
    weight, x = random(3, 2, 4, seed=stride), torch.zeros(1, 2, 120, dtype=torch.float64)

    def convolve(x: Tensor) -> Tensor:
        return F.conv1d(x, weight, None, stride, 3, dilation)

    matrix = torch.func.jacrev(convolve)(x).reshape(-1, x.numel())
    map_ = Correlation((stride,), (3,), (dilation,), 1, (120,), (convolve(x).shape[2],))
    assert 1 - 1e-13 <= correlation_ends(weight, map_).upper / spectral(matrix) <= 1.01 / math.cos(math.pi / 12)


@examples(40)
@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from([2, 3, 6]))
def test_norms_between_the_frequencies_are_bounded(seed: int, taps: int, sampling: int) -> None:
    """The symbol on 2000 frequencies never exceeds the bound from `sampling` times the degree."""
    weight = random(2, 3, taps, seed=seed)
    turns = np.exp(2j * np.pi * np.arange(2000)[:, None] * np.arange(taps) / 2000)
    symbol = np.einsum("oct,ft->foc", weight.numpy(), turns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edges_convolutions, "SAMPLING", (sampling,))
        map_ = Correlation((1,), (0,), (1,), 1, (10**4,), (10**4 - taps + 1,))
        found = edges_convolutions._symbol_ends(weight[None], map_).upper
    truth = np.linalg.norm(symbol, 2, axis=(1, 2)).max()
    assert truth * (1 - 1e-9) <= found <= truth / math.cos(math.pi / (2 * sampling)) * (1 + 1e-2)


def test_work_and_memory_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarser grid, parts, and at last only rho ||K||; each a bound, none below the norm."""
    weight, x = random(4, 4, 3, 3), torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    truth = spectral(torch.func.jacrev(lambda x: F.conv2d(x, weight))(x).reshape(-1, x.numel()))
    map_ = Correlation((1, 1), (0, 0), (1, 1), 1, (6, 6), (4, 4))
    best = correlation_ends(weight, map_).upper
    monkeypatch.setattr(edges_convolutions, "CHUNK", 50)
    assert correlation_ends(weight, map_).upper == pytest.approx(best, rel=1e-2)
    monkeypatch.setattr(edges_convolutions, "WORK", 4 * 4 * 4**3 * 2)
    coarse = correlation_ends(weight, map_).upper
    monkeypatch.setattr(edges_convolutions, "WORK", 0)
    last = correlation_ends(weight, map_).upper
    assert truth <= best < coarse <= last
    assert last == pytest.approx(3 * spectral(weight.flatten(1)), rel=1e-9)


@pytest.mark.parametrize("name", ["conv2d", "transposed"])
@pytest.mark.parametrize("small", [True, False])
def test_layers_with_kernels_pass_their_settings_on(name: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense matrix gives the exact norm; without it the bound holds for asymmetric settings."""
    stride, padding, dilation, x = (2, 1), (1, 2), (1, 2), random(1, 4, 7, 8)
    if name == "conv2d":
        weight = random(6, 2, 3, 2)
        operation: op.Operation = op.Convolution(stride, padding, dilation, 2, (3, 2), False)
        plain = lambda x: F.conv2d(x, weight, None, stride, padding, dilation, 2)  # noqa: E731
    else:
        weight = random(4, 3, 3, 2)
        operation = op.TransposedConvolution(stride, padding, (1, 0), dilation, 2, (3, 2), False)
        plain = lambda x: F.conv_transpose2d(x, weight, None, stride, padding, (1, 0), 2, dilation)  # noqa: E731
    if not small:
        monkeypatch.setattr(edges_weights, "DENSE", 0)
    node = Node("v", operation, ("u",), tuple(plain(x).shape[1:]), (("weight", "w"),))
    ends = weight_ends(node, (4, 7, 8), Context({"w": weight}))
    (truth,) = dense(plain, [x], 0)
    assert ends.lower <= truth <= ends.upper
    assert ends.exact == small
    assert ends.upper <= truth * (1 + 1e-9 if small else 1.25)


def test_a_kernel_of_one_tap_is_a_matrix_at_every_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges_weights, "DENSE", 0)
    weight = random(6, 2, 1)
    node = Node("v", op.Convolution((1,), (0,), (1,), 2, (1,), False), ("u",), (6, 50), (("weight", "w"),))
    ends = weight_ends(node, (4, 50), Context({"w": weight}))
    truth = max(spectral(weight[:3, :, 0]), spectral(weight[3:, :, 0]))
    assert ends.exact and ends.upper == pytest.approx(truth, rel=1e-12) and ends.lower <= truth <= ends.upper


@examples(40)
@given(*[st.integers(1, 12)] * 2, st.integers(0, 999), st.booleans(), st.sampled_from([1e-200, 1.0, 1e200]))
def test_ends_of_large_matrices_enclose_the_largest_norm(
    m: int, d: int, seed: int, complex_: bool, scale: float
) -> None:
    matrices = random(3, m, d, seed=seed) * scale
    if complex_:
        matrices = torch.complex(matrices, random(3, m, d, seed=seed + 1) * scale)
    truth = float(np.linalg.svd(matrices.numpy(), compute_uv=False).max())
    enclosed = norm_ends(matrices, exact=0 if min(m, d) > 1 else 1)
    assert enclosed.lower <= truth <= enclosed.upper <= truth * 1.0006
    narrow = norm_ends(matrices)
    assert narrow.exact and narrow.lower <= truth <= narrow.upper <= truth * (1 + 1e-12)


def test_flat_spectra_of_large_matrices_are_enclosed() -> None:
    """150 x 150 random numbers have many singular values near the largest, which 24 steps do not find."""
    matrix = random(1, 150, 150)
    ends = norm_ends(matrix, exact=1)
    assert ends.lower <= spectral(matrix[0]) <= ends.upper <= 1.05 * spectral(matrix[0])


def test_matrices_of_zeros_and_of_what_is_not_finite() -> None:
    zero = torch.zeros(1, 3, 4, dtype=torch.float64)
    assert norm_ends(zero).upper == 0 and norm_ends(zero, exact=1).upper == 0
    for value in (math.inf, math.nan):
        bad = zero.clone()
        bad[0, 1, 1] = value
        assert norm_ends(bad).upper == math.inf


def test_norms_of_weights_are_computed_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(matrices: Tensor) -> object:
        calls.append(matrices.shape)
        return norm_ends(matrices)

    monkeypatch.setattr(edges_weights, "norm_ends", counted)
    weight, x = random(3, 4), [random(2, 4)]
    nodes = [Node(name, op.Linear(False), ("u",), (3,), (("weight", "w"),)) for name in "vw"]
    first = [bound(node, 0, x, {"w": weight})[0] for node in nodes for _ in range(2)]
    assert len(calls) == 1 and len(set(map(float, first))) == 1
    weight *= 2
    assert float(bound(nodes[0], 0, x, {"w": weight})[0]) == pytest.approx(2 * float(first[0]), rel=1e-12)
    assert len(calls) == 2
    remembered(weight.clone(), "another tensor", lambda: norm_ends(weight[None]))


@pytest.mark.parametrize("log", [False, True])
@examples(20)
@given(scale=st.sampled_from([0.01, 1.0, 10.0]), terms=st.integers(1, 6), seed=st.integers(0, 999))
def test_softmax_at_flat_and_sharp_distributions(log: bool, scale: float, terms: int, seed: int) -> None:
    """Of a flat distribution ||diag(p) - p p'|| = 1 / d, the bound at most twice as large; exact for logarithms."""
    x = [scale * random(2, 3, terms, seed=seed)]
    node = Node("v", op.Softmax(1, log), ("u",), (3, terms))
    truth = np.array(dense(lambda x: (F.log_softmax if log else F.softmax)(x, 2), x, 0))
    found = bound(node, 0, x).numpy()
    assert (found >= truth * (1 - 1e-12) - 1e-15).all()
    if terms > 1:
        assert (found <= truth * (1 + 1e-9 if log else 2) + 1e-15).all()


def test_what_is_left_of_a_probability_near_1_is_not_lost() -> None:
    """Entry (0, 0) of the Jacobian is p_0 (1 - p_0), 1 - p_0 about 3 exp(-40), below the spacing of doubles at 1."""
    node = Node("v", op.Softmax(0), ("u",), (4,))
    x = torch.tensor([[0.0, -40.0, -40.0, -40.0]], dtype=torch.float64)
    assert 3 * math.exp(-40) * (1 - 1e-12) <= float(bound(node, 0, [x])) <= 6 * math.exp(-40) * (1 + 1e-12)


def test_a_mask_for_all_heads_moves_the_scores_of_each() -> None:
    x = [random(2, 4, 3, 3), random(2, 1, 3, 3, seed=1)]
    node = Node("v", op.Softmax(2), ("u", "m"), (4, 3, 3))
    scores, mask = bound(node, 0, x), bound(node, 1, x)
    torch.testing.assert_close(mask, 2 * scores)
    assert (mask.numpy() >= dense(lambda u, m: F.softmax(u + m, 3), x, 1)).all()


@pytest.mark.parametrize("center", [True, False])
def test_normalization_is_steep_where_the_variance_is_small(center: bool) -> None:
    """1 / r at r = sqrt(var + eps), also for entries that are far from 0 and almost equal."""
    x = [torch.tensor([[1e6, 1e6 + 1e-3, 1e6 - 1e-3, 1e6], [1.0, -1.0, 2.0, 0.0]]).double()]
    node = Node("v", op.Normalize(2, 1e-8, center), ("u",), (4,))
    groups = x[0].reshape(2, 2, 2).numpy()
    squares = groups.var(2) if center else (groups**2).mean(2)
    truth = 1 / np.sqrt(squares + 1e-8).min(1)
    found = bound(node, 0, x).numpy()
    assert (found >= truth).all()
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_factors_of_matrix_products_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x = [random(2, 3, 4, 5), random(2, 3, 5, 6, seed=1)]
    node = Node("v", op.MatrixProduct(), ("a", "b"), (3, 4, 6))
    exact = bound(node, 0, x).numpy()
    np.testing.assert_allclose(exact, [max(spectral(m) for m in sample) for sample in x[1]], rtol=1e-9)
    monkeypatch.setattr(edges, "ENTRIES", 40)
    np.testing.assert_array_equal(bound(node, 0, x).numpy(), exact)
    monkeypatch.setattr(edges, "SIDE", 3)
    frobenius = [max(float(m.norm()) for m in sample) for sample in x[1]]
    np.testing.assert_allclose(bound(node, 0, x).numpy(), frobenius, rtol=1e-9)


@pytest.mark.parametrize(
    ("steps", "shape", "result", "copies"),
    [
        ((Expand((5, 2)),), (1, 2), (5, 2), 5),
        ((Pick(0, (1, 1, 2, 1)),), (3,), (4,), 3),
        ((Slice(0, 0, 2),), (3,), (2,), 1),
    ],
)
def test_copies_of_an_entry_are_counted(steps: tuple, shape: tuple, result: tuple, copies: int) -> None:  # type: ignore[type-arg]
    node = Node("v", op.Rearrange(steps), ("u",), result)
    assert float(bound(node, 0, [random(1, *shape)])) == pytest.approx(math.sqrt(copies), rel=1e-13)


@examples(40)
@given(*[st.integers(1, 4)] * 3, st.booleans(), st.booleans())
def test_average_pools_are_exact(kernel: int, stride: int, padding: int, ceil: bool, include: bool) -> None:
    assume(2 * padding <= kernel)
    x = [random(1, 1, 7, 5)]
    settings_ = ((kernel, 2), (stride, 1), (padding, 1), ceil, include)
    plain = lambda x: F.avg_pool2d(x, *settings_)  # noqa: E731
    node = Node("v", op.AveragePool(*settings_), ("u",), tuple(plain(x[0]).shape[1:]))
    assert float(bound(node, 0, x)) == pytest.approx(dense(plain, x, 0)[0], rel=1e-9)


def test_pools_of_very_long_signals_keep_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    x = [random(1, 1, 21)]
    node = Node("v", op.AveragePool((3,), (2,), (1,)), ("u",), (1, 11))
    monkeypatch.setattr(edges, "ENTRIES", 100)
    assert dense(lambda x: F.avg_pool1d(x, 3, 2, 1), x, 0)[0] <= float(bound(node, 0, x)) <= math.sqrt(2 / 3) + 1e-9


def test_a_maximum_can_be_copied_to_every_window_that_holds_it() -> None:
    x = [torch.zeros(1, 1, 5, dtype=torch.float64)]
    x[0][0, 0, 2] = 1
    node = Node("v", op.MaxPool((3,), (1,), (0,), (1,)), ("u",), (1, 3))
    assert dense(lambda x: F.max_pool1d(x, 3, 1), x, 0)[0] == pytest.approx(math.sqrt(3))
    assert float(bound(node, 0, x)) == pytest.approx(math.sqrt(3), rel=1e-12)


def test_a_quotient_is_steep_where_the_divisor_is_small() -> None:
    p, q = (torch.tensor([row], dtype=torch.float64) for row in ([3.0, 1.0], [2.0, -0.1]))
    node = Node("v", op.Divide(), ("p", "q"), (2,))
    assert float(bound(node, 0, [p, q])) == pytest.approx(10, rel=1e-12)
    assert float(bound(node, 1, [p, q])) == pytest.approx(100, rel=1e-12)
    assert float(bound(node, 1, [p * 0, q * 0 + 1])) == 0


def test_integers_have_no_derivative() -> None:
    x = torch.tensor([[1, 2], [0, 1]])
    rows = Node("v", op.Embedding(), ("i",), (2, 4), (("weight", "w"),))
    assert bound(rows, 0, [x], {"w": random(3, 4)}).tolist() == [0.0, 0.0]
    signs = Node("v", op.Elementwise(TANH), ("u",), (2,), kind="integer")
    assert bound(signs, 0, [random(2, 2)]).tolist() == [0.0, 0.0]


def test_dense_jacobians_come_in_parts_or_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["attention"]
    values = case.values()
    whole = bound(case.node, 1, values)
    per_sample = values[1][0].numel() ** 2
    monkeypatch.setattr(edges, "ENTRIES", per_sample)
    torch.testing.assert_close(bound(case.node, 1, values), whole, rtol=1e-13, atol=0)
    monkeypatch.setattr(edges, "ENTRIES", per_sample - 1)
    with pytest.raises(UnsupportedOperationError, match=rf"'v' \(top level\): 'attention' .*{per_sample - 1}.*fill"):
        bound(case.node, 1, values)
