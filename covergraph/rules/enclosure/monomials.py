"""Monomials c x^a e^(q(x)) on a ray x >= L > 0: c > 0 a constant, a rational, q a polynomial.

The derivative of log m in log x is d(x) = a + x q'(x). If all coefficients of d(L + y) in y are <= 0, then
m decreases on the ray, so 0 < m <= m(L).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import sympy

from covergraph.rules.enclosure import functions, intervals
from covergraph.rules.enclosure.intervals import Interval, UndefinedError

X = sympy.Symbol("x", positive=True)


def split(monomial: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """The constant, and the part that depends on x."""
    number, rest = monomial.as_independent(X, as_Add=False)
    return number, rest


@lru_cache(maxsize=4096)
def envelope(monomial: sympy.Expr, start: float) -> Interval | None:
    """The values of a constant, [0, m(L)] of a decreasing monomial, None of any other."""
    number, rest = split(monomial)
    scale = intervals.constant(number)
    if rest == 1:
        return scale
    power, exponent = parts(rest)
    rate = {0: intervals.constant(power)}
    rate |= {k: _scale(intervals.constant(c), k) for k, c in exponent.items() if k}
    if any(shifted[1] > 0.0 for shifted in _shift(rate, start)):
        return None
    value = _power_sum({k: intervals.constant(c) for k, c in exponent.items()}, start)
    decay = functions.power(intervals.point(start), power) if power != 0 else intervals.ONE
    return 0.0, intervals.multiply(intervals.multiply(scale, decay), functions.exp(value))[1]


@lru_cache(maxsize=16384)
def ratio(over: sympy.Expr, under: sympy.Expr, start: float) -> Interval | None:
    """The values of a quotient of monomials, None if it may grow."""
    scale, monomial = times(over, 1 / under)
    bound = envelope(monomial, start)
    return None if bound is None else intervals.multiply(intervals.point(scale), bound)


def _shift(coefficients: dict[int, Interval], start: float) -> Iterator[Interval]:
    """The coefficients of the polynomial in y = x - start."""
    for j in range(max(coefficients) + 1):
        yield _power_sum(
            {k - j: _scale(c, math.comb(k, j)) for k, c in coefficients.items() if k >= j}, start
        )


def _power_sum(coefficients: dict[int, Interval], x: float) -> Interval:
    total = intervals.ZERO
    for k, c in coefficients.items():
        term = intervals.multiply(c, functions.power(intervals.point(x), sympy.Integer(k))) if k else c
        total = intervals.add(total, term)
    return total


def _scale(x: Interval, factor: int) -> Interval:
    return intervals.multiply(x, intervals.point(float(factor)))


@lru_cache(maxsize=4096)
def parts(monomial: sympy.Expr) -> tuple[sympy.Rational, dict[int, sympy.Expr]]:
    """a and the coefficients of q, by degree, of x^a e^(q(x))."""
    power: sympy.Expr = sympy.S.Zero
    exponent: sympy.Expr = sympy.S.Zero
    for factor in sympy.Mul.make_args(monomial):
        base, index = factor.as_base_exp()
        if base == X:
            power += index
        elif not base.free_symbols:
            exponent += index * sympy.log(base)
        else:
            raise UndefinedError(f"{monomial} is no monomial")
    return power, _coefficients(sympy.expand(exponent))


def _coefficients(polynomial: sympy.Expr) -> dict[int, sympy.Expr]:
    """The coefficients by degree; faster than sympy.Poly where they are irrational."""
    coefficients: dict[int, sympy.Expr] = {}
    for term in sympy.Add.make_args(polynomial) if polynomial != 0 else ():
        number, rest = split(term)
        base, degree = (X, sympy.S.Zero) if rest == 1 else rest.as_base_exp()
        if base != X or not degree.is_Integer:
            raise UndefinedError(f"{polynomial} is no polynomial")
        coefficients[int(degree)] = coefficients.get(int(degree), sympy.S.Zero) + number
    return coefficients


@lru_cache(maxsize=16384)
def times(a: sympy.Expr, b: sympy.Expr) -> tuple[float, sympy.Expr]:
    """The product as an exact float times a monomial with one exponential (sympy leaves e^p e^-p alone)."""
    factors = sympy.Mul.make_args(a) + sympy.Mul.make_args(b)
    exponent = sympy.Add(*(f.exp for f in factors if isinstance(f, sympy.exp)))
    product = sympy.Mul(
        sympy.exp(sympy.expand(exponent)), *(f for f in factors if not isinstance(f, sympy.exp))
    )
    number, monomial = product.as_coeff_Mul()
    return (float(number), monomial) if is_short(number) else (1.0, product)


def is_short(number: sympy.Expr) -> bool:
    """True if the number is a float, and so are its products with some others of its kind."""
    if not number.is_Rational or max(abs(number.p), number.q) >= 2**20:
        return False
    return number.q & (number.q - 1) == 0
