"""The networks of further kinds: what they compute, their graphs, and a training that succeeds and repeats itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from covergraph import trace
from covergraph.graph.operations import Call
from covergraph.models.convolutional import PooledConvNet
from covergraph.models.demo import DEMO, NETWORKS
from covergraph.models.digits import load_digits
from covergraph.models.recurrent import RowGRU
from covergraph.models.training import error, train
from covergraph.models.transformer import EncoderBlock, VisionTransformer

LABELS: Mapping[str, Mapping[str, int]] = {
    "mlp": {"linear": 3, "tanh": 2},
    "cnn": {"conv2d": 2, "scale_shift": 2, "relu": 2, "maxpool2d": 1, "linear": 1},
    "vit": {"conv2d": 1, "concat": 1, "normalize": 5, "attention": 2, "gelu": 2, "add": 4},
    "gru": {"gru": 1, "linear": 1},
}
"""How often an operation stands in the architecture; other labels are index maps and affine parts."""

each_kind = pytest.mark.parametrize("kind", NETWORKS)


@cache
def trained(kind: str) -> nn.Module:
    return NETWORKS[kind].trained(load_digits()[0], progress=False)


def randomized(model: nn.Module) -> nn.Module:
    """`model` in eval mode with every parameter and statistic drawn anew, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            value.mul_(torch.randint(2, value.shape, generator=generator) * 2 - 1 if value.ndim > 1 else 1)
    return model.double().eval()


def test_the_networks_are_those_of_the_command_line() -> None:
    assert list(NETWORKS) == ["mlp", "residual", "conv", "cnn", "vit", "gru"]
    assert NETWORKS["mlp"] is DEMO[0]
    assert len({row.name for row in NETWORKS.values()}) == 6


@each_kind
def test_logits_have_one_row_a_sample(kind: str) -> None:
    assert NETWORKS[kind].initial()(torch.rand(5, 1, 8, 8)).shape == (5, 10)


@each_kind
def test_a_sample_s_logits_do_not_depend_on_its_batch(kind: str) -> None:
    model, images = NETWORKS[kind].initial().double().eval(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(model(images), torch.cat([model(image[None]) for image in images]))


@pytest.mark.parametrize("kind", LABELS)
def test_the_graph_shows_the_layers_and_no_foreign_call(kind: str) -> None:
    graph = trace(NETWORKS[kind].initial().eval(), load_digits()[0][:2][0])
    assert not [node.name for node in graph.nodes if isinstance(node.operation, Call)]
    found = Counter(node.operation.label for node in graph.nodes)
    assert {label: found[label] for label in LABELS[kind]} == LABELS[kind]


@each_kind
def test_networks_learn(kind: str) -> None:
    train_set, test_set = load_digits()
    assert not trained(kind).training
    assert error(trained(kind), train_set) < 0.03
    assert error(trained(kind), test_set) < 0.1


@each_kind
def test_training_repeats_itself(kind: str) -> None:
    few = TensorDataset(*(tensor[:100] for tensor in load_digits()[0].tensors))
    row = replace(NETWORKS[kind], epochs=2)
    one, other, start = row.trained(few, False).state_dict(), row.trained(few, False).state_dict(), row.initial()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], value) for name, value in start.named_parameters())


def test_a_row_trains_with_its_own_decay() -> None:
    few = TensorDataset(*(tensor[:100] for tensor in load_digits()[0].tensors))
    fixed, falling = (replace(NETWORKS["gru"], epochs=2, decay=decay).trained(few, False) for decay in (False, True))
    assert not torch.equal(fixed.head.weight, falling.head.weight)


