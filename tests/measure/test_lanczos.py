"""Lanczos from a random start: upper ends are above numpy's SVD, and fail no more often than they are allowed to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from strategies import examples
from torch import Tensor

from covergraph.measure.lanczos import Goal, Interval, Product, largest_singular_values, overlap, random_start
from covergraph.measure.tridiagonal import certified
from covergraph.rounding import PRODUCT

RARE = 1e-7
"""So rarely may a start of these tests fail: never, here."""
widths = st.sampled_from([1.001, 1.01, 1.05])
seeds = st.integers(0, 2**31)


def products(matrices: Tensor) -> Callable[[Tensor], Product]:
    """v to J'(J v), row by row: what the engine hands over."""

    def narrowed(rows: Tensor) -> Product:
        chosen = matrices[rows]
        return lambda v: (chosen.mT @ (chosen @ v[..., None]))[..., 0]

    return narrowed


def measured(matrices: Tensor, goal: Goal, seed: int = 0, failure: float = RARE) -> Interval:
    d = matrices.shape[2]
    start = random_start((d,), [f"{seed}|{i}" for i in range(len(matrices))])
    return largest_singular_values(products(matrices), start, overlap(failure, d), goal)


def truth(matrices: Tensor) -> np.ndarray:
    return np.linalg.svd(matrices.numpy(), compute_uv=False)[:, 0]


def rotated(generator: np.random.Generator, singular: Sequence[float], m: int, d: int) -> np.ndarray:
    """A matrix with these singular values, and random singular vectors."""
    k = min(m, d)
    left, right = (np.linalg.qr(generator.standard_normal((side, k)))[0] for side in (m, d))
    return left * np.asarray(singular)[:k] @ right.T


SPECTRA: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "any": lambda g, k: np.abs(g.standard_normal(k)),
    "low rank": lambda g, k: np.where(np.arange(k) < 2, 1.0 + g.random(k), 0.0),
    "ill-scaled": lambda g, k: 10.0 ** g.uniform(-12, 12, k),
    "clusters": lambda g, k: np.repeat([1.0, 0.999, 0.5], k)[np.arange(k) * 3] * (1 + 1e-9 * g.random(k)),
    "two tops": lambda g, k: np.where(np.arange(k) < 2, 1.0, g.random(k)),
    "orthogonal": lambda g, k: np.ones(k),
    "one huge": lambda g, k: np.where(np.arange(k) < 1, 1e9, g.random(k)),
    "close below": lambda g, k: 1 - np.linspace(0, 0.01, k),
    "zero": lambda g, k: np.zeros(k),
}


@st.composite
def blocks(draw: st.DrawFn) -> Tensor:
    """A few matrices of one shape, of one kind or of several."""
    m, d, rows = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 6))
    kinds = draw(st.lists(st.sampled_from(sorted(SPECTRA)), min_size=rows, max_size=rows))
    g = np.random.default_rng(draw(seeds))
    return torch.from_numpy(np.stack([rotated(g, SPECTRA[kind](g, min(m, d)), m, d) for kind in kinds]))


@given(blocks(), widths, seeds)
def test_each_row_to_its_own_width(matrices: Tensor, width: float, seed: int) -> None:
    found, exact = measured(matrices, Goal(width, own=True), seed), truth(matrices)
    assert (found.upper.numpy() >= exact * (1 - 1e-12)).all()
    assert (found.lower.numpy() <= exact * (1 + 1e-12)).all()
    assert (found.upper <= width * found.lower * (1 + 1e-15)).all()


@given(blocks(), widths, seeds)
def test_the_largest_row_to_the_width_and_no_row_below_the_truth(matrices: Tensor, width: float, seed: int) -> None:
    found, exact = measured(matrices, Goal(width), seed), truth(matrices)
    assert (found.upper.numpy() >= exact * (1 - 1e-12)).all()
    assert float(found.upper.max()) <= width * float(found.lower.max()) * (1 + 1e-15)
    assert float(found.lower.max()) <= exact.max() * (1 + 1e-12)


@given(blocks(), widths, seeds, st.floats(0, 3))
def test_a_level_and_cheap_ends_that_are_known(matrices: Tensor, width: float, seed: int, factor: float) -> None:
    exact = truth(matrices)
    level, cheap = factor * float(exact.max()), torch.from_numpy(exact * 1.02)
    found = measured(matrices, Goal(width, level, cheap=cheap), seed)
    assert (found.upper.numpy() >= exact * (1 - 1e-12)).all()
    assert (found.upper <= cheap).all()
    assert float(found.upper.max()) <= width * max(level, float(found.lower.max())) * (1 + 1e-15)
    idle = cheap <= width * level
    assert (found.steps[idle] == 0).all()
    assert (found.lower[idle] == 0).all()


