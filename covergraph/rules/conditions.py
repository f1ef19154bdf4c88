"""Where is an operation smooth? A condition q_c >= rho_c keeps it away from kinks, jumps and poles (Lemma 10).

q_c is a Lipschitz function of the values in the slots: |Delta q_c| <= sum over slots i of slopes[i] ||Delta h_i||. What
it is on a batch says `covergraph.graph.condition_rules.condition_value`. Where nothing has collapsed q_c > rho_c / 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import sympy

from covergraph.graph import operations as op
from covergraph.graph.calls import call_rule
from covergraph.graph.node import Node
from covergraph.rules.calls import call_slopes
from covergraph.rules.profiles import profile


@dataclass(frozen=True)
class Condition:
    """The Lipschitz constants of q_c by slot, what q_c is in words, and the same as a formula in LaTeX.

    In the formula h_j is the value in slot j and i runs over its entries, windows or groups.
    """

    slopes: Mapping[int, sympy.Expr]
    text: str
    latex: str


@singledispatch
def condition(operation: op.Operation, node: Node) -> Condition | None:
    """The condition of an operation, None if it is smooth everywhere."""
    return None


@condition.register
def _(operation: op.Elementwise, node: Node) -> Condition | None:
    """The distance to a set is 1-Lipschitz (Lemma 12)."""
    if operation.function.is_affine:
        return None
    points = profile(operation.function.expression).points
    return _entries(0, points) if points else None


@condition.register
def _(operation: op.ParametricReLU, node: Node) -> Condition:
    return _entries(0, (sympy.Integer(0),))


@condition.register
def _(operation: op.Divide, node: Node) -> Condition:
    return _entries(1, (sympy.Integer(0),))


def _entries(slot: int, points: Sequence[sympy.Expr]) -> Condition:
    """The smallest distance of an entry in a slot to some points."""
    where = ", ".join(map(str, points))
    of = "the entries" if slot == 0 else "the divisor's entries"
    entry = f"h_{{{slot},i}}"
    target = rf"\{{{', '.join(map(sympy.latex, points))}\}}"
    formula = rf"\min_i |{entry}|" if tuple(points) == (0,) else rf"\min_i \mathrm{{dist}}({entry}, {target})"
    return Condition({slot: sympy.Integer(1)}, f"distance of {of} to {where}", formula)


@condition.register
def _(operation: op.MaxPool, node: Node) -> Condition | None:
    """The two largest entries M >= M_2 of each window; a difference of two entries is sqrt(2)-Lipschitz (Lemma 13)."""
    if set(operation.kernel) <= {1}:
        return _entries(0, (sympy.Integer(0),)) if operation.rectify else None
    if not operation.rectify:
        return _gap("windows")
    text = "distance of the windows to a change of the rectified maximum"
    return Condition({0: sympy.sqrt(2)}, text, r"\min_i \max(-M_i, \min(M_i, M_i - M_{2,i}))")


@condition.register
def _(operation: op.Maximum, node: Node) -> Condition | None:
    return _gap("groups") if operation.axes else None


def _gap(of: str) -> Condition:
    return Condition({0: sympy.sqrt(2)}, f"gap of the two largest entries of the {of}", r"\min_i (M_i - M_{2,i})")


@condition.register
def _(operation: op.Normalize, node: Node) -> Condition:
    """r_i = sqrt(|c_i|^2 / d + eps), c_i the (centered) group of d entries (Lemma 15)."""
    inside = r"\mathrm{var}_i" if operation.center else r"\mathrm{mean}_i h_0^2"
    text = f"{'standard deviation' if operation.center else 'root mean square'} of the groups"
    return Condition({0: 1 / sympy.sqrt(operation.group)}, text, rf"\min_i \sqrt{{{inside} + \varepsilon}}")


@condition.register
def _(operation: op.VectorNorm, node: Node) -> Condition:
    return Condition({0: sympy.Integer(1)}, "norm of the vectors", r"\min_i \|h_{0,i}\|")


@condition.register
def _(operation: op.Call, node: Node) -> Condition | None:
    """What the registry says (Lemma 20)."""
    rule = call_rule(operation)
    latex = rule.latex or rf"\text{{{rule.text}}}"
    return Condition(call_slopes(operation), rule.text, latex) if rule.slopes else None
