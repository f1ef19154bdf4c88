"""Rules for calls with weights: linear maps, convolutions, embeddings, products of matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.rearrange import Pad, Permute, View
from covergraph.tracers import elementwise
from covergraph.tracers.arithmetic import add, affine_map, multiply
from covergraph.tracers.call import Call
from covergraph.tracers.values import Data, State, sample_shape

Weight = State | Tensor


def linear(call: Call) -> Data:
    """F.linear(x, W, b): x of shape (..., d), W (m, d), b (m,)."""
    x, weight, bias = call.arguments["input"], call.arguments["weight"], call.given("bias")
    if isinstance(weight, Data) or isinstance(bias, Data) or not isinstance(x, Data):
        product = _product(call, x, _transposed(call, weight))
        return product if bias is None else add(call.with_arguments(input=product, other=bias, alpha=1))
    return _linear(call, x, weight, bias)


def _linear(call: Call, x: Data, weight: Any, bias: Any) -> Data:
    """h -> W h + b on the last axis."""
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        bias = call.computed("aten.expand.default", call.computed("aten.view.default", bias, [-1]), [weight.shape[0]])
    roles: dict[str, Weight] = {"weight": weight} | ({} if bias is None else {"bias": bias})
    source = call.full(x) if len(x.shape) == 1 else x
    shape = (*x.shape[:-1], weight.shape[0])
    held = call.builder.held(source)
    return call.emit(op.Linear(bias is not None), [source], roles, shape=shape, node_shape=(*held[:-1], shape[-1]))


def _transposed(call: Call, value: Any) -> Any:
    """The transpose of the last two axes."""
    rank = len(value.shape)
    order = (*range(rank - 2), rank - 1, rank - 2)
    if isinstance(value, Data):
        shape = tuple(value.shape[i] for i in order)
        return call.rearranged(value, [Permute(order)], shape)
    return call.computed("aten.permute.default", value, list(order))


def addmm(call: Call) -> Data:
    """beta b + alpha x @ y."""
    x, y, bias = call.arguments["mat1"], call.arguments["mat2"], call.arguments["input"]
    weighted = isinstance(x, Data) and isinstance(y, (State, Tensor)) and len(y.shape) == 2
    alpha, beta = call.number("alpha", 1), call.number("beta", 1)
    if weighted and alpha == beta == 1 and isinstance(bias, (State, Tensor)) and len(bias.shape) == 1:
        return _linear(call, x, _transposed(call, y), bias)
    product = _product(call, x, y)
    if alpha != 1:
        product = multiply(call.with_arguments(input=product, other=alpha))
    return add(call.with_arguments(input=product, other=bias, alpha=beta))


def baddbmm(call: Call) -> Data:
    """beta b + alpha x @ y, batched."""
    return addmm(call.with_arguments(mat1=call.arguments["batch1"], mat2=call.arguments["batch2"]))


def matmul(call: Call) -> Data:
    """x @ y by torch's rules of broadcasting; vectors are matrices with one row or column."""
    x, y = call.arguments["input"], next(call.arguments[k] for k in ("mat2", "other", "vec") if k in call.arguments)
    return _product(call, x, y)


def _product(call: Call, x: Any, y: Any) -> Data:
    if not isinstance(y, Data) and len(y.shape) <= 2:
        weight = _transposed(call, y) if len(y.shape) == 2 else call.computed("aten.unsqueeze.default", y, 0)
        product = _linear(call, x, weight, None)
        return product if len(y.shape) == 2 else _viewed(call, product, call.shape)
    if not isinstance(x, Data) and len(x.shape) == 2 and len(y.shape) >= 2:
        flipped = _linear(call, _transposed(call, y), x, None)
        return _transposed(call, flipped)
    return _matrix_product(call, call.as_data(x), call.as_data(y), call.shape)


