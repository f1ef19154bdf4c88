"""Where a model lives: its device and its floating type."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device of the first parameter or buffer and the type of the first real one; torch's defaults without any."""
    own = list(chain(model.parameters(), model.buffers()))
    device = own[0].device if own else torch.get_default_device()
    return device, next((value.dtype for value in own if value.is_floating_point()), torch.get_default_dtype())
