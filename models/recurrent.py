"""Recurrent networks that read an image row by row."""

from __future__ import annotations

from torch import Tensor, nn


class RowGRU(nn.Module):
    """A GRU that takes the rows of an image as its steps, and a linear head on its last state.

    Takes images (n, 1, steps, width); ``width`` is that of a row and ``hidden`` the number of the GRU's units.
    """

    def __init__(self, width: int = 8, hidden: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, steps, width) -> (n, classes)
        states, _ = self.gru(images.squeeze(1))  # (n, steps, hidden)
        logits: Tensor = self.head(states[:, -1])
        return logits
