"""Powers and elementary functions of intervals: the functions that an element-wise phi may be built from.

At the ends they are arb's (python-flint), whose balls contain the exact value; a ball becomes the next floats around.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce

import sympy
from flint import arb, ctx, fmpq

from covergraph.rules.enclosure.intervals import (
    ONE,
    Interval,
    UndefinedError,
    add,
    constant,
    multiply,
    negate,
    reciprocal,
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
    low, high = (_raised(abs(end), n, 1) for end in x)
    if n % 2:
        return (low if x[0] >= 0.0 else negate(low))[0], (high if x[1] >= 0.0 else negate(high))[1]
    if x[0] <= 0.0 <= x[1]:
        return 0.0, max(low[1], high[1])
    return min(low[0], high[0]), max(low[1], high[1])


def _real_power(x: Interval, exponent: sympy.Rational) -> Interval:
    """x**exponent for x > 0."""
    if x[0] <= 0.0:
        raise UndefinedError(f"power {exponent} of an interval that reaches 0")
    p, q = int(exponent.p), int(exponent.q)
    return _raised(x[0], p, q)[0], _raised(x[1], p, q)[1]


@lru_cache(maxsize=2**14)
def _raised(base: float, p: int, q: int) -> Interval:
    """Floats around base^(p/q), base not negative, p/q positive."""
    with ctx.workprec(PRECISION):
        low, high = _around(arb(base) ** (p if q == 1 else arb(fmpq(p, q))))
    return max(low, 0.0), high


@lru_cache(maxsize=2**16)
def _at(name: str, x: float) -> Interval:
    """Floats around the value, or the limit, of one of arb's functions."""
    if name == "erf" and math.isinf(x):
        return math.copysign(1.0, x), math.copysign(1.0, x)
    with ctx.workprec(PRECISION):
        return _around(getattr(arb(x), name)())


PRECISION = 80
"""Bits: a ball is then seldom wider than the floats next to it."""


def _around(ball: arb) -> Interval:
    low, high = float(ball.lower()), float(ball.upper())
    return math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


def _increasing(name: str, fixed: tuple[float, float]) -> Image:
    """The image under an increasing function of arb's; `fixed` is a point whose image is exact."""

    def image(x: Interval) -> Interval:
        if x[0] == x[1] == fixed[0]:
            return fixed[1], fixed[1]
        return _at(name, x[0])[0], _at(name, x[1])[1]

    return image


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


_EXP = _increasing("exp", (0.0, 1.0))
_LOG = _increasing("log", (1.0, 0.0))
tanh = _clip(_increasing("tanh", (0.0, 0.0)))
erf = _clip(_increasing("erf", (0.0, 0.0)))
atan = _increasing("atan", (0.0, 0.0))


def _sinusoid(name: str, peak: float) -> Image:
    """The image under sin or cos, whose maxima lie at peak + 2 pi k and whose minima lie at pi + those."""

    def image(x: Interval) -> Interval:
        if x[0] == x[1] == 0.0:
            return (0.0, 0.0) if name == "sin" else (1.0, 1.0)
        if not x[1] - x[0] < 6.0 or max(abs(x[0]), abs(x[1])) > 1e9:
            return -1.0, 1.0
        ends = _at(name, x[0]), _at(name, x[1])
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
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


sin = _sinusoid("sin", math.pi / 2)
cos = _sinusoid("cos", 0.0)


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
