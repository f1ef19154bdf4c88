"""Values against the layers of torch that the operations are named after, where the cases use formulas."""

from __future__ import annotations

import pytest
import torch
from operation_cases import BATCH, Case
from operation_cases.curved import CURVED, HEADED, HOLES
from operation_cases.linear import LINEAR, T1, T2
from torch import Tensor, nn
from torch.nn import functional as F

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node


def value(case: Case) -> Tensor:
    return apply(case.operation, case.node, case.values(), case.context)


@pytest.mark.parametrize(
    ("name", "mask", "causal"),
    [
        ("attention", None, False),
        ("attention causal", None, True),
        ("attention masked", HOLES, False),
        ("attention with a mask slot", HEADED, False),
    ],
)
def test_attention_is_that_of_torch(name: str, mask: Tensor | None, causal: bool) -> None:
    case = CURVED[name]
    q, k, v = case.values()[:3]
    assert isinstance(case.operation, op.Attention)
    expected = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=case.operation.scale)
    torch.testing.assert_close(value(case), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("layer norm", nn.LayerNorm(4, eps=1e-2, elementwise_affine=False)),
        ("layer norm of two axes", nn.LayerNorm((3, 4), eps=0.5, elementwise_affine=False)),
        ("group norm", nn.GroupNorm(2, 4, eps=0.1, affine=False)),
        ("instance norm", nn.InstanceNorm2d(3, eps=0.1)),
        ("rms norm", nn.RMSNorm(4, eps=0.1, elementwise_affine=False)),
        ("softmax first", nn.Softmax(1)),
        ("log_softmax", nn.LogSoftmax(2)),
    ],
)
def test_norms_are_the_layers_of_torch(name: str, layer: nn.Module) -> None:
    torch.testing.assert_close(value(CURVED[name]), layer(CURVED[name].values()[0]), rtol=1e-12, atol=1e-13)


def test_normalized_groups_have_mean_0_and_variance_1() -> None:
    node = Node("v", op.Normalize(6, 0.0), ("u",), (4, 3))
    found = apply(node.operation, node, CURVED["group norm"].values(), Context({})).reshape(BATCH, 2, 6)
    torch.testing.assert_close(found.mean(2), torch.zeros(BATCH, 2).double())
    torch.testing.assert_close(found.square().mean(2), torch.ones(BATCH, 2).double())


@pytest.mark.parametrize("name", ["conv_transpose1d", "conv_transpose2d in groups"])
def test_transposed_convolutions_are_adjoints(name: str) -> None:
    """<back(x), y> = <x, conv(y)> for the convolution with the same numbers; without the bias."""
    case = LINEAR[name]
    x = case.values()[0]
    found = value(case) - apply(case.operation, case.node, [torch.zeros_like(x)], case.context)
    y = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    there = F.conv1d(y, T1, None, 2, 1) if found.dim() == 3 else F.conv2d(y, T2, None, (2, 1), (0, 1), (1, 2), 2)
    torch.testing.assert_close((found * y).sum(), (x * there).sum(), rtol=1e-12, atol=1e-13)


def test_batch_norm_is_an_affine_map() -> None:
    """In eval mode: scale gamma / sqrt(var + eps), shift beta - mean scale, per channel."""
    layer = nn.BatchNorm1d(4).double().eval()
    for i, entry in enumerate((layer.weight, layer.bias, layer.running_mean, layer.running_var)):
        assert entry is not None
        entry.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(i))
    assert layer.running_mean is not None and layer.running_var is not None
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt()).detach()[:, None]
    shift = layer.bias.detach()[:, None] - layer.running_mean[:, None] * scale
    case = Case(op.Affine(True, True), ((4, 5),), (4, 5), layer, (("scale", scale), ("shift", shift)))
    torch.testing.assert_close(value(case), layer(case.values()[0]), rtol=1e-12, atol=1e-13)
