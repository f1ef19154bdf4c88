"""The bounds of a residual ReLU block, of an attention block and of two GRU steps, in LaTeX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import covergraph as cg


class Residual(nn.Module):
    """h + relu(BatchNorm(W h)) between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.norm = nn.Linear(4, 6, bias=False), nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        logits: Tensor = self.head(h + torch.relu(self.norm(self.inner(h))))
        return logits


class Attention(nn.Module):
    """Pre-LayerNorm self-attention with two heads, and a mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(2, 4, bias=False), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, bias=False)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        normed = self.norm(h)
        logits: Tensor = self.head((h + self.attention(normed, normed, normed, need_weights=False)[0]).mean(1))
        return logits


class Steps(nn.Module):
    """A GRU over two steps; its recurrent weight is covered once (Theorem 1')."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(2, 3, batch_first=True, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(x)[0][:, -1])
        return logits


if __name__ == "__main__":
    for model, example in ((Residual(), (2, 4)), (Attention(), (2, 3, 2)), (Steps(), (2, 2, 2))):
        bound = cg.derive(cg.augment(cg.trace(model.eval(), torch.randn(*example))))
        print(f"% {type(model).__name__}\n{bound.to_latex()}\n")
