"""Slopes whose form would cancel: beside the ends of a domain, and where a softmax saturates; against 60 digits."""

from __future__ import annotations

import itertools

import mpmath
import pytest
import torch

from covergraph.graph import function_rows as rows
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.graph.operations import Softmax
from covergraph.measure.linearize import local_at

ENDS = {rows.ASIN: -1, rows.ACOS: -1, rows.ATANH: -1, rows.ACOSH: 1}


@pytest.mark.parametrize("row", ENDS, ids=lambda row: row.name)
def test_slopes_do_not_cancel_beside_the_end_of_a_domain(row: ScalarFunction) -> None:
    """1 - t^2 has no digits left there; expected: 1 - t^2 in 60 digits, to the power -1/2, or -1 for atanh."""
    at = torch.tensor([1 + ENDS[row] * 2.0**-k for k in range(1, 53)], dtype=torch.float64)
    found = row.derivative(at)
    errors = row.slope_error(at, found)
    with mpmath.workdps(60):
        for x, value, error in zip(at.tolist(), found.tolist(), errors.tolist(), strict=True):
            square = abs(1 - mpmath.mpf(x) ** 2)
            size = 1 / square if row is rows.ATANH else 1 / mpmath.sqrt(square)
            expected = -size if row is rows.ACOS else size
            assert abs(mpmath.mpf(value) - expected) <= error <= 1e-14 * size


@pytest.mark.parametrize("scores", [(40.0, 0.0, 3.0), (0.0, 50.0, 1.0), (1.0, 2.0, 3.0)])
def test_products_with_the_logarithm_of_softmax_do_not_cancel(scores: tuple[float, ...]) -> None:
    """I - 1 p' entry by entry, in both directions: 1 - p_1 is not 0."""
    node = Node("p", Softmax(0, True), ("x",), (3,))
    made = local_at(node, [torch.tensor([scores], dtype=torch.float64)], Context({}))
    basis = torch.eye(3, dtype=torch.float64)
    pushed = torch.stack([made.push({0: e[None]})[0] for e in basis], 1)
    pulled = torch.stack([made.pull(e[None], [0])[0][0] for e in basis])
    with mpmath.workdps(60):
        total = sum(mpmath.exp(s) for s in scores)
        for i, j in itertools.product(range(3), repeat=2):
            others = sum(mpmath.exp(s) for k, s in enumerate(scores) if k != j)
            expected = (others if i == j else -mpmath.exp(scores[j])) / total
            for found in (pushed, pulled):
                assert abs(float(found[i, j]) / expected - 1) <= 64 * 2.0**-53
