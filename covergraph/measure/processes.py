"""Several processes: `torchrun` starts them, each measures its share of the blocks, and all get everything.

Nothing here is needed by a single process.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def rank() -> int:
    """The number of this process, 0 without torch.distributed."""
    return dist.get_rank() if _running() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _running() else 1


def gathered(own: dict[int, Any]) -> dict[int, Any]:
    """The entries of all processes, in every process, by increasing number."""
    parts: list[Any] = [own]
    if world() > 1:
        parts = [None] * world()
        dist.all_gather_object(parts, own)
    everything = {key: value for part in parts for key, value in part.items()}
    return dict(sorted(everything.items()))


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
