"""Other weights of the same kind, for checks of a graph: weights of zero hide what they multiply."""

from __future__ import annotations

import torch
from torch import nn


def shake_weights(model: nn.Module) -> None:
    """Give parameters and buffers other values of their own scale, for good: of a copy that is not needed after.

    Buffers, which may have to be positive, keep their signs.
    """
    generator = torch.Generator().manual_seed(2)
    for parameter in (p for p in model.parameters() if p.numel() and (p.is_floating_point() or p.is_complex())):
        value = parameter.data
        scale = float(value.std()) if value.numel() > 1 else float(value.abs())
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        value.add_(noise, alpha=0.2 * (scale if scale > 1e-6 else 0.1))
        if value.numel() == 1 and value.is_floating_point():
            value.neg_()  # what reads one number often asks for its sign
    kept = model.state_dict().keys()  # other buffers are constants
    for buffer in (b for n, b in model.named_buffers() if n in kept and b.is_floating_point() and b.numel()):
        buffer.mul_(1 + 0.1 * torch.rand(buffer.shape, generator=generator, dtype=torch.float64).to(buffer))
