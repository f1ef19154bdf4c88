"""Own networks of unusual layers: images and plain vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from zoo.entry import Case, floats, images


class GatedConvolution(nn.Module):
    """Convolutions whose second half of channels gates the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.glu(self.second(F.glu(self.first(x), dim=1)), dim=1)
        return self.head(h.mean((2, 3)))


class PixelShuffle(nn.Module):
    """Super-resolution: pixel shuffle up, unshuffle down, channel shuffle between."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.channel_shuffle(F.pixel_shuffle(self.up(x), 2), 3)
        return self.down(F.pixel_unshuffle(fine, 2)).flatten(1)


class Squeeze(nn.Module):
    """Squeeze and excite after a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.point = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(3, 8, 1)
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.deep(self.point(x)))
        scale = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((h * scale).amax((-2, -1)))


class Dense(nn.Module):
    """Every layer sees the concatenation of all layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, dim=1)))))
        return F.max_pool2d(torch.cat(features[1:], 1), 3, stride=2, padding=1).flatten(1)


class CosineHead(nn.Module):
    """A head of cosines between normalized features and normalized prototypes, with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.prototypes = nn.Linear(8, 6), nn.Parameter(torch.randn(5, 6))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(torch.tanh(self.body(x)), dim=-1) @ F.normalize(self.prototypes, dim=-1).T / self.temperature


class UNet(nn.Module):
    """Down, bilinear up, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.leaky_relu(self.a(x), 0.1)
        low = F.elu(self.b(F.max_pool2d(top, 2)))
        return self.c(torch.cat([top, F.interpolate(low, scale_factor=2.0, mode="bilinear")], dim=1))


class Maxout(nn.Module):
    """The maximum of three linear maps, twice, once by max and once by maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(8, 18), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).unflatten(-1, (6, 3)).max(dim=-1).values
        return torch.maximum(self.a(h), self.b(h))


class RadialBasis(nn.Module):
    """Gaussian bumps around learned centers, of learned widths."""

    def __init__(self) -> None:
        super().__init__()
        self.centers, self.widths = nn.Parameter(torch.randn(10, 6)), nn.Parameter(torch.rand(10) + 0.5)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        squares = (x[:, None, :] - self.centers).square().sum(-1)
        return self.head(torch.exp(-squares / self.widths**2))


class SpatialTransformer(nn.Module):
    """An affine grid predicted from the image samples the image."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.head = nn.Linear(48, 6), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        theta = torch.tanh(self.where(x.flatten(1))).reshape(-1, 2, 3)
        return self.head(F.grid_sample(x, F.affine_grid(theta, list(x.shape), False), align_corners=False).flatten(1))


class LowRank(nn.Module):
    """A frozen linear map plus a learned low-rank one."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, self.base.weight + 0.5 * self.up @ self.down, self.base.bias), approximate="tanh")


class Positive(nn.Module):
    """A parametrization of our own: the weight is symmetric and positive."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight + weight.mT)


def parametrized() -> nn.Module:
    """A layer whose weight is a function of another tensor."""
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Positive())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))


def weight_norm() -> nn.Module:
    """Weight norm by parametrization, on a linear layer and on a convolution."""
    return nn.Sequential(
        *(parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), nn.Softplus(), nn.Flatten()),
        parametrizations.weight_norm(nn.Linear(36, 5), dim=None),
    )


def old_weight_norm() -> nn.Module:
    """Weight norm by the old hook, which sets a plain attribute before each call."""
    return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3))


def spectral_norm() -> nn.Module:
    """Spectral norm: the power iteration rests in eval mode."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 6)), nn.ELU(0.7), nn.Linear(6, 3))
    return model.train().eval()


def autoencoder() -> nn.Module:
    """Strided convolutions down, transposed ones up."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.SELU(), nn.Conv2d(8, 4, 3, stride=2, padding=1), nn.Mish()),
        *(nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1), nn.ReLU6()),
        *(nn.ConvTranspose2d(8, 3, 2, stride=2, groups=1), nn.Sigmoid()),
    )


def parametric_relu() -> nn.Module:
    """One slope per channel, then one for all."""
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(216, 5), nn.PReLU())


def norms() -> nn.Module:
    """GroupNorm, InstanceNorm with and without statistics, LayerNorm over three axes, local response norm."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Hardswish(), nn.InstanceNorm2d(8, affine=True)),
        *(nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8, track_running_stats=True), nn.LayerNorm([8, 6, 6])),
        *(nn.LocalResponseNorm(3), nn.Flatten(), nn.Linear(288, 4)),
    )


def padding() -> nn.Module:
    """Circular, reflecting, replicating and constant padding."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.ReflectionPad2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.ReplicationPad2d((1, 0, 0, 1)), nn.ConstantPad2d(1, 0.5), nn.AvgPool2d(3, 2)),
    )


def pools() -> nn.Module:
    """Uneven adaptive pools, L2 pools, dilated and ceiling max-pools, after ReLU."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2, ceil_mode=True), nn.AdaptiveAvgPool2d((3, 2))),
        *(nn.Conv2d(4, 4, 1), nn.LPPool2d(2, 2, stride=1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.3)),
    )


def volumes() -> nn.Module:
    """Three-dimensional convolutions."""
    return nn.Sequential(nn.Conv3d(2, 4, 3, groups=2), nn.BatchNorm3d(4), nn.CELU(0.5), nn.AvgPool3d(2), nn.Flatten(1))


def log_probabilities() -> nn.Module:
    """Log-probabilities as output."""
    return nn.Sequential(nn.Linear(8, 12), nn.LogSigmoid(), nn.Linear(12, 5), nn.LogSoftmax(dim=-1))


def orthogonal() -> nn.Module:
    """An orthogonal weight, by a Cayley map of a free one."""
    layer = parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley")
    return nn.Sequential(layer, nn.Softsign(), nn.Linear(6, 3))


CASES = {
    "gated_convolution": lambda: Case(GatedConvolution(), images(8)),
    "pixel_shuffle": lambda: Case(PixelShuffle(), images(6)),
    "squeeze_excite": lambda: Case(Squeeze(), images(8)),
    "dense_concatenation": lambda: Case(Dense(), images(8)),
    "cosine_head": lambda: Case(CosineHead(), floats(8)),
    "unet": lambda: Case(UNet(), images(8)),
    "maxout": lambda: Case(Maxout(), floats(8)),
    "radial_basis": lambda: Case(RadialBasis(), floats(6)),
    "spatial_transformer": lambda: Case(SpatialTransformer(), images(4)),
    "low_rank_adapter": lambda: Case(LowRank(), floats(8)),
    "parametrization": lambda: Case(parametrized(), floats(6)),
    "weight_norm": lambda: Case(weight_norm(), floats(4, 8)),
    "weight_norm_hook": lambda: Case(old_weight_norm(), floats(8)),
    "spectral_norm": lambda: Case(spectral_norm(), floats(8)),
    "transposed_autoencoder": lambda: Case(autoencoder(), images(8)),
    "prelu": lambda: Case(parametric_relu(), images(8)),
    "norm_layers": lambda: Case(norms(), images(8)),
    "padding_modes": lambda: Case(padding(), images(8)),
    "pooling_modes": lambda: Case(pools(), images(11)),
    "convolution_3d": lambda: Case(volumes(), floats(2, 5, 6, 6)),
    "log_softmax_output": lambda: Case(log_probabilities(), floats(8)),
    "orthogonal_weight": lambda: Case(orthogonal(), floats(6)),
}
"""Builders by name."""
