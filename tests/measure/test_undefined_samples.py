"""Samples on which an operation has no derivative, or no value, count as z = 1; nothing is divided by 0 there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from covergraph import augment, choose, derive, measure, trace
from covergraph.bound.choose import QUANTILES
from covergraph.errors import NonFiniteError, ParameterError


class Between(nn.Module):
    """Two linear layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.function(self.first(x)))
        return hidden


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "no value": lambda h: torch.log(h + 2),
    "no derivative": lambda h: torch.sqrt(torch.relu(h)),
    "a pole": lambda h: 1 / torch.relu(h + 1),
}


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_z_is_one_where_a_condition_cannot_hold(name: str, fill: bool) -> None:
    model = Between(CASES[name]).double().eval()
    with torch.no_grad():
        model.first.bias[:] = 1.0
        x = torch.cat([0.3 * torch.randn(20, 3), torch.tensor([[30.0, 30.0, 30.0], [-30.0, -30.0, -30.0]])]).double()
        y = model(x).nan_to_num().argmax(1)
        bad = (model.first(x) <= (-2 if name == "no value" else -1 if name == "a pole" else 0)).any(1)
        example = 0.1 * torch.randn(2, 3).double()
    assert 0 < int(bad.sum()) < len(x)
    bound = derive(augment(trace(model, example)))
    found = measure(bound, model, [(x, y)], fill=fill)
    assert max(found.failing.values()) == int(bad.sum())
    assert found.failing.keys() <= bound.augmented.conditions.keys()
    parameters = choose(bound, found)
    certificate = bound.evaluate(found, parameters)
    with torch.no_grad():
        z = bound.augmented.run(model, x, y, parameters)
    assert torch.equal(z[bad], torch.ones(int(bad.sum())).double())
    assert float(z.mean()) <= certificate.training <= 1
    assert certificate.training >= float(bad.double().mean())
    assert 0 < certificate.C < float("inf")


def test_an_entry_that_rounding_may_have_moved_to_the_kink_counts_as_failing() -> None:
    """q is lowered by 1e-9 of the largest entry: 0 below that, and never above what plain torch finds."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        x = torch.tensor([[1e3, 9e-7], [1e3, 1.1e-6], [1e3, -5.0], [0.5, 0.25]]).double()
        y = model(x).argmax(1)
    bound = derive(augment(trace(model, x[:2])))
    found = measure(bound, model, [(x, y)])
    ((name, q),) = found.condition_values.items()
    assert found.failing == {name: 1}
    assert q.tolist() == pytest.approx([0.0, 1e-7, 5 - 1e-6, 0.25 - 5e-10], rel=1e-6, abs=1e-13)
    z = bound.augmented.run(model, x, y, choose(bound, found))
    assert z.mean() <= bound.evaluate(found).training


def test_values_that_do_not_exist_are_an_error_where_every_condition_holds() -> None:
    model = Between(torch.tanh).double().eval()
    bound = derive(augment(trace(model, torch.randn(2, 3).double())))
    with pytest.raises(NonFiniteError, match="sample 1"):
        measure(bound, model, [(torch.tensor([[1.0, 1, 1], [1, torch.inf, 1]]).double(), torch.tensor([0, 1]))])


def test_a_quantile_of_the_conditions_trades_the_mean_of_z_for_a_smaller_complexity() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double().eval()
    x = torch.randn(60, 3).double()
    with torch.no_grad():
        y = model(x).argmax(1)
    bound = derive(augment(trace(model, x[:2])))
    found = measure(bound, model, [(x, y)])
    smallest, median, automatic = (choose(bound, found, 0.1, condition_quantile=q) for q in (0, 0.5, "auto"))
    (name,) = bound.augmented.conditions
    q = found.condition_values[name]
    assert smallest.rho[name] <= q.min() < median.rho[name] <= sorted(q)[len(q) // 2]
    one, other = (bound.evaluate(found, p) for p in (smallest, median))
    assert other.C < one.C and other.training > one.training
    assert (smallest.condition_quantile, median.condition_quantile) == (0, 0.5)
    assert bound.evaluate(found, automatic).value <= one.value and automatic.condition_quantile in QUANTILES
    with pytest.raises(ParameterError, match="condition_quantile is 1"):
        choose(bound, found, condition_quantile=1)
