"""Tensors that a module holds beside its parameters: buffers, and attributes, also in lists and dictionaries."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils import _pytree as pytree

SPECIAL = frozenset(vars(nn.Module()))
"""What every module has."""


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Buffers and plain tensors by dotted name: mask, layer.scale, layer.table['a'], params[0]."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in _of_one(module):
            found[f"{path}.{name}" if path else name] = value
    return found


def _of_one(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, value) for name, value in module._buffers.items() if value is not None)
    for key, value in vars(module).items():
        if key in SPECIAL or not isinstance(value, (Tensor, list, tuple, dict)):
            continue
        for place, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                yield f"{key}{pytree.keystr(place)}", leaf
