"""The forms in which torch writes one operation, and the name and arguments that they share.

A target is an overload (torch.ops.aten.conv2d.default), a function (F.conv2d, operator.add), the name of a
tensor method or attribute ("view"), or a module class (nn.ReLU, for modules that torch.fx does not open).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import _ops, fx, nn, ops
from torch.overrides import resolve_name

ARGUMENT_NAMES: Mapping[str, str] = {"self": "input", "axis": "dim", "train": "training"}
OPERATOR_IN_PLACE: Mapping[str, str] = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div"}
OPERATORS: Mapping[str, str] = {**OPERATOR_IN_PLACE, "truediv": "div", "pos": "positive"}


def canonical_name(target: Any) -> str:
    """The name that all forms of an operation share; in-place forms lose their trailing underscore."""
    if isinstance(target, (_ops.OpOverload, _ops.OpOverloadPacket)):
        return _plain(_operator_name(target))
    if isinstance(target, type):
        return target.__name__
    if isinstance(target, str):
        return _plain(target)
    if _is_operator(target):
        return OPERATORS.get(target.__name__, target.__name__)
    return _plain(target.__name__) if resolve_name(target) else _qualified(target)


def torch_name(target: Any) -> str:
    """A target as a user would write it, for messages."""
    if isinstance(target, (_ops.OpOverload, _ops.OpOverloadPacket)):
        return f"torch.ops.{target}"
    if isinstance(target, str):
        return f"Tensor.{target}"
    if isinstance(target, type):
        return f"nn.{target.__name__}" if hasattr(nn, target.__name__) else _qualified(target)
    return resolve_name(target) or _qualified(target)


def _qualified(target: Any) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', target)}".removeprefix("_")


def _operator_name(target: Any) -> str:
    """tanh_ for torch.ops.aten.tanh_.default; other name spaces stay."""
    return str(target).split(".default")[0].removeprefix("aten.").split(".")[0]


def _is_operator(target: Any) -> bool:
    return getattr(target, "__module__", None) == "_operator"


def _plain(name: str) -> str:
    return name if name.endswith("__") else name.removesuffix("_")


def is_in_place(target: Any) -> bool:
    """True for add_, aten.tanh_, operator.iadd and the like."""
    if _is_operator(target):  # and_ and or_ change nothing
        return target.__name__ in OPERATOR_IN_PLACE
    if isinstance(target, _ops.OpOverload):
        target = _operator_name(target)
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def bind(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by name, as fx holds them; surplus positions (permute(0, 2, 1)) form a list."""
    names = _argument_names(node.target) if node.op != "call_module" else ["input"]
    values = list(node.args)
    if len(values) > len(names):
        values = [*values[: len(names) - 1], values[len(names) - 1 :]]
    bound = dict(zip(names, values, strict=False)) | dict(node.kwargs)
    return {ARGUMENT_NAMES.get(key, key): value for key, value in bound.items()}


@cache
def _argument_names(target: Any) -> list[str]:
    if isinstance(target, _ops.OpOverload):
        return [argument.name for argument in target._schema.arguments]
    if inspect.isfunction(target):
        parameters = inspect.signature(target).parameters.values()
        if all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters):
            return [p.name for p in parameters]
    return _schema_names(canonical_name(target))


def _schema_names(name: str) -> list[str]:
    """Positional names of the overload of aten.`name` that takes most; ["input"] where there is none."""
    packet = getattr(ops.aten, name, None)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()] if packet else []
    candidates = [
        [a.name for a in schema.arguments if not a.kwarg_only]
        for schema in schemas
        if not any("Dimname" in str(a.type) or a.is_out for a in schema.arguments)
    ]
    return max(candidates, key=len, default=["input"])
