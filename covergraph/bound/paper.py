"""The papers' own expressions beside the certificate: hidden constants 1, no claim of validity.

Off their domain they are not evaluated; the reason is given instead. Their values are in `paper_values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy

from covergraph.bound.symbols import DELTA, N
from covergraph.bound.tables import IndexedSum, Table
from covergraph.errors import ParameterError, UnsupportedOperationError
from covergraph.graph.losses import GAMMA
from covergraph.graph.node import Node
from covergraph.graph.operations import Elementwise, Linear
from covergraph.rules.suprema import supremum
from covergraph.values import Pair

if TYPE_CHECKING:
    from covergraph.bound.derive import Bound


@dataclass(frozen=True)
class PaperExpression:
    """One expression of Wei and Ma (2019): name, formula with its definitions, the pairs that it reads.

    `reason` says why it does not apply to this graph; it is empty where it does.
    """

    name: str
    formula: sympy.Expr
    definitions: tuple[tuple[sympy.Expr, sympy.Expr], ...]
    pairs: tuple[Pair, ...]
    reason: str


@dataclass(frozen=True)
class PaperValue:
    """A paper's expression with its value, or None and the reason."""

    expression: PaperExpression
    value: float | None
    note: str


def _symbolic_only(*places: int) -> sympy.Expr:
    raise ParameterError(f"paper: the formula is for reading; sigma at {places} is in the measurements")


i, j, j1, m, i1, r = sympy.symbols("i j j' m i' r", integer=True, positive=True)
_t, _a, _b, _s = (sympy.IndexedBase(name) for name in ("t", "a", "b", "s"))
_eps, _covers = sympy.IndexedBase(r"\epsilon"), sympy.Function(r"\log\mathcal{N}")
_F, _DF = sympy.IndexedBase(r"\mathcal{F}"), sympy.IndexedBase(r"D\mathcal{F}")
_sigma = Table(r"\sigma_{{{0} \leftarrow {1}}}", "paper", _symbolic_only)
_hidden, _jacobian = (sympy.IndexedBase(rf"\kappa^{{\mathrm{{{name}}}}}") for name in ("hid", "jac"))
_release = sympy.IndexedBase(r"\tilde\kappa")
_curve, _big_sigma, _big_t = sympy.symbols(r"\bar\sigma_\phi sigma t", positive=True)
_norm21 = Table(r"\|W_{{{0}}}^\top\|_{{2,1}}", "paper", _symbolic_only)
_norm11 = Table(r"\|W_{{{0}}}\|_{{1,1}}", "paper", _symbolic_only)
_THIRD, _CUBE = sympy.Rational(2, 3), sympy.Rational(3, 2)
_tail = sympy.sqrt(sympy.log(1 / DELTA) / N)

_JACOBIAN = IndexedSum(
    _sigma[j1, 2 * i] * _sigma[2 * i - 2, j] / _sigma[j1, j], (j1, 2 * i - 1, 2 * r - 1), (j, 1, 2 * i - 1)
)
_HIDDEN = (
    _sigma[2 * r - 1, 2 * i] / GAMMA
    + IndexedSum(_sigma[2 * i1, 2 * i] / _t[i1], (i1, i, r - 1))
    + IndexedSum(
        _curve * _sigma[j1, 2 * m + 1] * _sigma[2 * m - 1, 2 * i] * _sigma[2 * m - 1, j] / _sigma[j1, j],
        (m, sympy.Max(i, sympy.ceiling(j / 2)), sympy.floor(j1 / 2)),
        (j1, j, 2 * r - 1),
        (j, 1, 2 * r - 1),
    )
)
_rho = sympy.IndexedBase(r"\rho")
_HIDDEN_RELU = (
    _sigma[2 * r - 1, 2 * i] / GAMMA
    + IndexedSum(_sigma[2 * i1, 2 * i] / _t[i1], (i1, i, r - 1))
    + IndexedSum(_sigma[2 * i1 - 1, 2 * i] / _rho[i1], (i1, i, r - 1))
)
_THEOREM_51 = (
    IndexedSum((_hidden[i] * _a[i] * _t[i - 1]) ** _THIRD + (_jacobian[i] * _b[i]) ** _THIRD, (i, 1, r)) ** _CUBE
    / sympy.sqrt(N)
    + r * _tail
)
_THEOREM_11 = (
    (_big_sigma / GAMMA + r**3 * _big_sigma**2) * _big_t * (1 + IndexedSum(_norm21[i] ** _THIRD, (i, 1, r))) ** _CUBE
    + r**2 * _big_sigma * (1 + IndexedSum(_norm11[i] ** _THIRD, (i, 1, r))) ** _CUBE
) / sympy.sqrt(N) + r * _tail
_EQUATION_4 = IndexedSum(_release[i] ** _THIRD * _s[i - 1] ** _THIRD, (i, 1, r)) ** _CUBE / sympy.sqrt(N) + _tail
_LEMMA_41 = IndexedSum(_covers(_eps[i], _F[i], _s[i - 1]), (i, 1, r))
_THEOREM_42 = _LEMMA_41 + IndexedSum(_covers(_eps[i], _DF[i], _s[i - 1]), (i, 1, r))
_h = Table(r"\|h_{{{0}}}\|", "paper", _symbolic_only)
_J = Table(r"\|J_{{{0}}}\|", "paper", _symbolic_only)
_FIGURE_1 = IndexedSum(_h[i] * _J[i], (i, 1, r - 1)) / GAMMA


