"""What training may have chosen and a model holds outside of its state is named, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import covergraph as cg
from covergraph.errors import NonFiniteError, ParameterError

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(16) % 3
MEAN = [0.5, -0.25, 1.0]


class Held(nn.Module):
    """A first layer in an array, shifts in a list, scales in a dictionary, a plain number, numbers in the code."""

    def __init__(self, scale: float = 0.37) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = np.linspace(-1, 1, 12).reshape(4, 3)
        self.shifts = [0.1, 0.2, 0.3]
        self.tables = {"a": np.array([0.5, 1.5, 2.5])}
        self.scale = scale
        self.unread = 0.77
        self.out = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x @ torch.from_numpy(self.matrix).to(x.dtype)
        h = torch.tanh(h * self.scale) + torch.tensor(self.shifts, dtype=x.dtype)
        h = h * torch.as_tensor(self.tables["a"], dtype=h.dtype) - torch.tensor(MEAN, dtype=x.dtype)
        result: Tensor = self.out(h)
        return result


def test_arrays_lists_and_numbers_are_named() -> None:
    weights = cg.trace(Held(), X[:2]).weights
    assert weights.factors == ("matrix", "shifts", "tables['a']", "of shape (3,) in forward's code")
    assert weights.numbers == ("scale",)


def test_they_are_assumptions_of_the_certificate() -> None:
    with pytest.warns(UserWarning, match=r"supposes that the tensors matrix, shifts, tables\['a'\], of shape"):
        found = cg.analyze(Held(), [(X, Y)], fill=True)
    assert "This supposes that the numbers scale, which modules hold, were not chosen by training." in found.explain()


@pytest.mark.parametrize(("name", "other"), [("matrix", np.ones((4, 3))), ("shifts", [0.1, 0.2, 0.4]), ("scale", 0.38)])
@pytest.mark.filterwarnings("ignore:measure. the certificate supposes")
def test_a_reference_with_others_is_refused_by_name(name: str, other: Any) -> None:
    start = Held()
    with torch.no_grad():
        start.out.weight.mul_(0.5)
    setattr(start, name, other)
    with pytest.raises(ParameterError, match=f"init_model has other constants than the trained model .{name} is"):
        cg.analyze(Held(), [(X, Y)], start, fill=True)


def test_numbers_of_torchs_own_modules_are_its_business() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.LeakyReLU(0.3), nn.Linear(3, 3)).double()
    assert cg.trace(network, X[:2]).weights.numbers == ()


class Elsewhere(nn.Module):
    """Single-precision numbers in an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 3), nn.Linear(3, 3)
        self.kept = SimpleNamespace(scale=torch.tensor([0.25, 0.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.tanh(self.inner(x) * self.kept.scale))
        return result


def test_single_precision_that_only_code_knows() -> None:
    """The model is traced in float64, and its tensor stays as it is."""
    graph = cg.trace(Elsewhere(), X[:1].float())
    assert graph.weights.factors == ("of shape (3,) in forward's code",)


@dataclass
class Config:
    scale: float = 0.37


class Numbers(nn.Module):
    """Numbers in lists, dictionaries, a data class, and one of numpy's."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)
        self.shifts, self.table, self.config, self.last = [0.11, 0.12], {"a.b": 0.13}, Config(), np.float32(0.25)
        self.losses = [0.9, 0.8]

    def forward(self, x: Tensor) -> Tensor:
        h = (x + self.shifts[1]) * self.config.scale
        result: Tensor = self.out(torch.tanh(h / self.table["a.b"]) * self.last)
        return result


def test_numbers_within_what_a_module_holds_are_named() -> None:
    found = cg.trace(Numbers(), X[:2]).weights.numbers
    assert sorted(found) == ["config.scale", "last", "shifts[1]", "table['a.b']"]


def test_a_reference_may_have_other_numbers_that_are_not_read() -> None:
    model, start = Numbers(), Numbers()
    start.losses = []
    with torch.no_grad():
        start.out.weight.mul_(0.5)
    assert "shifts[1]" in cg.analyze(model, [(X, Y)], start, fill=True).explain()
    start.table = {"a.b": 0.14}
    with pytest.raises(ParameterError, match=r"table\['a.b'\] is 0.13 in the trained model and 0.14"):
        cg.analyze(model, [(X, Y)], start, fill=True)


MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "equal to 0": lambda a, mask: a.masked_fill(mask == 0, -torch.inf),
    "viewed": lambda a, mask: a.masked_fill(mask.view(1, 6, 6)[:, :6, :6] == 0, -torch.inf),
    "chosen": lambda a, mask: torch.where(mask > 0, a, torch.finfo(a.dtype).min),
    "inverted": lambda a, mask: a.masked_fill(~mask.bool(), -torch.inf),
}


class Causal(nn.Module):
    """Attention with a mask of real numbers in the model's state."""

    def __init__(self, mask: Tensor, apply: Callable[[Tensor, Tensor], Tensor], kept: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.v, self.out, self.apply = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3), apply
        self.register_buffer("mask", mask, persistent=kept)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.apply(self.q(x) @ x.mT, self.mask)
        result: Tensor = self.out(torch.tanh(torch.softmax(scores, -1) @ self.v(x))).mean(1)
        return result


LOWER, WORDS = torch.tril(torch.ones(6, 6)), torch.randn(12, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:measure. the certificate supposes")
@pytest.mark.parametrize("form", MASKED)
def test_a_buffer_that_is_only_compared_is_a_mask(form: str) -> None:
    """As one of booleans is: it is not learned, and init_model must have the same."""
    sample = [(WORDS, torch.arange(12) % 3)]
    real, plain = Causal(LOWER, MASKED[form]), Causal(LOWER == 1, lambda a, m: a.masked_fill(~m, -torch.inf), False)
    found = cg.analyze(real, sample, fill=True)
    assert "mask" not in found.bound.graph.state_names and found.bound.graph.weights.factors == ("mask",)
    assert pytest.approx(cg.analyze(plain, sample, fill=True).certificate.C, rel=1e-12) == found.certificate.C
    start = Causal(torch.ones(6, 6), MASKED[form])
    with torch.no_grad():
        for p in start.parameters():
            p.mul_(0.5)
    with pytest.raises(ParameterError, match="init_model has other constants"):
        cg.analyze(real, sample, start, fill=True)


def test_a_buffer_that_is_compared_and_multiplies_is_learned() -> None:
    graph = cg.trace(Causal(LOWER, lambda a, mask: a * mask * (mask > 0)), WORDS[:2])
    assert "mask" in graph.state_names


def test_a_mask_of_infinite_numbers_in_the_state_is_named() -> None:
    model = Causal(torch.triu(torch.full((6, 6), -torch.inf), 1), lambda a, mask: a + mask)
    with pytest.raises(NonFiniteError, match=r"entry 'mask' of the model's state holds infinite.*persistent=False"):
        cg.analyze(model, [(WORDS, torch.arange(12) % 3)], fill=True)
