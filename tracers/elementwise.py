"""Rules for functions of every entry, and for calls that stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from covergraph.graph import function_rows as rows
from covergraph.graph import operations as op
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.precision import wide
from covergraph.graph.weights import operator
from covergraph.tracers.call import Call
from covergraph.tracers.forms import ARGUMENT_NAMES
from covergraph.tracers.values import Data, State

Result = Data | tuple[Data, ...]


def unary(call: Call) -> Result:
    """The row of the call's own name."""
    x = call.data("input")
    return call.row(rows.UNARY[call.name], x) if x.floating and call.dtype.is_floating_point else opaque(call)


def row_operation(name: str) -> op.Elementwise:
    """The record of a row without parameters."""
    return op.Elementwise(rows.UNARY[name])


def quotient(numerator: float) -> ScalarFunction:
    """c / t."""
    return rows.quotient(numerator)


def gelu(call: Call) -> Data:
    """x Phi(x), or its approximation by tanh."""
    return call.row(rows.gelu(call.given("approximate", "none")), call.data("input"))


def softplus(call: Call) -> Data:
    """log(1 + e^(beta t)) / beta."""
    return call.row(rows.softplus(call.number("beta", 1), call.number("threshold", 20)), call.data("input"))


def elu(call: Call) -> Data:
    """elu, by torch's three numbers; selu and celu."""
    if call.name != "elu":
        row = rows.SELU if call.name == "selu" else rows.celu(call.number("alpha", 1))
        return call.row(row, call.data("input"))
    numbers = [call.number(key, 1) for key in ("alpha", "scale", "input_scale")]
    return call.row(rows.elu(*numbers), call.data("input"))


def leaky_relu(call: Call) -> Data:
    """max(t, 0) + slope min(t, 0)."""
    return call.row(rows.leaky_relu(call.number("negative_slope", 0.01)), call.data("input"))


def clamp(call: Call) -> Result:
    """clamp, hardtanh and their one-sided forms, with numbers."""
    low, high = (_limit(call.given(a, call.given(b))) for a, b in (("min", "min_val"), ("max", "max_val")))
    if call.name == "hardtanh":
        low, high = (-1 if low is None else low), (1 if high is None else high)
    x = call.arguments["input"]
    if any(isinstance(v, (Data, State, Tensor)) for v in (low, high)) or not isinstance(x, Data) or not x.floating:
        return opaque(call)
    return call.row(rows.clamp(low, high), x)


def _limit(value: Any) -> Any:
    """A known tensor of one entry as a number."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() else value


def power(call: Call) -> Result:
    """t ** p and c ** t for numbers."""
    x, exponent = call.arguments["input"], call.arguments["exponent"]
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    if isinstance(x, Data) and x.floating and isinstance(exponent, (int, float)):
        return x if exponent == 1 else call.row(rows.power(exponent), x)
    return opaque(call)


def shrink(call: Call) -> Data:
    """softshrink and hardshrink."""
    factory = rows.softshrink if call.name == "softshrink" else rows.hardshrink
    return call.row(factory(call.number("lambd", 0.5)), call.data("input"))


def threshold(call: Call) -> Data:
    """t above the threshold, a value below."""
    return call.row(rows.threshold(call.number("threshold", 0), call.number("value", 0)), call.data("input"))


def opaque(call: Call) -> Result:
    """The call itself as a node: traced and computed as it is, without a rule for bounds."""
    slots: list[Data] = []

    def entry(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple(entry(item) for item in value)
        if isinstance(value, (State, Tensor)):
            value = call.as_data(value)
        if not isinstance(value, Data):
            return wide(value) if isinstance(value, torch.dtype) else value
        if value not in slots:
            slots.append(value)
        return op.Slot(slots.index(value))

    positional, named = _as_schema(call.target, {key: entry(value) for key, value in call.arguments.items()})
    shapes = tuple(tuple(slot.shape) for slot in slots)
    count = len(call.results)
    made = tuple(
        call.emit(op.Call(call.target, positional, named, shapes, None if count == 1 else i), slots, result=i)
        for i in range(count)
    )
    return made[0] if count == 1 else made


SKIPPED = ("device", "layout", "pin_memory", "generator", "memory_format")


def _as_schema(target: str, given: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    """Arguments by position and by keyword, as the operation's schema wants them."""
    positional: list[Any] = []
    named: list[tuple[str, Any]] = []
    for argument in operator(target)._schema.arguments:
        key = ARGUMENT_NAMES.get(argument.name, argument.name)
        if argument.name in SKIPPED or key not in given:
            continue
        if argument.kwarg_only or named or len(positional) != _place(target, argument.name):
            named.append((argument.name, given[key]))
        else:
            positional.append(given[key])
    return tuple(positional), tuple(named)


def _place(target: str, name: str) -> int:
    return [argument.name for argument in operator(target)._schema.arguments].index(name)


def evaluate(call: Call, arguments: Mapping[str, Any]) -> Tensor:
    """The call on known tensors."""
    positional, named = _as_schema(call.target, arguments)
    result = operator(call.target)(*positional, **dict(named))
    assert isinstance(result, Tensor)
    return result


def rank_of(name: str) -> int:
    """The number before the d in avg_pool2d."""
    return int(next(c for c in reversed(name.removesuffix("_with_indices")) if c.isdigit()))
