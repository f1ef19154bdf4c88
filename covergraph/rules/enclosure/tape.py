"""A sympy expression in one symbol as a list of steps that any arithmetic can carry out.

`Boxes` is the arithmetic of intervals; `covergraph.rules.enclosure.tails.Ray` is the one on rays [L, oo).
Both raise `UndefinedError` unless every step is analytic on their set, so a tape that runs proves that its
expressions are analytic there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Generic, Protocol, TypeVar

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.rules.enclosure import intervals
from covergraph.rules.enclosure.functions import RULES, power
from covergraph.rules.enclosure.intervals import Interval

V = TypeVar("V")


class Arithmetic(Protocol[V]):
    """Sums, products, rational powers and the functions of `functions.RULES` on sets of values."""

    def constant(self, number: sympy.Expr) -> V: ...

    def add(self, terms: Sequence[V]) -> V: ...

    def multiply(self, factors: Sequence[V]) -> V: ...

    def power(self, base: V, exponent: sympy.Rational) -> V: ...

    def apply(self, name: str, argument: V) -> V: ...


class Boxes:
    """Intervals as an arithmetic."""

    def constant(self, number: sympy.Expr) -> Interval:
        return intervals.constant(number)

    def add(self, terms: Sequence[Interval]) -> Interval:
        return reduce(intervals.add, terms)

    def multiply(self, factors: Sequence[Interval]) -> Interval:
        return reduce(intervals.multiply, factors)

    def power(self, base: Interval, exponent: sympy.Rational) -> Interval:
        return power(base, exponent)

    def apply(self, name: str, argument: Interval) -> Interval:
        return RULES[name].value(argument)


@dataclass(frozen=True)
class Step:
    """The operation `kind` on the values at `operands`; `payload` is a number or the name of a function."""

    kind: str
    payload: sympy.Expr | str | None
    operands: tuple[int, ...]


class Tape(Generic[V]):
    """The steps of several expressions with shared subexpressions."""

    def __init__(self, expressions: Sequence[sympy.Expr], symbol: sympy.Symbol) -> None:
        self._symbol = symbol
        self._steps: list[Step] = []
        self._index: dict[sympy.Expr, int] = {}
        self._outputs = [self._compile(e) for e in expressions]
        self._constants: dict[type, list[V | None]] = {}

    def run(self, arithmetic: Arithmetic[V], variable: V) -> list[V]:
        """The values of the expressions; raises `UndefinedError`."""
        constants = self._constants_of(arithmetic)
        values: list[V] = []
        for step, known in zip(self._steps, constants, strict=True):
            values.append(known if known is not None else _carry_out(step, values, arithmetic, variable))
        return [values[i] for i in self._outputs]

    def _constants_of(self, arithmetic: Arithmetic[V]) -> list[V | None]:
        """The constants are converted once for each type of arithmetic."""
        kind = type(arithmetic)
        if kind not in self._constants:
            self._constants[kind] = [
                arithmetic.constant(step.payload) if step.kind == "constant" else None for step in self._steps
            ]
        return self._constants[kind]

    def _compile(self, expression: sympy.Expr) -> int:
        if expression not in self._index:
            step = self._step(expression)
            self._steps.append(step)
            self._index[expression] = len(self._steps) - 1
        return self._index[expression]

    def _step(self, e: sympy.Expr) -> Step:
        if e == self._symbol:
            return Step("variable", None, ())
        if not e.free_symbols:
            return Step("constant", e, ())
        if isinstance(e, (sympy.Add, sympy.Mul)):
            kind = "add" if isinstance(e, sympy.Add) else "multiply"
            return Step(kind, None, tuple(self._compile(a) for a in e.args))
        name = type(e).__name__
        if name in RULES:
            return Step("apply", name, (self._compile(e.args[0]),))
        if isinstance(e, sympy.Pow):
            if e.exp.is_Rational:
                return Step("power", e.exp, (self._compile(e.base),))
            return Step("apply", "exp", (self._compile(e.exp * sympy.log(e.base)),))
        raise UnsupportedOperationError(
            f"the function {name!r} has no rule; {', '.join(RULES)}, sums, products, rational powers "
            "and what sympy rewrites into these have one"
        )


def _carry_out(step: Step, values: Sequence[V], arithmetic: Arithmetic[V], variable: V) -> V:
    operands = [values[i] for i in step.operands]
    if step.kind == "variable":
        return variable
    if step.kind == "add":
        return arithmetic.add(operands)
    if step.kind == "multiply":
        return arithmetic.multiply(operands)
    if step.kind == "power":
        return arithmetic.power(operands[0], step.payload)
    return arithmetic.apply(str(step.payload), operands[0])