def test_rows_are_left_as_soon_as_they_are_known_to_be_smaller() -> None:
    matrices = torch.stack([s * torch.randn(30, 30, generator=torch.Generator().manual_seed(0)) for s in (1, 100)])
    together, alone = measured(matrices.double(), Goal(1.01)), measured(matrices[:1].double(), Goal(1.01))
    assert together.steps[0] == 3 < alone.steps[0]


# How often it fails


@pytest.mark.parametrize("failure", [1e-9, 1e-3, 0.2, 0.9, 1.0])
def test_the_overlap_is_small_as_rarely_as_it_should(failure: float) -> None:
    """The square of an entry of a random direction has a beta distribution."""
    sizes = np.array([2, 3, 4, 5, 10, 100, 10**4, 10**7])
    chances = beta.cdf(np.array([overlap(failure, int(d)) for d in sizes]) ** 2, 0.5, (sizes - 1) / 2)
    assert (chances <= failure * (1 + 1e-9)).all()
    if failure <= 0.2:
        assert (chances[sizes >= 100] >= 0.98 * failure).all()
    assert overlap(failure, 1) <= 1


@pytest.mark.parametrize("size", [2, 3, 20])
def test_starts_are_uniform_on_the_sphere(size: int) -> None:
    starts = random_start((size,), [f"{size}|{i}" for i in range(4000)]).numpy()
    direction = np.arange(1, size + 1) / np.linalg.norm(np.arange(1, size + 1))
    assert kstest((starts @ direction) ** 2, beta(0.5, (size - 1) / 2).cdf).pvalue > 1e-6


def test_starts_have_length_one_and_depend_on_their_key_alone() -> None:
    starts = random_start((3, 5), ["a", "b", "a"])
    assert starts.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert torch.equal(starts[0], starts[2])
    assert torch.equal(starts[1:2], random_start((3, 5), ["b"]))
    assert abs(float((starts[0] * starts[1]).sum())) < 0.9


def hidden(size: int, width: float, above: float) -> Tensor:
    """Singular values of which the largest is a little more than `width` times the next."""
    return torch.tensor([*np.linspace(0, 1, size)[1:], width * above], dtype=torch.float64)


@pytest.mark.parametrize(("size", "width", "above"), [(8, 1.01, 1.001), (20, 1.05, 1.01), (40, 1.01, 1.001)])
def test_it_fails_at_times_but_no_more_often_than_allowed(size: int, width: float, above: float) -> None:
    n, failure = 3000, 0.2
    values = hidden(size, width, above)
    start, t = random_start((size,), [f"{size}|{i}" for i in range(n)]), overlap(failure, size)
    found = largest_singular_values(lambda rows: lambda v: v * values**2, start, t, Goal(width, own=True))
    fails = found.upper < values[-1]
    assert 0.03 < float(fails.double().mean()) <= failure
    # Given the overlap there is no chance left.
    assert float(start[fails, -1].abs().max()) < t


def test_a_start_without_overlap_proves_nothing() -> None:
    """A warm start, or one that somebody chose, voids the certificate: here the top vector is never seen."""
    values = torch.tensor([2.0, 1.0, 0.7, 0.3, 0.2, 0.1], dtype=torch.float64)
    start = torch.cat([torch.zeros(1, 1, dtype=torch.float64), random_start((5,), ["a"])], 1)
    found = largest_singular_values(lambda rows: lambda v: v * values**2, start, overlap(RARE, 6), Goal(1.01))
    assert float(found.upper) < 1.02


@given(st.integers(1, 12), seeds, st.floats(0.01, 0.9), st.floats(1.0001, 1.5))
@examples(300)
def test_the_certificate_is_right_for_every_start_of_large_overlap(
    k: int, seed: int, share: float, factor: float
) -> None:
    """Orthogonality is not used: numbers of a recurrence with errors, of any directions, prove the same."""
    g = np.random.default_rng(seed)
    eigenvalues = np.sort(g.random(9))
    v, previous, length = g.standard_normal(9), np.zeros(9), 0.0
    v = v / np.linalg.norm(v)
    first = abs(v[-1])
    alphas, betas = [], []
    for _ in range(k):
        alpha = eigenvalues @ v**2 * g.uniform(0.5, 1.5)  # not the quotient that would make it orthogonal
        u = eigenvalues * v - alpha * v - length * previous
        previous, length = v, float(np.linalg.norm(u))
        v = u / length
        alphas.append(alpha)
        betas.append(length)
    theta = np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))[-1]
    numbers = (torch.tensor([x], dtype=torch.float64) for x in (alphas, betas))
    level = max(theta, 0.0) * factor + share * 1e-3
    if bool(certified(*numbers, torch.tensor([level], dtype=torch.float64), first * 0.999)):
        assert eigenvalues[-1] < level


