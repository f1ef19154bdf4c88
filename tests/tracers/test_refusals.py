"""What has no graph per sample is refused with module path, reason and remedy, in a few lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.errors import BatchMixingError, TracingError
from covergraph.tracers import trace
from covergraph.tracers.tracing import WAYS, Way, trace_by_export, trace_by_fx, trace_by_make_fx, trace_report


class Body(nn.Module):
    """A module whose forward is a given function; it has a parameter and a buffer."""

    def __init__(self, function: Callable[[Body, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.register_buffer("offset", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(self, x)
        return result


class Outer(nn.Module):
    """A linear layer, then the module in question under the path `inner.body`, then an activation."""

    def __init__(self, body: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6) if stem is None else stem
        self.inner, self.last = nn.ModuleDict({"body": body}), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.inner["body"](self.stem(x)))
        return result


def refused(model: nn.Module, example: Tensor, error: type[TracingError], ways: Any = WAYS) -> str:
    """The message with which a model is refused: short, with a remedy, without torch's dump."""
    torch.manual_seed(0)
    with pytest.raises(error) as caught:
        trace_report(model, example, ways=ways)
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.count("\n") <= 4
    assert len(message) <= 900
    assert ";" in message  # the remedy follows
    assert "TORCH_LOGS" not in message
    return message


MIXING: dict[str, Callable[[Body, Tensor], Tensor]] = {
    "mean over the batch": lambda m, x: x - x.mean(0),
    "kept mean over the batch": lambda m, x: x - x.mean(0, keepdim=True),
    "mean over everything": lambda m, x: x - x.mean(),
    "norm of everything": lambda m, x: x / x.norm(),
    "gram matrix": lambda m, x: (x @ x.t()) @ x,
    "attention over samples": lambda m, x: (x @ x.t()).softmax(-1) @ x,
    "softmax over the batch": lambda m, x: torch.softmax(x, dim=0),
    "running sum": lambda m, x: x.cumsum(dim=0),
    "sorted batch": lambda m, x: x.sort(0)[0],
    "sorted by a feature": lambda m, x: x[x[:, 0].argsort()],
    "reversed batch": lambda m, x: x.flip(0),
    "rolled batch": lambda m, x: x.roll(1, 0),
    "the first sample": lambda m, x: x - x[:1],
    "pooled over the batch": lambda m, x: F.max_pool1d(x.t(), 3, 1, 1).t(),
    "batch norm of the batch": lambda m, x: F.batch_norm(x, m.offset, m.offset.exp(), training=True),
    "through a view": lambda m, x: (y := x * 1.0, y.view(-1)[6:].add_(y.view(-1)[:-6].clone()), y)[2],
}


@pytest.mark.parametrize("case", MIXING)
def test_samples_that_meet_are_refused_by_the_module_in_which_they_do(case: str) -> None:
    message = refused(Outer(Body(MIXING[case])), torch.randn(3, 6), BatchMixingError)
    assert message.startswith("module 'inner.body': ")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_refuses_them(way: Way) -> None:
    message = refused(Outer(Body(MIXING["mean over the batch"])), torch.randn(3, 6), BatchMixingError, (way,))
    assert message.startswith("module 'inner.body': ")


