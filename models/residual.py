"""Residual fully connected networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """The map x -> x + W2 φ(W1 x) on vectors of one width."""

    def __init__(self, width: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.activation = activation()
        self.outer = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (n, width) -> (n, width)
        update: Tensor = self.outer(self.activation(self.inner(x)))
        return x + update


class ResidualMLP(nn.Module):
    """A linear stem and activation, then ``blocks`` residual blocks of one width, then a linear head."""

    def __init__(
        self,
        width_in: int,
        width: int,
        classes: int,
        blocks: int = 2,
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.stem = nn.Linear(width_in, width, bias=False)
        self.activation = activation()
        self.blocks = nn.Sequential(*(ResidualBlock(width, activation) for _ in range(blocks)))
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:  # (n, ...) -> (n, classes)
        logits: Tensor = self.head(self.blocks(self.activation(self.stem(self.flatten(images)))))
        return logits
