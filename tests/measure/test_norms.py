"""Norms of given matrices: both ends enclose what numpy's SVD finds, at any scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense import spectral
from hypothesis import given
from hypothesis import strategies as st

from covergraph.measure.norms import exact, largest, rounding, spectral_norms

sides = st.integers(1, 7)
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float64, torch.float32])


@given(sides, sides, seeds, dtypes, st.integers(-25, 25), st.integers(0, 3))
def test_ends_enclose_the_singular_value_of_the_entries(
    m: int, d: int, seed: int, dtype: torch.dtype, power: int, rank: int
) -> None:
    torch.manual_seed(seed)
    matrix = torch.randn(4, m, d, dtype=dtype)
    if rank:
        matrix = torch.randn(4, m, rank, dtype=dtype) @ torch.randn(4, rank, d, dtype=dtype)
    matrix = matrix * 10.0**power
    slack = rounding(dtype, m, d)
    found = spectral_norms(matrix).double().numpy()
    truth = np.array([spectral(one) for one in matrix.double().numpy()])
    assert (found * (1 + slack) >= truth).all()
    assert (found * (1 - slack) <= truth * (1 + 1e-14)).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1.0, 1e30, 1e160, 1e300])
def test_squares_neither_overflow_nor_underflow(scale: float) -> None:
    matrix = torch.tensor([[[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]]], dtype=torch.float64) * scale
    assert float(spectral_norms(matrix)) == pytest.approx(5 * scale, rel=1e-14)


def test_norm_of_zero_is_zero_and_of_what_is_not_finite_infinite() -> None:
    matrices = torch.zeros(4, 2, 3, dtype=torch.float64)
    matrices[1, 0, 0] = torch.inf
    matrices[2, 1, 1] = torch.nan
    matrices[3, 1, 2] = 7
    assert spectral_norms(matrices).tolist() == [0.0, np.inf, np.inf, 7.0]


def test_largest_names_the_sample_and_removes_the_slack_from_the_lower_end() -> None:
    truth, relative = 3.0, 1e-3
    found = largest(np.array([1.0, truth * (1 + relative), 2.0]), relative, "operator")
    assert (found.sample, found.kind, found.norm) == (1, "exact", "operator")
    assert found.lower <= truth <= found.upper
    # The value before the slack was right up to `relative` itself.
    assert found.lower == pytest.approx(truth * (1 - relative), rel=1e-12)


@given(st.floats(0, 1e300), st.floats(0, 0.5))
def test_exact_encloses(value: float, relative: float) -> None:
    found = exact(value, relative, "Euclidean")
    assert 0 <= found.lower <= value <= found.upper
