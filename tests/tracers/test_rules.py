"""Every rule of the table: a small net whose trace is faithful, uses the rule, and makes the expected record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.graph import operations as op
from covergraph.graph.function_rows import UNARY
from covergraph.tracers import convert, trace
from covergraph.tracers.targets import RULES

Function = Callable[["Weights", Tensor], Any]
A = torch.ops.aten


class Weights(nn.Module):
    """Parameters of many shapes, and a function of them and the input."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.matrix, self.square = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(6, 6))
        self.three, self.four, self.six = (nn.Parameter(torch.randn(n)) for n in (3, 4, 6))
        self.cube = nn.Parameter(torch.randn(3, 6, 6))
        self.kernel1 = nn.Parameter(torch.randn(3, 4, 2))
        self.kernel2, self.kernel3 = nn.Parameter(torch.randn(3, 4, 2, 2)), nn.Parameter(torch.randn(3, 4, 1, 2, 2))
        self.rows = nn.Parameter(torch.randn(7, 5))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)
        self.register_buffer("mask", torch.rand(4, 6) > 0.5)
        self.register_buffer("picks", torch.tensor([3, 0, 3]))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(self, x)
        return result


SIGNAL, IMAGE, VOLUME, VECTOR = (4, 6), (4, 6, 6), (4, 2, 4, 4), (6,)

ELEMENTWISE: dict[str, Function] = {
    "gelu": lambda m, x: F.gelu(x, approximate="tanh"),
    "softplus": lambda m, x: F.softplus(x, beta=2),
    "elu": lambda m, x: F.elu(x, 0.5),
    "selu": lambda m, x: F.selu(x),
    "celu": lambda m, x: F.celu(x, 0.7),
    "leaky_relu": lambda m, x: F.leaky_relu(x, 0.2),
    "clamp": lambda m, x: x.clamp(-0.5, 0.3),
    "clamp_min": lambda m, x: x.clamp_min(0.2),
    "clamp_max": lambda m, x: x.clamp_max(0.2),
    "clip": lambda m, x: torch.clip(x, max=0.1),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "pow": lambda m, x: x**3,
    "threshold": lambda m, x: F.threshold(x, 0.1, -0.2),
}

