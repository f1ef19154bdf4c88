"""An entry of the zoo: a name, a family, and how its model and example are built."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 4
"""Samples in every example, all different, so that any smaller batch can be cut from it."""

Output = str | int | None


@dataclass(frozen=True)
class Case:
    """A model in eval mode with arguments; the batch is dim 0 of every tensor. `output` picks one of several."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Output = None


@dataclass(frozen=True)
class Entry:
    """One architecture of one family; `build` imports the family's package and may raise ImportError."""

    name: str
    family: str
    build: Callable[[], Case]
    refused: bool = False

    @property
    def key(self) -> str:
        """The unique name: family/name."""
        return f"{self.family}/{self.name}"

    def case(self) -> Case:
        """Model and example, the same in every process. A refused one stays in the mode that it was built in."""
        random.seed(0)
        torch.manual_seed(0)
        case = self.build()
        if not self.refused:
            case.model.eval()
            settle(case)
        return case


def settle(case: Case) -> None:
    """Make every parameter and statistic matter, as training would: what is constant is easily dropped unnoticed.

    Biases of 0, scales of 1 and LayerScales of 1e-6 get noise; BatchNorm gets the example's statistics, then noise.
    """
    with torch.no_grad():
        for parameter in case.model.parameters():
            if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn_like(parameter))
        norms = [m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms:
            _estimate(case, norms)


def _estimate(case: Case, norms: list[Any]) -> None:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the average of the calls below
    case.model(*case.inputs, **case.kwargs)
    # Another scale, too: far from its statistics a deep random network amplifies rounding a millionfold.
    case.model(*(_louder(value) for value in case.inputs), **case.kwargs)
    case.model.train().eval()  # some models cache what they compute in eval mode until the next train()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        # No channel is amplified more than the average one, for the same reason.
        norm.running_var.clamp_(min=float(norm.running_var.mean())).mul_(1 + 0.4 * torch.rand_like(norm.running_var))


def _louder(value: Tensor) -> Tensor:
    return value + value.abs().max() * torch.randn_like(value) if value.is_floating_point() else value


def images(size: int, channels: int = 3) -> tuple[Tensor]:
    """Random square images."""
    return (torch.randn(BATCH, channels, size, size),)


def floats(*shape: int) -> tuple[Tensor]:
    """One random tensor per sample."""
    return (torch.randn(BATCH, *shape),)


def tokens(length: int = 10, vocabulary: int = 64) -> tuple[Tensor]:
    """Random token numbers; 0 to 3 are left out, which models like to use for padding."""
    return (torch.randint(4, vocabulary, (BATCH, length)),)
