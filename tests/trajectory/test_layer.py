"""Which layer is found, by which parts of the model it is seen, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trajectory.recorded import MeanPositions, ScaleShift, Shift, Unshared, mlp

import covergraph as cg
from covergraph.errors import TracingError, TrajectoryError
from covergraph.trajectory.layer import Watched, first_layer, named_layer
from covergraph.trajectory.trajectory import Trajectory


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def first(model: nn.Module, *shape: int) -> Watched:
    return first_layer(cg.trace(model.eval(), torch.randn(1, *shape)), model)


def trained(model: nn.Module, *inputs: Tensor, steps: int = 2, **options: object) -> Trajectory:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer, strict=True, **options) as recorder:  # type: ignore[arg-type]
        for _ in range(steps):
            optimizer.zero_grad()
            model(*inputs).square().sum().backward()
            optimizer.step()
    return recorder.trajectory


class Own(nn.Module):
    """A linear layer whose weights belong to the network itself, after a change of order if `order`."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.w, self.b, self.last = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.zeros(4)), nn.Linear(4, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).flatten(1)
        x = x if self.scale == 1 else x * self.scale
        return self.last(torch.relu(F.linear(x, self.w, self.b)))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.layer(x))


class TokenThenLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat([self.token.expand(len(x), 1, 4), x], 1)).mean(1)


FOUND = {
    "linear": (mlp(4, 3, 1), (4,), ("linear", "0.weight", "0.bias", True)),
    "reordered": (nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), (2, 4), ("linear", "1.weight", "1.bias", True)),
    "scaled before": (
        nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(2, 3)), (1, 4), ("linear", "2.weight", "2.bias", False),
    ),
    "convolution": (nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 5, 5), ("convolution", "0.weight", "0.bias", True)),
    "unshared": (
        nn.Sequential(Unshared((2, 3, 3), 1, 2, 3)), (1, 5, 5), ("convolution", "0.conv.weight", "0.bias", True),
    ),
    "channel bias apart": (
        nn.Sequential(Unshared((2, 1, 1), 1, 2, 3)), (1, 5, 5), ("convolution", "0.conv.weight", "0.bias", True),
    ),
    "identity": (nn.Sequential(Shift(1, 3, 3), nn.Flatten()), (1, 3, 3), ("identity", None, "0.bias", True)),
    "scale": (nn.Sequential(ScaleShift(4), nn.Linear(4, 1)), (4,), ("scale", "0.weight", "0.bias", True)),
    "own": (Own(), (2, 3), ("linear", "w", "b", True)),
    "skip": (Skip(), (5,), ("linear", "layer.weight", "layer.bias", False)),
    "token": (TokenThenLinear(), (3, 4), ("linear", "layer.weight", "layer.bias", False)),
    "positions": (nn.Sequential(nn.Linear(4, 2), MeanPositions()), (3, 4), ("linear", "0.weight", "0.bias", True)),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_first_layer_is_found(name: str) -> None:
    model, shape, expected = FOUND[name]
    found = first(model, *shape)
    assert (found.kind, found.weight, found.bias, found.isometric) == expected
    setting = trained(model.train(), torch.randn(1, *shape)).setting
    assert setting.isometric == expected[-1]
    assert setting.identity is None or setting.identity < 1e-6


def test_the_input_of_a_layer_of_the_networks_own_is_the_networks() -> None:
    model, x = Own(), torch.randn(1, 2, 3, requires_grad=True)
    output = model(x)
    (pulled,) = torch.autograd.grad(output.square().sum(), x)
    trajectory = trained(model, x.detach(), steps=1)
    assert trajectory["pull"][0] == pytest.approx(float(pulled.norm()), rel=1e-6)
    assert (trajectory.layer.inputs, trajectory.layer.outputs, trajectory.layer.shared) == (6, 4, 1)


def refused(model: nn.Module, message: str, *shape: int) -> None:
    with pytest.raises(TrajectoryError, match=message):
        first(model, *shape)


