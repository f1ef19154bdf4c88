"""The three networks that `bench_norms.py` measures: chains of stages, whose ends are the boundaries of the pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, evaluate, state_of
from covergraph.passes.lower import lower
from covergraph.tracers import trace

Ends = tuple[int, int]
"""A pair by the numbers of its boundaries, (later, earlier)."""


@dataclass(frozen=True)
class Case:
    """A network head(stages(stem(x))) in eval mode; boundary 0 is behind the stem, boundary i behind stage i.

    The weights are single-precision numbers in both precisions, so everybody measures the same function.
    """

    name: str
    title: str
    stem: nn.Module
    stages: Sequence[nn.Module]
    head: nn.Module
    inputs: Tensor

    def __post_init__(self) -> None:
        nn.Sequential(self.stem, *self.stages, self.head).eval().requires_grad_(False)

    def to(self, device: str) -> Case:
        """The same on a device."""
        nn.Sequential(self.stem, *self.stages, self.head).to(device)
        return replace(self, inputs=self.inputs.to(device))

    @property
    def pairs(self) -> list[Ends]:
        """All pairs of boundaries."""
        return [(w, a) for a, w in combinations(range(len(self.stages) + 1), 2)]

    def part(self, pair: Ends) -> Callable[[Tensor], Tensor]:
        """The map from boundary a to boundary w."""
        w, a = pair
        return nn.Sequential(*self.stages[a:w])

    @cached_property
    def boundaries(self) -> list[Tensor]:
        """The values at the boundaries in single precision, one row a sample."""
        return _boundaries(self.stem, self.stages, self.inputs)

    def size(self, boundary: int) -> int:
        """The dimension of a boundary."""
        return self.boundaries[boundary][0].numel()

    def traced(self) -> Traced:
        """The graph in double precision, with the boundaries found among its nodes by their values."""
        model = copy.deepcopy(nn.Sequential(self.stem, *self.stages, self.head)).double()
        few = self.inputs[:2].double()
        graph = lower(trace(model, few))  # as `measure` gets it from `augment`
        context = Context(graph.state(state_of(model)))
        with torch.no_grad():
            values = evaluate(graph, context, graph.named_inputs([few]), {})
            names = [_same(values, wanted) for wanted in _boundaries(model[0], model[1:-1], few)]
        return Traced(graph, context, names)


@dataclass(frozen=True)
class Traced:
    """The graph of a case, with its weights, and the names of the boundaries."""

    graph: ComputationGraph
    context: Context
    names: Sequence[str]


def _boundaries(stem: nn.Module, stages: Iterable[nn.Module], inputs: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = [stem(inputs)]
        for stage in stages:
            found.append(stage(found[-1]))
    return found


def _same(values: dict[str, Tensor], wanted: Tensor) -> str:
    """The last node with these values."""
    fitting = (name for name in reversed(values) if values[name].shape == wanted.shape)
    return next(name for name in fitting if torch.allclose(values[name], wanted, rtol=1e-9, atol=1e-12))


def mlp(quick: bool = False, depth: int = 5, samples: int = 512) -> Case:
    """(a) Tanh layers as torch initializes them, Gaussian inputs."""
    torch.manual_seed(0)
    wide, width, samples = (64, 32, 64) if quick else (784, 256, samples)
    widths = [wide, *[width] * depth]
    stages = [nn.Sequential(nn.Linear(i, o), nn.Tanh()) for i, o in pairwise(widths)]
    title = f"MLP, tanh, {wide}-{width}x{depth}, {samples} samples"
    return Case("a", title, nn.Identity(), stages, nn.Identity(), torch.randn(samples, wide))


def cnn(quick: bool = False) -> Case:
    """(b) Residual blocks of 3x3 convolutions with BatchNorm, whose statistics come from twenty batches."""
    torch.manual_seed(0)
    c, side, samples = (4, 8, 4) if quick else (16, 32, 64)
    stem = nn.Sequential(nn.Conv2d(3, c, 3, 1, 1, bias=False), nn.ReLU())
    widths = [(c, c, 1)] * 3 + [(c, 2 * c, 2), (2 * c, 2 * c, 1), (2 * c, 4 * c, 2), (4 * c, 4 * c, 1)]
    last = nn.Sequential(nn.Conv2d(4 * c, 4 * c, 3, 1, 1, bias=False), nn.ReLU())
    stages = [*(Block(*sizes) for sizes in widths), last]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * c, 10))
    with torch.no_grad():
        for _ in range(20):
            nn.Sequential(stem, *stages).train()(torch.randn(samples, 3, side, side))
    title = f"CNN like WideResNet-16, {c}-{2 * c}-{4 * c} channels, {side}x{side}, {samples} samples"
    return Case("b", title, stem, stages, head, torch.randn(samples, 3, side, side))


class Block(nn.Module):
    """relu(BN conv relu BN conv x + shortcut of x)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.convolution2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        same = stride == 1 and inner == outer
        self.shortcut = nn.Identity() if same else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inner, side, side) to (n, outer, side / stride, side / stride)."""
        y = torch.relu(self.norm1(self.convolution1(x)))
        return torch.relu(self.norm2(self.convolution2(y)) + self.shortcut(x))


def transformer(quick: bool = False) -> Case:
    """(c) Encoder layers as torch initializes them, Gaussian tokens."""
    torch.manual_seed(0)
    d, tokens, samples, depth = (16, 4, 4, 2) if quick else (64, 16, 64, 6)
    stages = [nn.TransformerEncoderLayer(d, 4, 2 * d, 0.0, "gelu", batch_first=True) for _ in range(depth)]
    title = f"transformer encoder, {depth} layers, {tokens} tokens of {d}, 4 heads, {samples} samples"
    return Case("c", title, nn.Identity(), stages, nn.Identity(), torch.randn(samples, tokens, d))


CASES: Mapping[str, Callable[[bool], Case]] = {"a": mlp, "b": cnn, "c": transformer}
