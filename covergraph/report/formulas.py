"""From sympy expressions to LaTeX that TeX, KaTeX and (but for cases) matplotlib read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sympy

from covergraph.bound.derive import Bound, Contribution, Group
from covergraph.bound.tables import IndexedSum


def latex(expression: sympy.Expr) -> str:
    """An expression as LaTeX; logarithms are natural."""
    return str(sympy.latex(expression, ln_notation=True))


def summands(expression: sympy.Expr) -> list[sympy.Expr]:
    """The top-level terms of a sum: plain terms first, then sums by the number of their indices."""

    def depth(term: sympy.Expr) -> int:
        return max((len(part.limits) for part in term.atoms(IndexedSum)), default=0)

    terms = sympy.Add.make_args(expression)
    return sorted(terms, key=lambda term: (depth(term), sympy.default_sort_key(term)))


def release_lipschitz_expressions(bound: Bound) -> Iterator[tuple[sympy.Symbol, sympy.Expr]]:
    """(symbol, expression) of kappatilde_h and kappatilde_J of each covered node (Theorem 2)."""
    for contribution in bound.contributions:
        node = contribution.node
        if contribution.kind == "value":
            yield contribution.weight, bound.kappa_h[node]
        else:
            (u,) = bound.graph[node].predecessors
            yield contribution.weight, bound.kappa_J[node, u]


def equation(left: sympy.Expr, right: sympy.Expr) -> tuple[str, list[str]]:
    """A left side and the terms of the right side as LaTeX."""
    return latex(left), [latex(term) for term in summands(right)]


def covering_terms(bound: Bound) -> list[str]:
    """(K_g E_g)^(2/3), the classes of a node together; their sum, to the power 3/2, is C (Proposition 3).

    Of a group that shares parameters: the smaller one of `untied_sums` and its own term.
    """
    tied = {c.node for group in bound.groups for _, c in group.parts}
    terms = [" + ".join(cell) for node, cell in _by_node(bound.contributions).items() if node not in tied]
    minima = [
        rf"\min\left({_untied(bound, group)}, {_covering_term(group.contribution)}\right)" for group in bound.groups
    ]
    return [*terms, *minima]


def untied_sums(bound: Bound) -> list[tuple[str, list[str]]]:
    """Per group that shares parameters: a name, and the terms of its nodes when they are covered one by one."""
    return [
        (_untied(bound, group), [" + ".join(cell) for cell in _by_node(c for _, c in group.parts).values()])
        for group in bound.groups
    ]


def _by_node(contributions: Iterable[Contribution]) -> dict[str, list[str]]:
    terms: dict[str, list[str]] = {}
    for c in contributions:
        terms.setdefault(c.node, []).append(_covering_term(c))
    return terms


def _covering_term(c: Contribution) -> str:
    return rf"\left({latex(c.weight * c.E)}\right)^{{2/3}}"


def _untied(bound: Bound, group: Group) -> str:
    return f"U_{{{bound.symbols.place(group.nodes[0])}}}"


def entropy_bound(contribution: Contribution) -> tuple[str, str]:
    """The coefficient A and the argument of the logarithm of ln N(eps) <= ceil(A / eps^2) ln(count)."""
    entropy = contribution.entropy
    count = entropy.derivative_count if contribution.kind == "derivative" else entropy.count
    return latex(contribution.coefficient), str(count)
