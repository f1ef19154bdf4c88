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
