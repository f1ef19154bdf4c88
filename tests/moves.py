"""The moves that grow a random graph: each adds one operation, or a few, that fit a node of tiny shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import sympy
import torch

from covergraph.graph import function_rows as rows
from covergraph.graph import functions
from covergraph.graph import operations as op
from covergraph.graph import rearrange as steps

if TYPE_CHECKING:
    from strategies import Builder, Draw

LARGEST = 8
"""No value of a random graph has more entries."""

OFFSET_SINE = functions.ScalarFunction(
    "offset_sine",
    sympy.sin(functions.T) / 2 + sympy.Rational(3, 2),
    lambda x: torch.sin(x) / 2 + 1.5,
)
"""A function of a user's own, far from 0 at 0."""

PLAIN = 3 * ["linear", "smooth", "two"] + ["join", "reshape", "pool", "convolution"]
KINKED = 2 * ["kink"] + ["prelu", "maximum", "maxpool"]
LINEAR = ["affine", "affine", "rearrange", "sum", "axis map", "transposed", "parameter", "tied"]
CURVED = ["softmax", "normalize", "norm", "divide", "matmul", "curved"]
MOVES = PLAIN + KINKED + LINEAR + CURVED

FUNCTIONS = (
    functions.TANH,
    functions.SOFTPLUS,
    functions.GELU,
    functions.SILU,
    functions.ELU,
    functions.SIN,
    functions.COS,
    functions.affine(0.5, -1.25),
    OFFSET_SINE,
)
KINKS = (rows.RELU, rows.leaky_relu(0.1), rows.clamp(-0.5, 1.0), rows.ABS, rows.HARDSWISH)
STEEP = (rows.EXP, rows.SQUARE, rows.power(3))
ON_POSITIVES = (rows.LOG, rows.SQRT, rows.RECIPROCAL)

FRESH = (op.Input, op.Linear, op.Convolution, op.TransposedConvolution, op.Affine, op.Parameter, op.Normalize)


def distinct(builder: Builder, u: str) -> bool:
    """False if entries of the node may vanish or agree on a set of positive measure: then kinks are always met."""
    node = next(node for node in builder.nodes if node.name == u)
    if isinstance(node.operation, FRESH):
        return True
    smooth = isinstance(node.operation, op.Elementwise) and node.operation.function not in KINKS
    kept = smooth or isinstance(node.operation, op.Reshape | op.Add | op.Product | op.Divide | op.Softmax)
    return kept and len(set(node.inputs)) == len(node.inputs) and all(distinct(builder, v) for v in node.inputs)