def test_the_certificate_is_the_formula() -> None:
    """Written with dense matrices: beta_2 ... beta_{k+1} / det(l - T) + 3 eta l |(l - T)^{-1} e_1|_1, near equality."""
    g = np.random.default_rng(0)
    for k in (1, 2, 3, 7):
        alpha, beta = g.random(k), 0.3 * g.random(k)
        matrix = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        level = np.linalg.eigvalsh(matrix)[-1] * 1.2
        shifted = level * np.eye(k) - matrix
        value = beta.prod() / np.linalg.det(shifted) + 3 * PRODUCT * level * np.linalg.inv(shifted)[0].sum()
        one = [torch.from_numpy(x)[None] for x in (alpha, beta)]
        at = torch.tensor([level], dtype=torch.float64)
        assert not bool(certified(*one, at, value))
        assert bool(certified(*one, at, value * (1 + 2e-6)))
        assert not bool(certified(*one, at * 0.8, 1.0))  # below the largest Ritz value


def test_the_rounding_term_is_the_formula() -> None:
    """Where 1/q is nothing, what is left is the rounding: 3 eta (1 + ...) of the second number."""
    alpha, beta = (torch.tensor([x], dtype=torch.float64) for x in ([1.0, 0.0], [0.5, 0.0]))
    inverse = np.linalg.inv(np.array([[2 - 1, -0.5], [-0.5, 2.0]]))[0].sum()
    level = torch.tensor([2.0], dtype=torch.float64)
    assert not bool(certified(alpha, beta, level, 3 * PRODUCT * 2 * inverse * (1 - 1e-9)))
    assert bool(certified(alpha, beta, level, 3 * PRODUCT * 2 * inverse * (1 + 1e-9)))


# Rounding


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_products_as_wrong_as_allowed_hide_nothing(share: float) -> None:
    """The products leave out the top component while it is within their rounding."""
    values = torch.tensor([2.0, *np.linspace(0, 1, 30)], dtype=torch.float64)

    def product(v: Tensor) -> Tensor:
        w = v * values**2
        w[:, 0] = torch.where(v[:, 0].abs() <= 2 * PRODUCT, 0.0, w[:, 0])
        return w

    start = random_start((31,), ["a"])
    start[:, 0] = 2 * PRODUCT * share
    found = largest_singular_values(lambda rows: product, start, 2 * PRODUCT * share * 0.99, Goal(1.01, own=True))
    assert float(found.upper) >= 2


def test_maps_that_are_not_adjoint_to_each_other_are_noticed() -> None:
    g = np.random.default_rng(0)
    forth = torch.from_numpy(rotated(g, np.linspace(1, 0, 20), 20, 20))
    back = forth.mT + 1e-6 * torch.from_numpy(g.standard_normal((20, 20)))
    start = random_start((20,), ["a"])
    right = largest_singular_values(lambda _: lambda v: v @ forth.mT @ forth, start, overlap(RARE, 20), Goal(1.01))
    wrong = largest_singular_values(lambda _: lambda v: v @ forth.mT @ back.mT, start, overlap(RARE, 20), Goal(1.01))
    assert float(right.upper) <= 1.02
    assert float(wrong.upper) >= 10


def test_products_in_single_precision_are_noticed() -> None:
    matrix = torch.from_numpy(rotated(np.random.default_rng(0), np.linspace(1, 0, 20), 20, 20)).float()
    start = random_start((20,), ["a"])
    found = largest_singular_values(
        lambda _: lambda v: (v.float() @ matrix.mT @ matrix).double(), start, overlap(RARE, 20), Goal(1.01)
    )
    assert float(found.upper) >= 10


@given(blocks(), st.sampled_from([1e-220, 1e-200, 1e-120, 1e-60, 1e60, 1e120, 1e200]), st.booleans(), seeds)
def test_any_scale(matrices: Tensor, scale: float, own: bool, seed: int) -> None:
    """The squares of the singular values are no floating-point numbers here."""
    largest = float(matrices.abs().max())
    small = matrices / largest if largest else matrices
    found, exact = measured(small * scale, Goal(1.01, own=own), seed), truth(small)
    assert (found.upper.numpy() / scale >= exact * (1 - 1e-12)).all()
    assert float(found.upper.max()) <= 1.01 * float(found.lower.max()) * (1 + 1e-15)
    assert float(found.lower.max()) / scale <= exact.max() * (1 + 1e-12)


