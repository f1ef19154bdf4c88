"""Products and norms of matrices in single precision: within their bounds, against double precision and numpy's SVD."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operation_cases import Case, random
from operation_cases.every import CASES
from strategies import examples

from covergraph.graph import operations as op
from covergraph.measure import roundings
from covergraph.measure.rounded import rounded
from covergraph.measure.roundings import DOUBLE, SINGLE, Arithmetic

ENTRY_BY_ENTRY = (op.Linear, op.AxisMap, op.Convolution, op.TransposedConvolution, op.Affine, op.Elementwise)
"""Each entry of a product with the identity is one factor; so it is for op.ParametricReLU."""
NO_RULE = (op.Attention, op.Call, op.Composite, op.Embedding, op.Parameter, op.Constant, op.Recurrent)
ROUNDING = 1e-12
"""Relative rounding of the norms in double precision that are taken for the truth."""


@pytest.mark.parametrize("number", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("name", CASES)
def test_products_with_rounded_jacobians_are_within_their_bound(name: str, number: Arithmetic) -> None:
    """Against the dense Jacobians of plain torch in double precision, each slot alone and all together."""
    case: Case = CASES[name]
    values = case.values()
    rule = rounded(case.operation, case.node, values, case.context, number) if case.is_float else None
    none = isinstance(case.operation, NO_RULE) or not case.is_float or name == "max of no axes"
    assert (rule is None) == (none if number is SINGLE else not case.is_float)
    if rule is None:
        return
    tangents = {i: random(len(values[0]), 5, *case.slots[i], seed=50 + i).to(number.dtype) for i in rule.losses}
    exact, bounds = {}, {}
    for i, t in tangents.items():
        jacobian = torch.stack([case.dense(i, n) for n in range(len(t))])
        exact[i] = t.double().reshape(*t.shape[:2], -1) @ jacobian.mT
        norm = number.frobenius(t.reshape(*t.shape[:2], -1))
        bounds[i] = rule.losses[i].of(norm, exact[i][0].numel(), False, slice(None), number)
        one = rule.losses[i].of(norm, exact[i][0].numel(), True, slice(None), number)
        assert bool((one < bounds[i]).all()) == (
            isinstance(case.operation, (*ENTRY_BY_ENTRY, op.ParametricReLU)) and rule.losses[i].terms > 0
        )
        size = torch.as_tensor(rule.losses[i].size, dtype=torch.float64)
        if rule.losses[i].terms:
            assert rule.losses[i].terms >= (jacobian != 0).sum(2).max()
            assert (size >= torch.linalg.matrix_norm(jacobian.abs(), ord=2) * (1 - ROUNDING)).all()
    for chosen in [*([i] for i in tangents), list(tangents)]:
        if not chosen:
            continue
        made = rule.push({i: tangents[i] for i in chosen}, slice(None))
        assert made.dtype == number.dtype and made.shape[2:] == case.node.shape
        made = made.double().reshape(*made.shape[:2], -1)
        error = (made - sum(exact[i] for i in chosen)).flatten(1).norm(dim=1)
        assert (error <= sum(bounds[i] for i in chosen) + 1e-14 * (1 + made.flatten(1).norm(dim=1))).all()


@pytest.mark.parametrize("excess", [0.0, 2.0**-10])
@examples(60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.integers(-15, 15), st.sampled_from([1, 3, 99]))
def test_ends_of_dense_matrices(excess: float, m: int, d: int, seed: int, size: int, rank: int) -> None:
    """Of any size and rank, against numpy's SVD; matrix by matrix as sharp as asked for."""
    few = min(rank, m, d)
    matrices = (10.0**size * random(4, m, few, seed=seed) @ random(4, few, d, seed=seed + 1)).float()
    truth = np.linalg.svd(matrices.double().numpy(), compute_uv=False)[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roundings, "EXCESS", excess)
        computed, upper = (end.numpy() for end in SINGLE.ends(matrices))
    assert (upper >= truth * (1 - ROUNDING)).all()
    assert (upper <= truth * (1 + excess + 8e-5)).all()
    np.testing.assert_allclose(computed, truth, rtol=excess + 4e-5)


def test_matrices_with_equal_singular_values_are_squared_often_enough() -> None:
    """Of n equal ones 2^k squarings leave the 2^(k+2)-th root of n."""
    matrices = torch.linalg.qr(random(2, 60, 60)).Q.float()
    computed, upper = SINGLE.ends(matrices)
    assert (upper <= 1.0015).all() and (upper >= 1 - 1e-6).all() and (computed <= upper).all()


@pytest.mark.parametrize("count", [500, 4000])
def test_long_sums_of_small_numbers_are_not_lost(count: int) -> None:
    """1 + c^2 + c^2 + ...: each alone is too small to change 1."""
    matrix = torch.full((2, 3, count), math.sqrt(0.9 * SINGLE.unit))
    matrix[:, :, 0] = 1
    truth = np.linalg.svd(matrix[0].double().numpy(), compute_uv=False)[0]
    for matrices in (matrix, matrix.mT):
        assert (SINGLE.ends(matrices)[1] >= truth).all()


def test_ends_of_matrices_that_are_zero_or_out_of_range() -> None:
    matrices = torch.zeros(6, 2, 3)
    matrices[1:, 0, 0] = torch.tensor([1e-30, 1e30, math.inf, math.nan, 1e-40])
    computed, upper = SINGLE.ends(matrices)
    assert (float(computed[0]), float(upper[0])) == (0, 0)
    assert upper[1:].tolist() == [math.inf] * 5


@examples(60)
@given(st.integers(1, 300), st.integers(-44, 18), st.integers(0, 999))
def test_frobenius_norms_are_not_too_small(entries: int, size: int, seed: int) -> None:
    matrices = (10.0**size * random(3, entries, seed=seed)).float()
    found, truth = SINGLE.frobenius(matrices[:, None]), matrices.double().norm(dim=1)
    assert (found >= truth).all() and ((found > 0) == (truth > 0)).all()
    assert (found <= truth * (1 + 1e-4) + 1e-18 * math.sqrt(entries)).all()


def test_long_sums_are_cut_into_blocks() -> None:
    """Each block is summed on its own, the sums of blocks one after the other."""
    product = replace(SINGLE, block=8).product
    assert [SINGLE.longest(n) for n in (1, 128, 129, 256, 257, 1000)] == [1, 128, 129, 129, 130, 135]
    left, right = random(3, 5, 20).float(), random(3, 20, 4, seed=1).float()
    blocks = [left[..., i : i + 8] @ right[..., i : i + 8, :] for i in (0, 8, 16)]
    assert torch.equal(product(left, right), blocks[0] + blocks[1] + blocks[2])
