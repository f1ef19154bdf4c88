"""Small vision transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EncoderBlock(nn.Module):
    """Attention and a GELU network per token, each on normalized tokens and each added to its input."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, tokens: Tensor) -> Tensor:  # (n, tokens, width) -> (n, tokens, width)
        normal = self.norm1(tokens)
        tokens = tokens + self.attention(normal, normal, normal, need_weights=False)[0]
        update: Tensor = self.mlp(self.norm2(tokens))
        return tokens + update


class VisionTransformer(nn.Module):
    """Patches of an image and a class token, a learned position for each, ``depth`` blocks, and a linear head.

    Takes images (n, 1, size, size); the head reads the class token. ``width`` is the number of features of a token,
    divisible by ``heads``, and ``inner`` that of a block's hidden layer.
    Raises ``ValueError`` where ``patch`` does not divide ``size``.
    """

    def __init__(
        self,
        size: int = 8,
        patch: int = 2,
        width: int = 16,
        heads: int = 2,
        depth: int = 2,
        inner: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"patch is {patch}, expected a divisor of the size {size}: all pixels are read")
        self.patches = nn.Conv2d(1, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        # As large as the features of a patch, so that tokens differ by their places from the start.
        self.positions = nn.Parameter(0.5 * torch.randn(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, inner) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, size, size) -> (n, classes)
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (n, (size / patch)^2, width)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)[:, 0]))
        return logits
