"""A call of forward: which argument each tensor is, and what forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def leaves(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call holds by dotted path (`views.1`), in forward's order. Raises `TypeError` if it does not take them."""
    found, _ = pytree.tree_flatten_with_path(dict(signature.bind_partial(*args, **kwargs).arguments))
    return {dotted(path): leaf for path, leaf in found}


def dotted(path: Sequence[Any]) -> str:
    """A pytree path as text: the keys, indices and attribute names joined by dots."""
    parts = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path)
    return ".".join(str(part) for part in parts)


def inner_signature(model: nn.Module) -> inspect.Signature:
    """What forward takes; of a wrapper whose forward is (*args, **kwargs), what the model inside takes."""
    signature = inspect.signature(model.forward)
    while all(p.kind in _MANY for p in signature.parameters.values()):
        named = (getattr(model, name, None) for name in ("module", "_orig_mod"))
        inside = next((m for m in (*named, *model.children()) if isinstance(m, nn.Module)), None)
        if inside is None:
            break
        model = inside
        signature = inspect.signature(model.forward)
    return signature


def fits(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether forward takes these arguments, perhaps among others: a graph may have been traced with constants."""
    try:
        signature.bind_partial(*args, **kwargs)
    except TypeError:
        return False
    return True
