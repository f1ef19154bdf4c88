"""Rules for pooling and up-sampling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.tracers import elementwise
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data, sample_shape

Result = Data | tuple[Data, ...]


def average_pool(call: Call) -> Result:
    """F.avg_pool{1,2,3}d."""
    if call.given("divisor_override") is not None:
        return elementwise.opaque(call)
    kernel, stride, padding = _windows(call)
    counts = bool(call.given("count_include_pad", True))
    operation = op.AveragePool(kernel, stride, padding, bool(call.given("ceil_mode", False)), counts)
    return _pooled(call, operation, len(kernel))


def max_pool(call: Call) -> Result:
    """F.max_pool{1,2,3}d; positions of the maxima have no rule."""
    kernel, stride, padding = _windows(call)
    dilation = call.sizes("dilation", len(kernel), 1)
    operation = op.MaxPool(kernel, stride, padding, dilation, bool(call.given("ceil_mode", False)))
    pooled = _pooled(call, operation, len(kernel))
    return pooled if len(call.results) == 1 else (pooled, *_positions(call))


def _positions(call: Call) -> tuple[Data, ...]:
    whole = elementwise.opaque(call)
    assert isinstance(whole, tuple)
    return whole[1:]


def _windows(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    count = elementwise.rank_of(call.name)
    kernel = call.sizes("kernel_size", count, 1)
    stride = call.sizes("stride", count, 1) if call.given("stride") else kernel
    return kernel, stride, call.sizes("padding", count, 0)


def _pooled(call: Call, operation: op.Operation, rank: int) -> Data:
    """Pools treat the axes before the windows' and one more as positions."""
    x = call.data("input")
    held = call.full(x) if len(x.shape) <= rank + 1 else x
    shape = tuple(call.shape) if len(x.shape) <= rank + 1 else sample_shape(call.shape)
    return call.emit(operation, [held], node_shape=shape)


def adaptive_average_pool(call: Call) -> Result:
    """Windows without overlap where the sizes divide; else one averaging matrix per axis."""
    x, rank = call.data("input"), elementwise.rank_of(call.name)
    before, after = x.shape[-rank:], call.shape[-rank:]
    if all(b % a == 0 for b, a in zip(before, after, strict=True)):
        kernel = tuple(b // a for b, a in zip(before, after, strict=True))
        return _pooled(call, op.AveragePool(kernel, kernel, (0,) * rank), rank)

    def matrix(size: int, wanted: int) -> Tensor:
        return F.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64), wanted).T

    return _by_axis(call, x, after, matrix, "average")


def adaptive_max_pool(call: Call) -> Result:
    """Windows without overlap where the sizes divide; else no rule."""
    x, rank = call.data("input"), elementwise.rank_of(call.name)
    before, after = x.shape[-rank:], call.shape[-rank:]
    if any(b % a for b, a in zip(before, after, strict=True)):
        return elementwise.opaque(call)
    kernel = tuple(b // a for b, a in zip(before, after, strict=True))
    pooled = _pooled(call, op.MaxPool(kernel, kernel, (0,) * rank, (1,) * rank), rank)
    return pooled if len(call.results) == 1 else (pooled, *_positions(call))


def upsample(call: Call) -> Data:
    """F.interpolate, which is one matrix per axis; each is read off torch's own map of the unit vectors."""
    x = call.data("input")
    rank = len(call.shape) - 2
    mode = next(m for m in ("nearest", "linear", "cubic") if m in call.name)
    factors = call.given("scale_factors") or [call.given(f"scales_{s}") for s in "dhw"[3 - rank :]]
    factors = [call.given("scales")] if rank == 1 and factors == [None] else factors
    corners = call.given("align_corners")
    exact = "exact" in call.name
    axes = iter(range(rank))

    def matrix(size: int, wanted: int) -> Tensor:
        factor = (list(factors) + [None] * rank)[next(axes)]
        return _interpolation(size, wanted, mode, factor, corners, exact)

    return _by_axis(call, x, call.shape[-rank:], matrix, "upsample")


def _interpolation(size: int, wanted: int, mode: str, factor: Any, corners: Any, exact: bool) -> Tensor:
    """The matrix (wanted, size) of a one-dimensional interpolation."""
    basis = torch.eye(size, dtype=torch.float64)
    if mode == "cubic":  # torch has it for images only: constant along the other axis
        images = basis.reshape(size, 1, size, 1)
        scales = (factor, 1.0) if factor else (None, None)
        return torch.ops.aten.upsample_bicubic2d(images, [wanted, 1], bool(corners), *scales).reshape(size, wanted).T
    basis = basis.unsqueeze(1)
    if mode == "linear":
        return torch.ops.aten.upsample_linear1d(basis, [wanted], bool(corners), factor)[:, 0].T
    nearest = torch.ops.aten._upsample_nearest_exact1d if exact else torch.ops.aten.upsample_nearest1d
    return nearest(basis, [wanted], factor)[:, 0].T


def _by_axis(call: Call, x: Data, after: tuple[int, ...], matrix: Any, name: str) -> Data:
    """One matrix along each of the last axes."""
    shape, rank = list(x.shape), len(after)
    held = list(call.builder.held(x))
    for i, wanted in enumerate(after):
        axis = i - rank
        weight = matrix(shape[axis], wanted).contiguous()
        if shape[axis] == wanted and bool((weight == torch.eye(wanted, dtype=weight.dtype)).all()):
            continue
        shape[axis] = held[axis] = wanted
        operation = op.AxisMap(len(held) + axis, name)
        x = call.emit(operation, [x], {"weight": weight}, shape=tuple(shape), node_shape=tuple(held))
    return x
