"""Graphs compute what their models compute, and all ways of tracing give one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.errors import TracingError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.tracers import trace
from covergraph.tracers.tracing import WAYS, trace_by_export, trace_by_fx, trace_by_make_fx, trace_report

Function = Callable[["Body", Tensor], Tensor]

SEQUENTIAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear alone": (lambda: nn.Linear(6, 3), (6,)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.GELU()), (6,)),
    "per position": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 2)), (3, 4, 6)),
    "in place": (lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.SiLU(inplace=True)), (6,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=3, dilation=2, groups=2), (4, 11)),
    "conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3), groups=2),
        (4, 9, 8),
    ),
    "same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1)), (2, 6, 7)),
    "same, uneven": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 9)),
    "valid": (lambda: nn.Conv1d(2, 3, 3, padding="valid"), (2, 6)),
    "circular": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6)),
    "reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, groups=2, output_padding=1), (4, 3, 3)),
    "pool1d": (lambda: nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True), (2, 8)),
    "pool2d": (
        lambda: nn.AvgPool2d((2, 3), stride=(1, 2), padding=(0, 1), count_include_pad=False),
        (2, 5, 8),
    ),
    "pool without channels": (lambda: nn.AvgPool2d(2), (4, 6)),
    "max-pool without channels": (lambda: nn.MaxPool2d(2), (4, 6)),
    "max-pool of negative numbers": (lambda: nn.Sequential(Negative(), nn.MaxPool2d(3, 2, 1)), (2, 6, 6)),
    "adaptive pools": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d((4, None)), nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveMaxPool2d(1)
        ),
        (3, 8, 6),
    ),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (2, 6, 6)),
    "batch norm of features": (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), (6,)),
    "instance norm with statistics": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (3, 4, 4)),
    "norms": (
        lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(6), nn.RMSNorm(6), nn.InstanceNorm1d(4)),
        (4, 6),
    ),
    "prelu": (lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU(4), nn.PReLU()), (4, 6)),
    "bilinear up-sampling": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4)),
    "attention": (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), (4, 6)),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 2), nn.AlphaDropout(), nn.Dropout()), (6,)),
}


class Negative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x.abs() - 1


class Body(nn.Module):
    """A module whose forward is a given function; it has two layers and parameters."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.weight, self.square = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 6))
        self.bias, self.row = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def in_place(m: Body, x: Tensor) -> Tensor:
    """Names that are read after the tensor behind them has changed."""
    h = m.first(x)
    g = h
    h.tanh_()
    g.mul_(2).sub_(x)
    h.add_(g)
    g += 1.5
    return g * x


def assigned(m: Body, x: Tensor) -> Tensor:
    """Entries are written through indices and views."""
    h = m.first(x)
    h[:, 2:4] = x[:, :2].sin()
    h[:, 0] += 1
    h.view(-1, 2, 3)[:, 1].mul_(3)
    return h


def windows(m: Body, x: Tensor) -> Tensor:
    """Positions join the batch axis and leave it again, as in a windowed transformer."""
    h = x.view(-1, 2, 3, 6).reshape(-1, 3, 6)
    h = (m.first(h).softmax(-1) @ h.mT).relu()
    return h.reshape(-1, 2, 3, 3).mean(2)


def windows_first(m: Body, x: Tensor) -> Tensor:
    """Positions before the batch in the merged axis."""
    h = x.view(-1, 2, 3, 6).transpose(0, 1).reshape(-1, 3, 6)
    return m.first(h).tanh().view(2, -1, 3, 6).transpose(0, 1)


def time_first(m: Body, x: Tensor) -> Tensor:
    """(T, B, d) inside, as recurrent nets like it."""
    h = m.first(x.transpose(0, 1)).softmax(-1)
    h = torch.cat([h, h.flip(0)], 0).tanh() + m.row
    return (h - h.mean(0)).permute(1, 2, 0)


def batch_last(m: Body, x: Tensor) -> Tensor:
    """(d, B) inside, with weights on the left."""
    return torch.tanh(m.square @ m.first(x).t()).t()