def _matrix_product(call: Call, x: Data, y: Data, shape: tuple[int, ...]) -> Data:
    """Both operands as (..., m, d) and (..., d, n) with equal axes before; the product under the traced `shape`."""
    left = (1, *x.shape) if len(x.shape) == 1 else tuple(x.shape)
    right = (*y.shape, 1) if len(y.shape) == 1 else tuple(y.shape)
    rank = max(len(left), len(right))
    before = [(1,) * (rank - len(s)) + tuple(s[:-2]) for s in (left, right)]
    common = tuple(max(pair) for pair in zip(*before, strict=True)) if rank > 2 else ()
    x, y = _viewed(call, x, left), _viewed(call, y, right)
    slots = [call.broadcast(x, (*common, *left[-2:])), call.broadcast(y, (*common, *right[-2:]))]
    made = (*common, left[-2], right[-1])
    if common[:1] == (1,):
        product = call.emit(op.MatrixProduct(), slots, shape=made)
    else:
        product = call.emit(op.MatrixProduct(), [call.full(v) for v in slots], shape=made, node_shape=made)
    return _viewed(call, product, shape)


def _viewed(call: Call, x: Data, shape: tuple[int, ...]) -> Data:
    """The same entries under another traced shape."""
    return x if tuple(x.shape) == tuple(shape) else call.rearranged(x, [View(tuple(shape))], shape)


def bilinear(call: Call) -> Data | tuple[Data, ...]:
    """x1^T W_o x2 + b_o: a linear map of the outer product of x1 and x2, at every position."""
    x, y = call.as_data(call.arguments["input1"]), call.as_data(call.arguments["input2"])
    weight, bias = call.arguments["weight"], call.given("bias")
    if isinstance(weight, Data) or isinstance(bias, Data):
        return elementwise.opaque(call)
    before, (outputs, m, n) = tuple(x.shape[:-1]), weight.shape
    columns, rows = _viewed(call, x, (*before, m, 1)), _viewed(call, y, (*before, 1, n))
    outer = _viewed(call, _matrix_product(call, columns, rows, (*before, m, n)), (*before, m * n))
    return _linear(call, outer, call.computed("aten.view.default", weight, [outputs, m * n]), bias)


def convolution(call: Call) -> Data | tuple[Data, ...]:
    """F.conv{1,2,3}d and conv_transpose{1,2,3}d with zero padding."""
    x, weight, bias = call.arguments["input"], call.arguments["weight"], call.given("bias")
    if isinstance(weight, Data) or isinstance(bias, Data) or not isinstance(x, Data):
        return elementwise.opaque(call)
    kernel = tuple(weight.shape[2:])
    rank = len(kernel)
    transposed = bool(call.given("transposed", False)) or "transpose" in call.name
    stride, dilation = call.sizes("stride", rank, 1), call.sizes("dilation", rank, 1)
    groups = int(call.given("groups", 1))
    operation: op.Operation
    if transposed:
        sides = (stride, call.sizes("padding", rank, 0), call.sizes("output_padding", rank, 0), dilation)
        operation = op.TransposedConvolution(*sides, groups, kernel, bias is not None)
    else:
        x, padding = _padded(call, x, kernel, dilation)
        operation = op.Convolution(stride, padding, dilation, groups, kernel, bias is not None)
    roles: dict[str, Weight] = {"weight": weight} | ({} if bias is None else {"bias": bias})
    source = call.full(x) if len(x.shape) == rank + 1 else x
    return call.emit(operation, [source], roles, node_shape=_unit(call, x, rank))


def _unit(call: Call, x: Data, rank: int) -> tuple[int, ...]:
    """The node's shape: all axes if the call has no batch axis of its own."""
    return tuple(call.shape) if len(x.shape) == rank + 1 else sample_shape(call.shape)


