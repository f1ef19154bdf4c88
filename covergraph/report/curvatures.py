"""taubar of the nodes that are not affine, with the lemma behind each, in LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sympy

from covergraph.bound.derive import Bound
from covergraph.graph import operations as op
from covergraph.graph.calls import call_rule
from covergraph.graph.description import settings
from covergraph.graph.node import Node
from covergraph.report.formulas import latex
from covergraph.report.numbers import tex
from covergraph.report.tex import escape, listed, long_table, paragraphs
from covergraph.rules.norms import upper
from covergraph.rules.placeholders import RHO, slot_of
from covergraph.rules.profiles import profile
from covergraph.rules.requirements import NodeRules
from covergraph.rules.smoothness import curvature

POSITIONS_SHOWN = 24
LONGEST_FRACTION = 10**6
"""A rational number with a larger denominator is an enclosure, not a closed form."""


@dataclass(frozen=True)
class Row:
    """What the nodes of equal operation and rule have in common; `values` are cells, `levels` if they hold symbols."""

    operation: str
    values: str
    kind: str
    reason: str
    levels: bool


def curved_nodes(bound: Bound) -> str:
    """taubar of the non-linear nodes and where it comes from; nodes of equal rules share a row."""
    rows: dict[Row, list[str]] = {}
    for name, rule in bound.augmented.rules.items():
        node = bound.graph[name]
        if rule.taubar or rule.condition is not None:
            rows.setdefault(_row(node, rule), []).append(f"${bound.symbols.place(name)}$")
    if not rows:
        return r"All nodes are affine: $\bar\tau = 0$."
    numbers = [_cells(row, places) for row, places in rows.items() if not row.levels]
    symbolic = [_cells(row, places) for row, places in rows.items() if row.levels]
    header = ("operation", "positions", r"$\bar\tau$", "kind", "why")
    return paragraphs(
        r"Where nothing has collapsed, $\|\Delta J_{x,u}\|_{\mathrm{op}} \leq "
        r"\sum_{u'} \bar\tau_{x;u,u'} \|\Delta h_{u'}\|$. For an element-wise function, $\bar\tau = \sup |\varphi''|$. "
        r"All other nodes are affine: $\bar\tau = 0$.",
        long_table("lp{0.12\\linewidth}llp{0.38\\linewidth}", header, numbers) if numbers else "",
        _with_levels(symbolic) if symbolic else "",
    )


def _with_levels(cells: list[tuple[str, ...]]) -> str:
    header = ("operation", "positions", r"$\bar\tau$", "why")
    return paragraphs(
        r"Some constants depend on levels: $\rho_x$ is that of the node's own condition, and $\bar s_j$ bounds the "
        r"norm of the value $h_u$ in its slot $j$: $2 s_u$, or the largest that it can be (Lemma 18), or the largest "
        "on the sample of a function of the data alone.",
        long_table(
            r"p{0.16\linewidth}p{0.11\linewidth}lp{0.2\linewidth}", header, [(*row[:3], row[4]) for row in cells]
        ),
    )


def _cells(row: Row, places: list[str]) -> tuple[str, ...]:
    return row.operation, listed(places, POSITIONS_SHOWN), row.values, row.kind, row.reason


def _row(node: Node, rule: NodeRules) -> Row:
    operation = node.operation
    smooth = rule.condition is None
    if isinstance(operation, op.Elementwise):
        shown = rf"\rule[-2ex]{{0pt}}{{5ex}}$\displaystyle {latex(operation.function.expression)}$"
        if smooth and not _has_levels(rule):
            found = curvature(operation)
            value = latex(found.value) if found.kind == "exact" else tex(found.upper(), 8, "up")
            return Row(shown, f"${value}$", found.kind, f"Lemma 5: {escape(found.argument)}", False)
        straight = "affine between the points of its condition"
        reason = f"Lemma 12: {escape(profile(operation.function.expression).argument) if rule.taubar else straight}"
    else:
        shown = escape(operation.label)
        if isinstance(operation, op.Normalize):
            shown += f" ({escape(settings(operation))})"
        reason = escape(_reason(operation, node))
    kind = "exact" if all(_closed(value) for value in rule.taubar.values()) else "certified"
    return Row(shown, "; ".join(_values(node, rule.taubar)), kind, reason, _has_levels(rule))


def _has_levels(rule: NodeRules) -> bool:
    return any(value.free_symbols for value in rule.taubar.values())


def _closed(value: sympy.Expr) -> bool:
    return not value.has(sympy.Float) and all(r.q <= LONGEST_FRACTION for r in value.atoms(sympy.Rational))


def _values(node: Node, taubar: Mapping[tuple[str, str], sympy.Expr]) -> Iterator[str]:
    """The value that all pairs of slots have, or the values with their pairs."""
    by_value: dict[sympy.Expr, list[str]] = {}
    for (u, v), value in taubar.items():
        by_value.setdefault(value, []).append(rf"\bar\tau_{{{node.inputs.index(u)},{node.inputs.index(v)}}}")
    if len(by_value) <= 1:
        value = next(iter(by_value), sympy.Integer(0))
        style = r"\displaystyle " if value.free_symbols else ""
        yield f"${style}{_number(value)}$"
    else:
        for value, pairs in by_value.items():
            yield rf"$\displaystyle {' = '.join([*pairs, _number(value)])}$"


def _number(value: sympy.Expr) -> str:
    """A closed form, an upper end of an enclosed number, or a formula of levels."""
    if not value.free_symbols:
        return latex(value) if _closed(value) else tex(upper(value), 8, "up")
    names = {s: sympy.Symbol(rf"\bar s_{{{slot}}}") for s in value.free_symbols if (slot := slot_of(s)) is not None}
    formula = latex(value.xreplace(names | {RHO: sympy.Symbol(r"\rho_{x}")}))
    return formula.split(r"_{\varphi(t) =")[0]  # the function stands in another column


def _reason(operation: op.Operation, node: Node) -> str:
    """The lemma behind an operation's rule; the numbers are those of docs/mathematics.md."""
    both = " (both filled by one node: Lemma 8)" if len(node.predecessors) < len(node.inputs) else ""
    match operation:
        case op.Product() | op.MatrixProduct():
            return f"Lemma 6, across the two slots{both}"
        case op.MaxPool() | op.Maximum():
            return "Lemma 13: linear while no maximum changes its place"
        case op.ParametricReLU():
            return "Lemmas 11 and 12: linear while no entry changes its sign"
        case op.Softmax():
            return f"Lemma 14{both}"
        case op.Normalize() | op.VectorNorm():
            return "Lemma 15"
        case op.Divide():
            return f"Lemma 16{both}"
        case op.Call():
            return f"{call_rule(operation).source or 'the word of the user who registered it'}{both}"
        case _:
            return f"the rule of {operation.label}{both}"
