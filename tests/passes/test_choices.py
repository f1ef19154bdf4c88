"""Choices by comparisons with numbers are functions of one entry, as torch's own are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import covergraph as cg
from covergraph.errors import UnsupportedOperationError
from covergraph.graph.operations import Call, Elementwise

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
Function = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A function of every entry between two layers."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))  # type: ignore[no-any-return]


WRITTEN: dict[str, tuple[Function, Function]] = {
    "elu": (lambda h: torch.where(h > 0, h, torch.expm1(h)), F.elu),
    "elu, other side": (lambda h: torch.where(h <= 0, torch.exp(h) - 1, h), F.elu),
    "leaky": (lambda h: torch.where(h >= 0, h, 0.1 * h), lambda h: F.leaky_relu(h, 0.1)),
    "relu with a number": (lambda h: torch.where(h > 0, h, 0.0), F.relu),
    "relu with a tensor": (lambda h: torch.where(h > 0, h, torch.zeros_like(h)), F.relu),
    "relu by a mask": (lambda h: h * (h > 0), F.relu),
    "relu by filling": (lambda h: h.masked_fill(h < 0, 0.0), F.relu),
    "relu by the other side": (lambda h: torch.where(~(h > 0), 0.0, h), F.relu),
    "hardtanh": (lambda h: torch.where((h > -1) & (h < 1), h, torch.sign(h)), F.hardtanh),
    "nested": (lambda h: torch.where(h > 1, 1.0, torch.where(h < -1, -1.0, h)), F.hardtanh),
    "outside": (lambda h: torch.where((h < -1) | (h > 1), torch.sign(h), h), F.hardtanh),
    "by size": (lambda h: torch.where(h.abs() > 1, torch.sign(h), h), F.hardtanh),
    "a jump": (lambda h: torch.where(h > 1, h, 0.0), lambda h: F.threshold(h, 1.0, 0.0)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_choice_has_the_certificate_of_torch_s_own_function(name: str) -> None:
    written, own = (cg.analyze(Net(function), [(X, Y)], progress=False) for function in WRITTEN[name])
    (node,) = [n for n in written.graph.nodes if isinstance(n.operation, Elementwise)]
    function = node.operation.function
    function.check()
    (expected,) = [n for n in own.graph.nodes if isinstance(n.operation, Elementwise)]
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)[:-1] + 0.003
    for one, other in (
        (function.evaluate(x), expected.operation.function.evaluate(x)),
        (function.derivative(x), expected.operation.function.derivative(x)),
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert written.certificate.value == pytest.approx(own.certificate.value, rel=1e-9)


def test_where_pieces_join_smoothly_there_is_no_condition() -> None:
    """A hand-written ELU and Huber's function have a slope where they change; at 1 and h² they have none."""

    def conditions(function: Function) -> int:
        return len(cg.augment(cg.trace(Net(function), X)).conditions)

    assert conditions(lambda h: torch.where(h > 0, h, torch.expm1(h))) == 0
    assert conditions(lambda h: torch.where(h.abs() < 1, h * h / 2, h.abs() - 0.5)) == 0
    assert conditions(lambda h: torch.where(h > 0, h, h * h)) == 1


def test_a_function_that_overflows_where_it_is_not_chosen() -> None:
    graph = cg.trace(Net(lambda h: torch.where(h > 20, h, torch.log1p(torch.exp(h)))), X)
    (node,) = [n for n in graph.nodes if isinstance(n.operation, Elementwise)]
    x = torch.tensor([-900.0, 0.0, 900.0], dtype=torch.float64)
    assert node.operation.function.evaluate(x).tolist() == [0.0, pytest.approx(0.6931471805599453), 900.0]
    assert node.operation.function.derivative(x).tolist() == [0.0, 0.5, 1.0]


REFUSED: dict[str, Function] = {
    "no value everywhere": lambda h: torch.where(h > 1, torch.log(h), h - 1),
    "of another entry": lambda h: torch.where(h > h.flip(1), h, 0.1 * h),
    "of a mean": lambda h: torch.where(h > h.mean(1, keepdim=True), h, 0.1 * h),
    "of a curve": lambda h: torch.where(torch.tanh(h) > 0.5, h, 0.1 * h),
    "of steps": lambda h: torch.where(h > 0, 1.0, 0.0) + 0 * h.mean(1, keepdim=True),
    "one mask for all": lambda h: torch.where(h[:, :1] > 0, h, 0.1 * h),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_choices_stay_calls_and_are_refused_with_what_has_a_rule(name: str) -> None:
    graph = cg.trace(Net(REFUSED[name]), X)
    assert any(isinstance(node.operation, Call) for node in graph.nodes)
    with pytest.raises(UnsupportedOperationError, match=r"node 'gt.*which have no derivative rule; .*where\(h > c"):
        cg.derive(cg.augment(graph))


def test_a_choice_by_the_data_stays_one() -> None:
    """Whole numbers of the inputs select; they are no real entries."""

    class Selected(Net):
        def forward(self, x: Tensor, kind: Tensor) -> Tensor:  # type: ignore[override]
            return self.b(torch.where(kind > 0, self.a(x), 0.1 * self.a(x)))  # type: ignore[no-any-return]

    kind = torch.randint(0, 2, (20, 6), generator=torch.Generator().manual_seed(1))
    graph = cg.trace(Selected(torch.tanh), (X, kind))
    assert any(isinstance(node.operation, Call) for node in graph.nodes)
    assert cg.analyze(Selected(torch.tanh), [(X, kind, Y)], fill=True).certificate.value > 0
