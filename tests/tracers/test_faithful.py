"""Graphs compute what their models compute, by both ways of tracing, and both ways give one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.errors import TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.tracers.export import trace_by_export
from covergraph.tracers.symbolic import trace_by_fx
from covergraph.tracers.tracing import trace_by

SEQUENTIAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear alone": (lambda: nn.Linear(6, 3), (6,)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.GELU()), (6,)),
    "per position": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 2)), (3, 4, 6)),
    "smooth activations": (
        lambda: nn.Sequential(
            nn.SiLU(), nn.Softplus(), nn.GELU(approximate="tanh"), nn.ELU(), nn.SiLU(inplace=True)
        ),
        (6,),
    ),
    "large arguments": (lambda: nn.Sequential(nn.Linear(6, 6), Scale(50.0), nn.Softplus(), nn.ELU()), (6,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=3, dilation=2, groups=2), (4, 11)),
    "conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3), groups=2),
        (4, 9, 8),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=2, padding=1, bias=False), (2, 4, 5, 3)),
    "same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1)), (2, 6, 7)),
    "same, even kernel": (lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2), (2, 9)),
    "valid": (lambda: nn.Conv1d(2, 3, 3, padding="valid"), (2, 6)),
    "pool1d": (lambda: nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True), (2, 8)),
    "pool2d": (
        lambda: nn.AvgPool2d((2, 3), stride=(1, 2), padding=(0, 1), count_include_pad=False),
        (2, 5, 8),
    ),
    "pool3d": (lambda: nn.AvgPool3d(2), (2, 4, 5, 6)),
    "pool without channels": (lambda: nn.AvgPool2d(2), (4, 6)),
    "adaptive pools": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d((4, None)), nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveAvgPool2d(1)
        ),
        (3, 8, 6),
    ),
    "shapes": (
        lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(1), nn.Identity(), nn.Unflatten(1, (3, 2))),
        (6,),
    ),
    "dropout and batch of one": (
        lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 2), nn.AlphaDropout()),
        (6,),
    ),
    "dropout2d": (lambda: nn.Sequential(nn.Dropout2d(), nn.Conv2d(2, 2, 3), nn.Dropout2d()), (2, 5, 5)),
}


class Scale(nn.Module):
    """Multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Body(nn.Module):
    """A module whose forward is a given function; it has two layers and a parameter."""

    def __init__(self, function: Callable[[Body, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias, self.row = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def in_place(model: Body, x: Tensor) -> Tensor:
    """Names that are read after the tensor behind them has changed."""
    h = model.first(x)
    g = h
    h.tanh_()
    g.mul_(2).sub_(x)
    h.add_(g)
    g += 1.5
    return g * x


def inplace_module(model: Body, x: Tensor) -> Tensor:
    """The argument of an activation in place is read later: it reads the new value."""
    h = model.first(x)
    return F.silu(h, inplace=True) + h


FUNCTIONS: dict[str, Callable[[Body, Tensor], Tensor]] = {
    "residual": lambda m, x: x + m.second(torch.tanh(m.first(x))),
    "square": lambda m, x: m.first(x) * m.first(x),
    "product with itself": lambda m, x: (h := m.first(x)) * h,
    "sum with itself": lambda m, x: (h := m.first(x)) + h,
    "difference": lambda m, x: torch.sub(m.first(x), x) - m.second(x),
    "concat with itself": lambda m, x: torch.cat([h := m.first(x), h, x], 1),
    "concat along the last": lambda m, x: torch.cat((m.first(x), x), dim=-1),
    "concat of one": lambda m, x: torch.cat([m.first(x)], 1),
    "numbers": lambda m, x: (
        2 - (3 * x + 1.5) / 4 - (x - 1) * 0.25 + (1 + x) + torch.rsub(x, 2) - torch.mul(x, 2)
    ),
    "negation": lambda m, x: -x + torch.neg(x).sin() - x.neg().cos() + +x,
    "views": lambda m, x: x.view(x.shape[0], 2, 3).reshape(x.size(0), -1).unsqueeze(1).squeeze(1).view(-1, 6),
    "methods": lambda m, x: x.reshape(-1, 3, 2).flatten(1).tanh().add(x).mul(0.5).sub(1).div(3).sigmoid(),
    "trivial permutation": lambda m, x: x.unsqueeze(1).transpose(1, 2).permute(0, 2, 1).squeeze(1),
    "scalar per sample": lambda m, x: F.linear(x, m.row).squeeze(1).tanh(),
    "transposed weight": lambda m, x: (
        x @ m.weight.t() + torch.mm(x, m.weight.T) - torch.matmul(x, m.weight.transpose(0, 1))
    ),
    "addmm": lambda m, x: torch.addmm(m.bias, x, m.weight.t()),
    "same dtype": lambda m, x: x.to(torch.get_default_dtype()).contiguous().clone() + x.type_as(x),
    "functional dropout": lambda m, x: F.dropout(m.first(x), 0.5, training=m.training),
    "in place": in_place,
    "in place module": inplace_module,
    "layer used twice": lambda m, x: m.first(m.first(x).cos()),
    "dead branch": lambda m, x: (torch.relu(x), m.first(x))[1],
    "size of a dead branch": lambda m, x: m.first(x).view(torch.relu(x).shape[0], 3, 2),
    "division by a size": lambda m, x: x / x.shape[1],
}


def both(model: nn.Module, x: Tensor) -> Iterator[ComputationGraph]:
    """The graph by each way."""
    return (trace_by((way,), model, x) for way in (trace_by_export, trace_by_fx))


def assert_faithful(graph: ComputationGraph, model: nn.Module, x: Tensor) -> None:
    """Own interpreter against the model on two inputs at two batch sizes."""
    model = model.double().eval()
    for batch in (1, 4):
        for sample in (x[:1].expand(batch, *x.shape[1:]).double(), torch.randn(batch, *x.shape[1:]).double()):
            values = graph.run(model, sample)
            torch.testing.assert_close(values[graph.output], model(sample.clone()), rtol=1e-9, atol=1e-12)
            assert all(values[node.name].shape[1:] == node.shape for node in graph.nodes)


@pytest.mark.parametrize("case", SEQUENTIAL)
def test_layers(case: str) -> None:
    make, shape = SEQUENTIAL[case]
    torch.manual_seed(0)
    model, x = make(), torch.randn(1, *shape)
    graphs = list(both(model, x))
    assert graphs[0] == graphs[1]
    assert graphs[0].fingerprint == graphs[1].fingerprint
    assert_faithful(graphs[0], model, x)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions(case: str) -> None:
    torch.manual_seed(0)
    model, x = Body(FUNCTIONS[case]), torch.randn(2, 6)
    graphs = list(both(model, x))
    assert graphs[0] == graphs[1], f"{graphs[0]}\n{graphs[1]}"
    assert_faithful(graphs[0], model, x)


class Augmented(nn.Module):
    """+= on a name that another name shares."""

    def forward(self, x: Tensor) -> Tensor:
        h = g = torch.tanh(x)
        g += 1.5
        return h * x


def test_augmented_assignment_is_right_by_export_and_refused_by_fx() -> None:
    """On torch.fx's proxies += makes a new tensor; the check against the model finds the difference."""
    graph = trace_by((trace_by_export,), Augmented(), torch.randn(2, 3))
    assert [node.name for node in graph.nodes] == ["x", "tanh", "affine", "product"]
    with pytest.raises(TracingError, match="does not compute"):
        trace_by((trace_by_fx,), Augmented(), torch.randn(2, 3))


def test_half_precision_needs_a_model_that_runs_in_its_own_dtype() -> None:
    """A model that casts to float32 by itself is compared in float32."""

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.float())  # type: ignore[no-any-return]

    assert [node.name for node in trace_by((trace_by_export,), Casting(), torch.randn(2, 6)).nodes] == [
        "x",
        "fc",
    ]