def test_first_layers_that_are_none_are_refused_by_name() -> None:
    refused(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)), r"node '0'.*name a layer with layer='...': '1'", 4)
    normed = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 1))
    refused(normed, r"node '0'.*no bias or weight that is an entry of the model.*'3'", 1, 5, 5)
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    refused(nn.Sequential(weighted, nn.Linear(2, 1)), r"node '0'.*entry of the model", 4)
    refused(nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU()), r"node '0'.*no bias", 4)
    refused(nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.ReLU()), "is 'conv_transpose2d', the first", 1, 3, 3)
    refused(nn.Sequential(nn.ReLU()), "has parameters and reads its input", 4)
    refused(Own(2.0), "not an argument of a module", 2, 3)
    refused(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")), "'0' pads by 'reflect'", 1, 5, 5)
    refused(nn.Sequential(nn.Conv2d(1, 2, 2, padding="same")), "as many before as after", 1, 5, 5)


def test_embeddings_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 1))
    with pytest.raises(TrajectoryError, match=r"is 'embedding', the first operation with parameters.*'2'"):
        trained(model, torch.tensor([[1, 2]]))
    trajectory = trained(model, torch.tensor([[1, 2]]), layer="2")
    assert trajectory.setting.isometric is False and trajectory["top_lower"][0] > 0


def test_layers_and_parameters_are_named() -> None:
    model = nn.Sequential(*mlp(4, 3, 2), nn.LayerNorm(2), Shift(2))
    graph = cg.trace(model, torch.randn(1, 4))
    assert named_layer("2", model, graph).bias == "2.bias"
    assert named_layer("2.bias", model, graph) == named_layer("2", model, graph)
    assert named_layer("2", model, None).isometric is None
    assert named_layer("0.weight", model, graph).kind == "parameter"
    assert named_layer("3.bias", model, graph).kind == "parameter"
    assert named_layer("4.bias", model, graph).kind == "parameter"  # its input is no argument of a module that is known
    for name, message in (("5", "no module and no parameter '5'"), ("3", r"'3' is LayerNorm.*3\.weight, 3\.bias")):
        with pytest.raises(TrajectoryError, match=message):
            named_layer(name, model, None)
    with pytest.raises(TrajectoryError, match=r"'0' \(Linear\) has the parameters \['weight'\]"):
        named_layer("0", nn.Sequential(nn.Linear(2, 2, bias=False)), None)


class Untraceable(nn.Module):
    """Its path depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding="valid", dilation=2)
        self.last = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).mean((2, 3))
        return self.last(h if bool(h.sum() > 0) else -h)


def test_a_named_layer_needs_no_graph() -> None:
    model, x = Untraceable(), torch.randn(1, 1, 9, 9)
    with pytest.raises(TrajectoryError, match=r"cannot be traced.*layer='...', such as 'conv', 'last'") as caught:
        trained(model, x)
    assert isinstance(caught.value.__cause__, TracingError)
    trajectory = trained(model, x, layer="conv")
    layer, setting = trajectory.layer, trajectory.setting
    assert (layer.inputs, layer.outputs, layer.shared) == (81, 18, 9)
    assert (setting.isometric, setting.piecewise, setting.last, setting.mixing) == (None, None, "", None)
    assert not np.isnan(trajectory["bottom_lower"]).any()
    with pytest.raises(TrajectoryError, match="product needs the model's graph"):
        trained(model, x, layer="conv", product=1)


def test_a_linear_layer_may_see_more_positions_later() -> None:
    model = nn.Sequential(nn.Linear(4, 2), MeanPositions())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer, layer="0", flush=1) as recorder:
        for positions in (2, 5, 3):
            optimizer.zero_grad()
            model(torch.randn(1, positions, 4)).sum().backward()
            optimizer.step()
    layer = recorder.trajectory.layer
    assert (layer.inputs, layer.outputs, layer.shared) == (20, 10, 5)


def test_images_of_another_size_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    other = r"shape \(1, 1, 6, 6\), expected a batch of samples of shape \(1, 5, 5\)"
    with pytest.raises(TrajectoryError, match=other), cg.TrajectoryRecorder(model, optimizer, strict=True):
        for side in (5, 6):
            optimizer.zero_grad()
            model(torch.randn(1, 1, side, side)).sum().backward()
            optimizer.step()


def test_a_bias_that_enters_the_loss_by_another_way_is_seen() -> None:
    model, x = mlp(4, 3, 1), torch.randn(1, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        (model(x).sum() + model[0].bias.square().sum()).backward()
        optimizer.step()
    assert recorder.trajectory.setting.identity is not None and recorder.trajectory.setting.identity > 0.01
