"""rho^2: in how many patches an entry of a convolution's input occurs (Lemmas 3 and 4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dense import dense_convolution, spectral
from hypothesis import given
from hypothesis import strategies as st
from patches import convolution, patches
from strategies import examples

from covergraph.rules.entropy import overlap

KERNELS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@examples(60)
@given(KERNELS, st.tuples(st.integers(1, 4), st.integers(1, 4)), KERNELS, KERNELS, st.integers(1, 2))
def test_overlap_counts_how_often_an_entry_is_used_at_most(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    """Attained on inputs that are large enough; the matrix of patches has Frobenius norm <= rho ||x||."""
    layer = convolution(kernel, stride, padding, dilation, groups)
    side = [2 * s * d + k * d for s, d, k in zip(stride, dilation, kernel, strict=True)]
    shape = (groups, *side)
    marks = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    values, uses = np.unique(np.concatenate([m.ravel() for m in patches(marks, layer)]), return_counts=True)
    counts = uses[values > 0]
    assert counts.max() == overlap(layer)
    x = np.random.default_rng(0).standard_normal(shape)
    frobenius = math.sqrt(sum((m**2).sum() for m in patches(x, layer)))
    assert frobenius <= math.sqrt(overlap(layer)) * np.linalg.norm(x) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "uses"),
    [
        (3, 1, 1, 3),
        (3, 2, 1, 2),
        (3, 2, 2, 3),
        (4, 2, 3, 2),
        (5, 3, 1, 2),
        (2, 5, 1, 1),
        (4, 6, 4, 2),
        (3, 4, 6, 2),
    ],
)
def test_overlap_by_hand(kernel: int, stride: int, dilation: int, uses: int) -> None:
    """With stride 2 and dilation 2 an even entry meets every tap: strides and dilations share a factor."""
    assert overlap(convolution((kernel,), (stride,), (0,), (dilation,))) == uses


def test_overlap_in_three_axes_multiplies() -> None:
    assert overlap(convolution((3, 5, 2), (2, 1, 2), (0, 0, 0), (1, 1, 2))) == 2 * 5 * 2


@examples(30)
@given(KERNELS, KERNELS, KERNELS, st.integers(1, 2), st.integers(0, 10**6))
def test_derivative_of_a_convolution_is_bounded_by_rho_times_its_kernel(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], groups: int, seed: int
) -> None:
    """||conv(K)||_op <= rho ||K||_F: a cover of the kernels at eps/rho is one of the derivatives at eps."""
    torch.manual_seed(seed)
    weight = torch.randn(2 * groups, 2, *kernel, dtype=torch.float64)
    layer = convolution(kernel, stride, (1, 1), dilation, groups)
    side = tuple(7 + d * k for k, d in zip(kernel, dilation, strict=True))
    dense = dense_convolution(weight, (2 * groups, *side), stride, (1, 1), dilation, groups)
    norm = spectral(dense)
    assert norm <= math.sqrt(overlap(layer)) * float(weight.norm()) * (1 + 1e-12)


def test_the_factor_rho_of_a_convolution_is_attained_where_patches_overlap() -> None:
    """A kernel of ones on a long constant signal: the norm tends to k = rho ||K||_F."""
    weight = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    norm = spectral(dense_convolution(weight, (1, 1, 200), (1, 1), (0, 0), (1, 1), 1))
    rho = math.sqrt(overlap(convolution((1, 4), (1, 1), (0, 0), (1, 1))))
    assert norm <= rho * 2
    assert norm >= 0.999 * rho * 2
