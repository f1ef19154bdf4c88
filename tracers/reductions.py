"""Rules for reductions: sums, means, maxima, minima and Euclidean norms over axes."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph import operations as op
from covergraph.graph.functions import NEGATE
from covergraph.tracers import elementwise
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data

Result = Data | tuple[Data, ...]


def reduction(call: Call) -> Result:
    """sum and mean over some axes, or over all."""
    x = call.data("input")
    if not x.floating or not call.dtype.is_floating_point:
        return elementwise.opaque(call)
    held, axes, made = _reduced(call, x)
    return call.emit(op.Sum(axes, mean=call.name == "mean"), [held], node_shape=made)


def maximum(call: Call) -> Result:
    """amax and max over some axes, or over all; positions of the maxima have no rule."""
    x = call.arguments["input"]
    if not isinstance(x, Data) or not x.floating or "other" in call.arguments:
        return elementwise.opaque(call)
    held, axes, made = _reduced(call, x)
    value = call.emit(op.Maximum(axes), [held], node_shape=made)
    return value if len(call.results) == 1 else (value, *_others(call))


def minimum(call: Call) -> Result:
    """amin and min, as -max(-x)."""
    x = call.arguments["input"]
    if not isinstance(x, Data) or not x.floating or "other" in call.arguments:
        return elementwise.opaque(call)
    turned = replace(call.with_arguments(input=call.row(NEGATE, x)), results=call.results[:1])
    value = maximum(turned)
    assert isinstance(value, Data)
    value = call.row(NEGATE, value)
    return value if len(call.results) == 1 else (value, *_others(call))


def _others(call: Call) -> tuple[Data, ...]:
    """The results after the first one, by the call itself."""
    whole = elementwise.opaque(call)
    assert isinstance(whole, tuple)
    return whole[1:]


def vector_norm(call: Call) -> Result:
    """The Euclidean norm over some axes, or over all; other orders have no rule."""
    x = call.arguments["input"]
    order = call.given("ord", call.given("p", 2))
    if order != 2 or not isinstance(x, Data) or not x.dtype.is_floating_point or not call.dtype.is_floating_point:
        return elementwise.opaque(call)
    held, axes, made = _reduced(call, x)
    return call.emit(op.VectorNorm(axes), [held], node_shape=made)


def _reduced(call: Call, x: Data) -> tuple[Data, tuple[int, ...], tuple[int, ...]]:
    """The argument, the axes and the result's shape of a reduction; without the batch axis where it stays in front."""
    axes, shape = _axes(call, x), tuple(call.shape)
    if 0 in axes or len(call.builder.held(x)) == len(x.shape):
        return call.full(x), axes, shape
    return x, tuple(axis - 1 for axis in axes), shape[1:]


def _axes(call: Call, x: Data) -> tuple[int, ...]:
    """Non-negative axes of the traced shape."""
    given = call.given("dim", [])
    axes = list(given) if isinstance(given, (list, tuple)) else [given]
    return tuple(sorted(int(d) % len(x.shape) for d in axes)) or tuple(range(len(x.shape)))
