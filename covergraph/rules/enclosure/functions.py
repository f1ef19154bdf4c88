"""Powers and elementary functions of intervals: the functions that an element-wise phi may be built from."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import sympy

from covergraph.rules.enclosure.intervals import (
    ONE,
    Interval,
    UndefinedError,
    add,
    constant,
    multiply,
    negate,
    reciprocal,
    widen,
)

Image = Callable[[Interval], Interval]


def power(x: Interval, exponent: sympy.Rational) -> Interval:
    """x**exponent; raises `UndefinedError` unless it is analytic on x."""
    if exponent < 0:
        return reciprocal(power(x, -exponent))
    if x == ONE or exponent == 1:
        return x
    return _integer_power(x, int(exponent)) if exponent.is_integer else _real_power(x, exponent)


def _integer_power(x: Interval, n: int) -> Interval:
    if x[0] == x[1] and n <= 8:
        return reduce(multiply, [x] * n)  # exact if the floats allow it
    low, high = (_raise(abs(end), n) for end in x)
    if n % 2:
        return widen(math.copysign(low, x[0]), math.copysign(high, x[1]))
    if x[0] <= 0.0 <= x[1]:
        return 0.0, widen(0.0, max(low, high))[1]
    return widen(min(low, high), max(low, high))


def _real_power(x: Interval, exponent: sympy.Rational) -> Interval:
    """x**exponent for x > 0; below 2, rounding the exponent costs at most |log x| units."""
    if x[0] <= 0.0:
        raise UndefinedError(f"power {exponent} of an interval that reaches 0")
    if exponent > 2:
        whole = sympy.floor(exponent)
        return multiply(power(x, whole), _real_power(x, exponent - whole))
    slack = 2.0**-51 * max(abs(math.log(end)) for end in (x[0], min(x[1], sys.float_info.max)))
    low, high = widen(_raise(x[0], float(exponent)), _raise(x[1], float(exponent)))
    return low * (1.0 - slack), high * (1.0 + slack)


def _raise(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _increasing(function: Callable[[float], float], fixed: tuple[float, float]) -> Image:
    """The image under an increasing library function; `fixed` is a point whose image is exact."""

    def image(x: Interval) -> Interval:
        if x[0] == x[1] == fixed[0]:
            return fixed[1], fixed[1]
        return widen(function(x[0]), function(x[1]))

    return image


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def exp(x: Interval) -> Interval:
    """e^x, not negative."""
    low, high = _EXP(x)
    return max(low, 0.0), high


def log(x: Interval) -> Interval:
    """log x; raises `UndefinedError` unless x > 0."""
    if x[0] <= 0.0:
        raise UndefinedError("logarithm of an interval that reaches 0")
    return _LOG(x)


def _clip(image: Image) -> Image:
    """The image cut to [-1, 1], where all values lie."""

    def clipped(x: Interval) -> Interval:
        low, high = image(x)
        return max(low, -1.0), min(high, 1.0)

    return clipped


_EXP = _increasing(_exp, (0.0, 1.0))
_LOG = _increasing(math.log, (1.0, 0.0))
tanh = _clip(_increasing(math.tanh, (0.0, 0.0)))
erf = _clip(_increasing(math.erf, (0.0, 0.0)))
atan = _increasing(math.atan, (0.0, 0.0))


def _sinusoid(function: Callable[[float], float], peak: float) -> Image:
    """The image under sin or cos, whose maxima lie at peak + 2 pi k and whose minima lie at pi + those."""

    def image(x: Interval) -> Interval:
        if x[0] == x[1] == 0.0:
            return function(0.0), function(0.0)
        if not x[1] - x[0] < 6.0 or max(abs(x[0]), abs(x[1])) > 1e9:
            return -1.0, 1.0
        low, high = widen(*sorted((function(x[0]), function(x[1]))))
        if _contains_multiple(x, peak + math.pi):
            low = -1.0
        if _contains_multiple(x, peak):
            high = 1.0
        return low, high

    return _clip(image)


def _contains_multiple(x: Interval, phase: float) -> bool:
    """True if some phase + 2 pi k may lie in x; the slack covers the rounding of phase, pi and x."""
    slack = 1e-9 * (1.0 + max(abs(x[0]), abs(x[1])) * 1e-3)
    turns = math.ceil((x[0] - slack - phase) / math.tau)
    return phase + math.tau * turns <= x[1] + slack


sin = _sinusoid(math.sin, math.pi / 2)
cos = _sinusoid(math.cos, 0.0)


@dataclass(frozen=True)
class Rule:
    """A function of one real variable: its image of an interval, and that of its derivative."""

    value: Image
    slope: Image


def _square(x: Interval) -> Interval:
    return power(x, sympy.Integer(2))


def _bell(x: Interval) -> Interval:
    return multiply(constant(2 / sympy.sqrt(sympy.pi)), exp(negate(_square(x))))


RULES: dict[str, Rule] = {
    "exp": Rule(exp, exp),
    "log": Rule(log, reciprocal),
    "tanh": Rule(tanh, lambda x: add(ONE, negate(_square(tanh(x))))),
    "erf": Rule(erf, _bell),
    "atan": Rule(atan, lambda x: reciprocal(add(ONE, _square(x)))),
    "sin": Rule(sin, cos),
    "cos": Rule(cos, lambda x: negate(sin(x))),
}
