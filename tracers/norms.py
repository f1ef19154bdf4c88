"""Rules for softmax, norms and attention, which keep their meaning."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.rearrange import Expand, View
from covergraph.tracers import elementwise
from covergraph.tracers.arithmetic import affine_map
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data, sample_shape

Result = Data | tuple[Data, ...]


def softmax(call: Call) -> Data:
    """softmax and log_softmax along one axis."""
    x, axis = call.data("input"), call.axis()
    held = call.full(x) if axis == 0 else x
    inner = axis - (len(x.shape) - len(call.builder.held(held)))
    operation = op.Softmax(inner, log="log" in call.name)
    return call.emit(operation, [held], node_shape=call.builder.held(held))


def layer_norm(call: Call) -> Any:
    """LayerNorm over the last axes, then its affine part."""
    sides = [int(s) for s in call.arguments["normalized_shape"]]
    return _normalized(call, math.prod(sides), call.number("eps", 1e-5), center=True)


def rms_norm(call: Call) -> Any:
    """RMSNorm over the last axes, then its scale."""
    sides = [int(s) for s in call.arguments["normalized_shape"]]
    return _normalized(call, math.prod(sides), call.number("eps", torch.finfo(torch.float64).eps), center=False)


def group_norm(call: Call) -> Any:
    """GroupNorm over consecutive channels and all positions, then its affine part per channel."""
    x = call.data("input")
    groups = int(call.given("num_groups", call.given("group")))
    return _normalized(call, math.prod(x.shape[1:]) // groups, call.number("eps", 1e-5), center=True, channels=True)


def instance_norm(call: Call) -> Any:
    """InstanceNorm: every channel of its own; with running statistics a BatchNorm."""
    if not call.given("use_input_stats", True):
        from covergraph.tracers.layers import batch_norm

        return batch_norm(call.with_arguments(training=False))
    x = call.data("input")
    return _normalized(call, math.prod(x.shape[2:]), call.number("eps", 1e-5), center=True, channels=True)


def _normalized(call: Call, group: int, eps: float, center: bool, channels: bool = False) -> Any:
    x = call.data("input")
    scale, shift = call.given("weight"), call.given("bias")
    if isinstance(scale, Data) or isinstance(shift, Data):
        return elementwise.opaque(call)
    y = call.emit(op.Normalize(group, eps, center), [x], node_shape=call.builder.held(x))
    if channels:
        sides = [x.shape[1]] + [1] * (len(x.shape) - 2)
        scale, shift = (v if v is None else call.computed("aten.view.default", v, sides) for v in (scale, shift))
    y = y if scale is None and shift is None else affine_map(call, y, scale, shift)
    return y if len(call.results) == 1 else (y, None, None)


def attention(call: Call) -> Result:
    """Scaled dot-product attention; a constant mask is added to the scores, one from the data is a fourth slot."""
    if call.number("dropout_p", 0):
        raise call.mixes("drops at random", "pass dropout_p=0.0 in eval mode")
    query, key, value = (call.data(k) for k in ("query", "key", "value"))
    if call.given("enable_gqa", False):
        key, value = (_grouped(call, v, query) for v in (key, value))
    scale = call.number("scale", 1 / math.sqrt(query.shape[-1]))
    leading = (v.shape[:-2] for v in (query, key, value))
    before = tuple(torch.broadcast_shapes(*leading))  # type: ignore[no-untyped-call]
    slots = [_lifted(call, v, before) for v in (query, key, value)]
    mask = call.given("attn_mask")
    operation = op.Attention(scale, bool(call.given("is_causal", False)))
    if isinstance(mask, Data):
        sides = (query.shape[-2], key.shape[-2])
        if not mask.floating:
            mask = _additive(call, mask)
        slots.append(_lifted(call, mask, before, sides))
        return call.emit(operation, slots, node_shape=sample_shape(call.shape))
    weights = {} if mask is None else {"mask": _constant_mask(call, mask)}
    if any(not isinstance(v, Tensor) for v in weights.values()):
        slots.append(_lifted(call, call.as_data(mask), before, (query.shape[-2], key.shape[-2])))
        weights = {}
    return call.emit(operation, slots, weights, node_shape=sample_shape(call.shape))


def _lifted(call: Call, x: Data, before: tuple[int, ...], sides: tuple[int, ...] | None = None) -> Data:
    """x with the leading axes `before`."""
    return call.broadcast(x, (*before, *(x.shape[-2:] if sides is None else sides)))


def _grouped(call: Call, x: Data, query: Data) -> Data:
    """Every head of keys or values repeated for its group of queries."""
    heads, times = x.shape[-3], query.shape[-3] // x.shape[-3]
    split = (*x.shape[:-2], 1, *x.shape[-2:])
    grown = (*x.shape[:-2], times, *x.shape[-2:])
    shape = (*x.shape[:-3], heads * times, *x.shape[-2:])
    return call.rearranged(x, [View(split), Expand(grown), View(shape)], shape)


def _constant_mask(call: Call, mask: Any) -> Any:
    """A mask that is added: -inf where a boolean one is False; without the batch axis."""
    if not isinstance(mask, Tensor):
        return mask
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)
    return mask[0] if mask.dim() == len(call.shape) and sample_shape(call.shape) != call.shape else mask


def _additive(call: Call, mask: Data) -> Data:
    """log of a boolean mask from the data: 0 or -inf."""
    from covergraph.tracers.arithmetic import as_floats

    operation = elementwise.row_operation("log")
    return call.builder.add(operation, [as_floats(call, mask)], mask.shape, torch.float64, call.path)
