"""How fast does an operation's derivative change? tau-bar per pair of argument slots (Lemmas 5-8).

Where nothing has collapsed, ||Delta J_{x,u}||_op <= sum over u' of taubar_{x;u,u'} ||Delta h_{u'}||; the rule of
an operation gives taubar per pair of slots (i, j), and `smoothness` sums over the slots that u and u' fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.rules.suprema import Supremum, supremum

Slots = Mapping[tuple[int, int], sympy.Expr]


@singledispatch
def slot_smoothness(operation: op.Operation) -> Slots:
    """taubar_{ij} > 0 of slot i's Jacobian in slot j's value; pairs that are absent have taubar = 0."""
    raise UnsupportedOperationError(
        f"rules: no derivative-Lipschitz rule for {operation.label!r}; docs/adding_an_op.md says how to add one"
    )


@slot_smoothness.register
def _(operation: op.Composite) -> Slots:
    raise UnsupportedOperationError(
        f"rules: {operation.label!r} is a block of a coarsened graph; derive bounds on the graph before coarsening"
    )


@slot_smoothness.register
def _(operation: op.Affine) -> Slots:
    raise UnsupportedOperationError(
        f"rules: no derivative-Lipschitz rule yet for {operation.label!r} (BatchNorm in eval mode, the affine part of "
        "a norm, an added embedding or a constant mask)"
    )


@slot_smoothness.register(op.Input)
@slot_smoothness.register(op.Linear)
@slot_smoothness.register(op.Convolution)
@slot_smoothness.register(op.Add)
@slot_smoothness.register(op.Subtract)
@slot_smoothness.register(op.Concatenate)
@slot_smoothness.register(op.Reshape)
@slot_smoothness.register(op.AveragePool)
def _(operation: op.Operation) -> Slots:
    return {}


@slot_smoothness.register
def _(operation: op.Elementwise) -> Slots:
    if operation.function.is_affine:
        return {}
    return {(0, 0): curvature(operation).value}


@slot_smoothness.register
def _(operation: op.Product) -> Slots:
    return {(0, 1): sympy.Integer(1), (1, 0): sympy.Integer(1)}


def curvature(operation: op.Elementwise) -> Supremum:
    """sup |phi''| with the argument for it (Lemma 5); raises `UnsupportedOperationError` if not finite."""
    try:
        return supremum(operation.function.expression, 2)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"activation {operation.function.name!r}: {error}") from None


def smoothness(node: Node) -> Mapping[tuple[str, str], sympy.Expr]:
    """taubar_{x;u,u'} > 0 for x = node, by the pair (u, u') of predecessors, summed over slots (Lemma 8)."""
    total: dict[tuple[str, str], sympy.Expr] = {}
    try:
        slots = slot_smoothness(node.operation)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"node {node.name!r} ({node.origin or 'top level'}): {error}") from None
    for (i, j), value in slots.items():
        key = (node.inputs[i], node.inputs[j])
        total[key] = total.get(key, sympy.Integer(0)) + value
    return total