LAYERS: dict[str, tuple[tuple[int, ...], Function, type[op.Operation]]] = {
    "linear": (SIGNAL, lambda m, x: F.linear(x, m.matrix, m.three), op.Linear),
    "addmm": (VECTOR, lambda m, x: torch.addmm(m.three, x, m.matrix.t()), op.Linear),
    "baddbmm": (
        SIGNAL,
        lambda m, x: torch.baddbmm(x[..., :4], x, x.mT, beta=0.5, alpha=2),
        op.MatrixProduct,
    ),
    "mm": (VECTOR, lambda m, x: x.mm(m.square), op.Linear),
    "bmm": (SIGNAL, lambda m, x: x.bmm(x.mT), op.MatrixProduct),
    "matmul": (IMAGE, lambda m, x: x @ x, op.MatrixProduct),
    "mv": (VECTOR, lambda m, x: torch.mv(x, m.six), op.Reshape),
    "bilinear": (VECTOR, lambda m, x: F.bilinear(x, x.flip(1), m.cube, m.three), op.Linear),
    "conv1d": (SIGNAL, lambda m, x: F.conv1d(x, m.kernel1, m.three, 2, 1), op.Convolution),
    "conv2d": (IMAGE, lambda m, x: F.conv2d(x, m.kernel2, None, (1, 2)), op.Convolution),
    "conv3d": (VOLUME, lambda m, x: F.conv3d(x, m.kernel3), op.Convolution),
    "convolution": (
        IMAGE,
        lambda m, x: torch.convolution(x, m.kernel2, m.three, (2, 1), (1, 0), (1, 2), False, (0, 0), 1),
        op.Convolution,
    ),
    "conv_transpose1d": (
        SIGNAL,
        lambda m, x: F.conv_transpose1d(x, m.kernel1.transpose(0, 1), m.three, 2, 1),
        op.TransposedConvolution,
    ),
    "conv_transpose2d": (
        IMAGE,
        lambda m, x: F.conv_transpose2d(x, m.kernel2.transpose(0, 1), stride=2, output_padding=1),
        op.TransposedConvolution,
    ),
    "conv_transpose3d": (
        VOLUME,
        lambda m, x: F.conv_transpose3d(x, m.kernel3.transpose(0, 1)),
        op.TransposedConvolution,
    ),
    "embedding": (SIGNAL, lambda m, x: F.embedding((x > 0).long() + 3, m.rows), op.Embedding),
    "_embedding_bag": (VECTOR, lambda m, x: F.embedding_bag((x > 0).long() + 3, m.rows, mode="sum"), op.Embedding),
    "prelu": (SIGNAL, lambda m, x: F.prelu(x, m.four), op.ParametricReLU),
    "_prelu_kernel": (SIGNAL, lambda m, x: A._prelu_kernel(x, m.four.view(1, 4, 1)), op.ParametricReLU),
    "batch_norm": (
        IMAGE,
        lambda m, x: F.batch_norm(x, m.mean, m.variance, m.four, m.four),
        op.Affine,
    ),
    "_native_batch_norm_legit_no_training": (
        IMAGE,
        lambda m, x: A._native_batch_norm_legit_no_training(x, m.four, m.four, m.mean, m.variance, 0.1, 1e-3)[0],
        op.Affine,
    ),
    "softmax": (SIGNAL, lambda m, x: x.softmax(-1), op.Softmax),
    "_softmax": (SIGNAL, lambda m, x: A._softmax(x, 1, False), op.Softmax),
    "log_softmax": (SIGNAL, lambda m, x: x.log_softmax(1), op.Softmax),
    "_log_softmax": (SIGNAL, lambda m, x: A._log_softmax(x, 1, False), op.Softmax),
    "_safe_softmax": (SIGNAL, lambda m, x: A._safe_softmax(x, -1), op.Softmax),
    "layer_norm": (IMAGE, lambda m, x: F.layer_norm(x, (6, 6), m.square, m.square), op.Affine),
    "native_layer_norm": (SIGNAL, lambda m, x: A.native_layer_norm(x, [6], None, None, 1e-5)[0], op.Normalize),
    "group_norm": (IMAGE, lambda m, x: F.group_norm(x, 2, m.four, m.four), op.Affine),
    "native_group_norm": (
        IMAGE,
        lambda m, x: A.native_group_norm(x, None, None, len(x), 4, 36, 2, 1e-5)[0],
        op.Normalize,
    ),
    "rms_norm": (SIGNAL, lambda m, x: F.rms_norm(x, (6,), m.six), op.Affine),
    "instance_norm": (IMAGE, lambda m, x: F.instance_norm(x, weight=m.four, bias=m.four), op.Affine),
    "scaled_dot_product_attention": (
        IMAGE,
        lambda m, x: F.scaled_dot_product_attention(x, x.sin(), x.cos(), is_causal=True),
        op.Attention,
    ),
}

RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(6, 5, batch_first=True),
    "rnn_tanh": lambda: nn.RNN(6, 5, batch_first=True),
    "rnn_relu": lambda: nn.RNN(6, 5, nonlinearity="relu", batch_first=True, bias=False),
}

