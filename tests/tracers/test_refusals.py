"""What has no rule, or mixes samples, is refused with module path, operation and remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.errors import BatchMixingError, CovergraphError, TracingError, UnsupportedOperationError
from covergraph.tracers import trace
from covergraph.tracers.export import trace_by_export
from covergraph.tracers.symbolic import trace_by_fx
from covergraph.tracers.tracing import Way, trace_by

WAYS = [trace_by_export, trace_by_fx]


class Body(nn.Module):
    """A module whose forward is a given function; it has a parameter and a buffer."""

    def __init__(self, function: Callable[[Body, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.register_buffer("shift", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Outer(nn.Module):
    """A linear layer, then the module in question under the path `inner.body`."""

    def __init__(self, body: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6) if stem is None else stem
        self.inner = nn.ModuleDict({"body": body})

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner["body"](self.stem(x))
        return result


UNSUPPORTED: dict[str, tuple[Callable[[Body, Tensor], Tensor], str]] = {
    "relu": (lambda m, x: F.relu(x), "relu"),
    "relu_": (lambda m, x: F.relu(x, inplace=True), "relu"),
    "softmax": (lambda m, x: torch.softmax(x, 1), "softmax"),
    "layer norm": (lambda m, x: F.layer_norm(x, (6,)), "layer_norm"),
    "matmul of activations": (lambda m, x: (x.unsqueeze(2) @ x.unsqueeze(1)).flatten(1), "matmul"),
    "stack": (lambda m, x: torch.stack([x, x], 1), "stack"),
    "mean over features": (lambda m, x: x.mean(1, keepdim=True), "mean"),
    "power": (lambda m, x: x**2, "pow"),
    "indexing": (lambda m, x: x[:, 1:3], "slice|getitem"),
    "chunks": (lambda m, x: x.chunk(2, 1)[0], "chunk"),
    "detach": (lambda m, x: x.detach(), "detach"),
    "division of activations": (lambda m, x: x / (x * x), "div"),
    "elu with a kink": (lambda m, x: F.elu(x, alpha=0.5), "elu"),
    "softplus with beta": (lambda m, x: F.softplus(x, beta=2), "softplus"),
    "alpha in add": (lambda m, x: torch.add(x, x, alpha=2), "add"),
    "alpha in sub": (lambda m, x: torch.sub(x, x, alpha=0.5), "sub"),
    "broadcast product": (lambda m, x: x.unsqueeze(1) * x.unsqueeze(2), "mul"),
    "broadcast sum": (lambda m, x: x.unsqueeze(1) + x.unsqueeze(2), "add"),
    "permuted features": (lambda m, x: x.view(-1, 2, 3).transpose(1, 2), "transpose"),
    "parameter as a value": (lambda m, x: x + m.weight[0], "add"),
    "buffer as a value": (lambda m, x: x * m.shift, "mul"),
    "constant as a value": (lambda m, x: x + torch.arange(6.0), "add"),
    "computed weight": (lambda m, x: F.linear(x, m.weight * 2), "linear"),
    "buffer as a bias": (lambda m, x: F.linear(x, m.weight, m.shift), "linear"),
    "weight on the wrong side": (lambda m, x: x @ m.weight, "matmul"),
    "eval batch norm": (lambda m, x: F.batch_norm(x, m.shift, m.shift.exp()), "batch_norm"),
    "change of dtype": (lambda m, x: x.double(), "to|double"),
    "division by zero": (lambda m, x: x / 0, "div"),
}

MIXING: dict[str, tuple[Callable[[Body, Tensor], Tensor], str]] = {
    "batch norm of the batch": (
        lambda m, x: F.batch_norm(x, m.shift, m.shift.exp(), training=True),
        "batch_norm",
    ),
    "mean over the batch": (lambda m, x: x - x.mean(0), "mean"),
    "kept mean over the batch": (lambda m, x: x - x.mean(0, keepdim=True), "mean"),
    "mean over everything": (lambda m, x: x - x.mean(), "mean"),
    "flattened batch": (lambda m, x: x.reshape(-1), "reshape"),
    "batch joined with features": (lambda m, x: x.view(-1, 3), "view"),
    "flattened from dim 0": (lambda m, x: x.flatten(0), "flatten"),
    "batch moved": (lambda m, x: x.view(-1, 2, 3).permute(1, 0, 2), "permute"),
    "batch transposed": (lambda m, x: x.transpose(0, 1), "transpose"),
    "transpose": (lambda m, x: x.t(), "t"),
    "joined along the batch": (lambda m, x: torch.cat([x, x]), "cat"),
    "stacked along the batch": (lambda m, x: torch.stack([x, x]), "stack"),
    "gram matrix": (lambda m, x: x @ x.t(), "t"),
    "softmax over the batch": (lambda m, x: torch.softmax(x, dim=0), "softmax"),
    "reversed batch": (lambda m, x: x.flip(0), "flip"),
    "running sum": (lambda m, x: x.cumsum(dim=0), "cumsum"),
    "batch as channels": (lambda m, x: F.avg_pool1d(x.unsqueeze(0), 2).squeeze(0), "unsqueeze"),
    "weight from the input": (lambda m, x: F.linear(m.weight, x).t(), "linear"),
    "dropout in train mode": (lambda m, x: F.dropout(x, 0.5, training=True), "dropout"),
}


def refused(way: Way, model: nn.Module, example: Tensor, error: type[CovergraphError]) -> str:
    """The message with which `way` refuses a model."""
    with pytest.raises(error) as caught:
        trace_by((way,), model, example)
    assert type(caught.value) is error
    return str(caught.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", UNSUPPORTED)
def test_operations_without_rule_are_refused_by_name(case: str, way: Way) -> None:
    function, names = UNSUPPORTED[case]
    message = refused(way, Outer(Body(function)), torch.randn(3, 6), UnsupportedOperationError)
    assert "module 'inner.body'" in message
    assert any(f"operation '{name}'" in message for name in names.split("|")), message
    assert message.count("\n") < 4
    assert ";" in message  # the remedy follows


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", MIXING)
def test_operations_that_mix_samples_are_refused(case: str, way: Way) -> None:
    function, name = MIXING[case]
    message = refused(way, Outer(Body(function)), torch.randn(3, 6), BatchMixingError)
    assert "module 'inner.body'" in message
    assert f"operation '{name}'" in message
    assert ";" in message


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "ReLU": (nn.ReLU, (6,), "relu|ReLU"),
    "max pool": (lambda: nn.MaxPool1d(2), (4, 6), "max_pool1d|MaxPool1d"),
    "batch norm": (lambda: nn.BatchNorm1d(4), (4, 6), "batch_norm|BatchNorm1d"),
    "layer norm": (lambda: nn.LayerNorm(6), (4, 6), "layer_norm|LayerNorm"),
    "asymmetric padding": (lambda: nn.Conv1d(4, 2, 2, padding="same"), (4, 6), "conv1d"),
    "circular padding": (lambda: nn.Conv1d(4, 2, 3, padding=1, padding_mode="circular"), (4, 6), "pad"),
    "transposed convolution": (
        lambda: nn.ConvTranspose1d(4, 2, 3),
        (4, 6),
        "conv_transpose1d|ConvTranspose1d",
    ),
    "overlapping windows": (lambda: nn.AdaptiveAvgPool1d(4), (4, 6), "adaptive_avg_pool1d"),
    "ELU with a kink": (lambda: nn.ELU(0.3), (6,), "elu"),
    "slope as a parameter": (nn.PReLU, (6,), "prelu|PReLU"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", LAYERS)
def test_layers_without_rule_are_refused_by_name(case: str, way: Way) -> None:
    make, shape, names = LAYERS[case]
    message = refused(way, Outer(make()), torch.randn(3, *shape), UnsupportedOperationError)
    assert "module 'inner.body'" in message
    assert any(f"operation '{name}'" in message for name in names.split("|")), message


@pytest.mark.parametrize("way", WAYS)
def test_an_unbatched_convolution_takes_the_batch_as_channels(way: Way) -> None:
    model = nn.Sequential(nn.Tanh(), nn.Conv2d(3, 5, 3))
    with pytest.raises(BatchMixingError, match="batch size"):
        trace_by((way,), model, torch.randn(3, 8, 8))


def test_batch_norm_with_batch_statistics_in_eval_mode() -> None:
    """Without running statistics BatchNorm mixes samples even in eval mode."""
    message = refused(
        trace_by_export,
        nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False)),
        torch.randn(3, 6),
        BatchMixingError,
    )
    assert "module '0'" in message


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_control_flow_on_values_names_both_ways_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TracingError) as caught:
        trace(Branch(), torch.randn(3, 6))
    message = str(caught.value)
    assert "Branch" in message
    assert "trace_by_export: " in message
    assert "trace_by_fx: " in message
    assert len(message.splitlines()) == 3
    assert capfd.readouterr() == ("", "")


def test_the_batch_is_missed_even_where_another_axis_is_as_long() -> None:
    """torch.fx sees numbers only, and traces with batches of five."""
    model = Body(lambda m, x: x.view(-1, 2, 5).permute(2, 1, 0))
    assert "new order of the axes" in refused(trace_by_fx, model, torch.randn(3, 10), BatchMixingError)


class Nested(nn.Module):
    """torch.export puts this into a graph of its own."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return x * 2


