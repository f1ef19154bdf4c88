"""From sympy expressions to LaTeX that TeX, KaTeX and (but for cases) matplotlib read."""

from __future__ import annotations

from collections.abc import Iterator

import sympy

from covergraph.bound.derive import Bound, Contribution
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
    """(K_g E_g)^(2/3), the classes of a node together; their sum, to the power 3/2, is C (Proposition 3)."""
    by_node: dict[str, list[str]] = {}
    for c in bound.contributions:
        by_node.setdefault(c.node, []).append(rf"\left({latex(c.weight * c.E)}\right)^{{2/3}}")
    return [" + ".join(terms) for terms in by_node.values()]


def entropy_bound(contribution: Contribution) -> tuple[str, str]:
    """The coefficient A and the argument of the logarithm of ln N(eps) <= ceil(A / eps^2) ln(count)."""
    entropy = contribution.entropy
    count = entropy.count if contribution.kind == "value" else entropy.derivative_count
    return latex(contribution.coefficient), str(count)