class Between(nn.Module):
    """Mixes between two layers: neither layer is to blame."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h - h.mean(0))  # type: ignore[no-any-return]


def test_what_happens_between_layers_is_blamed_on_their_owner() -> None:
    assert refused(Between(), torch.randn(3, 6), BatchMixingError).startswith("the model's top level: ")
    outer = refused(Outer(Between()), torch.randn(3, 6), BatchMixingError)
    assert outer.startswith("module 'inner.body': ")


MOVED: dict[str, Callable[[Body, Tensor], Tensor]] = {
    "transposed": lambda m, x: x.t(),
    "moved": lambda m, x: x.view(-1, 2, 3).permute(1, 0, 2),
    "joined along the batch": lambda m, x: torch.cat([x, x]),
    "stacked before the batch": lambda m, x: torch.stack([x, x]),
}


@pytest.mark.parametrize("case", MOVED)
def test_an_output_whose_samples_are_not_in_dim_0(case: str) -> None:
    """Inside a network that is fine, see test_faithful."""
    assert "its place in the batch" in refused(Body(MOVED[case]), torch.randn(3, 6), BatchMixingError)


RANDOM: dict[str, Callable[[Body, Tensor], Tensor]] = {
    "dropout": lambda m, x: F.dropout(x, 0.5, training=True),
    "noise": lambda m, x: x + torch.randn_like(x),
    "drawn mask": lambda m, x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "random features": lambda m, x: x + torch.rand(6),
}


@pytest.mark.parametrize("case", RANDOM)
def test_random_numbers(case: str) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model, example, before = Outer(Body(RANDOM[case])), torch.randn(3, 6), torch.get_rng_state()
    with pytest.raises(BatchMixingError, match=r"^module 'inner.body': operation .* draws random numbers; remove"):
        trace(model, example)
    assert torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(state)


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6, track_running_stats=False), (6,)),
    "BatchNorm1d of signals": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (4, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (4, 5, 6)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2, affine=False, track_running_stats=False), (2, 3, 4, 6)),
}


@pytest.mark.parametrize("case", NORMS)
def test_batch_statistics_in_eval_mode(case: str) -> None:
    """Without running statistics BatchNorm mixes samples even in eval mode."""
    make, shape = NORMS[case]
    message = refused(Outer(make()), torch.randn(3, *shape), BatchMixingError)
    assert message.startswith("module 'inner.body': ")


def by_sum(m: Body, x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def until_small(m: Body, x: Tensor) -> Tensor:
    while x.abs().max() > 0.1:
        x = x / 2
    return x


STEERED: dict[str, Callable[[Body, Tensor], Any]] = {
    "branch": by_sum,
    "loop": until_small,
    "number": lambda m, x: x * float(x.abs().max()),
    "item": lambda m, x: x * x.abs().max().item(),
    "shape": lambda m, x: x[x > 0].sum() + x,
    "parameter": lambda m, x: x * float(m.weight[0, 0]),
    "item of a parameter": lambda m, x: x * m.weight.abs().max().item(),
    "branch on a parameter": lambda m, x: x if m.weight[0, 0] > 0 else x.sin(),
}


@pytest.mark.parametrize("case", STEERED)
def test_control_flow_on_values(case: str) -> None:
    message = refused(Outer(Body(STEERED[case])), torch.randn(3, 6), TracingError)
    assert message.startswith("module 'inner.body'")
    assert "control flow" in message
    assert "depend" in message and "values of the data or of parameters" in message
    assert "torch.where" in message


@pytest.mark.parametrize("way", WAYS)
def test_control_flow_on_values_by_each_way(way: Way) -> None:
    """The line of the user's file is named; this file's name stands for it."""
    message = refused(Outer(Body(by_sum)), torch.randn(3, 6), TracingError, (way,))
    assert message.startswith("module 'inner.body' (test_refusals.py:")
    assert "control flow depends on values" in message


def test_nothing_is_printed_and_the_dump_goes_to_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "covergraph.tracers.tracing"):
        refused(Body(by_sum), torch.randn(3, 6), TracingError)
    assert capfd.readouterr() == ("", "")
    ours = [record for record in caplog.records if record.name == "covergraph.tracers.tracing"]
    assert [record.message for record in ours] == [f"{way.__name__} failed" for way in WAYS]
    assert "GuardOnDataDependentSymNode" in caplog.text


class Demanding(nn.Module):
    """Wants more than one sample, though it does not mix them."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            raise ValueError("one is not enough")
        return x * 2


def test_what_no_way_can_follow_lists_the_ways() -> None:
    message = refused(Outer(Demanding()), torch.randn(3, 6), TracingError)
    assert message.startswith("module 'inner.body' (test_refusals.py:")
    assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == [way.__name__ for way in WAYS]
    assert message.splitlines()[1].endswith("ValueError: one is not enough")


class Leaving(nn.Module):
    """Computes outside torch, so that no way sees what happens to the input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().copy()) * 2


def test_what_leaves_torch() -> None:
    refused(Outer(Leaving()), torch.randn(3, 6), TracingError)


class Scaled(nn.Module):
    """Depends on the batch size without mixing any values."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_the_batch_size_is_refused(way: Way) -> None:
    assert "batch size" in refused(Scaled(), torch.randn(3, 6), TracingError, (way,))


class Hidden(nn.Module):
    """Changes the first sample alone, through memory that a view shares: no call shows it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        y.view(-1)[0:1] += 1
        return y * y


@pytest.mark.parametrize("way", [trace_by_export, trace_by_make_fx])
def test_a_change_of_one_sample_is_never_missed(way: Way) -> None:
    message = refused(Hidden(), torch.randn(3, 6), TracingError, (way,))
    assert "does not compute what the model computes" in message


class View(nn.Module):
    """Changes a tensor of which a view is returned."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        flat = y.view(-1, 6)
        y.tanh_()
        return flat


def test_what_torch_fx_gets_wrong_is_found_by_the_final_check() -> None:
    """It does not know that the view shares the memory; torch.export does."""
    refused(View(), torch.randn(3, 2, 3), TracingError, (trace_by_fx,))


class Remembering(nn.Module):
    """The value of its parameter is read when it is built, so that another value of it is another function."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor(self.slope.tolist())


def test_a_graph_must_follow_the_parameters_not_their_values() -> None:
    refused(Remembering(), torch.randn(3, 6), TracingError)


def test_a_model_that_fails_says_so() -> None:
    assert "fails on the example" in refused(nn.Linear(5, 2), torch.randn(3, 6), TracingError)