def test_graphs_within_the_graph_are_refused_by_name() -> None:
    message = refused(trace_by_export, Outer(Nested()), torch.randn(3, 6), UnsupportedOperationError)
    assert "wrap_with_set_grad_enabled" in message


class Scaled(nn.Module):
    """Depends on the batch size without mixing any values."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_the_batch_size_is_refused(way: Way) -> None:
    with pytest.raises(TracingError, match="batch"):
        trace_by((way,), Scaled(), torch.randn(3, 6))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("way", WAYS)
def test_noise_is_refused_and_the_global_generator_untouched(way: Way) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(UnsupportedOperationError, match="rand_like"):
        trace_by((way,), Noise(), torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())


class Hidden(nn.Module):
    """Mixes samples through memory that another view shares: no call shows it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        y.view(-1)[0:1] += 1
        return y * y


def test_a_change_through_a_view_is_never_missed() -> None:
    with pytest.raises((TracingError, UnsupportedOperationError)):
        trace_by((trace_by_fx,), Hidden(), torch.randn(3, 6))


class View(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        flat = y.view(-1, 6)
        y.tanh_()
        return flat


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_change_through_a_view_is_found_by_the_final_check(way: Way) -> None:
    with pytest.raises(TracingError, match="does not compute what the model computes"):
        trace_by((way,), View(), torch.randn(3, 2, 3))


def test_a_model_that_fails_says_so() -> None:
    with pytest.raises(TracingError, match="fails on the example"):
        trace(nn.Linear(5, 2), torch.randn(3, 6))
