"""Pieces of LaTeX: escaped names, tables, aligned formulas. Nothing beyond amsmath and longtable."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "—": "---",
    "–": "--",
    "φ": r"$\varphi$",
    "∞": r"$\infty$",
}
LINE = 80
"""Tokens of a formula that fit on a line of 16 cm (see `tokens`)."""
ROWS_SHOWN = 120
"""A table with more rows is cut off."""


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; characters outside ASCII that have no command become "?"."""
    return "".join(_SPECIAL.get(c, c if " " <= c <= "~" else "?") for c in text)


def code(name: str) -> str:
    """A node name in typewriter type that may break after dots and underscores."""
    text = escape(name).replace(".", r".\allowbreak{}").replace(r"\_", r"\_\allowbreak{}")
    return rf"\texttt{{{text}}}"


def listed(items: Sequence[str], shown: int) -> str:
    """The items in a row, of many the first ones and the number of the others."""
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and ${rest}$ more" if rest > 0 else "")


def long_table(columns: str, header: Sequence[str], rows: Sequence[Sequence[str]], shown: int = ROWS_SHOWN) -> str:
    """A table, of many rows the first ones and the number of the others."""
    rest = len(rows) - shown
    return paragraphs(table(columns, header, rows[:shown]), rf"$\ldots$ and ${rest}$ more rows." if rest > 0 else "")


def table(columns: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that may break across pages, its header on each (package longtable)."""
    strut = r"\rule{0pt}{2.4ex}"
    head = " & ".join(rf"\textit{{{cell}}}" if cell else "" for cell in header)
    lines = [
        rf"{{\small\begin{{longtable}}{{{columns}}}",
        r"\hline",
        rf"{strut}{head} \\ \hline \endhead",
        r"\hline \endfoot",
        *((strut if i == 0 else "") + " & ".join(row) + r" \\" for i, row in enumerate(rows)),
        r"\end{longtable}}",
    ]
    return "\n".join(lines)


def aligned(*formulas: tuple[str, Sequence[str]], line: int = LINE) -> str:
    r"""Formulas (left side, terms) below each other, long ones broken before a plus sign (amsmath)."""
    rows = []
    for left, terms in formulas:
        first, *rest = packed(terms, line)
        rows += [rf"{left} = {{}}& {first}", *(rf"&\quad {{}}+ {more}" for more in rest)]
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def shortened(terms: Sequence[str], shown: int) -> list[str]:
    """The terms of a sum, of many the first ones and dots."""
    return [*terms[:shown], *([r"\cdots"] if len(terms) > shown else [])]


def packed(terms: Sequence[str], line: int = LINE) -> list[str]:
    """Terms of a sum joined to as few lines as fit."""
    lines: list[str] = []
    for term in terms:
        if lines and tokens(lines[-1]) + tokens(term) + 3 <= line:
            lines[-1] += f" + {term}"
        else:
            lines.append(term)
    return lines


def tokens(formula: str) -> int:
    """About how many characters wide a formula is: commands count as one, braces and blanks as none."""
    plain = re.sub(r"\\(left|right|bar|tilde|hat|frac|text|mathrm|mathbf)(?![a-zA-Z])", "", formula)
    return len(re.sub(r"[{}_^\s]", "", re.sub(r"\\[a-zA-Z]+", "x", plain.replace(r"\sqrt", "xx"))))


def display(formula: str) -> str:
    r"""A displayed formula on one line."""
    return f"\\[\n{formula}\n\\]"


def paragraphs(*parts: str) -> str:
    """Parts set apart by empty lines; empty parts are left out."""
    return "\n\n".join(part for part in parts if part)
