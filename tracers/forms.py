"""The name and the arguments that all forms of a torch operation share."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import _ops, fx
from torch.overrides import resolve_name

ARGUMENT_NAMES: Mapping[str, str] = {"self": "input", "axis": "dim", "train": "training"}


def canonical_name(target: Any) -> str:
    """tanh for torch.ops.aten.tanh_.default, F.tanh and torch.tanh_; other name spaces than aten stay."""
    if isinstance(target, (_ops.OpOverload, _ops.OpOverloadPacket)):
        return _plain(str(target).split(".default")[0].removeprefix("aten.").split(".")[0])
    if isinstance(target, str):
        return _plain(target)
    if isinstance(target, type):
        return target.__name__
    return _plain(target.__name__) if resolve_name(target) or _is_builtin(target) else _qualified(target)


def full_name(target: Any) -> str:
    """aten.tanh.default; the name under which `covergraph.graph.weights.operator` finds it."""
    return str(target) if isinstance(target, _ops.OpOverload) else canonical_name(target)


def _is_builtin(target: Any) -> bool:
    return target is operator.getitem or getattr(target, "__module__", None) == "_operator"


def _qualified(target: Any) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', target)}".removeprefix("_")


def _plain(name: str) -> str:
    return name if name.endswith("__") else name.removesuffix("_")


def bind(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by name, as fx holds them."""
    if not isinstance(node.target, _ops.OpOverload):
        names = ["input", "index"] if node.target is operator.getitem else [f"arg{i}" for i in range(len(node.args))]
    else:
        names = [argument.name for argument in node.target._schema.arguments]
    bound = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return {ARGUMENT_NAMES.get(key, key): value for key, value in bound.items()}