def layers_of(bound: Bound) -> tuple[tuple[str, ...], str]:
    """Names of (input, W_1, phi, W_2, ..., W_r) if the graph is F = W_r phi(... phi(W_1 x)), else a reason."""
    graph = bound.graph
    free = [node for node in graph.nodes if node.name not in graph.data_only]
    if not graph.sequential:
        return (), "the graph is not sequential"
    start = free[0].inputs[0]
    for place, node in enumerate(free):
        reason = _misfit(node, place)
        if reason:
            return (), reason
    if len(free) % 2 == 0:
        return (), f"the last layer {free[-1].name!r} is an activation, not a matrix"
    if len({node.operation for node in free[1::2]}) > 1:
        return (), "the activations differ"
    return (start, *(node.name for node in free)), ""


def _misfit(node: Node, place: int) -> str:
    operation = node.operation
    if place % 2 == 0:
        if not isinstance(operation, Linear):
            return f"{node.name!r} ({operation.label}) stands where a matrix is expected"
        if operation.bias:
            return f"{node.name!r} has a bias"
        if not node.learned:
            return f"{node.name!r} has a constant weight"
        return f"{node.name!r} acts per position" if len(node.shape) > 1 else ""
    if not isinstance(operation, Elementwise) or operation.function.is_affine:
        return f"{node.name!r} ({operation.label}) stands where an activation is expected"
    try:
        slope = supremum(operation.function.expression, 1).upper()
    except UnsupportedOperationError:
        return f"{operation.label} is not Lipschitz"
    return "" if slope <= 1 + 1e-9 else f"{operation.label} is not 1-Lipschitz (its constant is {slope:.4g})"


def paper_expressions(bound: Bound) -> tuple[PaperExpression, ...]:
    """Lemma 4.1, Theorems 4.2 and 4.3, eq. (4), Theorems 5.1 and 1.1, Section H for ReLU, and the sum of Fig. 1.

    Section H is the sketch for ReLU networks: conditions on the pre-activations, at levels rho_i, in place of the
    curvature of phi. Section G, for recurrent networks, is Theorem 1' and part of the certificate.
    """
    layers, reason = layers_of(bound)
    smooth, kinked = _by_activation(bound, layers, reason)
    sequential = "" if bound.graph.sequential else "the graph is not sequential"
    if not sequential and any(node.kind != "float" for node in bound.graph.nodes):
        sequential = "some values are not real"
    every = tuple((layers[w], layers[a]) for w in range(1, len(layers)) for a in range(w))
    outputs = tuple((layers[-1], a) for a in layers[2:-1:2])
    definitions = ((_hidden[i], _HIDDEN), (_jacobian[i], _JACOBIAN))
    relu = ((_hidden[i], _HIDDEN_RELU), (_jacobian[i], _JACOBIAN))
    return (
        PaperExpression("Lemma 4.1", _LEMMA_41, (), (), sequential),
        PaperExpression("Theorem 4.2", _THEOREM_42, (), (), sequential),
        PaperExpression("Theorem 4.3 (eq. 5)", _THEOREM_42, (), (), sequential),
        PaperExpression("eq. (4)", _EQUATION_4, (), (), sequential),
        PaperExpression("Theorem 5.1", _THEOREM_51, definitions, every, smooth),
        PaperExpression("Theorem 1.1", _THEOREM_11, (), every, smooth),
        PaperExpression("Section H", _THEOREM_51, relu, every, kinked),
        PaperExpression("Fig. 1", _FIGURE_1, (), outputs, reason),
    )


def _by_activation(bound: Bound, layers: tuple[str, ...], reason: str) -> tuple[str, str]:
    """Why the expressions for smooth activations, and those for piecewise linear ones, do not apply."""
    if reason or len(layers) < 3:
        return reason, reason or "there is no activation"
    rule = bound.augmented.rules[layers[2]]
    label = bound.graph[layers[2]].operation.label
    if rule.condition is None:
        return "", f"{label} is smooth; Theorem 5.1 applies"
    return f"{label} has kinks; Section H applies", f"{label} is not piecewise linear" if rule.taubar else ""
