"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with one activation between neighbors: h_i = W_i φ(h_{i-1}), the last layer's output plain.

    ``widths`` lists the input width, the hidden widths and the number of logits.
    Raises ``ValueError`` where there are fewer than two widths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Callable[[], nn.Module] = nn.Tanh,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths is {list(widths)}, expected at least two: input width and logits, as in [64, 10]")
        first, *rest = (nn.Linear(d, m, bias=bias) for d, m in pairwise(widths))
        self.flatten = nn.Flatten()
        self.layers = nn.Sequential(first, *(part for layer in rest for part in (activation(), layer)))

    def forward(self, images: Tensor) -> Tensor:  # (n, ...) -> (n, widths[-1])
        logits: Tensor = self.layers(self.flatten(images))
        return logits
