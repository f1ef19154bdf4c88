"""Activation patterns, slopes and inner products against torch's autograd and the Kronecker product written out."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import nn

import covergraph
from covergraph.errors import TrajectoryError
from covergraph.trajectory.exact import Span
from covergraph.trajectory.patterns import Patterns, chain, inner, patterns


def kronecker(found: Patterns) -> np.ndarray:
    """s(x) of each sample, all Π n_l entries (m, Π n_l)."""
    rows = zip(*found.layers, strict=True)
    return np.array([reduce(np.kron, [layer.astype(int) for layer in row[::-1]]) for row in rows])


def of_layers(*layers: np.ndarray) -> Patterns:
    """Patterns with these layers; slopes and logits are of no account."""
    zeros = np.zeros(len(layers[0]))
    return Patterns(tuple(layer.astype(bool) for layer in layers), zeros, zeros, False)


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)), (3,)),
    "sigmoid": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid()), (2, 2)),
    "relu last": (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1), nn.ReLU()), (3,)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(),
            nn.Flatten(), nn.Linear(12, 1), nn.Sigmoid(),
        ),
        (1, 8, 8),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_patterns_slopes_and_outputs_are_torchs(name: str) -> None:
    torch.manual_seed(3)
    build, shape = NETS[name]
    model = build().double().eval()
    X = torch.randn(1030, *shape, dtype=torch.float64, requires_grad=True)  # more than one block
    found = patterns(covergraph.trace(model, X[:1].detach()), model, X)
    h, active = X, []
    for part in model:
        h = part(h)
        if isinstance(part, nn.ReLU):
            active.append((h > 0).flatten(1).numpy())
    (gradient,) = torch.autograd.grad(h.sum(), X)
    assert len(active) == len(found.layers)
    assert all(np.array_equal(a, b) for a, b in zip(active, found.layers, strict=True))
    np.testing.assert_allclose(found.lam, gradient.flatten(1).norm(dim=1).numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.outputs, h.detach().flatten().numpy(), rtol=1e-9)
    rows, positions = found.distinct()
    full = np.concatenate(active, axis=1)
    assert len(rows) == len({row.tobytes() for row in full}) and np.array_equal(full[rows][positions], full)


def test_a_saturated_sigmoid_keeps_its_slope_and_its_distance_to_one() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.Sigmoid())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    found = patterns(covergraph.trace(model, torch.ones(1, 1)), model, torch.tensor([[58.0]]))  # g = 60: f rounds to 1
    assert model(torch.tensor([[58.0]])).item() == 1.0
    np.testing.assert_allclose(found.indecision, np.exp(-60.0), rtol=1e-9)
    np.testing.assert_allclose(found.lam, np.exp(-60.0), rtol=1e-6)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + self.inside(x).relu())


REFUSED = {
    "skip": (Skip(), (3,), "skip connection"),
    "max pool": (
        nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 1)), (1, 8), "maxpool",
    ),
    "leaky": (nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(), nn.Linear(3, 1)), (3,), "neither affine"),
    "norm": (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 1)), (3,), "not covered"),
    "two outputs": (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), (3,), "2 entries"),
    "inner sigmoid": (nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 1)), (3,), "neither affine"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_chain_is_refused_by_name(name: str) -> None:
    model, shape, word = REFUSED[name]
    with pytest.raises(TrajectoryError, match=word) as error:
        chain(covergraph.trace(model, torch.randn(1, *shape)))
    assert "node '" in str(error.value)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 6), st.floats(0.2, 0.9))
@examples(60)
def test_inner_products_and_membership_are_those_of_the_product(seed: int, depth: int, m: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    layers = [rng.random((m + 4, int(rng.integers(1, 4)))) < density for _ in range(depth)]
    found = of_layers(*layers)
    S = kronecker(found)
    np.testing.assert_array_equal(inner(found, found), S @ S.T)
    columns, targets = found[:m], found[m:]
    span, products = Span(columns), inner(columns, targets)
    assert len(span.basis) == np.linalg.matrix_rank(S[:m])
    squares = np.sum(S[m:] ** 2, axis=1)
    members = span.contains(products, squares)
    for k, s in enumerate(S[m:]):
        inside = np.linalg.matrix_rank(np.vstack([S[:m], s])) == len(span.basis)
        assert members[k] == inside
        found_weights = span.weights(products[:, k], int(squares[k]), np.zeros(len(span.others)))
        assert (found_weights is not None) == inside
        if found_weights is not None:
            a, denominator = found_weights
            np.testing.assert_array_equal(S[:m].T.astype(object) @ np.array(a, dtype=object), denominator * s)


def test_products_beyond_64_bits_stay_exact() -> None:
    rng = np.random.default_rng(0)
    found = of_layers(*(rng.random((3, 4000)) < 0.9 for _ in range(7)))
    expected = 1
    for layer in found.layers:
        expected *= int(np.sum(layer[0] & layer[1]))
    assert inner(found, found)[0, 1] == expected and expected > 2**63


def test_the_identity_asks_for_more_than_equal_sums() -> None:
    """Patterns 10 and 01, target 11: a = (2, 0) has cᵀa = ‖s‖², too."""
    span = Span(of_layers(np.eye(2)))
    products = inner(span.columns, of_layers(np.ones((1, 2))))[:, 0]
    assert span.solves([1, 1], 1, products, 2) and span.solves([3, 3], 3, products, 2)
    assert not span.solves([2, 0], 1, products, 2) and not span.solves([1, 0], 1, products, 2)


def test_a_rational_solution_with_large_denominators_is_found_exactly() -> None:
    rng = np.random.default_rng(5)
    layer = rng.random((40, 40)) < 0.5  # 40 patterns of 40 neurons: determinants of some ten digits
    target = rng.random((1, 40)) < 0.5
    span, products, square = Span(of_layers(layer)), inner(of_layers(layer), of_layers(target))[:, 0], int(target.sum())
    found = span.weights(products, square, np.zeros(0))
    assert len(span.basis) == 40 and found is not None
    a, denominator = found
    assert denominator > 10**9
    expected = denominator * target[0].astype(object)
    np.testing.assert_array_equal(layer.T.astype(object) @ np.array(a, dtype=object), expected)
    assert not span.solves([a[0] + 1, *a[1:]], denominator, products, square)
