"""Enclosures on a ray x >= L: sums of monomials x^a e^(q(x)) with interval coefficients.

A form {m_1: I_1, ..., m_k: I_k} encloses a function g on [L, oo) if for every x >= L there are c_j in I_j
with g(x) = sum_j c_j m_j(x). Each monomial is a positive constant times x^a times e^(q(x)), q a polynomial.
Sums and products of forms are exact in the monomials, so that leading terms that cancel do cancel. With c
the constant part of a form and r the rest, the mean value theorem gives g(c + r) in g(c) + r g'([c, c +
r]): a decaying factor is never lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import sympy

from covergraph.rules.enclosure import intervals
from covergraph.rules.enclosure.functions import RULES, Rule, power
from covergraph.rules.enclosure.intervals import ONE, ZERO, Interval, UndefinedError, multiply, point
from covergraph.rules.enclosure.monomials import X, envelope, is_short, parts, ratio, split, times

Form = dict[sympy.Expr, Interval]
_UNIT = sympy.S.One
_MOST_TERMS = 10


class Ray:
    """The arithmetic of forms on [start, oo), start > 0; `towards` is the sign of t = +-x."""

    def __init__(self, start: float, towards: int) -> None:
        self.start = start
        self.variable: Form = {X: point(float(towards))}

    def constant(self, number: sympy.Expr) -> Form:
        """A number; one that is no short float stays exact as a monomial, to cancel against itself."""
        value = intervals.constant(number)
        if is_short(number):
            return _sum([(_UNIT, value)])
        return {number: ONE} if value[0] > 0 else {-number: point(-1.0)}

    def add(self, terms: Sequence[Form]) -> Form:
        """The sum."""
        return self._short(_sum(pair for term in terms for pair in term.items()))

    def multiply(self, factors: Sequence[Form]) -> Form:
        """The product."""
        return reduce(self._product, factors)

    def power(self, base: Form, exponent: sympy.Rational) -> Form:
        """(m body)^p = m^p body^p."""
        if exponent.is_integer and exponent > 0:
            return self.multiply([base] * int(exponent))
        monomial, body = self.factor(base)
        rule = Rule(
            lambda y: power(y, exponent),
            lambda y: multiply(intervals.constant(exponent), power(y, exponent - 1)),
        )
        return self._product({monomial**exponent: ONE}, self._mean_value(rule, body))

    def apply(self, name: str, argument: Form) -> Form:
        """A function of `functions.RULES`; raises `UndefinedError` if its growth is not known."""
        if name == "exp":
            return self._exp(argument)
        if self.range(argument) is not None and name != "log":
            return self._mean_value(RULES[name], argument)
        if name in ("sin", "cos"):
            return {_UNIT: (-1.0, 1.0)}
        unbounded = {"log": self._log, "tanh": self._tanh, "erf": self._erf, "atan": self._atan}
        return unbounded[name](argument)

    def range(self, form: Form) -> Interval | None:
        """An interval of all values on the ray; None if a monomial may grow."""
        total = ZERO
        for monomial, coefficient in form.items():
            bound = envelope(monomial, self.start)
            if bound is None:
                return None
            total = intervals.add(total, multiply(coefficient, bound))
        return total

    def sign(self, form: Form) -> int:
        """The sign of a form that does not vanish on the ray (0 for the zero form)."""
        return (1 if self._dominant(form)[1][0] > 0.0 else -1) if form else 0

    def factor(self, form: Form) -> tuple[sympy.Expr, Form]:
        """form = m * body with a body that stays within an interval without 0, and leads with 1 if it can."""
        monomial, _ = self._dominant(form)
        low, high = form[monomial]
        if not low == high > 0.0:
            return monomial, self._product(form, {1 / monomial: ONE})
        leading = sympy.Rational(low) * monomial
        rest = {m: c for m, c in form.items() if m != monomial}
        return leading, self.add([_number(1.0), self._product(rest, {1 / leading: ONE})])

    def _dominant(self, form: Form) -> tuple[sympy.Expr, Interval]:
        """A monomial m and an interval without 0 of form / m."""
        for monomial in form:
            total = ZERO
            for other, coefficient in form.items():
                bound = ratio(other, monomial, self.start)
                if bound is None:
                    break
                total = intervals.add(total, multiply(coefficient, bound))
            else:
                if not total[0] <= 0.0 <= total[1]:
                    return monomial, total
        raise UndefinedError("no dominant term on the ray")

    def limit(self, form: Form) -> sympy.Expr | None:
        """The exact limit at infinity; None if it is not known exactly or not finite."""
        total: sympy.Expr = sympy.S.Zero
        for monomial, (low, high) in form.items():
            if monomial.free_symbols:
                if envelope(monomial, self.start) is None:
                    return None
            elif low == high:
                total += sympy.Rational(low) * monomial
            else:
                return None
        return total

    def _product(self, a: Form, b: Form) -> Form:
        pairs = []
        for (left, x), (right, y) in ((p, q) for p in a.items() for q in b.items()):
            scale, monomial = times(left, right)
            pairs.append((monomial, multiply(multiply(x, y), point(scale))))
        return self._short(_sum(pairs))

    def _short(self, form: Form) -> Form:
        """Keeps forms small: constants of monomials move to the coefficients, then fast decay is given up."""
        if len(form) <= _MOST_TERMS:
            return form
        pairs = []
        for monomial, coefficient in form.items():
            number, rest = split(monomial)
            pairs.append((rest, multiply(coefficient, intervals.constant(number))))
        merged = _sum(pairs)
        for monomial in list(merged):
            if len(merged) > _MOST_TERMS // 2 and monomial != 1:
                self._absorb(merged, monomial)
        return merged

    def _absorb(self, form: Form, monomial: sympy.Expr) -> None:
        """Replaces a monomial by the interval of its ratio to another one that decays, but less."""
        for other in form:
            if other in (1, monomial) or envelope(other, self.start) is None:
                continue
            bound = ratio(monomial, other, self.start)
            if bound is not None:
                form[other] = intervals.add(form[other], multiply(form.pop(monomial), bound))
                return

    def _mean_value(self, rule: Rule, form: Form) -> Form:
        """g(c + r) = g(c) + r g'(xi) with xi between c and c + r."""
        values = self.range(form)
        if values is None:
            raise UndefinedError("a function of a term that grows on the ray")
        rest = {m: i for m, i in form.items() if m.free_symbols}
        c = self.range({m: i for m, i in form.items() if not m.free_symbols})
        assert c is not None, "constants do not grow"
        centre: Form = _sum([(_UNIT, rule.value(c))])
        if not rest:
            return centre
        slope: Form = {_UNIT: rule.slope(intervals.hull(c, values))}
        return self.add([centre, self._product(rest, slope)])

    def _exp(self, argument: Form) -> Form:
        """e^(q + r) = e^q e^r: q collects the powers of x, 1 included, that have exact coefficients."""
        exponent: sympy.Expr = sympy.S.Zero
        rest: Form = {}
        for monomial, (low, high) in argument.items():
            if low == high and monomial.is_polynomial(X):
                exponent += sympy.Rational(low) * monomial
            elif envelope(monomial, self.start) is not None:
                rest[monomial] = (low, high)
            else:
                return self._exp_of_fast_decay(argument)
        factor: Form = {sympy.exp(exponent): ONE}
        return self._product(factor, self._mean_value(RULES["exp"], rest))

    def _exp_of_fast_decay(self, argument: Form) -> Form:
        """u <= -b m with b > 0 and x^2 <= c m give 0 <= exp(u) <= exp(-(b/c) x^2)."""
        monomial, (_, highest) = self._dominant(argument)
        excess = ratio(X**2, monomial, self.start)
        if highest >= 0.0 or excess is None:
            raise UndefinedError("exponential of a term that grows on the ray and is no exact power")
        rate = math.nextafter(highest / excess[1], 0.0)
        return {sympy.exp(sympy.Rational(rate) * X**2): (0.0, 1.0)}

    def _log(self, argument: Form) -> Form:
        """log(m body) = log m + log body, and 0 <= log x <= x for x >= 1."""
        monomial, body = self.factor(argument)
        number, rest = split(monomial)
        degree, exponent = parts(rest)
        terms = [self._mean_value(RULES["log"], body), self.constant(sympy.log(number))]
        terms += [self.multiply([self.constant(c), {X**k: ONE}]) for k, c in exponent.items()]
        if degree != 0 and self.start < 1.0:
            raise UndefinedError("log x is bounded by 0 and x for x >= 1 only")
        if degree != 0:
            terms.append(self.multiply([self.constant(degree), {X: (0.0, 1.0)}]))
        return self.add(terms)

    def _signed(self, argument: Form) -> tuple[Form, Form]:
        """The sign s of u as a form, and s u > 0."""
        sign = _number(float(self.sign(argument)))
        return sign, self._product(sign, argument)

    def _tanh(self, argument: Form) -> Form:
        """tanh u = 1 - 2 w / (1 + w) with w = e^(-2u), for u > 0."""
        sign, u = self._signed(argument)
        w = self._exp(self._product(_number(-2.0), u))
        inverse = self.power(self.add([_number(1.0), w]), -_UNIT)
        return self._product(sign, self.add([_number(1.0), self.multiply([_number(-2.0), w, inverse])]))

    def _erf(self, argument: Form) -> Form:
        """erf u = 1 - erfc u and 0 <= erfc u <= e^(-u^2), for u > 0."""
        sign, u = self._signed(argument)
        bell = self._exp(self.multiply([_number(-1.0), u, u]))
        return self._product(sign, self.add([_number(1.0), self._product({_UNIT: (-1.0, 0.0)}, bell)]))

    def _atan(self, argument: Form) -> Form:
        """atan u = pi/2 - atan(1/u), for u > 0."""
        sign, u = self._signed(argument)
        inverse = self._mean_value(RULES["atan"], self.power(u, -_UNIT))
        return self._product(
            sign, self.add([self.constant(sympy.pi / 2), self._product(_number(-1.0), inverse)])
        )


def _number(value: float) -> Form:
    return {_UNIT: point(value)}


def _sum(pairs: Iterable[tuple[sympy.Expr, Interval]]) -> Form:
    total: Form = {}
    for monomial, coefficient in pairs:
        total[monomial] = intervals.add(total.get(monomial, ZERO), coefficient)
    return {m: c for m, c in total.items() if c != ZERO}
