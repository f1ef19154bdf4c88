"""The rows of the block in progress, on the device, and what becomes of them when it is flushed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from covergraph.values import Floats

MEMORY = 2**24
"""Bytes that the biases of a block may take in double precision."""
DEVICE = ("loss", "alpha", "epsilon", "pull", "pulls", "input", "frobenius", "drift", "apart", "log_product")
"""What is measured during a step, on the device."""
MOVED = ("gradient", "move", "residual", "distance", "bias")
"""What follows from the biases and their gradients when a block is flushed."""


class Buffers:
    """`length` rows: b^{t+1} and ∂ℓ/∂b of each step, and the numbers of `DEVICE`. `start` is b^0, `previous` b^t.

    One more row is for a step in progress while those before it could not be written.
    """

    def __init__(self, bias: Tensor, flush: int) -> None:
        value = bias.detach()
        self.length = max(1, min(flush, MEMORY // max(8 * value.numel(), 1)))
        self.start, self.previous = value.clone(), value.clone()
        self.biases, self.gradients = (value.new_zeros(self.length + 1, *value.shape) for _ in range(2))
        self.numbers = torch.full((self.length + 1, len(DEVICE)), torch.nan, dtype=torch.float64, device=value.device)
        self.bias_rows, self.gradient_rows = list(self.biases), list(self.gradients)
        self.slots = [dict(zip(DEVICE, row, strict=True)) for row in self.numbers]
        self.moments = RunningMoments.none(value)

    def reduced(self, rows: int, alphas: list[float]) -> dict[str, Floats]:
        """The columns `DEVICE` and `MOVED` of the first rows, with one transfer."""
        rates = torch.tensor(alphas, dtype=torch.float64).to(self.numbers.device)
        known = self.numbers[:rows]
        rates = torch.where(rates.isnan(), known[:, DEVICE.index("alpha")], rates)
        biases, gradients = self.flat(self.biases, rows), self.flat(self.gradients, rows)
        before = torch.cat([self.previous.reshape(1, -1).double(), biases[:-1]])
        moves = biases - before
        start = self.start.reshape(1, -1).double()
        vectors = (gradients, moves, moves + rates[:, None] * gradients, biases - start, biases)
        norms = torch.stack([torch.linalg.vector_norm(v, dim=1) for v in vectors], 1)
        both = torch.cat([known, norms], 1).cpu().numpy()
        return dict(zip((*DEVICE, *MOVED), both.T, strict=True)) | {"alpha": rates.cpu().numpy()}

    @staticmethod
    def flat(values: Tensor, rows: int) -> Tensor:
        """The first rows (rows, n_1) in double precision."""
        return values[:rows].reshape(rows, -1).double()

    def begin_block(self, rows: int) -> None:
        """The last iterate becomes the previous one; of the next rows only the one in progress may hold something."""
        self.previous.copy_(self.biases[rows - 1])
        begun = self.numbers[rows:][:1].clone()
        self.gradients[:1][: len(begun)] = self.gradients[rows:][:1]
        self.numbers.fill_(torch.nan)
        self.numbers[: len(begun)] = begun

    def state(self, rows: int) -> dict[str, Any]:
        """What `load` needs."""
        parts = {"biases": self.biases[:rows], "gradients": self.gradients[:rows], "numbers": self.numbers[:rows]}
        own = {"start": self.start, "previous": self.previous, **parts}
        return {name: value.clone() for name, value in own.items()} | {"moments": self.moments.state()}

    def load(self, state: dict[str, Any], rows: int) -> None:
        """Go on from a state."""
        self.start.copy_(state["start"])
        self.previous.copy_(state["previous"])
        for name, own in (("biases", self.biases), ("gradients", self.gradients), ("numbers", self.numbers)):
            own[:rows].copy_(state[name])
        self.moments = RunningMoments.of_state(state["moments"], self.start.device)


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean (n_1,) and scatter of the iterates since the last border, in double precision on the device."""

    mean: Tensor
    scatter: Tensor
    count: int = 0

    @staticmethod
    def none(like: Tensor) -> RunningMoments:
        """Of no iterates."""
        zero = torch.zeros(like.numel() + 1, dtype=torch.float64, device=like.device)
        return RunningMoments(zero[1:], zero[0])

    def taking(self, rows: Tensor) -> RunningMoments:
        """With further iterates (rows, n_1); of differences from the first one, so that nothing cancels."""
        shifted = rows - rows[:1]
        center = shifted.mean(0)
        total = self.count + len(rows)
        apart = rows[0] + center - self.mean
        between = apart.square().sum() * (self.count * len(rows) / total)
        scatter = self.scatter + (shifted - center).square().sum() + between
        return RunningMoments(self.mean + apart * (len(rows) / total), scatter, total)

    def state(self) -> dict[str, Any]:
        """What `of_state` needs."""
        return {"count": self.count, "mean": self.mean.clone(), "scatter": self.scatter.clone()}

    @staticmethod
    def of_state(state: dict[str, Any], device: torch.device) -> RunningMoments:
        """The moments of a state."""
        return RunningMoments(state["mean"].to(device), state["scatter"].to(device), state["count"])