def test_scales_far_apart_in_one_block() -> None:
    g = np.random.default_rng(0)
    one = torch.from_numpy(rotated(g, np.linspace(1, 0, 12), 12, 12))
    scales = torch.tensor([1e-230, 1e-200, 1e-150, 1.0, 1e150, 1e230, 0.0], dtype=torch.float64)
    matrices = one * scales[:, None, None]
    found = measured(matrices, Goal(1.01, own=True))
    assert (found.upper >= scales * (1 - 1e-12)).all()
    assert (found.upper <= scales * 1.0101).all()
    common = measured(matrices, Goal(1.01))
    assert (common.upper >= scales * (1 - 1e-12)).all()
    assert float(common.upper.max()) <= 1.0101e230


def test_what_is_out_of_range_or_not_finite_is_infinite() -> None:
    g = np.random.default_rng(0)
    matrices = torch.from_numpy(g.standard_normal((6, 5, 5)))
    matrices[1, 2, 3], matrices[2, 2, 3], matrices[3, 0, 0] = torch.nan, torch.inf, -torch.inf
    matrices[4] *= 1e300
    for own in (False, True):
        found = measured(matrices, Goal(1.01, own=own))
        assert torch.isinf(found.upper).tolist() == [False, True, True, True, True, False]
        assert (found.lower[1:5] == 0).all()
        exact = truth(matrices[[0, 5]])
        assert (found.upper[[0, 5]].numpy() >= exact * (1 - 1e-12)).all()
        assert float(found.upper[[0, 5]].max()) <= 1.0101 * exact.max()


def test_a_product_that_breaks_down_later_is_infinite() -> None:
    values, calls = torch.linspace(0.5, 1, 30, dtype=torch.float64), []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        w = v * values**2
        return w * torch.nan if len(calls) == 4 else w

    found = largest_singular_values(lambda _: product, random_start((30,), ["a"]), 1e-9, Goal(1.001))
    assert float(found.upper) == math.inf
    assert len(calls) < 10


def test_cheap_ends_that_are_no_numbers_are_not_used() -> None:
    matrices = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    found = measured(matrices, Goal(1.01, cheap=torch.tensor([torch.nan, torch.inf], dtype=torch.float64)))
    assert found.upper.tolist() == pytest.approx([1, 1], rel=0.0101)
    assert (found.upper >= 1).all()


def test_zero_is_zero() -> None:
    found = measured(torch.zeros(3, 4, 6, dtype=torch.float64), Goal(1.01))
    assert found.upper.tolist() == found.lower.tolist() == [0, 0, 0]
    hopeless = measured(torch.zeros(3, 4, 6, dtype=torch.float64), Goal(1.01), failure=2 * PRODUCT)
    assert hopeless.upper.tolist() == [math.inf] * 3


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 3)])
def test_values_of_any_shape(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    values = torch.arange(1, size + 1, dtype=torch.float64).reshape(shape)
    start = random_start(shape, ["a", "b"])
    found = largest_singular_values(lambda _: lambda v: v * values**2, start, overlap(RARE, size), Goal(1.01))
    assert (found.upper >= size).all()
    assert float(found.upper.max()) <= 1.0101 * size


# The same again


@given(blocks(), seeds)
@examples(30)
def test_a_row_alone_gives_what_it_gives_in_a_block(matrices: Tensor, seed: int) -> None:
    d, level = matrices.shape[2], float(truth(matrices).max())
    start, t = random_start((d,), [f"{seed}|{i}" for i in range(len(matrices))]), overlap(RARE, d)
    for goal in (Goal(1.01, own=True), Goal(1.01, level)):
        block = largest_singular_values(products(matrices), start, t, goal)
        for i in range(len(matrices)):
            alone = largest_singular_values(products(matrices[i : i + 1]), start[i : i + 1], t, goal)
            assert float(alone.upper) == pytest.approx(float(block.upper[i]), rel=1e-6)


def test_twice_is_the_same() -> None:
    matrices = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 12, 17)))
    one, two = measured(matrices, Goal(1.01)), measured(matrices, Goal(1.01))
    assert torch.equal(one.upper, two.upper)
    assert torch.equal(one.lower, two.lower)
    other = measured(matrices, Goal(1.01), seed=1)
    assert not torch.equal(one.lower, other.lower)
