"""Random small networks of supported operations: the graph against the model at two batch sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor, nn

from covergraph.tracers import trace

Instruction = tuple[str, int, int]
Maker = Callable[[Tensor, Tensor], Callable[..., Tensor]]


def convolution(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
    """A depthwise convolution with stride and dilation on what has channels, else a linear layer."""
    if a.dim() == 3 and a.shape[2] >= 3:
        return nn.Conv1d(a.shape[1], 2 * a.shape[1], 2, stride=2, padding=1, dilation=2, groups=a.shape[1])
    return nn.Linear(a.shape[-1], 3)


def joined(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
    """Concatenation along dim 1 if the other sizes agree, else of one value with itself."""
    fits = a.shape[2:] == b.shape[2:]
    return lambda x, y: torch.cat([x, y if fits else x], 1)


def pair(operation: Callable[[Tensor, Tensor], Tensor]) -> Maker:
    """An operation on two values of one shape, else on one value twice."""
    return lambda a, b: lambda x, y: operation(x, y if a.shape == b.shape else x)


MAKERS: dict[str, Maker] = {
    "linear": lambda a, b: nn.Linear(a.shape[-1], 4, bias=a.dim() == 2),
    "convolution": convolution,
    "cat": joined,
    "add": pair(torch.add),
    "sub": pair(lambda x, y: x - 0.5 * y),
    "mul": pair(torch.mul),
    "flatten": lambda a, b: nn.Flatten(),
    "split": lambda a, b: lambda x, y: x.reshape(x.shape[0], -1, a.shape[-1]),
    "pool": lambda a, b: lambda x, y: F.avg_pool1d(x, 2, stride=1) if a.shape[-1] > 1 else x.neg(),
    "tanh": lambda a, b: nn.Tanh(),
    "gelu": lambda a, b: nn.GELU(),
    "silu": lambda a, b: lambda x, y: F.silu(x),
    "softplus": lambda a, b: nn.Softplus(),
    "sin": lambda a, b: lambda x, y: torch.sin(x) / 2 + 1,
    "relu": lambda a, b: nn.ReLU(inplace=True) if a.dim() == 2 else nn.ReLU(),
    "max pool": lambda a, b: lambda x, y: F.max_pool1d(x.relu(), 2, 1) if a.shape[-1] > 1 else x.abs(),
    "softmax": lambda a, b: lambda x, y: x.softmax(-1),
    "norm": lambda a, b: nn.LayerNorm(a.shape[1:]) if a[0].numel() > 1 else nn.Identity(),
    "mean": lambda a, b: lambda x, y: x - x.mean(-1, keepdim=True),
    "swap": lambda a, b: lambda x, y: x.flip(1) if x.dim() == 2 else x.transpose(1, 2),
    "slice": lambda a, b: lambda x, y: x[..., : max(1, a.shape[-1] // 2)],
    "gram": lambda a, b: lambda x, y: x.unsqueeze(2) * x.unsqueeze(1) if x.dim() == 2 else x @ x.mT,
}


class Random(nn.Module):
    """Runs instructions (operation, first operand, second operand); the last value is the output."""

    def __init__(self, instructions: list[Instruction], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.steps: list[tuple[Callable[..., Tensor], int, int]] = []
        values = [torch.zeros(2, *shape)]
        for name, i, j in instructions:
            i, j = i % len(values), j % len(values)
            step = MAKERS[name](values[i], values[j])
            if isinstance(step, nn.Module):
                self.layers.append(step)
            self.steps.append((step, i, j))
            values.append(self.apply_step(self.steps[-1], values))

    @staticmethod
    def apply_step(step: tuple[Callable[..., Tensor], int, int], values: list[Tensor]) -> Tensor:
        function, i, j = step
        return function(values[i]) if isinstance(function, nn.Module) else function(values[i], values[j])

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.steps:
            values.append(self.apply_step(step, values))
        return values[-1]


instruction = st.tuples(st.sampled_from(sorted(MAKERS)), st.integers(0, 9), st.integers(0, 9))
programs = st.lists(instruction, min_size=1, max_size=9)


@examples(40)
@given(program=programs, shape=st.sampled_from([(5,), (2, 6)]), seed=st.integers(0, 2**16))
def test_graph_equals_model(program: list[Instruction], shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    model = Random(program, shape)
    graph = trace(model, torch.randn(1, *shape))
    model = model.double()
    for batch in (1, 3):
        x = torch.randn(batch, *shape, dtype=torch.float64)
        values = graph.run(model, x)
        expected = model(x).detach()
        torch.testing.assert_close(
            values[graph.output], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max())
        )
        assert all(values[node.name].shape == (batch, *node.shape) for node in graph.nodes)
