"""How large can a value be whatever the weights are? A-priori bounds of ||h_v|| (Lemma 18)."""

from __future__ import annotations

from functools import singledispatch

import sympy

from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.rounding import CONSTANT


@singledispatch
def norm_bound(operation: op.Operation, node: Node) -> sympy.Expr | None:
    """A bound of the norm of every value of the node, None if there is no such bound."""
    return None


@norm_bound.register
def _(operation: op.Normalize, node: Node) -> sympy.Expr:
    """Each group of d entries is sqrt(d) times a vector of norm below 1."""
    return sympy.sqrt(node.size)


@norm_bound.register
def _(operation: op.Softmax, node: Node) -> sympy.Expr | None:
    """Each distribution has a norm of at most 1."""
    return None if operation.log else sympy.sqrt(node.size // node.shape[operation.axis])


def upper(value: sympy.Expr) -> float:
    """A double that is not below an exact positive expression."""
    return float(sympy.N(value, 30)) * CONSTANT