FUNCTIONS: dict[str, Function] = {
    "residual": lambda m, x: x + m.second(torch.relu(m.first(x))),
    "square": lambda m, x: m.first(x) * m.first(x),
    "sum with itself": lambda m, x: (h := m.first(x)) + h,
    "difference": lambda m, x: torch.sub(m.first(x), x, alpha=0.5) - m.second(x),
    "concat": lambda m, x: torch.cat([h := m.first(x), h, x], 1),
    "concat of one": lambda m, x: torch.cat([m.first(x)], 1),
    "numbers": lambda m, x: 2 - (3 * x + 1.5) / 4 - (x - 1) * 0.25 + (1 + x) + torch.rsub(x, 2) - torch.mul(x, 2),
    "views": lambda m, x: x.view(x.shape[0], 2, 3).reshape(x.size(0), -1).unsqueeze(1).squeeze(1).view(-1, 6),
    "broadcast product": lambda m, x: x.unsqueeze(1) * x.unsqueeze(2),
    "outer product": lambda m, x: (x.unsqueeze(2) @ x.unsqueeze(1)).flatten(1),
    "scalar per sample": lambda m, x: F.linear(x, m.row).squeeze(1).tanh(),
    "transposed weight": lambda m, x: x @ m.weight.t() + torch.mm(x, m.weight.T) - x.matmul(m.weight.mT),
    "weight on the other side": lambda m, x: F.linear(m.weight, x).t(),
    "addmm": lambda m, x: torch.addmm(m.bias, x, m.weight.t(), beta=0.5),
    "einsum": lambda m, x: torch.einsum("bi,ji,bk->bjk", x, m.weight, x),
    "own norm": lambda m, x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt(),
    "generated weights": lambda m, x: torch.bmm(m.first(x).view(-1, 2, 3), x.view(-1, 3, 2)).flatten(1),
    "parameter as a value": lambda m, x: m.row + x * m.square[0] - m.square.sum(0),
    "constant as a value": lambda m, x: x * torch.arange(6.0) + torch.arange(6.0) / 4,
    "mask from the data": lambda m, x: torch.where(m.first(x) > 0, x, 2 * x) + x * (x > 0.1),
    "highest": lambda m, x: x.max(1, keepdim=True).values * x.topk(3).values,
    "fourier": lambda m, x: torch.fft.irfft(torch.fft.rfft(m.first(x)) * 2, n=6),
    "sorted features": lambda m, x: m.first(x).sort(-1).values,
    "running sum of features": lambda m, x: m.first(x).cumsum(-1),
    "flattened batch": lambda m, x: m.first(x).view(-1).view(-1, 6),
    "batch as channels": lambda m, x: F.avg_pool1d(x.unsqueeze(0), 2).squeeze(0),
    "loop": lambda m, x: [h := x, [h := torch.tanh(m.first(h) + x) for _ in range(3)]][1][-1],
    "size of a dead branch": lambda m, x: m.first(x).view(torch.relu(x).shape[0], 3, 2),
    "division by a size": lambda m, x: x / x.shape[1],
    "batch last": batch_last,
}
POSITIONS: dict[str, Function] = {"windows": windows, "windows first": windows_first, "time first": time_first}
IN_PLACE: dict[str, Function] = {"in place": in_place, "assigned": assigned}


def unnamed(graph: ComputationGraph) -> ComputationGraph:
    """The graph with positions for names and without module paths, which not every way sees."""
    names = {node.name: f"n{i}" for i, node in enumerate(graph.nodes)}
    origins = {name: f"p{i}" for i, name in enumerate(graph.weights.effective)}
    nodes = [
        replace(
            node,
            name=names[node.name],
            origin="",
            inputs=tuple(names[u] for u in node.inputs),
            parameters=tuple((role, origins.get(name, name)) for role, name in node.parameters),
        )
        for node in graph.nodes
    ]
    weights = replace(graph.weights, effective={origins[k]: v for k, v in graph.weights.effective.items()}, shapes={})
    return ComputationGraph(nodes, names[graph.output], weights=weights)


def assert_faithful(graph: ComputationGraph, model: nn.Module, x: Tensor) -> None:
    """Own interpreter against the model on two inputs at two batch sizes."""
    model = model.double().eval()
    for batch in (1, 4):
        for sample in (x[:1].expand(batch, *x.shape[1:]).double(), torch.randn(batch, *x.shape[1:]).double()):
            values, expected = graph.run(model, sample), model(sample.clone())
            found = values[graph.output].reshape(expected.shape)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
            assert all(values[node.name].shape == (batch, *node.shape) for node in graph.nodes)


