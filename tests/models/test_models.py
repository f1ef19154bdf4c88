"""The demo's networks and data: shapes, sizes, and a training that repeats itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from covergraph.models.convolutional import ConvNet
from covergraph.models.demo import DEMO, DemoNetwork
from covergraph.models.digits import load_digits
from covergraph.models.mlp import MLP
from covergraph.models.residual import ResidualMLP
from covergraph.models.training import error, train

each_row = pytest.mark.parametrize("row", DEMO, ids=lambda row: row.name)


def test_digits_are_all_there_once() -> None:
    train_set, test_set = load_digits()
    images = torch.cat([train_set.tensors[0], test_set.tensors[0]])
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert torch.unique(images.flatten(1), dim=0).shape[0] == 1797


def test_digits_are_split_the_same_way_each_time_with_all_classes() -> None:
    first, second = load_digits(), load_digits()
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))
        assert one.tensors[1].unique().tolist() == list(range(10))


@each_row
def test_logits_have_one_row_a_sample(row: DemoNetwork) -> None:
    assert row.initial()(torch.rand(5, 1, 8, 8)).shape == (5, 10)


@each_row
def test_no_activation_has_more_than_128_values(row: DemoNetwork) -> None:
    model, sizes = row.initial(), []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output[0].numel())

    for module in model.modules():
        module.register_forward_hook(note)
    model(torch.rand(2, 1, 8, 8))
    assert len(sizes) > 5
    assert max(sizes) <= 128


@each_row
def test_demo_networks_learn(row: DemoNetwork) -> None:
    train_set, test_set = load_digits()
    model = row.trained(train_set, progress=False)
    assert not model.training
    assert error(model, train_set) <= 0.005
    assert error(model, test_set) <= 0.05


@each_row
def test_initial_weights_repeat_and_leave_the_global_generator_alone(row: DemoNetwork) -> None:
    before = torch.random.get_rng_state()
    one, other = row.initial().state_dict(), row.initial().state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)


def trained_weight(seed: int) -> Tensor:
    train_set, _ = load_digits()
    torch.manual_seed(0)
    model = MLP([64, 8, 10])
    train(model, train_set, epochs=2, lr=0.5, batch_size=32, seed=seed, progress=False)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_depends_on_its_seed_alone() -> None:
    assert torch.equal(trained_weight(1), trained_weight(1))
    assert not torch.equal(trained_weight(1), trained_weight(2))


def test_one_step_is_plain_gradient_descent() -> None:
    model = MLP([3, 2])
    data = TensorDataset(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    weight = model.layers[0].weight.detach().clone()  # (2, 3)
    residual = torch.softmax(data.tensors[0] @ weight.T, dim=1) - nn.functional.one_hot(data.tensors[1])  # (4, 2)
    train(model, data, epochs=1, lr=0.1, batch_size=4, seed=0, progress=False)
    assert torch.allclose(model.layers[0].weight, weight - 0.1 * residual.T @ data.tensors[0] / 4)


def test_error_is_the_share_of_wrong_labels_and_keeps_the_mode() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 2.0]])
    model = nn.Sequential(nn.Identity(), nn.Dropout()).train()
    assert error(model, TensorDataset(logits, torch.tensor([0, 1, 1, 0]))) == 0.5
    assert model.training


def test_mlp_is_the_product_of_its_layers() -> None:
    model = MLP([4, 3, 2], activation=nn.Sigmoid, bias=True)
    x = torch.randn(5, 2, 2)
    first, _, second = model.layers
    hidden = torch.sigmoid(x.flatten(1) @ first.weight.T + first.bias)
    assert torch.allclose(model(x), hidden @ second.weight.T + second.bias)


def test_mlp_without_hidden_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"widths is \[64\], expected at least two"):
        MLP([64])


def test_residual_blocks_add_to_their_input() -> None:
    model = ResidualMLP(4, 3, 2, blocks=1)
    x = torch.randn(5, 4)
    stem = torch.tanh(x @ model.stem.weight.T)
    block = model.blocks[0]
    update = torch.tanh(stem @ block.inner.weight.T) @ block.outer.weight.T
    assert torch.allclose(model(x), (stem + update) @ model.head.weight.T, atol=1e-6)


def test_convolutional_network_takes_its_channels() -> None:
    model = ConvNet(channels=(2, 3), classes=4, activation=nn.Tanh)
    assert model(torch.rand(1, 1, 8, 8)).shape == (1, 4)
    assert [p.shape[0] for p in model.parameters()] == [2, 3, 4]
