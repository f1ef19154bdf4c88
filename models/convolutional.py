"""Small convolutional networks for 8 x 8 images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two 4 x 4 convolutions of stride 2, a smooth activation after each, and a linear head on all positions.

    Takes images (n, 1, 8, 8). With the default channels the activations have 128 and then 64 values a
    sample, so that exact singular values of every Jacobian stay cheap.
    """

    def __init__(
        self,
        channels: tuple[int, int] = (8, 16),
        classes: int = 10,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = nn.Conv2d(1, first, kernel_size=4, stride=2, padding=1, bias=False)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1, bias=False)
        self.activation2 = activation()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(second * 2 * 2, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, 8, 8) -> (n, classes)
        hidden = self.activation1(self.conv1(images))  # (n, first, 4, 4)
        hidden = self.activation2(self.conv2(hidden))  # (n, second, 2, 2)
        logits: Tensor = self.head(self.flatten(hidden))
        return logits


class PooledConvNet(nn.Module):
    """Two 3 x 3 convolutions, each with batch normalization and ReLU, a 2 x 2 max-pool and a linear head.

    Takes images (n, 1, 8, 8). The first convolution has stride 2, so that no window of the pool sees empty background
    alone: there its entries would tie, and the network would have no derivative. The convolutions have no bias, as the
    normalization would cancel it.
    """

    def __init__(self, channels: tuple[int, int] = (8, 16), classes: int = 10) -> None:
        super().__init__()
        first, second = channels
        self.blocks = nn.Sequential(_block(1, first, stride=2), _block(first, second, stride=1))
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(second * 2 * 2, classes)

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, 8, 8) -> (n, classes)
        hidden = self.pool(self.blocks(images))  # (n, second, 2, 2)
        logits: Tensor = self.head(self.flatten(hidden))
        return logits


def _block(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    """(n, channels_in, h, w) -> (n, channels, h / stride, w / stride)."""
    convolution = nn.Conv2d(channels_in, channels, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
