"""Other inputs of the same kind, for the check of a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from covergraph.tracers.arguments import Arguments


def shaken(arguments: Arguments) -> Arguments:
    """Floats plus noise of their own scale; integers drawn from the example's own values, masks from both."""
    generator = torch.Generator().manual_seed(0)
    return arguments.with_tensors(_shaken(tensor, generator) for tensor in arguments.tensors.values())


def _shaken(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        values = _values(tensor)
        return values[torch.randint(len(values), tensor.shape, generator=generator).to(values.device)]
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    scale = tensor.abs().max()
    return tensor + noise * torch.where(scale > 0, scale, torch.ones_like(scale))


def _values(tensor: Tensor) -> Tensor:
    """The example's values; of booleans, and of ones everywhere, which are a mask, both values."""
    values: Tensor = torch.unique(tensor)
    mask = tensor.dtype == torch.bool or (len(values) == 1 and bool((values == 1).all()))
    return torch.tensor([0, 1], dtype=tensor.dtype, device=tensor.device) if mask else values


def louder(arguments: Arguments) -> tuple[Arguments, Arguments]:
    """Two batches of three samples: the first two are equal, the last one differs, and is very large.

    The second sample is large, too: what one sample does to another may show at large values only.
    """
    base = shaken(arguments.at(3))
    return _scaled(base, (1.0, 100.0, 1.0)), _scaled(base, (1.0, 100.0, -1e5))


def _scaled(arguments: Arguments, factors: tuple[float, float, float]) -> Arguments:
    def scale(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return tensor * torch.tensor(factors).to(tensor).reshape(3, *[1] * (tensor.dim() - 1))
        changed = tensor.clone()
        if factors[2] < 0:
            changed[2] = tensor[0]
        return changed

    return arguments.with_tensors(scale(tensor) for tensor in arguments.tensors.values())
