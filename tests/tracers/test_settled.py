"""A program of operations that decomposing leaves alone is not decomposed, and gives the same graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import covergraph as cg
from covergraph.tracers import export


class Net(nn.Module):
    """Every operation of `SETTLED`, with a convolution of one or of two axes."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        kernel = (nn.Conv1d, nn.Conv2d)[axes - 1]
        self.first, self.last = kernel(2, 3, 3, stride=2, padding=1), nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        g = F.leaky_relu(F.gelu(F.silu(h) + 1)) - F.softplus(F.relu(h))
        g = g + F.elu(-torch.tanh(h).abs()) * torch.sigmoid(h.sin().cos().exp())
        return self.last(g) * self.scale


torch.manual_seed(0)
MODELS = {axes: (Net(axes), torch.randn(2, 2, *[4] * axes)) for axes in (1, 2)}


@pytest.mark.parametrize("axes", MODELS)
def test_the_graph_is_the_same(axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = MODELS[axes]
    quick = cg.trace(model, x)
    monkeypatch.setattr(export, "SETTLED", set())
    assert cg.trace(model, x) == quick


def test_every_one_of_them_is_in_the_models() -> None:
    programs = [torch.export.export(model, (x,)) for model, x in MODELS.values()]
    seen = {str(node.target) for program in programs for node in program.graph.nodes}
    assert {f"aten.{name}" for name in export.SETTLED} <= seen