def _padded(call: Call, x: Data, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Data, tuple[int, ...]]:
    """The argument and its symmetric padding; the asymmetric rest of "same" becomes zeros of its own."""
    value = call.arguments.get("padding")
    if not isinstance(value, str):
        return x, call.sizes("padding", len(kernel), 0)
    if value == "valid":
        return x, (0,) * len(kernel)
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    first = len(x.shape) - len(kernel)
    steps = [Pad(first + i, 0, 1) for i, total in enumerate(totals) if total % 2]
    if steps:
        shape = [s + (i >= first and totals[i - first] % 2) for i, s in enumerate(x.shape)]
        x = call.rearranged(x, steps, tuple(shape))
    return x, tuple(total // 2 for total in totals)


def embedding(call: Call) -> Data | tuple[Data, ...]:
    """Rows of a learned table."""
    weight, indices = call.arguments["weight"], call.arguments["indices"]
    if isinstance(weight, Data) or not isinstance(indices, Data):
        return elementwise.opaque(call)
    held = call.builder.held(indices)
    return call.emit(op.Embedding(), [indices], {"weight": weight}, node_shape=(*held, weight.shape[1]))


def embedding_bag(call: Call) -> Data | tuple[Data, ...]:
    """The sum or mean of rows of a learned table, for one bag a sample."""
    weight, indices, offsets = (call.arguments[k] for k in ("weight", "indices", "offsets"))
    one = isinstance(offsets, Tensor) and offsets.tolist() == [0]
    weighted = call.given("per_sample_weights") is not None or call.given("include_last_offset", False)
    mode, skipped = call.given("mode", 0), call.given("padding_idx", -1)
    known = not isinstance(indices, Data) or isinstance(weight, Data)
    if known or not one or weighted or mode not in (0, 1) or skipped >= 0:
        return elementwise.opaque(call)
    held, width = call.full(indices), weight.shape[1]
    sides = (*indices.shape, width)
    rows = call.emit(op.Embedding(), [held], {"weight": weight}, shape=sides, node_shape=sides)
    total = call.emit(op.Sum((0,), mean=mode == 1), [rows])
    whole = elementwise.opaque(call)
    assert isinstance(whole, tuple)
    return (total, *whole[1:])


def prelu(call: Call) -> Data | tuple[Data, ...]:
    """max(x, 0) + a min(x, 0), a per channel (axis 1)."""
    x, weight = call.arguments["input"], call.arguments["weight"]
    if isinstance(weight, Data) or not isinstance(x, Data):
        return elementwise.opaque(call)
    count = 1
    for size in weight.shape:
        count *= size
    if count > 1 and tuple(weight.shape) == (count,):
        weight = call.computed("aten.view.default", weight, [count] + [1] * (len(x.shape) - 2))
    elif len(weight.shape) == len(x.shape):
        weight = call.computed("aten.view.default", weight, list(weight.shape[1:]))
    return call.emit(op.ParametricReLU(), [x], {"slope": weight})


def batch_norm(call: Call) -> Any:
    """BatchNorm in eval mode: the affine map of its running statistics."""
    mean, variance = call.given("running_mean"), call.given("running_var")
    if call.given("training", False) or mean is None or variance is None or isinstance(mean, Data):
        raise call.mixes(
            "normalizes by the statistics of the batch",
            "use running statistics (eval mode, track_running_stats=True), GroupNorm or LayerNorm",
        )
    x = call.data("input")
    gamma, beta = call.given("weight"), call.given("bias")
    if isinstance(gamma, Data) or isinstance(beta, Data):
        return elementwise.opaque(call)
    scale = call.computed("aten.rsqrt.default", call.computed("aten.add.Scalar", variance, call.number("eps", 1e-5)))
    if gamma is not None:
        scale = call.computed("aten.mul.Tensor", scale, gamma)
    shift = call.computed("aten.neg.default", call.computed("aten.mul.Tensor", mean, scale))
    if beta is not None:
        shift = call.computed("aten.add.Tensor", shift, beta)
    sides = [mean.shape[0]] + [1] * (len(x.shape) - 2)
    scale, shift = (call.computed("aten.view.default", v, sides) for v in (scale, shift))
    result = affine_map(call, x, scale, shift)
    return (result, None, None) if len(call.results) > 1 else result


def batch_norm_tuple(call: Call) -> Any:
    """The functional form, which yields statistics, too."""
    result = batch_norm(call)
    return result if isinstance(result, tuple) else (result, None, None)
