"""Indexed tables inside sympy, and sums over their indices that stay unevaluated until asked.

An entry with symbolic indices is a symbol like kappabar_{w<-a}; with integer indices it becomes what the graph
says: 0, 1, 2 kappa_{5<-3}, or a `Missing` entry, whose reading is an error. `IndexedSum.doit()` enumerates the
indices from the outside in and drops a branch as soon as it is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy
from sympy.core.symbol import Str
from sympy.printing.precedence import PRECEDENCE

from covergraph.errors import MissingPairError


class Missing(sympy.Symbol):
    """The bound of a total derivative whose pair is not in P: it can be multiplied by 0, but not read."""

    def doit(self, **hints: Any) -> sympy.Expr:
        """Raises `MissingPairError`: there is no number to put here."""
        raise MissingPairError(
            f"the expression reads {self}, whose pair is not in P (an absent pair is unbounded, not 0); "
            'augment with mode="minimal" or "paper"'
        )


class Table(sympy.IndexedBase):
    """A table of expressions over integer indices.

    `latex` is a format string over the indices; `lookup(*integers)` gives an entry; `key` tells tables of
    different graphs apart, because sympy caches by equality.
    """

    lookup: Callable[..., sympy.Expr]
    latex: str

    def __new__(cls, latex: str, key: str, lookup: Callable[..., sympy.Expr]) -> Table:
        table = sympy.Expr.__new__(cls, sympy.Symbol(latex), Str(key))
        sympy.IndexedBase._set_assumptions(table, {"nonnegative": True})
        table._label = sympy.Symbol(latex)
        table._shape = table._strides = None
        table._offset = sympy.S.Zero
        table._name = latex
        table.lookup = lookup
        table.latex = latex
        return table

    def __getitem__(self, indices: Any, **kw_args: Any) -> sympy.Expr:
        return Entry(self, *(indices if isinstance(indices, tuple) else (indices,)))


class Entry(sympy.Indexed):
    """One entry of a table; resolved as soon as all indices are integers."""

    def __new__(cls, base: Table, *indices: Any) -> sympy.Expr:
        places = tuple(map(sympy.sympify, indices))
        if all(isinstance(i, sympy.Integer) for i in places):
            return base.lookup(*map(int, places))
        entry = sympy.Expr.__new__(cls, base, *places)
        sympy.IndexedBase._set_assumptions(entry, {"nonnegative": True})
        return entry

    def _latex(self, printer: Any) -> str:
        return self.base.latex.format(*(printer._print(i) for i in self.indices))

    def _sympystr(self, printer: Any) -> str:
        return self._latex(printer)


class IndexedSum(sympy.Sum):
    """A sum over integer indices; limits as in `sympy.Sum` (the last one is the outermost)."""

    precedence = PRECEDENCE["Mul"]

    def doit(self, **hints: Any) -> sympy.Expr:
        """The expanded sum of the non-zero terms. Raises `MissingPairError` if it reads a pair outside P."""
        result = sympy.Add(*_terms(self.function, tuple(reversed(self.limits))))
        for entry in sorted(result.atoms(Missing), key=str):
            entry.doit()
        return result

    def _latex(self, printer: Any) -> str:
        signs = [
            rf"\sum_{{{printer._print(i)}={printer._print(low)}}}^{{{printer._print(high)}}}"
            for i, low, high in reversed(self.limits)
        ]
        return r" \, ".join([*signs, printer.parenthesize(self.function, PRECEDENCE["Mul"], strict=True)])


def _terms(term: sympy.Expr, limits: tuple[Any, ...]) -> Iterator[sympy.Expr]:
    if term.is_zero:
        return
    if not limits:
        yield term
        return
    (index, low, high), rest = limits[0], limits[1:]
    for value in range(int(low), int(high) + 1):
        inner = tuple((i, lo.subs(index, value), hi.subs(index, value)) for i, lo, hi in rest)
        yield from _terms(term.subs(index, value), inner)