ARITHMETIC: dict[str, tuple[tuple[int, ...], Function, type[op.Operation]]] = {
    "add": (SIGNAL, lambda m, x: torch.add(x, x.flip(1), alpha=2), op.Add),
    "sub": (SIGNAL, lambda m, x: x - x.flip(1), op.Subtract),
    "subtract": (SIGNAL, lambda m, x: torch.subtract(x, m.six), op.Affine),
    "rsub": (SIGNAL, lambda m, x: torch.rsub(x, m.six), op.Affine),
    "mul": (SIGNAL, lambda m, x: x * x.flip(1), op.Product),
    "multiply": (SIGNAL, lambda m, x: torch.multiply(m.six, x), op.Affine),
    "div": (SIGNAL, lambda m, x: x / x.flip(1).exp(), op.Divide),
    "divide": (SIGNAL, lambda m, x: torch.divide(x, m.six), op.Affine),
    "true_divide": (SIGNAL, lambda m, x: torch.true_divide(1.5, x.exp()), op.Elementwise),
    "addcmul": (SIGNAL, lambda m, x: torch.addcmul(x, x.flip(1), x.flip(2), value=0.5), op.Add),
    "where": (SIGNAL, lambda m, x: torch.where(m.mask, x, x.flip(1)), op.Add),
    "masked_fill": (SIGNAL, lambda m, x: x.masked_fill(m.mask, 0.5), op.Affine),
    "sum": (SIGNAL, lambda m, x: x.sum(1), op.Sum),
    "mean": (SIGNAL, lambda m, x: x.mean((1, 2)), op.Sum),
    "amax": (SIGNAL, lambda m, x: x.amax(-1, keepdim=True), op.Maximum),
    "max": (SIGNAL, lambda m, x: x.max(1)[0], op.Maximum),
    "amin": (SIGNAL, lambda m, x: x.amin((1, 2)), op.Elementwise),
    "min": (SIGNAL, lambda m, x: x.min(-1, keepdim=True).values, op.Elementwise),
    "linalg_vector_norm": (SIGNAL, lambda m, x: torch.linalg.vector_norm(x, dim=(1, 2)), op.VectorNorm),
    "norm": (SIGNAL, lambda m, x: A.norm.ScalarOpt_dim(x, 2, [1], True), op.VectorNorm),
    "avg_pool1d": (SIGNAL, lambda m, x: F.avg_pool1d(x, 2, ceil_mode=True), op.AveragePool),
    "avg_pool2d": (IMAGE, lambda m, x: F.avg_pool2d(x, (2, 3)), op.AveragePool),
    "avg_pool3d": (VOLUME, lambda m, x: F.avg_pool3d(x, 2), op.AveragePool),
    "max_pool1d": (SIGNAL, lambda m, x: F.max_pool1d(x, 3, 1, 1, dilation=2), op.MaxPool),
    "max_pool2d": (IMAGE, lambda m, x: F.max_pool2d(x, 3, 2, 1), op.MaxPool),
    "max_pool3d": (VOLUME, lambda m, x: F.max_pool3d(x, 2), op.MaxPool),
    "max_pool2d_with_indices": (IMAGE, lambda m, x: A.max_pool2d_with_indices(x, [2, 2])[0], op.MaxPool),
    "max_pool3d_with_indices": (VOLUME, lambda m, x: A.max_pool3d_with_indices(x, [2, 2, 2])[0], op.MaxPool),
    "adaptive_avg_pool1d": (SIGNAL, lambda m, x: F.adaptive_avg_pool1d(x, 4), op.AxisMap),
    "adaptive_avg_pool2d": (IMAGE, lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)), op.AveragePool),
    "adaptive_avg_pool3d": (VOLUME, lambda m, x: F.adaptive_avg_pool3d(x, (1, 2, 4)), op.AveragePool),
    "_adaptive_avg_pool2d": (IMAGE, lambda m, x: A._adaptive_avg_pool2d(x, [5, 6]), op.AxisMap),
    "_adaptive_avg_pool3d": (VOLUME, lambda m, x: A._adaptive_avg_pool3d(x, [2, 3, 4]), op.AxisMap),
    "adaptive_max_pool1d": (SIGNAL, lambda m, x: F.adaptive_max_pool1d(x, 3), op.MaxPool),
    "adaptive_max_pool2d": (IMAGE, lambda m, x: F.adaptive_max_pool2d(x, 2), op.MaxPool),
    "adaptive_max_pool3d": (VOLUME, lambda m, x: F.adaptive_max_pool3d(x, 1), op.MaxPool),
    "upsample_nearest1d": (SIGNAL, lambda m, x: F.interpolate(x, 9), op.AxisMap),
    "upsample_nearest2d": (IMAGE, lambda m, x: F.interpolate(x, scale_factor=2.5), op.AxisMap),
    "upsample_nearest3d": (VOLUME, lambda m, x: F.interpolate(x, scale_factor=2), op.AxisMap),
    "_upsample_nearest_exact2d": (IMAGE, lambda m, x: F.interpolate(x, 7, mode="nearest-exact"), op.AxisMap),
    "upsample_linear1d": (SIGNAL, lambda m, x: F.interpolate(x, 9, mode="linear"), op.AxisMap),
    "upsample_bilinear2d": (
        IMAGE,
        lambda m, x: F.interpolate(x, (9, 3), mode="bilinear", align_corners=True),
        op.AxisMap,
    ),
    "upsample_trilinear3d": (VOLUME, lambda m, x: F.interpolate(x, (3, 5, 4), mode="trilinear"), op.AxisMap),
    "upsample_bicubic2d": (IMAGE, lambda m, x: F.interpolate(x, scale_factor=1.5, mode="bicubic"), op.AxisMap),
}

