"""Upper ends behind composed functions whose steps cancel, or read rounded arguments; against 80 digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, nn

import covergraph as cg
from covergraph.graph import function_rows as rows
from covergraph.graph.interpreter import Context
from covergraph.graph.operations import Elementwise
from covergraph.measure.chain import pair_norms

AT = (1e-8, 0.1, 0.77, 1.5, 2.3, 3.14, 8.0, 60.0, -0.5, -37.5)


class Behind(nn.Module):
    """A weight before a function and a large one behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.a, self.b = function, nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for layer, weight in ((self.a, 1.0), (self.b, 2.0**60)):
            layer.double()
            nn.init.constant_(layer.weight, weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.function(self.a(x)))
        return result


CASES: list[tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = [
    (lambda x: x * torch.sin(x * 1e6), lambda t: mpmath.sin(t * 10**6) + 10**6 * t * mpmath.cos(t * 10**6)),
    (
        lambda x: (x + 1e16) * torch.tanh(x) - x * 1e16,
        lambda t: mpmath.tanh(t) + (t + 10**16) * mpmath.sech(t) ** 2 - 10**16,
    ),
    (lambda x: torch.log(torch.exp(x) + torch.exp(-x)), mpmath.tanh),
    (
        lambda x: torch.where(x > 1.5, (x + 1e16) * torch.tanh(x) - x * 1e16, x),
        lambda t: mpmath.tanh(t) + (t + 10**16) * mpmath.sech(t) ** 2 - 10**16 if t > 1.5 else mpmath.mpf(1),
    ),
]


@pytest.mark.parametrize(("function", "slope"), CASES, ids=["sin", "tanh", "log", "choice"])
def test_upper_ends_hold_what_roundings_inside_make(
    function: Callable[[Tensor], Tensor], slope: Callable[[Any], Any]
) -> None:
    model, x = Behind(function), torch.tensor(AT, dtype=torch.float64)[:, None]
    graph = cg.trace(model, x[:1])
    assert isinstance(graph.nodes[2].operation, Elementwise) and len(graph.nodes) == 4
    state = {name: value.detach() for name, value in model.state_dict().items()}
    _, upper = pair_norms(graph, graph.run(state, x), Context(graph.state(state)), [("b", "a")])["b", "a"]
    with mpmath.workdps(80):
        truth = [abs(slope(mpmath.mpf(t))) * 2**60 for t in AT]
    assert all(t <= end for t, end in zip(truth, upper.tolist(), strict=True))
    if slope is mpmath.tanh:
        torch.testing.assert_close(upper.tolist(), [float(t) for t in truth], rtol=1e-11, atol=2.0**20)


def test_a_comparison_of_what_was_rounded_counts_both_choices() -> None:
    """Whether the product 0.3 x is 0.3 at x = 1 is rounding."""
    model, x = Behind(lambda x: torch.where(x * 0.3 >= 0.3, x * 5.0, x)), torch.tensor([[1.0], [0.5], [2.0]]).double()
    graph = cg.trace(model, x[:1])
    assert len(graph.nodes) == 4
    state = {name: value.detach() for name, value in model.state_dict().items()}
    _, upper = pair_norms(graph, graph.run(state, x), Context(graph.state(state)), [("b", "a")])["b", "a"]
    assert upper[0] >= 5 * 2.0**60 and upper[1:].tolist() == pytest.approx([2.0**60, 5 * 2.0**60], rel=1e-9)


def test_sinc_far_out() -> None:
    """Its slope at an even number t is 1/t."""
    at = torch.tensor([2.0**k for k in range(1, 1000, 37)], dtype=torch.float64)
    torch.testing.assert_close(rows.SINC.derivative(at), 1 / at, rtol=1e-14, atol=0.0)