def test_the_rate_falls_to_zero_with_decay() -> None:
    """Two epochs of one batch with the rates lr and lr / 2, as two runs of one epoch each."""
    data = TensorDataset(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    at_once, in_steps = nn.Linear(3, 2), nn.Linear(3, 2)
    in_steps.load_state_dict(at_once.state_dict())
    train(at_once, data, epochs=2, lr=0.2, batch_size=4, seed=0, decay=True, progress=False)
    for lr in (0.2, 0.1):
        train(in_steps, data, epochs=1, lr=lr, batch_size=4, seed=0, progress=False)
    assert torch.allclose(at_once.weight, in_steps.weight)


def test_the_pooled_network_is_convolutions_normalizations_relus_and_a_pool() -> None:
    model, images = randomized(PooledConvNet((3, 2))), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    h = images
    for (convolution, norm, _), stride in zip(model.blocks, (2, 1), strict=True):
        assert convolution.bias is None
        h = nn.functional.conv2d(h, convolution.weight, padding=1, stride=stride)
        mean, deviation, scale, shift = (
            vector[:, None, None]
            for vector in (norm.running_mean, (norm.running_var + norm.eps).sqrt(), norm.weight, norm.bias)
        )
        h = ((h - mean) / deviation * scale + shift).clamp(min=0)
    h = h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    assert torch.allclose(model(images), h.flatten(1) @ model.head.weight.T + model.head.bias)


def normalized(norm: nn.LayerNorm, h: Tensor) -> Tensor:
    centered = h - h.mean(-1, keepdim=True)
    return centered / ((centered**2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def attended(layer: nn.MultiheadAttention, h: Tensor) -> Tensor:
    projected = h @ layer.in_proj_weight.T + layer.in_proj_bias  # (n, tokens, 3 width)
    q, k, v = (part.unflatten(2, (layer.num_heads, -1)) for part in projected.chunk(3, dim=2))
    weights = torch.softmax(torch.einsum("nihd,njhd->nhij", q, k) / layer.head_dim**0.5, dim=-1)
    mixed = torch.einsum("nhij,njhd->nihd", weights, v).flatten(2)
    return mixed @ layer.out_proj.weight.T + layer.out_proj.bias


def encoded(block: EncoderBlock, h: Tensor) -> Tensor:
    h = h + attended(block.attention, normalized(block.norm1, h))
    first, _, second = block.mlp
    inner = normalized(block.norm2, h) @ first.weight.T + first.bias
    gelu = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    return h + gelu @ second.weight.T + second.bias


def test_vision_transformer_reads_patches_behind_a_class_token() -> None:
    model = randomized(VisionTransformer(size=4, width=6, inner=5, classes=3))
    images = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    corners = [(row, column) for row in (0, 2) for column in (0, 2)]
    pixels = torch.stack([images[:, 0, r : r + 2, c : c + 2].flatten(1) for r, c in corners], dim=1)  # (n, 4, 4)
    patches = pixels @ model.patches.weight.flatten(1).T + model.patches.bias
    tokens = torch.cat([model.class_token.expand(4, 1, 6), patches], dim=1) + model.positions
    for block in model.blocks:
        tokens = encoded(block, tokens)
    expected = normalized(model.norm, tokens[:, 0]) @ model.head.weight.T + model.head.bias
    assert torch.allclose(model(images), expected)


def test_patches_that_do_not_cover_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match="patch is 3, expected a divisor of the size 8"):
        VisionTransformer(patch=3)


def test_gru_reads_the_rows_from_top_to_bottom() -> None:
    model = randomized(RowGRU(width=3, hidden=2, classes=4))
    images = torch.randn(5, 1, 6, 3, dtype=torch.float64)
    state = torch.zeros(5, 2, dtype=torch.float64)
    gru = model.gru
    for row in images[:, 0].unbind(1):  # (n, 3)
        r_x, z_x, n_x = (row @ gru.weight_ih_l0.T + gru.bias_ih_l0).chunk(3, dim=1)
        r_h, z_h, n_h = (state @ gru.weight_hh_l0.T + gru.bias_hh_l0).chunk(3, dim=1)
        reset, keep = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        state = keep * state + (1 - keep) * torch.tanh(n_x + reset * n_h)
    assert torch.allclose(model(images), state @ model.head.weight.T + model.head.bias)
