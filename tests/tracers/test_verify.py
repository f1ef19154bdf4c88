"""How far two outputs are from each other, and that the check finds a wrong graph behind masks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.errors import BatchMixingError, TracingError
from covergraph.graph.shaking import shake_weights
from covergraph.tracers import trace
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.shaking import louder, shaken
from covergraph.tracers.verify import deviation, verify_faithful


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


INF, NAN = math.inf, math.nan

DEVIATIONS: dict[str, tuple[Tensor, Tensor, float]] = {
    "equal": (of(1, 2, 3), of(1, 2, 3), 0.0),
    "relative to the largest": (of(1, 2, 4.5), of(1, 2, 4), 0.125),
    "small entries beside large ones": (of(1.5, 1000), of(1, 1000), 0.0005),
    "beside a mask": (of(1.5, -1e9), of(1, -1e9), 0.5),
    "a mask itself": (of(1, -2e9), of(1, -1e9), 1.0),
    "three groups": (of(1e-9, 1.25, 1e30), of(1e-9, 1, 1e30), 0.25),
    "zeros make no gap": (of(1e-3, 2), of(0, 2), 0.0005),
    "zeros alone are compared with 1": (of(1e-3, 0), of(0, 0), 0.001),
    "equal infinities": (of(1, INF, -INF), of(1, INF, -INF), 0.0),
    "beside an infinity": (of(1.5, -INF), of(1, -INF), 0.5),
    "other infinity": (of(1, -INF), of(1, INF), INF),
    "infinite instead of finite": (of(1, INF), of(1, 2), INF),
    "NaN instead of finite": (of(1, NAN), of(1, 2), INF),
    "finite instead of infinite": (of(1, 2), of(1, INF), INF),
    "finite instead of NaN": (of(1, 2), of(1, NAN), INF),
    "NaN in both": (of(1, NAN), of(1, NAN), 0.0),
    "NaN is no infinity": (of(1, INF), of(1, NAN), INF),
}


@pytest.mark.parametrize("case", DEVIATIONS)
def test_the_deviation(case: str) -> None:
    found, expected, value = DEVIATIONS[case]
    assert deviation(found, expected)[0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("values", [(NAN, NAN), (INF, NAN), (-INF,)])
def test_outputs_without_a_finite_entry_say_nothing(values: tuple[float, ...]) -> None:
    assert math.isnan(deviation(of(*values), of(*values))[0])


@pytest.mark.parametrize(("factor", "relative"), [(9e3, 1 / 9e3), (1.1e4, 1.0)])
def test_a_gap_of_four_digits_separates(factor: float, relative: float) -> None:
    off, scale = deviation(of(2, factor), of(1, factor))
    assert off == pytest.approx(relative)
    assert scale == pytest.approx(1 / relative)


def test_the_order_of_the_entries_does_not_matter() -> None:
    order = [4, 1, 3, 0, 2]
    found, expected = of(1, 2.5, -1e9, 1e-20, INF), of(1, 2, -1e9, 1e-20, INF)
    assert deviation(found, expected) == deviation(found[order], expected[order]) == (0.25, 2.0)


class Masked(nn.Module):
    """Logits of which one is masked."""

    def __init__(self, fill: float, bend: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.fill, self.bend = nn.Linear(4, 4), fill, bend

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        h = torch.sin(h) if self.bend else torch.tanh(h)
        return h.masked_fill(torch.tensor([False, True, False, False]), self.fill)


@pytest.mark.parametrize("fill", [0.0, -1e9, torch.finfo(torch.float32).min, torch.finfo(torch.float64).min, -INF])
def test_a_wrong_graph_is_found_behind_a_mask(fill: float) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = trace(Masked(fill, bend=False), x)
    right, wrong = (Masked(fill, bend).double().eval() for bend in (False, True))
    with torch.no_grad():
        assert verify_faithful(graph, right, Arguments.of(right, x), 0) <= 1e-9
        with pytest.raises(TracingError, match="does not compute what the model computes"):
            verify_faithful(graph, wrong, Arguments.of(wrong, x), 0)


def test_a_mixing_model_is_found_by_its_own_error() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.tanh(x) + 0 * x.mean(0) + torch.relu(x.mean(0) - 20)

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = trace(nn.Tanh(), x)
    with pytest.raises(BatchMixingError, match="seen with a large third sample"):
        verify_faithful(graph, Mean(), Arguments.of(Mean(), x), 0)


def arguments(*tensors: Tensor) -> Arguments:
    class Any(nn.Module):
        def forward(self, *xs: Tensor) -> Tensor:
            return xs[0]

    return Arguments.of(Any(), tensors)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_a_mask_of_ones_gets_zeros(dtype: torch.dtype) -> None:
    (moved,) = shaken(arguments(torch.ones(4, 8, dtype=dtype))).tensors.values()
    assert moved.dtype == dtype
    assert set(moved.unique().tolist()) == {0, 1}


def test_tokens_are_drawn_from_the_example() -> None:
    """A table may have no other rows."""
    (moved,) = shaken(arguments(torch.tensor([[3, 5], [5, 9]]).repeat(8, 8))).tensors.values()
    assert set(moved.unique().tolist()) <= {3, 5, 9}
    (same,) = shaken(arguments(torch.full((4, 8), 7))).tensors.values()
    assert bool((same == 7).all())


def test_the_loud_batches_differ_in_the_third_sample_alone() -> None:
    batches = louder(arguments(torch.randn(3, 6, dtype=torch.float64), torch.arange(12).reshape(3, 4)))
    for first, second in zip(*(batch.tensors.values() for batch in batches), strict=True):
        assert torch.equal(first[:2], second[:2])
        assert not torch.equal(first[2], second[2])
    large = next(iter(batches[1].tensors.values()))
    assert float(large[2].abs().max()) >= 1e3 * float(large[0].abs().max())


def test_all_weights_move_and_buffers_keep_their_signs() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    nn.init.zeros_(model[0].weight)
    model.register_parameter("gate", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    model.register_parameter("c", nn.Parameter(torch.ones(2, dtype=torch.complex128)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shake_weights(model)
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(before) - {"1.running_mean", "1.num_batches_tracked"}
    assert bool((after["1.running_var"] > 0).all())