@pytest.mark.parametrize("case", SEQUENTIAL)
def test_layers(case: str) -> None:
    make, shape = SEQUENTIAL[case]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, *shape)
    assert_faithful(trace(model, x), model, x)


@pytest.mark.parametrize("case", [*FUNCTIONS, *POSITIONS, *IN_PLACE])
def test_functions(case: str) -> None:
    torch.manual_seed(0)
    model = Body((FUNCTIONS | POSITIONS | IN_PLACE)[case])
    x = torch.randn(2, 6, 6) if case in POSITIONS else torch.randn(2, 6)
    assert_faithful(trace(model, x), model, x)


ALIKE = ("residual", "concat", "numbers", "transposed weight", "own norm", "mask from the data", "views")


@pytest.mark.parametrize("case", ALIKE)
def test_all_ways_give_one_graph(case: str) -> None:
    """Up to names: make_fx sees no modules."""
    torch.manual_seed(0)
    model, x = Body(FUNCTIONS[case]), torch.randn(2, 6)
    export, by_fx, by_make_fx = (trace_report(model, x, ways=(way,)).graph for way in WAYS)
    assert export == by_fx
    assert export.fingerprint == by_fx.fingerprint
    assert unnamed(export) == unnamed(by_make_fx)


@pytest.mark.parametrize("case", ["mlp", "batch norm", "norms", "attention"])
def test_all_ways_give_one_graph_of_layers(case: str) -> None:
    make, shape = SEQUENTIAL[case]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, *shape)
    ways = (trace_by_export, trace_by_make_fx)
    export, by_make_fx = (unnamed(trace_report(model, x, ways=(way,)).graph) for way in ways)
    assert export == by_make_fx


class Augmented(nn.Module):
    """+= on a name that another name shares."""

    def forward(self, x: Tensor) -> Tensor:
        h = g = torch.tanh(x)
        g += 1.5
        return h * x.flip(1)


def test_augmented_assignment_is_right_by_export_and_refused_by_fx() -> None:
    """On torch.fx's proxies += makes a new tensor; the check against the model finds the difference."""
    x = torch.randn(2, 3)
    assert_faithful(trace(Augmented(), x), Augmented(), x)
    with pytest.raises(TracingError, match="does not compute"):
        trace_report(Augmented(), x, ways=(trace_by_fx,))


class Masked(nn.Module):
    """Tokens, a mask that is made of them, and lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = (tokens != 0) & (torch.arange(tokens.shape[1]) < lengths.unsqueeze(1))
        h = self.embed(tokens).masked_fill(~mask.unsqueeze(-1), 0.0)
        return self.fc(h.sum(1) / lengths.unsqueeze(1))  # type: ignore[no-any-return]


def test_integers_and_masks_are_nodes_of_their_own_kind() -> None:
    torch.manual_seed(0)
    model, tokens, lengths = Masked(), torch.randint(9, (3, 5)), torch.tensor([1, 3, 5])
    graph = trace(model, (tokens, lengths))
    assert [(node.name, node.kind) for node in graph.inputs] == [("tokens", "integer"), ("lengths", "integer")]
    masks = [node for node in graph.nodes if node.kind == "integer" and not isinstance(node.operation, op.Input)]
    assert masks
    assert all(isinstance(node.operation, (op.Call, op.Reshape, op.Rearrange, op.Constant)) for node in masks)
    assert graph["embed"].operation == op.Embedding()
    assert graph["embed"].shape == (5, 6)
    assert set(graph.covered) == {"embed", "fc"}
    torch.testing.assert_close(graph.run(model, tokens, lengths)[graph.output], model(tokens, lengths))


def test_the_shape_is_that_of_a_sample() -> None:
    """What joins positions with the batch keeps its whole traced shape."""
    graph = trace(Body(windows), torch.randn(2, 6, 6))
    assert [node.shape for node in graph.nodes if isinstance(node.operation, op.Softmax)] == [(2, 3, 6)]
    assert graph[graph.output].shape == (2, 3)