def grow(draw: Draw, builder: Builder, move: str) -> None:
    """Add an operation to a node which is preferably recent; a reshape if the move does not fit it."""
    u = draw(st.sampled_from([node.name for node in builder.nodes][-3:]))
    if not _FIT[move](draw, builder, u):
        size = builder.size(u)
        first = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        builder.add(op.Reshape(), u, shape=(first, size // first))


def _alike(builder: Builder, u: str) -> list[str]:
    return [node.name for node in builder.nodes if node.shape == builder.shape(u)]


def _linear(draw: Draw, b: Builder, u: str) -> str:
    shape = b.shape(u)
    width = draw(st.integers(1, 4 if len(shape) == 1 else LARGEST * shape[-1] // b.size(u) // 2 or 1))
    return b.linear(u, width, bias=draw(st.booleans()))


def _smooth(draw: Draw, b: Builder, u: str) -> str:
    return b.smooth(draw(st.sampled_from(FUNCTIONS)), u)


def _two(draw: Draw, b: Builder, u: str) -> str:
    kind = draw(st.sampled_from([op.Add, op.Subtract, op.Product, op.Product]))
    return b.add(kind(), u, draw(st.sampled_from(_alike(b, u))))


def _join(draw: Draw, b: Builder, u: str) -> str | None:
    rest = b.shape(u)[1:]
    fit = [node.name for node in b.nodes if node.shape[1:] == rest and node.size + b.size(u) <= LARGEST]
    return b.add(op.Concatenate(0), u, draw(st.sampled_from(fit))) if fit else None


def _pool(draw: Draw, b: Builder, u: str) -> str | None:
    axes, stride = len(b.shape(u)) - 1, draw(st.integers(1, 2))
    if min(b.shape(u)[1:], default=1) < 2:
        return None
    return b.add(op.AveragePool((2,) * axes, (stride,) * axes, (0,) * axes), u)


def _convolution(draw: Draw, b: Builder, u: str) -> str | None:
    if min(b.shape(u)[1:], default=1) < 2:
        return None
    return b.convolution(u, draw(st.integers(1, 2)), 2, draw(st.integers(1, 2)), 0, draw(st.booleans()))


def _transposed(draw: Draw, b: Builder, u: str) -> str | None:
    shape, stride, bias = b.shape(u), draw(st.integers(1, 2)), draw(st.booleans())
    if len(shape) != 2 or (shape[1] - 1) * stride + 2 > LARGEST:
        return None
    name = b.name("transposed")
    values = {"weight": b.scale * b.normal(shape[0], 1, 2)} | ({"bias": b.normal(1)} if bias else {})
    operation = op.TransposedConvolution((stride,), (0,), (0,), (1,), 1, (2,), bias)
    return b.add(operation, u, name=name, parameters=b.learned(name, **values))


def _kink(draw: Draw, b: Builder, u: str) -> str | None:
    return b.smooth(draw(st.sampled_from(KINKS)), u) if distinct(b, u) else None


def _prelu(draw: Draw, b: Builder, u: str) -> str | None:
    if not distinct(b, u):
        return None
    name, shape = b.name("prelu"), b.shape(u)
    slope = b.normal(*draw(st.sampled_from([(1,), (shape[0],) + (1,) * (len(shape) - 1)]))) / 2
    return b.add(op.ParametricReLU(), u, name=name, parameters=b.learned(name, slope=slope))


def _maximum(draw: Draw, b: Builder, u: str) -> str | None:
    return _reduced(draw, b, u, op.Maximum) if distinct(b, u) else None


def _norm(draw: Draw, b: Builder, u: str) -> str | None:
    return _reduced(draw, b, u, op.VectorNorm) if distinct(b, u) else None


def _sum(draw: Draw, b: Builder, u: str) -> str:
    mean = draw(st.booleans())
    return _reduced(draw, b, u, lambda axes: op.Sum(axes, mean))


def _reduced(draw: Draw, b: Builder, u: str, operation: Callable[[tuple[int, ...]], op.Operation]) -> str:
    """Over one axis; a vector becomes a vector of one entry."""
    if len(b.shape(u)) == 1:
        return b.add(operation((1,)), b.add(op.Reshape(), u, shape=(1, b.size(u))))
    return b.add(operation((draw(st.integers(0, len(b.shape(u)) - 1)),)), u)


def _maxpool(draw: Draw, b: Builder, u: str) -> str | None:
    if min(b.shape(u)[1:], default=1) < 2 or not distinct(b, u):
        return None
    axes, stride, padding = len(b.shape(u)) - 1, draw(st.integers(1, 2)), draw(st.integers(0, 1))
    kernel, strides, before, dilation = ((n,) * axes for n in (2, stride, padding, 1))
    operation = op.MaxPool(kernel, strides, before, dilation, rectify=draw(st.booleans()))
    longest = (max(b.shape(u)[1:]) + 2 * padding - 2) // stride + 1
    return b.add(operation, u) if b.shape(u)[0] * longest**axes <= LARGEST else None


def _affine(draw: Draw, b: Builder, u: str) -> str:
    name, shape = b.name("affine"), b.shape(u)
    per = draw(st.sampled_from([(shape[0],) + (1,) * (len(shape) - 1), (shape[-1],), (1,)]))
    roles = draw(st.sampled_from([("scale",), ("shift",), ("scale", "shift")]))
    values = {role: b.normal(*per) for role in roles}
    learned = draw(st.sampled_from([roles, roles, roles[:1], ()]))
    parameters = b.learned(name, **{role: values[role] for role in learned})
    constants = b.fixed(name, **{role: values[role] for role in roles if role not in learned})
    operation = op.Affine("scale" in roles, "shift" in roles)
    return b.add(operation, u, name=name, parameters=parameters, constants=constants)


def _rearrange(draw: Draw, b: Builder, u: str) -> str:
    shape = b.shape(u)
    fit: list[Any] = [steps.Permute(tuple(reversed(range(len(shape)))))]
    fit += [steps.Slice(0, 1, shape[0]), steps.Pick(0, (shape[0] - 1, 0))] * (shape[0] > 1)
    fit += [steps.Pad(0, 1, 0)] * (b.size(u) + b.size(u) // shape[0] <= LARGEST)
    fit += [steps.Expand((2, *shape[1:]))] * (shape[0] == 1 and 2 * b.size(u) <= LARGEST)
    return b.add(op.Rearrange((draw(st.sampled_from(fit)),)), u)


def _axis_map(draw: Draw, b: Builder, u: str) -> str | None:
    shape = b.shape(u)
    if b.size(u) + b.size(u) // shape[-1] > LARGEST:
        return None
    name = b.name("resize")
    weight = b.fixed(name, weight=b.normal(shape[-1] + 1, shape[-1]))
    return b.add(op.AxisMap(len(shape) - 1, "resize"), u, name=name, constants=weight)


def _parameter(draw: Draw, b: Builder, u: str) -> str:
    name, shape = b.name("parameter"), b.shape(u)
    value = b.add(op.Parameter(), name=name, shape=shape, parameters=b.learned(name, value=b.normal(*shape)))
    return b.add(draw(st.sampled_from([op.Add, op.Product]))(), u, value)


def _tied(draw: Draw, b: Builder, u: str) -> str | None:
    width, positions = b.shape(u)[-1], b.size(u) // b.shape(u)[-1]
    fit = [node for node in b.nodes if isinstance(node.operation, op.Linear)]
    fit = [node for node in fit if b.shape(node.inputs[0])[-1] == width and node.shape[-1] * positions <= LARGEST]
    return b.linear(u, 0, of=draw(st.sampled_from(fit)).name) if fit else None


def _softmax(draw: Draw, b: Builder, u: str) -> str:
    operation = op.Softmax(draw(st.integers(0, len(b.shape(u)) - 1)), log=draw(st.integers(0, 2)) == 0)
    return b.add(operation, u, *([draw(st.sampled_from(_alike(b, u)))] if draw(st.integers(0, 2)) == 0 else []))


def _normalize(draw: Draw, b: Builder, u: str) -> str | None:
    size, eps = b.size(u), draw(st.sampled_from([0.1, 1e-3, 0.0]))
    fit = [d for d in (size, size // 2) if d > 1 and size % d == 0]
    if not fit or (eps == 0 and not distinct(b, u)):
        return None
    return b.add(op.Normalize(draw(st.sampled_from(fit)), eps, draw(st.booleans())), u)


def _divide(draw: Draw, b: Builder, u: str) -> str | None:
    fit = [v for v in _alike(b, u) if v != u and distinct(b, v)]
    return b.add(op.Divide(), u, draw(st.sampled_from(fit))) if fit else None


def _matmul(draw: Draw, b: Builder, u: str) -> str | None:
    """u v^T."""
    shape = b.shape(u)
    if len(shape) != 2 or shape[0] ** 2 > LARGEST:
        return None
    turned = b.add(op.Rearrange((steps.Permute((1, 0)),)), draw(st.sampled_from(_alike(b, u))))
    return b.add(op.MatrixProduct(), u, turned)


def _curved(draw: Draw, b: Builder, u: str) -> str:
    """Functions whose curvature depends on levels; some only of positive entries."""
    function = draw(st.sampled_from(STEEP + ON_POSITIVES))
    return b.smooth(function, b.smooth(functions.SOFTPLUS, u) if function in ON_POSITIVES else u)


_FIT: dict[str, Callable[[Draw, Builder, str], str | None]] = {
    "linear": _linear,
    "smooth": _smooth,
    "two": _two,
    "join": _join,
    "reshape": lambda draw, b, u: None,
    "pool": _pool,
    "convolution": _convolution,
    "transposed": _transposed,
    "kink": _kink,
    "prelu": _prelu,
    "maximum": _maximum,
    "norm": _norm,
    "sum": _sum,
    "maxpool": _maxpool,
    "affine": _affine,
    "rearrange": _rearrange,
    "axis map": _axis_map,
    "parameter": _parameter,
    "tied": _tied,
    "softmax": _softmax,
    "normalize": _normalize,
    "divide": _divide,
    "matmul": _matmul,
    "curved": _curved,
}
