"""Rules for arithmetic of activations with each other, with parameters, constants and numbers."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.functions import NEGATE, affine
from covergraph.tracers import elementwise
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data, State, sample_shape


def add(call: Call) -> Data:
    """x + alpha y."""
    return _sum(call, 1.0)


def subtract(call: Call) -> Data:
    """x - alpha y."""
    return _sum(call, -1.0)


def rsub(call: Call) -> Data:
    """y - alpha x, written rsub(x, y, alpha)."""
    x, y = call.arguments["input"], call.arguments["other"]
    return _sum(call.with_arguments(input=y, other=x), -1.0)


def _sum(call: Call, sign: float) -> Data:
    """x + sign * alpha * y for every kind of operand."""
    x, y = _operand(call, "input"), _operand(call, "other")
    factor = sign * call.number("alpha", 1.0)
    if isinstance(x, Data) and isinstance(y, Data):
        if factor == -1:
            return call.emit(op.Subtract(), [call.broadcast(x), call.broadcast(y)])
        scaled = y if factor == 1 else call.row(affine(factor, 0.0), y)
        return call.emit(op.Add(), [call.broadcast(x), call.broadcast(scaled)])
    if isinstance(x, Data):
        return _shifted(call, x, _times(call, y, factor))
    scaled = y if factor == 1 else call.row(NEGATE if factor == -1 else affine(factor, 0.0), y)
    return _shifted(call, scaled, x)


def _operand(call: Call, key: str) -> Any:
    """An operand: floats for tensors of integers, a number for a tensor of one entry that is repeated."""
    value = call.arguments[key]
    if isinstance(value, Data) and not value.floating and call.dtype.is_floating_point:
        return as_floats(call, value)
    if isinstance(value, Tensor):
        if value.numel() and bool((value == value.flatten()[0]).all()) and not value.is_complex():
            return float(value.flatten()[0])
        return value.to(call.dtype) if call.dtype.is_floating_point else value
    return float(value) if isinstance(value, Real) else value


def as_floats(call: Call, x: Data) -> Data:
    """Integers or booleans read as floats."""
    operation = op.Call("aten.to.dtype", (op.Slot(0), torch.float64), (), (tuple(x.shape),))
    return call.builder.add(operation, [x], x.shape, torch.float64, call.path)


def _times(call: Call, value: Any, factor: float) -> Any:
    if isinstance(value, (State, Tensor)):
        return value if factor == 1 else call.computed("aten.mul.Tensor", value, factor)
    return value * factor


def _shifted(call: Call, x: Data, by: Any) -> Data:
    if isinstance(by, (State, Tensor)):
        return affine_map(call, x, shift=by)
    x = call.broadcast(x)
    return x if by == 0 else call.row(affine(1.0, by), x)


def multiply(call: Call) -> Data:
    """x * y."""
    x, y = _operand(call, "input"), _operand(call, "other")
    if isinstance(x, Data) and isinstance(y, Data):
        return call.emit(op.Product(), [call.broadcast(x), call.broadcast(y)])
    x, y = (x, y) if isinstance(x, Data) else (y, x)
    if isinstance(y, (State, Tensor)):
        return affine_map(call, x, scale=y)
    return _scaled(call, call.broadcast(x), y)


def _scaled(call: Call, x: Data, by: float) -> Data:
    if by == 1:
        return x
    return call.row(NEGATE if by == -1 else affine(by, 0.0), x)


def divide(call: Call) -> Data | tuple[Data, ...]:
    """x / y; with a rounding mode it has no rule."""
    if call.given("rounding_mode"):
        return elementwise.opaque(call)
    x, y = _operand(call, "input"), _operand(call, "other")
    if isinstance(x, Data) and isinstance(y, Data):
        return call.emit(op.Divide(), [call.broadcast(x), call.broadcast(y)])
    if isinstance(x, Data):
        if isinstance(y, (State, Tensor)):
            return affine_map(call, x, scale=call.computed("aten.reciprocal.default", y))
        return _scaled(call, call.broadcast(x), 1 / y) if y else elementwise.opaque(call)
    if isinstance(x, (State, Tensor)):
        return call.emit(op.Divide(), [call.broadcast(call.as_data(x)), call.broadcast(y)])
    return call.row(elementwise.quotient(x), call.broadcast(y))


def affine_map(call: Call, x: Data, scale: Any = None, shift: Any = None, select: bool = False) -> Data:
    """scale * x + shift for parameters and constants that broadcast with x; x grows where they are larger."""
    shape = call.shape
    x = call.broadcast(x, shape)
    weights = {"scale": scale, "shift": shift}
    given = {role: _aligned(call, value, shape) for role, value in weights.items() if value is not None}
    operation = op.Affine("scale" in given, "shift" in given, select)
    return call.emit(operation, [x], given, shape=shape)


def _aligned(call: Call, value: Any, shape: tuple[int, ...]) -> Any:
    """A parameter or constant in a shape that broadcasts with a sample: the batch axis of length 1 is dropped."""
    own = tuple(value.shape)
    if len(own) == len(shape) and sample_shape(shape) != shape:
        return call.computed("aten.view.default", value, list(own[1:])) if isinstance(value, State) else value[0]
    return value


def where(call: Call) -> Data | tuple[Data, ...]:
    """where(mask, x, y) for a constant mask: mask * x + (1 - mask) * y."""
    mask = call.arguments["condition"]
    if not isinstance(mask, Tensor):
        return elementwise.opaque(_by_numbers(call))
    x, y = call.arguments["input"], call.arguments["other"]
    if not any(isinstance(v, Data) for v in (x, y)) or any(isinstance(v, Data) and not v.floating for v in (x, y)):
        return elementwise.opaque(call)
    kept, dropped = mask.to(torch.float64), (~mask).to(torch.float64)
    if isinstance(x, Data) and isinstance(y, Data):
        parts = [affine_map(call, v, scale=m, select=True) for v, m in ((x, kept), (y, dropped))]
        return call.emit(op.Add(), parts)
    x, y, kept, dropped = (x, y, kept, dropped) if isinstance(x, Data) else (y, x, dropped, kept)
    return _masked(call, x, y, kept, dropped)


def _by_numbers(call: Call) -> Call:
    """where with a number for a tensor that holds one number."""
    x, y = (_operand(call, key) for key in ("input", "other"))
    kinds = {(False, True): "ScalarOther", (True, False): "ScalarSelf"}
    kind = kinds.get((isinstance(x, float), isinstance(y, float)))
    if kind is None or not call.dtype.is_floating_point:
        return call
    return replace(call.with_arguments(input=x, other=y), target=f"aten.where.{kind}")


def _masked(call: Call, x: Data, fill: Any, kept: Tensor, dropped: Tensor) -> Data:
    """kept * x + dropped * fill, with 0 * inf = 0 where nothing is dropped."""
    if isinstance(fill, State):
        return affine_map(call, x, kept, call.computed("aten.mul.Tensor", fill, dropped), select=True)
    filling = torch.as_tensor(fill, dtype=torch.float64)
    shift = torch.where(dropped.bool(), filling, torch.zeros((), dtype=torch.float64))
    return affine_map(call, x, kept, shift if bool((shift != 0).any()) else None, select=True)


def masked_fill(call: Call) -> Data | tuple[Data, ...]:
    """where(mask, value, x)."""
    value, mask = call.arguments["value"], call.arguments["mask"]
    if isinstance(mask, (Data, State)):
        return elementwise.opaque(call)
    return where(call.with_arguments(condition=mask, input=value, other=call.arguments["input"]))


def addcmul(call: Call) -> Data:
    """input + value * tensor1 * tensor2."""
    product = multiply(call.with_arguments(input=call.arguments["tensor1"], other=call.arguments["tensor2"]))
    factor = call.number("value", 1.0)
    return add(call.with_arguments(other=product, alpha=factor))