MOVES: dict[str, tuple[tuple[int, ...], Function]] = {
    "permute": (IMAGE, lambda m, x: x.permute(0, 2, 3, 1)),
    "transpose": (SIGNAL, lambda m, x: x.transpose(1, 2)),
    "t": (VECTOR, lambda m, x: x.t().view(6, -1).t()),
    "swapaxes": (SIGNAL, lambda m, x: torch.swapaxes(x, 1, 2)),
    "mT": (SIGNAL, lambda m, x: x.mT),
    "expand": (SIGNAL, lambda m, x: x.unsqueeze(1).expand(-1, 3, -1, -1)),
    "repeat": (SIGNAL, lambda m, x: x.repeat(1, 2, 3)),
    "slice": (SIGNAL, lambda m, x: x[:, 1:4:2, -3:]),
    "select": (SIGNAL, lambda m, x: x[:, -2]),
    "narrow": (SIGNAL, lambda m, x: x.narrow(2, 1, 3)),
    "split": (SIGNAL, lambda m, x: x.split(4, 2)[1]),
    "split_with_sizes": (SIGNAL, lambda m, x: x.split([1, 3, 2], -1)[1]),
    "chunk": (SIGNAL, lambda m, x: x.chunk(2, 1)[1]),
    "unbind": (SIGNAL, lambda m, x: x.unbind(1)[2]),
    "flip": (SIGNAL, lambda m, x: x.flip(1, 2)),
    "index_select": (SIGNAL, lambda m, x: x.index_select(2, m.picks)),
    "index": (SIGNAL, lambda m, x: x[:, m.picks, m.picks]),
    "gather": (SIGNAL, lambda m, x: x.gather(2, m.picks.expand(x.shape[0], 4, 3))),
    "unfold": (SIGNAL, lambda m, x: x.unfold(2, 3, 2)),
    "im2col": (IMAGE, lambda m, x: F.unfold(x, 2, padding=1)),
    "as_strided": (VECTOR, lambda m, x: torch.as_strided(x, (x.shape[0], 3), (6, 2), 1)),
    "diagonal": (IMAGE, lambda m, x: x.diagonal(1, 2, 3)),
    "roll": (SIGNAL, lambda m, x: x.roll((1, 2), (1, 2))),
    "tril": (IMAGE, lambda m, x: x.tril(-1)),
    "triu": (IMAGE, lambda m, x: x.triu(1)),
    "pixel_shuffle": (IMAGE, lambda m, x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": (IMAGE, lambda m, x: F.pixel_unshuffle(x, 3)),
    "channel_shuffle": (IMAGE, lambda m, x: F.channel_shuffle(x, 2)),
    "reflection_pad1d": (SIGNAL, lambda m, x: F.pad(x, (2, 1), mode="reflect")),
    "reflection_pad2d": (IMAGE, lambda m, x: F.pad(x, (2, 1, 0, 3), mode="reflect")),
    "reflection_pad3d": (VOLUME, lambda m, x: F.pad(x, (2, 1, 0, 3, 1, 1), mode="reflect")),
    "replication_pad1d": (SIGNAL, lambda m, x: F.pad(x, (2, 1), mode="replicate")),
    "replication_pad2d": (IMAGE, lambda m, x: F.pad(x, (2, 1, 0, 3), mode="replicate")),
    "replication_pad3d": (VOLUME, lambda m, x: F.pad(x, (2, 1, 0, 3, 1, 1), mode="replicate")),
    "constant_pad_nd": (SIGNAL, lambda m, x: F.pad(x, (2, -1, 0, 1))),
    "cat": (SIGNAL, lambda m, x: torch.cat([x, x[:, :2]], 1)),
    "concat": (SIGNAL, lambda m, x: torch.concat([x, x[:, :2]], 1)),
    "concatenate": (SIGNAL, lambda m, x: torch.concatenate([x, x[:, :2]], 1)),
    "slice_scatter": (SIGNAL, lambda m, x: torch.slice_scatter(x, x[:, 2:].flip(1), 1, 1, 3)),
    "select_scatter": (SIGNAL, lambda m, x: torch.select_scatter(x, x[:, :, 0], 2, 4)),
    "stack": (SIGNAL, lambda m, x: torch.stack([x[:, 0], x[:, 2]], 2)),
}

VIEWS: dict[str, tuple[tuple[int, ...], Function]] = {
    "view": (SIGNAL, lambda m, x: x.view(x.shape[0], 24)),
    "reshape": (SIGNAL, lambda m, x: x.reshape(-1, 2, 12)),
    "_unsafe_view": (SIGNAL, lambda m, x: A._unsafe_view(x, [x.shape[0], 24])),
    "squeeze": (SIGNAL, lambda m, x: x[:, :1].squeeze(1)),
    "unsqueeze": (SIGNAL, lambda m, x: x.unsqueeze(2)),
    "flatten": (SIGNAL, lambda m, x: x.flatten(1)),
    "unflatten": (SIGNAL, lambda m, x: x.unflatten(2, (2, 3))),
    "clone": (SIGNAL, lambda m, x: x.clone()),
    "contiguous": (SIGNAL, lambda m, x: x.mT.contiguous()),
    "alias": (SIGNAL, lambda m, x: A.alias(x)),
    "detach": (SIGNAL, lambda m, x: x.detach()),
    "lift_fresh_copy": (SIGNAL, lambda m, x: A.lift_fresh_copy(x)),
    "to": (SIGNAL, lambda m, x: x.to(torch.float32)),
    "_to_copy": (SIGNAL, lambda m, x: A._to_copy(x, dtype=torch.float32)),
    "copy": (SIGNAL, lambda m, x: torch.zeros_like(x).copy_(x)),
    "dropout": (SIGNAL, lambda m, x: F.dropout(x, training=m.training)),
    "feature_dropout": (IMAGE, lambda m, x: F.dropout2d(x, training=m.training)),
    "alpha_dropout": (SIGNAL, lambda m, x: F.alpha_dropout(x, training=m.training)),
    "feature_alpha_dropout": (IMAGE, lambda m, x: F.feature_alpha_dropout(x, training=m.training)),
}

ELSEWHERE: Mapping[str, str] = {
    "_native_batch_norm_legit": "of train mode: refused, see test_refusals",
    "native_batch_norm": "of train mode: refused, see test_refusals",
    **dict.fromkeys(("softshrink", "hardshrink"), "torch decomposes it into comparisons, kept or not"),
    "dot": "a product of two vectors has no batch axis",
    **dict.fromkeys((name for name in UNARY if not hasattr(A, name)), "no operation of torch has this name"),
}
"""Rules of the table that no faithful trace can use, with the reason."""

RESPELLED = frozenset(
    {
        *("batch_norm", "narrow", "swapaxes", "mT", "chunk", "reshape", "flatten", "contiguous", "unflatten", "to"),
        *("lift_fresh_copy", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    }
)
"""Rules for operations that torch.export writes as others."""


class Used(dict[str, Any]):
    """The table, with the names that were looked up."""

    def __init__(self) -> None:
        super().__init__(RULES)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    """The names of the rules that a trace applies."""
    table = Used()
    monkeypatch.setattr(convert, "RULES", table)
    return table


def traced(shape: tuple[int, ...], function: Function) -> list[op.Operation]:
    """The operations of the graph of a function; `trace` has compared their values with the model's."""
    torch.manual_seed(0)
    graph = trace(Weights(function), torch.randn(2, *shape))
    assert not any(isinstance(node.operation, op.Call) for node in graph.nodes if node.kind == "float"), graph
    return [graph[graph.output].operation, *(node.operation for node in graph.nodes)]


def check(name: str, used: Used) -> None:
    """The trace used the rule, or torch is known to write the operation as others."""
    assert (name in used.names) != (name in RESPELLED)


@pytest.mark.parametrize("name", sorted(set(UNARY) - set(ELSEWHERE)))
def test_functions_of_one_number(name: str, used: Used) -> None:
    """Each at points where it is defined, at the end of the graph."""

    def function(m: Weights, x: Tensor) -> Any:
        inside = 0.1 + 0.8 * torch.sigmoid(x)
        return getattr(A, name)(1 / inside if name == "acosh" else inside)

    assert traced(SIGNAL, function)[0] == op.Elementwise(UNARY[name])
    check(name, used)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_with_numbers(name: str, used: Used) -> None:
    assert isinstance(traced(SIGNAL, ELEMENTWISE[name])[0], op.Elementwise)
    check(name, used)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, used: Used) -> None:
    shape, function, kind = LAYERS[name]
    assert any(isinstance(operation, kind) for operation in traced(shape, function))
    check(name, used)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name: str, used: Used) -> None:
    """The sequence of hidden states, one node per layer and direction."""
    torch.manual_seed(0)
    layer = RECURRENT[name]()
    graph = trace(layer, torch.randn(3, 4, 6), output=0)
    cells = [node.operation for node in graph.nodes if isinstance(node.operation, op.Recurrent)]
    assert [cell.cell for cell in cells] == [name] * (4 if name == "lstm" else 1)
    check(name, used)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_and_pools(name: str, used: Used) -> None:
    shape, function, kind = ARITHMETIC[name]
    assert isinstance(traced(shape, function)[0], kind)
    check(name, used)


@pytest.mark.parametrize("name", MOVES)
def test_index_maps(name: str, used: Used) -> None:
    """One map, or slices side by side."""
    shape, function = MOVES[name]
    assert {type(o) for o in traced(shape, function)} <= {op.Input, op.Rearrange, op.Concatenate, op.Reshape}
    check(name, used)


@pytest.mark.parametrize("name", VIEWS)
def test_views_and_what_does_nothing(name: str, used: Used) -> None:
    shape, function = VIEWS[name]
    assert {type(o) for o in traced(shape, function)} <= {op.Input, op.Rearrange, op.Reshape}
    check(name, used)


def test_every_rule_is_tried() -> None:
    tried = {*UNARY, *ELEMENTWISE, *LAYERS, *RECURRENT, *ARITHMETIC, *MOVES, *VIEWS}
    assert set(RULES) - tried - set(ELSEWHERE) == set()
