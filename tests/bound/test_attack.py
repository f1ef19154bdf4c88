"""Attacks on the rules of bounds: what is wrong is marked with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import sympy
import torch
import torch.nn.functional as F
from strategies import Builder
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg
from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.calls import CALLS


def certified(model: nn.Module, x: Tensor) -> float:
    """The certificate of a model on a sample that is labeled by the model itself."""
    model = model.double().eval()
    y = model(x).argmax(1)
    return cg.analyze(model, DataLoader(TensorDataset(x, y), batch_size=2), progress=False).certificate.value


class ScaleAndShiftTied(nn.Module):
    """Two norm layers whose scale and shift are all one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for _ in range(2):
            h = F.layer_norm(h, (4,), self.w, self.w)
        return self.last(h)


def test_shared_parameters_in_two_roles() -> None:
    """w h + w, h = (3, -1, -1, -1)/sqrt(3), changes by 1 + sqrt(3) where w changes by (1, 0, 0, 0)."""
    graph = cg.trace(ScaleAndShiftTied(), (torch.randn(2, 4),))
    h = torch.tensor([3.0, -1, -1, -1]) / 3**0.5
    change = torch.tensor([1.0, 0, 0, 0])
    moved = float((change * h + change).norm() / change.norm())
    for group in cg.derive(cg.augment(graph)).groups:
        values = [r for r, part in group.parts if part.kind == "value"]
        assert all(float(r) >= moved for r in values), (values, moved)


def test_softmax_of_a_broadcast_slot() -> None:
    """Its constants are those of slots of one shape (Lemma 14.2); a handmade graph must spell the expansion out."""
    builder = Builder(0)
    x = builder.input(4)
    scores = builder.add(op.Reshape(), builder.linear(x, 12), shape=(6, 2))
    made = builder.add(op.Softmax(1), scores, builder.linear(x, 2))
    graph = builder.graph(builder.linear(builder.flat(made), 2))
    with pytest.raises(UnsupportedOperationError, match=r"reads .* of shape \(2,\), expected \(6, 2\)"):
        cg.augment(graph)


@pytest.fixture
def hypot() -> Iterator[str]:
    """A user's rule for the first tensor of hypot; the second one must be data."""
    name = "aten.hypot.default"
    rule = cg.CallRule((0,), taubar={(0, 0): sympy.Integer(1)}, lipschitz={0: sympy.Integer(1)}, source="a test")
    cg.register(name, rule)
    yield name
    del CALLS[name]


class Hypot(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(torch.hypot(h, h))


def test_a_merged_chain_is_refused_like_its_parts(hypot: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Hypot(), nn.Linear(4, 3)).double()
    graph = cg.trace(model, (torch.randn(2, 4, dtype=torch.float64),))
    with pytest.raises(UnsupportedOperationError, match="fixed values"):
        cg.augment(graph)
    with pytest.raises(UnsupportedOperationError, match="fixed values"):
        cg.augment(cg.merge_chains(graph))


class Signs(nn.Module):
    """Embedded signs of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(2, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.last(self.table((x > 0).long()).flatten(1))
        return value


def test_embedding_of_integers_made_of_the_inputs() -> None:
    assert math.isfinite(certified(Signs(), torch.randn(6, 4, dtype=torch.float64)))


class Padded(nn.Module):
    """Attention among the tokens that are not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x)
        value: Tensor = self.last(self.attention(h, h, h, key_padding_mask=x == 0, need_weights=False)[0].mean(1))
        return value


def test_padding_masks_of_attention() -> None:
    tokens = torch.tensor([[1, 2, 0], [3, 4, 5], [2, 0, 0], [1, 1, 1]])
    assert math.isfinite(certified(Padded(), tokens))


@pytest.fixture
def nan_for_empty() -> Iterator[None]:
    """torch.empty gives NaN, as it may at any time."""
    settings: Any = torch.utils.deterministic
    before = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    settings.fill_uninitialized_memory = before


def test_circular_padding_does_not_read_memory_that_nobody_wrote(nan_for_empty: None) -> None:
    convolution = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
    model = nn.Sequential(convolution, nn.Flatten(), nn.Linear(32, 3))
    assert math.isfinite(certified(model, torch.randn(4, 2, 4, 4, dtype=torch.float64)))


class Kept(nn.Module):
    """A mask made of the inputs chooses learned values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.last(torch.where(x > 0, self.first(x), 0.5))
        return value


def test_paper_mode_with_masks_made_of_the_inputs() -> None:
    """Paths through a comparison have derivative 0, as `fill=True` has it."""
    model = Kept().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    bound = cg.derive(cg.augment(cg.trace(model, (x[:2],)), mode="paper"))
    loader = DataLoader(TensorDataset(x, model(x).argmax(1)), batch_size=3)
    filled = cg.measure(bound, model, loader, fill=True)
    dense = cg.measure(bound, model, loader)
    assert all((dense.pair_values[p] <= filled.pair_values[p] * (1 + 1e-9)).all() for p in bound.measured_pairs)
