"""What a module holds beside its parameters: buffers, tensors and arrays in attributes, lists, dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

SPECIAL = frozenset(vars(nn.Module()))
"""What every module has."""
REAL = (float, np.floating)


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Buffers and plain tensors by dotted name: mask, layer.scale, layer.table['a'], params[0]."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in _of_one(module):
            found[_dotted(path, name)] = value
    return found


def held_arrays(model: nn.Module) -> dict[str, Tensor]:
    """Arrays of numpy, and lists of numbers, by dotted name, as tensors."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            name = _dotted(path, key)
            parts = value.items() if isinstance(value, dict) else ()
            for place, part in ((name, value), *((f"{name}[{k!r}]", v) for k, v in parts)):
                array = None if key in SPECIAL else _array(part)
                found |= {} if array is None else {place: array}
    return found


def _array(value: Any) -> Tensor | None:
    """An array of numbers, or a list (of lists) of numbers that are not all whole."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.size:
        return torch.from_numpy(np.ascontiguousarray(value).copy())
    leaves = pytree.tree_leaves(value) if isinstance(value, (list, tuple)) else []
    if not leaves or not all(isinstance(leaf, (int, float)) for leaf in leaves):
        return None
    try:
        return torch.tensor(value, dtype=torch.float64) if any(isinstance(x, float) for x in leaves) else None
    except (ValueError, TypeError):  # ragged
        return None


def held_numbers(model: nn.Module) -> dict[str, float]:
    """Plain real numbers of modules by dotted name."""
    return {_dotted(path, name): value for path, module in model.named_modules() for name, value in _plain(module)}


def numbers_within(model: nn.Module) -> dict[str, float]:
    """Real numbers in what the user's modules hold: shifts[0], config['scale'], config.scale (a data class)."""
    modules = [(path, module) for path, module in model.named_modules() if _is_own(module)]
    return {_dotted(path, name): value for path, module in modules for name, value in _within(module)}


def own_numbers(model: nn.Module) -> dict[tuple[str, float], list[str]]:
    """Both, of modules whose class is not torch's: dotted names by the module's path and the number."""
    found: dict[tuple[str, float], list[str]] = {}
    for path, module in model.named_modules():
        for name, value in (*_plain(module), *_within(module)) if _is_own(module) else ():
            found.setdefault((path, value), []).append(_dotted(path, name))
    return found


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_own(module: nn.Module) -> bool:
    """Not a class of torch's."""
    return not type(module).__module__.startswith("torch.")


def _plain(module: nn.Module) -> Iterator[tuple[str, float]]:
    for key, value in vars(module).items():
        if key not in SPECIAL and isinstance(value, REAL):
            yield key, float(value)


def _within(module: nn.Module) -> Iterator[tuple[str, float]]:
    for key, value in vars(module).items():
        named = isinstance(value, SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type))
        parts = [(f"{key}.{name}", part) for name, part in vars(value).items()] if named else [(key, value)]
        for name, part in parts if key not in SPECIAL else ():
            if named or isinstance(part, (list, tuple, dict)):
                for place, leaf in pytree.tree_flatten_with_path(part)[0]:
                    if isinstance(leaf, REAL):
                        yield f"{name}{pytree.keystr(place)}", float(leaf)


def _of_one(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, value) for name, value in module._buffers.items() if value is not None)
    for key, value in vars(module).items():
        if key in SPECIAL or not isinstance(value, (Tensor, list, tuple, dict)):
            continue
        for place, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                yield f"{key}{pytree.keystr(place)}", leaf
