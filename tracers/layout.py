"""Rules for linear index maps: what moves, repeats, drops or joins entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.rearrange import Expand, Pad, Permute, Pick, RearrangeStep, Slice, View
from covergraph.tracers import elementwise
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data, State

Result = Data | tuple[Data, ...]


def view(call: Call) -> Data:
    """The same entries in the same order."""
    return call.rearranged(call.data("input"), [View(call.shape)])


def unchanged(call: Call) -> Data:
    """clone, contiguous, a change between floating types: no node at all."""
    x = call.data("input")
    if not x.floating and call.dtype.is_floating_point:
        from covergraph.tracers.arithmetic import as_floats

        return as_floats(call, x)
    if (x.dtype.is_floating_point, x.dtype.is_complex) != (call.dtype.is_floating_point, call.dtype.is_complex):
        return elementwise.opaque(call)  # type: ignore[return-value]
    if not x.floating and x.dtype != call.dtype:
        return elementwise.opaque(call)  # type: ignore[return-value]
    return Data(x.node, tuple(call.shape), x.dtype) if tuple(x.shape) == call.shape else call.broadcast(x)


def permute(call: Call) -> Data:
    """permute(dims)."""
    x = call.data("input")
    return call.rearranged(x, [Permute(tuple(int(d) % len(x.shape) for d in call.arguments["dims"]))])


def transpose(call: Call) -> Data:
    """transpose(dim0, dim1), and t() of a matrix."""
    x = call.data("input")
    order = list(range(len(x.shape)))
    a, b = (int(call.given(key, default)) for key, default in (("dim0", 0), ("dim1", 1)))
    if len(order) >= 2:
        order[a], order[b] = order[b], order[a]
    return call.rearranged(x, [Permute(tuple(order))])


def expand(call: Call) -> Data:
    """expand(sizes)."""
    return call.broadcast(call.data("input"))


def repeat(call: Call) -> Data:
    """repeat(repeats): whole copies along every axis."""
    x = call.data("input")
    repeats = [int(r) for r in call.arguments["repeats"]]
    sizes = [1] * (len(repeats) - len(x.shape)) + list(x.shape)
    split = [side for size in sizes for side in (1, size)]
    grown = [side for pair in zip(repeats, sizes, strict=True) for side in pair]
    return call.rearranged(x, [View(tuple(split)), Expand(tuple(grown)), View(call.shape)])


def slice_(call: Call) -> Data:
    """x[start:stop:step] along one axis."""
    x, axis = call.data("input"), call.axis("dim", 0)
    bounds = slice(call.given("start"), call.given("end"), int(call.given("step", 1)))
    start, stop, step = bounds.indices(x.shape[axis])
    return call.rearranged(x, [Slice(axis, start, max(stop, start), step)])


def select(call: Call) -> Data:
    """x[index] along one axis."""
    x, axis = call.data("input"), call.axis("dim", 0)
    index = int(call.arguments["index"]) % x.shape[axis]
    return call.rearranged(x, [Slice(axis, index, index + 1), View(call.shape)])


def narrow(call: Call) -> Data:
    """x[start : start + length] along one axis."""
    x, axis = call.data("input"), call.axis("dim", 0)
    start = int(call.arguments["start"]) % x.shape[axis]
    return call.rearranged(x, [Slice(axis, start, start + int(call.arguments["length"]))])


def split(call: Call) -> tuple[Data, ...]:
    """split, chunk, split_with_sizes: consecutive slices."""
    axis, start, parts = call.axis("dim", 0), 0, []
    x = call.data("input")
    for shape, _ in call.results:
        parts.append(call.rearranged(x, [Slice(axis, start, start + shape[axis])], shape))
        start += shape[axis]
    return tuple(parts)


def unbind(call: Call) -> tuple[Data, ...]:
    """One slice per position along one axis, without that axis."""
    x, axis = call.data("input"), call.axis("dim", 0)
    return tuple(
        call.rearranged(x, [Slice(axis, i, i + 1), View(shape)], shape) for i, (shape, _) in enumerate(call.results)
    )


def flip(call: Call) -> Data:
    """The order of some axes reversed."""
    x = call.data("input")
    axes = [int(d) % len(x.shape) for d in call.arguments["dims"]]
    return call.rearranged(x, [Pick(axis, tuple(reversed(range(x.shape[axis])))) for axis in axes])


def index_select(call: Call) -> Result:
    """Entries at constant positions along one axis."""
    index = call.arguments["index"]
    if not isinstance(index, Tensor) or not isinstance(call.arguments["input"], Data):
        return elementwise.opaque(call)
    x, axis = call.data("input"), call.axis("dim", 0)
    return call.rearranged(x, [Pick(axis, tuple(index.reshape(-1).tolist())), View(call.shape)])


def by_positions(call: Call) -> Result:
    """Any index map with constant indices, found by applying it to the positions themselves (x[i, j], gather, unfold).

    An operation whose other arguments depend on the inputs has no rule.
    """
    tensors = [k for k, v in call.arguments.items() if _has_data(v)]
    x = call.arguments["input"]
    if tensors != ["input"] or not isinstance(x, Data):
        return elementwise.opaque(call)
    positions = torch.arange(1, x_size(x) + 1, dtype=torch.float64).reshape(x.shape)
    arguments = {**call.arguments, "input": positions}
    moved = elementwise.evaluate(call, arguments).reshape(-1).long() - 1
    padded = [View((x_size(x),))]
    steps: list[RearrangeStep] = [*padded]
    if bool((moved < 0).any()):  # zeros: one entry more to pick
        steps.append(Pad(0, 0, 1))
        moved = torch.where(moved < 0, x_size(x), moved)
    return call.rearranged(x, [*steps, Pick(0, tuple(moved.tolist())), View(call.shape)])


def _has_data(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_data(item) for item in value)
    return isinstance(value, (Data, State))


def x_size(x: Data) -> int:
    """Number of entries for a batch of one sample."""
    return torch.Size(x.shape).numel()


def pad(call: Call) -> Result:
    """Zeros around (constant_pad_nd); negative numbers cut."""
    x, sides = call.data("input"), [int(v) for v in call.arguments["pad"]]
    value = call.number("value", 0)
    steps: list[RearrangeStep] = []
    for i in range(0, len(sides), 2):
        axis = len(x.shape) - 1 - i // 2
        steps += _padding(axis, sides[i], sides[i + 1], x.shape[axis])
    padded = call.rearranged(x, steps)
    if value == 0:
        return padded
    outside = torch.nn.functional.pad(torch.zeros(x.shape, dtype=torch.float64), sides, value=1.0) * value
    outside = outside.nan_to_num(0.0, posinf=float("inf"), neginf=float("-inf"))
    from covergraph.tracers.arithmetic import affine_map

    return affine_map(call, padded, shift=outside)


def _padding(axis: int, before: int, after: int, size: int) -> Sequence[RearrangeStep]:
    steps: list[RearrangeStep] = []
    if before < 0 or after < 0:
        steps.append(Slice(axis, max(-before, 0), size - max(-after, 0)))
    if before > 0 or after > 0:
        steps.append(Pad(axis, max(before, 0), max(after, 0)))
    return steps


def concatenate(call: Call) -> Data:
    """cat(tensors, dim)."""
    rank = len(call.shape)
    axis = int(call.given("dim", 0)) % rank
    values = [v for v in call.arguments["tensors"] if tuple(v.shape) != (0,)]
    slots = [call.as_data(v) for v in values]
    slots = [s if s.floating or not call.dtype.is_floating_point else _floats(call, s) for s in slots]
    if len(slots) == 1:
        return slots[0]
    dropped = axis > 0 and call.shape[0] == 1
    held = [call.shaped(s, tuple(s.shape[1:]) if dropped else tuple(s.shape)) for s in slots]
    made = tuple(call.shape[1:]) if dropped else tuple(call.shape)
    return call.emit(op.Concatenate(axis - dropped), held, node_shape=made)


def _floats(call: Call, x: Data) -> Data:
    from covergraph.tracers.arithmetic import as_floats

    return as_floats(call, x)


def stack(call: Call) -> Data:
    """stack(tensors, dim)."""
    axis = int(call.given("dim", 0)) % len(call.shape)
    values = [call.as_data(v) for v in call.arguments["tensors"]]
    shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    parts = [call.rearranged(v, [View(shape)], shape) for v in values]
    return concatenate(call.with_arguments(tensors=parts, dim=axis))


def slice_scatter(call: Call) -> Result:
    """The argument with the entries of a slice replaced by another value's."""
    shape, axis = call.shape, int(call.given("dim", 0)) % len(call.shape)
    start, stop, _ = slice(call.given("start"), call.given("end")).indices(shape[axis])
    if call.given("step", 1) != 1 or stop <= start:
        return elementwise.opaque(call)
    return _replaced(call, call.as_data(call.arguments["src"]), axis, start, stop)


def select_scatter(call: Call) -> Data:
    """The argument with the entries at one position along an axis replaced by another value's."""
    axis = int(call.arguments["dim"]) % len(call.shape)
    index = int(call.arguments["index"]) % call.shape[axis]
    source = call.as_data(call.arguments["src"])
    shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    return _replaced(call, call.rearranged(source, [View(shape)], shape), axis, index, index + 1)


def _replaced(call: Call, source: Data, axis: int, start: int, stop: int) -> Data:
    """What lies before, the source, and what lies behind, side by side."""
    x, size = call.data("input"), call.shape[axis]
    spans = [(0, start), (stop, size)]
    kept = [
        call.rearranged(x, [Slice(axis, a, b)], (*call.shape[:axis], b - a, *call.shape[axis + 1 :])) if b > a else None
        for a, b in spans
    ]
    parts = [part for part in (kept[0], source, kept[1]) if part is not None]
    return concatenate(call.with_arguments(tensors=parts, dim=axis))


def copy(call: Call) -> Data:
    """copy(target, source): the source in the target's shape."""
    source = call.arguments["src"]
    return call.broadcast(call.as_data(source))
