"""How fast does an operation's derivative change? tau-bar per pair of argument slots (Lemmas 5-8, 11-16).

Where nothing has collapsed, ||Delta J_{x,u}||_op <= sum over u' of taubar_{x;u,u'} ||Delta h_{u'}||; the rule of
an operation gives taubar per pair of slots (i, j), and `smoothness` sums over the slots that u and u' fill. A rule may
hold the placeholders of `covergraph.rules.placeholders`: norms of slots, and the level RHO of the node's condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from itertools import product

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.functions import exact
from covergraph.graph.node import Node
from covergraph.rules.calls import call_smoothness, check_fixed
from covergraph.rules.placeholders import RHO, radius
from covergraph.rules.profiles import profile
from covergraph.rules.suprema import Supremum, supremum

Slots = Mapping[tuple[int, int], sympy.Expr]


@singledispatch
def slot_smoothness(operation: op.Operation, node: Node) -> Slots:
    """taubar_{ij} > 0 of slot i's Jacobian in slot j's value; pairs that are absent have taubar = 0."""
    raise UnsupportedOperationError(
        f"rules: no derivative-Lipschitz rule for {operation.label!r}; docs/adding_an_op.md says how to add one"
    )


@slot_smoothness.register(op.Attention)
@slot_smoothness.register(op.Recurrent)
def _(operation: op.Operation, node: Node) -> Slots:
    raise UnsupportedOperationError(
        f"rules: {operation.label!r} is a layer, which `augment` writes out in operations that have rules; apply "
        "covergraph.passes.lower first"
    )


@slot_smoothness.register
def _(operation: op.Call, node: Node) -> Slots:
    """What the registry says (Lemma 20)."""
    return call_smoothness(operation)


@slot_smoothness.register(op.Input)
@slot_smoothness.register(op.Linear)
@slot_smoothness.register(op.Convolution)
@slot_smoothness.register(op.TransposedConvolution)
@slot_smoothness.register(op.Affine)
@slot_smoothness.register(op.Embedding)
@slot_smoothness.register(op.Parameter)
@slot_smoothness.register(op.Constant)
@slot_smoothness.register(op.Add)
@slot_smoothness.register(op.Subtract)
@slot_smoothness.register(op.Concatenate)
@slot_smoothness.register(op.Reshape)
@slot_smoothness.register(op.AveragePool)
@slot_smoothness.register(op.Rearrange)
@slot_smoothness.register(op.Sum)
@slot_smoothness.register(op.AxisMap)
def _(operation: op.Operation, node: Node) -> Slots:
    """Affine in its slots (Lemma 7)."""
    return {}


@slot_smoothness.register(op.ParametricReLU)
@slot_smoothness.register(op.MaxPool)
@slot_smoothness.register(op.Maximum)
def _(operation: op.Operation, node: Node) -> Slots:
    """Linear as long as no entry changes its sign and no maximum its place, which the condition says (Lemma 13)."""
    return {}


@slot_smoothness.register
def _(operation: op.Elementwise, node: Node) -> Slots:
    """sup |phi''| off the kinks, where the condition keeps the entries (Lemmas 5 and 12)."""
    if operation.function.is_affine:
        return {}
    try:
        value = profile(operation.function.expression).curvature
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"activation {operation.function.name!r}: {error}") from None
    return {} if value == 0 else {(0, 0): value}


@slot_smoothness.register(op.Product)
@slot_smoothness.register(op.MatrixProduct)
def _(operation: op.Operation, node: Node) -> Slots:
    """Each slot's Jacobian is linear in the other slot, of norm at most 1 (Lemma 6)."""
    return {(0, 1): sympy.Integer(1), (1, 0): sympy.Integer(1)}


@slot_smoothness.register
def _(operation: op.Divide, node: Node) -> Slots:
    """1/b^2, 1/b^2 and 2|a|/|b|^3 where |b| > rho/2 and |a| <= radius (Lemma 16)."""
    across = 4 / RHO**2
    return {(0, 1): across, (1, 0): across, (1, 1): 16 * radius(0) / RHO**3}


@slot_smoothness.register
def _(operation: op.Softmax, node: Node) -> Slots:
    """The second derivative is a third joint central moment; the logarithm's is -1 (grad softmax) (Lemma 14)."""
    value = sympy.sqrt(2) / (3 * sympy.sqrt(3))
    if operation.log:
        value = sympy.sqrt(node.shape[operation.axis]) / 2
    slots = range(len(node.inputs))  # a second slot is added to the first one
    return dict.fromkeys(product(slots, slots), value)


@slot_smoothness.register
def _(operation: op.Normalize, node: Node) -> Slots:
    """The smaller of the suprema for all r >= sqrt(eps) and for the r > rho/2 of the condition (Lemma 15)."""
    root, eps = sympy.sqrt(operation.group), exact(operation.eps)
    beyond = sympy.Max(sympy.sqrt(eps), RHO / 2) if eps > 0 else RHO / 2
    local = 2 / (sympy.sqrt(3) * root * beyond**2)
    if eps == 0:
        return {(0, 0): local}
    return {(0, 0): sympy.Min(sympy.Rational(48, 25) / (sympy.sqrt(5) * root * eps), local)}


@slot_smoothness.register
def _(operation: op.VectorNorm, node: Node) -> Slots:
    """The gradient is the unit vector, whose rate is 1/norm (Lemma 15)."""
    return {(0, 0): 2 / RHO}


def curvature(operation: op.Elementwise) -> Supremum:
    """sup |phi''| on the line with the argument for it (Lemma 5); raises `UnsupportedOperationError` if not finite."""
    try:
        return supremum(operation.function.expression, 2)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"activation {operation.function.name!r}: {error}") from None


def smoothness(node: Node, fixed: frozenset[str] = frozenset()) -> Mapping[tuple[str, str], sympy.Expr]:
    """taubar_{x;u,u'} > 0 for x = node, by the pair (u, u') of predecessors, summed over slots (Lemma 8).

    The values of the nodes in `fixed` never vary: pairs with such a u' are left out.
    """
    total: dict[tuple[str, str], sympy.Expr] = {}
    try:
        slots = slot_smoothness(node.operation, node)
        check_fixed(node, fixed)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"node {node.name!r} ({node.origin or 'top level'}): {error}") from None
    for (i, j), value in slots.items():
        key = (node.inputs[i], node.inputs[j])
        if key[1] not in fixed:
            total[key] = total.get(key, sympy.Integer(0)) + value
    return total
