"""More rows, rows with parameters, and both by the names that torch's operations have.

A row with a kink or a jump carries its exact piecewise expression, so that `covergraph.rules.suprema` sees the
kink and refuses. Numbers enter an expression as the rationals that they print as; `evaluate` uses the floats.
Names are torch's, with the parameters in brackets; equal arguments give the same row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType

import sympy
import torch
import torch.nn.functional as F
from sympy import Max, Min, Piecewise
from torch import Tensor

from covergraph.errors import ParameterError, UnsupportedOperationError
from covergraph.graph import slopes
from covergraph.graph.functions import (
    COS,
    ELU,
    GELU,
    GELU_TANH,
    NEGATE,
    SIGMOID,
    SILU,
    SIN,
    SOFTPLUS,
    TANH,
    ScalarFunction,
    T,
    affine,
    exact,
)

_HALF = sympy.Rational(1, 2)
_TRUNCATED = sympy.sign(T) * sympy.floor(sympy.Abs(T))
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _named(name: str, *numbers: float | None) -> str:
    """name(1, 0.5): the short text of a number where it is read back as the same number."""
    texts = ("None" if n is None else f"{n:g}" if float(f"{n:g}") == n else repr(float(n)) for n in numbers)
    return f"{name}({', '.join(texts)})"


def _elu(alpha: float, scale: float, input_scale: float) -> sympy.Expr:
    a, s, k = exact(alpha), exact(scale), exact(input_scale)
    return Piecewise((s * a * (sympy.exp(k * T) - 1), T < 0), (s * T, True))


# What evaluates a row can be pickled: no lambda, no function inside a function.
def _hardsigmoid(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


def _scaled_elu(x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    """torch.nn.functional.elu has no scales."""
    return torch.ops.aten.elu.default(x, alpha, scale, input_scale)


def _quotient(numerator: float, x: Tensor) -> Tensor:
    return numerator / x


IDENTITY = affine(1, 0)

# With kinks
RELU = ScalarFunction("relu", Max(T, 0), torch.relu)
ABS = ScalarFunction("abs", sympy.Abs(T), torch.abs)
HARDSWISH = ScalarFunction("hardswish", Piecewise((0, T <= -3), (T, T >= 3), (T * (T + 3) / 6, True)), F.hardswish)
HARDSIGMOID = ScalarFunction(
    "hardsigmoid",
    Piecewise((0, T <= -3), (1, T >= 3), (T / 6 + _HALF, True)),
    _hardsigmoid,  # the same floats as F.hardsigmoid, whose derivative is 1/6 in float32 alone
)
SELU = ScalarFunction(
    "selu", _elu(*_SELU, 1.0), F.selu, partial(slopes.elu, alpha=_SELU[0], scale=_SELU[1]), True
)

# With jumps. A half is rounded to the even number beside it.
SIGN = ScalarFunction("sign", sympy.sign(T), torch.sign)
FLOOR = ScalarFunction("floor", sympy.floor(T), torch.floor)
CEIL = ScalarFunction("ceil", sympy.ceiling(T), torch.ceil)
TRUNC = ScalarFunction("trunc", _TRUNCATED, torch.trunc)
FRAC = ScalarFunction("frac", T - _TRUNCATED, torch.frac)
ROUND = ScalarFunction("round", sympy.floor(T / 2 + _HALF / 2) + sympy.ceiling(T / 2 - _HALF / 2), torch.round)

# Smooth on the whole line
MISH = ScalarFunction("mish", T * sympy.tanh(sympy.log(1 + sympy.exp(T))), F.mish, slopes.mish)
LOGSIGMOID = ScalarFunction("logsigmoid", -sympy.log(1 + sympy.exp(-T)), F.logsigmoid, slopes.logsigmoid, True)
TANHSHRINK = ScalarFunction("tanhshrink", T - sympy.tanh(T), F.tanhshrink, slopes.tanhshrink, True)
SOFTSIGN = ScalarFunction(
    "softsign", Piecewise((T / (1 - T), T < 0), (T / (1 + T), True)), F.softsign, slopes.softsign, True
)
ERF = ScalarFunction("erf", sympy.erf(T), torch.erf, slopes.erf, True)
ERFC = ScalarFunction("erfc", sympy.erfc(T), torch.erfc)
NDTR = ScalarFunction("ndtr", (1 + sympy.erf(T / sympy.sqrt(2))) / 2, torch.special.ndtr)
ATAN = ScalarFunction("atan", sympy.atan(T), torch.atan, slopes.atan, True)
ASINH = ScalarFunction("asinh", sympy.asinh(T), torch.asinh, slopes.asinh, True)
SINC = ScalarFunction("sinc", sympy.sinc(sympy.pi * T), torch.sinc, slopes.sinc)
SQUARE = ScalarFunction("square", T**2, torch.square, steady=True)
EXP = ScalarFunction("exp", sympy.exp(T), torch.exp, steady=True)
EXP2 = ScalarFunction("exp2", sympy.Integer(2) ** T, torch.exp2, steady=True)
EXPM1 = ScalarFunction("expm1", sympy.exp(T) - 1, torch.expm1, slopes.expm1, True)
SINH = ScalarFunction("sinh", sympy.sinh(T), torch.sinh, steady=True)
COSH = ScalarFunction("cosh", sympy.cosh(T), torch.cosh, steady=True)

# Defined on a part of the line: NaN or infinite elsewhere
LOG = ScalarFunction("log", sympy.log(T), torch.log, steady=True)
LOG1P = ScalarFunction("log1p", sympy.log(1 + T), torch.log1p, steady=True)
LOG2 = ScalarFunction("log2", sympy.log(T) / sympy.log(2), torch.log2, steady=True)
LOG10 = ScalarFunction("log10", sympy.log(T) / sympy.log(10), torch.log10, steady=True)
LOGIT = ScalarFunction("logit", sympy.log(T / (1 - T)), torch.logit)
SQRT = ScalarFunction("sqrt", sympy.sqrt(T), torch.sqrt, steady=True)
RSQRT = ScalarFunction("rsqrt", 1 / sympy.sqrt(T), torch.rsqrt, steady=True)
RECIPROCAL = ScalarFunction("reciprocal", 1 / T, torch.reciprocal, steady=True)
TAN = ScalarFunction("tan", sympy.tan(T), torch.tan)
ASIN = ScalarFunction("asin", sympy.asin(T), torch.asin, slopes.asin, True)
ACOS = ScalarFunction("acos", sympy.acos(T), torch.acos, slopes.acos, True)
ATANH = ScalarFunction("atanh", sympy.atanh(T), torch.atanh, slopes.atanh, True)
ACOSH = ScalarFunction("acosh", sympy.acosh(T), torch.acosh, slopes.acosh, True)


def _is_exact_factor(factor: float) -> bool:
    """True for powers of 2. Another one rounds the argument of exp, which costs a relative error of |t| units."""
    return abs(math.frexp(factor)[0]) == 0.5


@cache
def leaky_relu(negative_slope: float = 0.01) -> ScalarFunction:
    """t for t > 0, negative_slope * t otherwise."""
    if negative_slope == 0:
        return RELU
    expression = Piecewise((T, T > 0), (exact(negative_slope) * T, True))
    name = _named("leaky_relu", negative_slope)
    return ScalarFunction(name, expression, partial(F.leaky_relu, negative_slope=negative_slope))


def rrelu(lower: float = 1 / 8, upper: float = 1 / 3) -> ScalarFunction:
    """Randomized leaky ReLU in eval mode: its slope is the mean of the two ends."""
    return leaky_relu((lower + upper) / 2)


@cache
def clamp(min: float | None = None, max: float | None = None) -> ScalarFunction:
    """The nearest point of [min, max] (max if that is empty); an end that is None or infinite bounds nothing."""
    low, high = (None if min == -math.inf else min), (None if max == math.inf else max)
    if low is None and high is None:
        return IDENTITY
    if low == 0 and high is None:
        return RELU
    expression = T if low is None else Max(T, exact(low))
    expression = expression if high is None else Min(expression, exact(high))
    return ScalarFunction(_named("clamp", low, high), expression, partial(torch.clamp, min=low, max=high))


def clamp_min(min: float) -> ScalarFunction:
    """The larger one of t and min."""
    return clamp(min, None)


def clamp_max(max: float) -> ScalarFunction:
    """The smaller one of t and max."""
    return clamp(None, max)


def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> ScalarFunction:
    """`clamp` with two ends; ReLU6 has the ends 0 and 6."""
    return clamp(min_val, max_val)


@cache
def threshold(threshold: float, value: float) -> ScalarFunction:
    """t for t > threshold, value otherwise: a kink at the threshold if they are equal, else a jump."""
    if threshold == value == 0:
        return RELU
    expression = Piecewise((T, exact(threshold) < T), (exact(value), True))
    name = _named("threshold", threshold, value)
    return ScalarFunction(name, expression, partial(F.threshold, threshold=threshold, value=value))


@cache
def softshrink(lambd: float = 0.5) -> ScalarFunction:
    """t - lambd above lambd >= 0, t + lambd below -lambd, 0 between. Raises `ParameterError` for lambd < 0."""
    if lambd < 0:
        raise ParameterError(f"softshrink: lambd is {lambd}, expected at least 0; torch refuses it, too")
    a = exact(lambd)
    expression = Piecewise((T - a, a < T), (T + a, -a > T), (0, True)) if a else T
    return ScalarFunction(_named("softshrink", lambd), expression, partial(F.softshrink, lambd=lambd))


@cache
def hardshrink(lambd: float = 0.5) -> ScalarFunction:
    """0 on [-lambd, lambd], t elsewhere: a jump at both ends."""
    a = exact(lambd)
    expression = Piecewise((T, a < T), (T, -a > T), (0, True)) if a > 0 else T
    return ScalarFunction(_named("hardshrink", lambd), expression, partial(F.hardshrink, lambd=lambd))


@cache
def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> ScalarFunction:
    """scale * t for t > 0, scale * alpha * (e^(input_scale t) - 1) otherwise: smooth if alpha * input_scale = 1."""
    if alpha == scale == input_scale == 1:
        return ELU
    numbers = (alpha,) if scale == input_scale == 1 else (alpha, scale, input_scale)
    name = _named("elu", *numbers)
    evaluate = partial(_scaled_elu, alpha=alpha, scale=scale, input_scale=input_scale)
    slope = partial(slopes.elu, alpha=alpha, scale=scale, input_scale=input_scale)
    return ScalarFunction(name, _elu(alpha, scale, input_scale), evaluate, slope, _is_exact_factor(input_scale))


@cache
def celu(alpha: float = 1.0) -> ScalarFunction:
    """max(t, 0) + min(alpha (e^(t/alpha) - 1), 0), whose slopes at 0 are equal. Raises `ParameterError` for 0."""
    if alpha == 0:
        raise ParameterError("celu: alpha is 0, expected another number; torch refuses it, too")
    a = exact(alpha)
    expression = Piecewise((a * (sympy.exp(T / a) - 1), T < 0), (T, True))
    slope = partial(slopes.elu, alpha=alpha, input_scale=1 / alpha)
    steady = _is_exact_factor(alpha)
    return ScalarFunction(_named("celu", alpha), expression, partial(F.celu, alpha=alpha), slope, steady)


@cache
def softplus(beta: float = 1.0, threshold: float = 20.0) -> ScalarFunction:
    """log(1 + e^(beta t)) / beta; torch returns t itself where beta t > threshold.

    That makes a jump there, of a relative height of at most e^-threshold / threshold. From threshold 20 on, that is
    1e-10 at most: the expression is the smooth function, `evaluate` is torch's (the row for torch's defaults is
    `SOFTPLUS`, which is smooth in floats, too). Below, the jump is part of the expression, and bounds are refused.
    Raises `ParameterError` for beta = 0.
    """
    if beta == 0:
        raise ParameterError("softplus: beta is 0, expected another number; torch divides by it")
    if (beta, threshold) == (1, 20):
        return SOFTPLUS
    b = exact(beta)
    expression = sympy.log(1 + sympy.exp(b * T)) / b
    if threshold < 20:
        expression = Piecewise((expression, b * T <= exact(threshold)), (T, True))
    name = _named("softplus", beta, threshold)
    slope = None if threshold < 20 else partial(slopes.softplus, beta=beta)
    evaluate = partial(F.softplus, beta=beta, threshold=threshold)
    return ScalarFunction(name, expression, evaluate, slope, slope is not None and _is_exact_factor(beta))


def gelu(approximate: str = "none") -> ScalarFunction:
    """t Phi(t) ("none"), or with the tanh in place of Phi ("tanh"). Raises `ParameterError` for other words."""
    rows = {"none": GELU, "tanh": GELU_TANH}
    if approximate not in rows:
        raise ParameterError(f"gelu: approximate is {approximate!r}, expected one of {list(rows)}")
    return rows[approximate]


@cache
def power(exponent: float) -> ScalarFunction:
    """t**exponent; for exponents that are not whole, NaN at t < 0."""
    evaluate = partial(torch.pow, exponent=exponent)
    return ScalarFunction(_named("pow", exponent), T ** exact(exponent), evaluate, steady=True)


@cache
def exponential(base: float) -> ScalarFunction:
    """base**t; raises `UnsupportedOperationError` unless base > 0, where every power is a real number."""
    if not base > 0:
        raise UnsupportedOperationError(f"pow({base:g}, t): the base is not positive; use a positive base")
    name = f"{_named('pow', base)[:-1]}, t)"
    return ScalarFunction(name, exact(base) ** T, partial(torch.pow, base))


@cache
def quotient(numerator: float) -> ScalarFunction:
    """numerator / t."""
    name = f"{_named('div', numerator)[:-1]}, t)"
    return ScalarFunction(name, exact(numerator) / T, partial(_quotient, numerator), steady=True)


_ROWS = (
    *(RELU, ABS, HARDSWISH, HARDSIGMOID, SELU),
    *(SIGN, FLOOR, CEIL, TRUNC, FRAC, ROUND),
    *(TANH, SIGMOID, SILU, SIN, COS, NEGATE, MISH, LOGSIGMOID, TANHSHRINK, SOFTSIGN, ERF, ERFC, NDTR, ATAN, ASINH),
    *(SINC, SQUARE, EXP, EXP2, EXPM1, SINH, COSH),
    *(LOG, LOG1P, LOG2, LOG10, LOGIT, SQRT, RSQRT, RECIPROCAL, TAN, ASIN, ACOS, ATANH, ACOSH),
)
_SPECIAL = (ERF, ERFC, EXP2, EXPM1, LOG1P, LOGIT, NDTR, SINC)

UNARY: Mapping[str, ScalarFunction] = MappingProxyType(
    {row.name: row for row in _ROWS}
    | {f"special_{row.name}": row for row in _SPECIAL}
    | {"special_expit": SIGMOID, "log_sigmoid": LOGSIGMOID, "sgn": SIGN}
)
"""Rows by the base name of torch's operation, for calls with one tensor and no other argument."""

_FACTORIES: Sequence[Callable[..., ScalarFunction]] = (
    *(leaky_relu, rrelu, clamp, clamp_min, clamp_max, hardtanh, threshold, softshrink, hardshrink),
    *(elu, celu, softplus, gelu),
)

PARAMETRIC: Mapping[str, Callable[..., ScalarFunction]] = MappingProxyType(
    {factory.__name__: factory for factory in _FACTORIES} | {"pow": power}
)
"""Factories by the base name of torch's operation; the arguments are the operation's own without the tensor.

`exponential` (a number to the power of the tensor) and `quotient` are left out: there the tensor comes second.
"""
