"""Intervals [lower, upper] of floats, rounded outwards.

Every function here maps intervals to an interval that contains the exact image. Sums and products are
rounded by one unit in the last place unless they are exact; constants, of which sympy gives 30 digits, are widened
by eight. An end may be infinite: the interval is then unbounded, its elements
are real.
"""

from __future__ import annotations

import math
import sys

import sympy
from sympy.core.evalf import PrecisionExhausted

Interval = tuple[float, float]

ZERO: Interval = (0.0, 0.0)
ONE: Interval = (1.0, 1.0)
_INF = math.inf
_WIDENING = 2.0**-49
_SMALL = 2.0**-1000


class UndefinedError(ArithmeticError):
    """The function is not analytic on the set that was asked for, or the arithmetic cannot tell."""


def constant(number: sympy.Expr) -> Interval:
    """The interval of a real sympy number, degenerate if the number is a float."""
    if number.is_Rational:
        value = _to_float(number)
        if math.isfinite(value) and sympy.Rational(value) == number:
            return value, value
    try:
        digits = number.evalf(30, strict=True)
    except PrecisionExhausted:
        raise UndefinedError(f"{number} cannot be told from 0") from None
    if not digits.is_real or not digits.is_finite:
        raise UndefinedError(f"{number} is not a real number")
    value = _to_float(digits)
    return widen(value, value)


def point(x: float) -> Interval:
    """[x, x]."""
    return x, x


def add(x: Interval, y: Interval) -> Interval:
    """x + y."""
    low, low_error = _two_sum(x[0], y[0])
    high, high_error = _two_sum(x[1], y[1])
    if not low_error >= 0.0:
        low = math.nextafter(low, -_INF)
    if not high_error <= 0.0:
        high = math.nextafter(high, _INF)
    return low, high


def negate(x: Interval) -> Interval:
    """-x."""
    return -x[1], -x[0]


def multiply(x: Interval, y: Interval) -> Interval:
    """x y, where 0 times an infinite end is 0."""
    a, b = x
    c, d = y
    if a == b and c == d:
        product = _times(a, c)
        if _is_exact_product(a, c, product):
            return product, product
        return math.nextafter(product, -_INF), math.nextafter(product, _INF)
    products = (_times(a, c), _times(a, d), _times(b, c), _times(b, d))
    return math.nextafter(min(products), -_INF), math.nextafter(max(products), _INF)


def reciprocal(x: Interval) -> Interval:
    """1/x; raises `UndefinedError` if x contains 0."""
    if x[0] <= 0.0 <= x[1]:
        raise UndefinedError("division by an interval that contains 0")
    if x[0] == x[1] and _is_power_of_two(x[0]) and _SMALL < abs(x[0]) < _INF:
        return 1.0 / x[0], 1.0 / x[0]
    low, high = math.nextafter(1.0 / x[1], -_INF), math.nextafter(1.0 / x[0], _INF)
    return (max(low, 0.0), high) if x[0] > 0.0 else (low, min(high, 0.0))


def widen(low: float, high: float) -> Interval:
    """[low, high] widened by eight units in the last place."""
    low = min(low, sys.float_info.max)
    high = max(high, -sys.float_info.max)
    return (
        math.nextafter(low - abs(low) * _WIDENING, -_INF),
        math.nextafter(high + abs(high) * _WIDENING, _INF),
    )


def intersect(x: Interval, y: Interval) -> Interval:
    """The common part of two intervals that enclose the same thing."""
    return max(x[0], y[0]), min(x[1], y[1])


def hull(x: Interval, y: Interval) -> Interval:
    """The smallest interval that contains both."""
    return min(x[0], y[0]), max(x[1], y[1])


def magnitude(x: Interval) -> Interval:
    """|x|."""
    if x[0] <= 0.0 <= x[1]:
        return 0.0, max(-x[0], x[1])
    return min(abs(x[0]), abs(x[1])), max(abs(x[0]), abs(x[1]))


def _to_float(number: sympy.Expr) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.copysign(_INF, -1.0 if number.is_negative else 1.0)


def _two_sum(a: float, b: float) -> tuple[float, float]:
    """The rounded sum and its exact error (Knuth); not a number if the sum overflows."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0.0 or b == 0.0 else a * b


def _is_exact_product(a: float, b: float, product: float) -> bool:
    if a == 0.0 or b == 0.0:
        return True
    if a.is_integer() and b.is_integer():
        return abs(product) < 2.0**53
    return (_is_power_of_two(a) or _is_power_of_two(b)) and _SMALL < abs(product) < _INF


def _is_power_of_two(x: float) -> bool:
    return abs(math.frexp(x)[0]) == 0.5
