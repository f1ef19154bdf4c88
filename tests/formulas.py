"""Formulas inside LaTeX text, and who can read them: matplotlib's mathtext always, KaTeX and TeX where installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

from matplotlib.mathtext import MathTextParser

_MATH = re.compile(
    r"\\\[(?P<display>.*?)\\\]|(?P<rows>\\begin\{align\*\}.*?\\end\{align\*\})|(?<!\\)\$(?P<inline>.+?)(?<!\\)\$", re.S
)
_PARSER = MathTextParser("path")
_KATEX = """
const katex = require('katex');
const formulas = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const bad = formulas.flatMap(f => { try {
  katex.renderToString(f, {displayMode: true, throwOnError: true, strict: 'error'}); return [];
} catch (e) { return [f + ': ' + e.message]; } });
console.log(JSON.stringify(bad));
"""


def formulas_in(text: str) -> list[str]:
    """Every formula of a LaTeX text once, `align*` as a whole."""
    found = [next(part for part in match.groups() if part is not None).strip() for match in _MATH.finditer(text)]
    return list(dict.fromkeys(found))


def lines_of(formula: str) -> list[str]:
    """A formula's lines without alignment and \\displaystyle, which mathtext does not know."""
    inner = re.sub(r"\\(begin|end)\{(align\*|aligned)\}|\\displaystyle", "", formula)
    return [line.strip() for line in re.sub(r"(?<!\\)&", "", inner).split(r"\\") if line.strip()]


def mathtext_error(formula: str) -> str:
    """What mathtext says against a formula; empty if it can read it."""
    try:
        _PARSER.parse(f"${formula}$")
    except ValueError as error:
        return f"{formula}: {error}"
    return ""


def has_katex() -> bool:
    """Whether node finds katex (NODE_PATH says where)."""
    node = shutil.which("node")
    command = [node or "", "-e", "require.resolve('katex')"]
    return node is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def katex_errors(formulas: list[str]) -> list[str]:
    """What KaTeX says against formulas."""
    command = ["node", "-e", _KATEX]
    done = subprocess.run(command, input=json.dumps(formulas), capture_output=True, text=True, check=True)
    errors: list[str] = json.loads(done.stdout)
    return errors
