"""Formulas for terminals: one line of Unicode a term, nothing that needs a renderer."""

from __future__ import annotations

import re

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from covergraph.bound.derive import Bound
from covergraph.bound.tables import Entry, IndexedSum
from covergraph.report.formulas import release_lipschitz_expressions, summands

WORDS = {
    r"\bar\kappa": "κ̄",
    r"\tilde\kappa": "κ̃",
    r"\bar\tau": "τ̄",
    r"\kappa": "κ",
    r"\varrho": "ϱ",
    r"\varsigma": "ς",
    r"\vartheta": "ϑ",
    r"\rho": "ρ",
    r" \leftarrow ": "←",
    "gamma": "γ",
    "delta": "δ",
}


class TerminalPrinter(StrPrinter):
    """Symbols with subscripts in brackets, sums as Σ[w=2..6]."""

    printmethod = "_no_method_of_the_expression"

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return unicode(expr.name)

    def _print_Entry(self, expr: Entry) -> str:
        return unicode(expr.base.latex.format(*(self._print(i).replace(" ", "") for i in expr.indices)))

    def _print_IndexedSum(self, expr: IndexedSum) -> str:
        signs = [
            f"Σ[{self._print(i)}={self._print(low)}..{self._print(high).replace(' ', '')}]"
            for i, low, high in reversed(expr.limits)
        ]
        return f"{' '.join(signs)} {self.parenthesize(expr.function, PRECEDENCE['Mul'], strict=True)}"

    def _print_log(self, expr: sympy.Expr) -> str:
        return f"ln({self._print(expr.args[0])})"


def unicode(name: str) -> str:
    r"""A symbol's name with Greek letters, its subscripts in brackets: \kappa_{3 \leftarrow 1} as κ[3←1]."""
    for word, letter in WORDS.items():
        name = name.replace(word, letter)
    inner = re.sub(r"_\{([^{}]*)\}", r"[\1]", name)
    return re.sub(r"_\{([^{}]*)\}", r"[\1]", inner).replace("[h[", "h[").replace("[J[", "J[").replace("]]", "]")


def text(expression: sympy.Expr) -> str:
    """An expression on one line."""
    line = str(TerminalPrinter().doprint(expression))
    return re.sub(r"sqrt\((\d+)\)", r"√\1", line).replace("sqrt", "√").replace("**", "^").replace("*", "·")


def release_lipschitz_text(bound: Bound, width: int = 96) -> str:
    """The constants of Theorem 2, a formula a paragraph, each term that does not fit on a line of its own."""
    lines = []
    for left, expression in release_lipschitz_expressions(bound):
        line = f"{text(left)} = "
        for i, term in enumerate(summands(expression)):
            piece = ("" if i == 0 else " + ") + text(term)
            if i and len(line) + len(piece) > width:
                lines.append(line)
                line = "   " + piece
            else:
                line += piece
        lines.append(line)
    return "\n".join(lines)
