"""Losses: margins by loops, Lipschitz constants by random pairs and a tight direction, labels (Lemma 9)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from covergraph.errors import LabelError, ParameterError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.losses import GAMMA, LipschitzLoss, MarginLoss, check_labels
from covergraph.graph.node import Node

LOSS = MarginLoss()


def output(*shape: int) -> Node:
    return Node("out", op.Reshape(), ("h",), shape)


def tau(classes: int, gamma: float) -> float:
    return float(LOSS.tau(output(classes)).subs(GAMMA, gamma))


def logits(seed: int, batch: int, classes: int) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(2, 6), st.integers(0, 999))
def test_margins_by_loops(classes: int, seed: int) -> None:
    h = logits(seed, 8, classes)
    y = torch.arange(8) % classes
    expected = []
    for row, label in zip(h.tolist(), y.tolist(), strict=True):
        expected.append(row[label] - max(row[:label] + row[label + 1 :]))
    assert LOSS.margins(h, y).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_one_logit_has_the_margin_of_its_sign(shape: tuple[int, ...]) -> None:
    h = torch.tensor([2.0, 2.0, -0.5, -0.5]).reshape(shape)
    assert LOSS.margins(h, torch.tensor([1, 0, 1, 0])).tolist() == [2.0, -2.0, -0.5, 0.5]
    assert LOSS.tau(output(*shape[1:])) == 1 / GAMMA


def test_ties_have_margin_zero_and_loss_one() -> None:
    h = torch.tensor([[1.0, 1.0, 0.0], [3.0, 3.0, 3.0]])
    for y in (0, 1):
        labels = torch.full((2,), y)
        assert LOSS.margins(h, labels).tolist() == [0, 0]
        assert LOSS.evaluate(h, labels, 0.5).tolist() == [1, 1]
    assert LOSS.margins(h, torch.tensor([2, 2])).tolist() == [-1, 0]


@given(st.integers(1, 5), st.integers(0, 999), st.floats(0.01, 5))
def test_the_ramp_lies_between_the_error_and_one(classes: int, seed: int, gamma: float) -> None:
    h = logits(seed, 30, classes)
    y = torch.arange(30) % max(classes, 2)
    value = LOSS.evaluate(h, y, gamma)
    predicted = (h[:, 0] > 0).long() if classes == 1 else h.argmax(1)
    assert bool((value >= (predicted != y).double()).all())
    assert bool(((value >= 0) & (value <= 1)).all())
    margins = LOSS.margins(h, y)
    assert bool((value[margins >= gamma] == 0).all())


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 4.0])
def test_the_loss_is_lipschitz_with_the_stated_constant(classes: int, gamma: float) -> None:
    """sup |l(h) - l(h')|/||h - h'|| over pairs; reached by moving the label against the runner-up."""
    y = torch.arange(3000) % max(classes, 2)
    largest = 0.0
    for step in (1e-3, 0.1, 3.0):
        h = gamma * logits(1, 3000, classes)
        other = h + step * gamma * logits(2, 3000, classes)
        change = (LOSS.evaluate(h, y, gamma) - LOSS.evaluate(other, y, gamma)).abs()
        largest = max(largest, float((change / (h - other).norm(dim=1)).max()))
    assert 0.3 * tau(classes, gamma) < largest <= tau(classes, gamma) * (1 + 1e-9)
    h = torch.zeros(1, classes, dtype=torch.float64)
    direction = torch.zeros_like(h)
    direction[0, 0] = -1 if classes == 1 else 1
    if classes > 1:
        direction[0, 1] = -1
        h[0, 2:] = -100
    moved = h + 0.3 * gamma * direction
    label = torch.tensor([0])
    change = LOSS.evaluate(h, label, gamma) - LOSS.evaluate(moved, label, gamma)
    assert float(change / (moved - h).norm()) == pytest.approx(tau(classes, gamma), rel=1e-12)


def test_known_constants() -> None:
    assert tau(2, 0.5) == pytest.approx(math.sqrt(2) / 0.5)
    assert tau(1, 0.5) == 2


def test_margins_need_one_vector_of_logits() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"'out' has shape \(2, 3\).*output=.*LipschitzLoss"):
        LOSS.tau(output(2, 3))


@pytest.mark.parametrize(
    ("labels", "pattern"),
    [
        (torch.tensor([0, 3, 1]), r"sample 1 of the batch has label 3, expected an integer in 0\.\.2"),
        (torch.tensor([0, 1, -1]), "sample 2 .* label -1"),
        (torch.tensor([0.0, 1.5, 1.0]), r"sample 1 .* label 1\.5"),
        (torch.tensor([math.nan, 1.0, 1.0]), "sample 0 .* label nan"),
        (torch.tensor([0.0, math.inf, 1.0]), "sample 1 .* label inf"),
        (torch.tensor([0, 1]), "2 labels for 3 samples"),
        (torch.eye(3), "9 labels for 3 samples"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, pattern: str) -> None:
    with pytest.raises(LabelError, match=pattern):
        LOSS.margins(torch.zeros(3, 3), labels)


def test_one_logit_has_the_labels_0_and_1() -> None:
    with pytest.raises(LabelError, match=r"label 2, expected an integer in 0\.\.1"):
        LOSS.margins(torch.zeros(2, 1), torch.tensor([1, 2]))
    with pytest.raises(LabelError, match=r"label -1"):
        LOSS.margins(torch.zeros(2, 1), torch.tensor([1, -1]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float32, torch.float64, torch.bool])
def test_whole_labels_of_any_type(dtype: torch.dtype) -> None:
    labels = torch.tensor([1, 0, 1]).to(dtype)
    assert check_labels(labels, 3, 2).tolist() == [1, 0, 1]
    assert check_labels(labels[:, None], 3, 2).tolist() == [1, 0, 1]


def hinge(h: Tensor, y: Tensor) -> Tensor:
    return (h[:, 0] - y).abs().clamp(0, 1)


def test_a_loss_of_the_user() -> None:
    loss = LipschitzLoss(hinge, 1.0, "absolute")
    assert not loss.has_margin and float(loss.tau(output(3))) == 1.0
    found = loss.evaluate(torch.tensor([[0.25, 9.0], [2.0, 9.0]]), torch.tensor([0.0, 0.0]), None)
    assert found.tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda h, y: h[:, 0] - 1.5,
        lambda h, y: h[:, 0] + 0.5,
        lambda h, y: h[:, 0] * math.nan,
        lambda h, y: h,
        lambda h, y: h.mean(),
    ],
    ids=["negative", "above one", "NaN", "a matrix", "one number"],
)
def test_losses_out_of_range_are_refused(function: object) -> None:
    loss = LipschitzLoss(function, 1.0, "mine")  # type: ignore[arg-type]
    with pytest.raises(LabelError, match=r"'mine'.*one value in \[0, 1\] per sample"):
        loss.evaluate(torch.ones(4, 2), torch.zeros(4), None)


@pytest.mark.parametrize("constant", [0.0, -1.0, math.nan, math.inf])
def test_the_constant_of_the_user_must_be_positive(constant: float) -> None:
    with pytest.raises(ParameterError, match=r"expected a (positive )?number"):
        LipschitzLoss(hinge, constant)
