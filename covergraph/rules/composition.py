"""Chains of operations as one node: constants of a composition from those of its parts (Lemma 17).

With Lipschitz constants L_j and derivative-Lipschitz constants tau_j of f_1, ..., f_m, f_m o ... o f_1 has
    L = prod_j L_j,  tau = sum_i (prod_{j>i} L_j) tau_i (prod_{j<i} L_j)^2.
"""

from __future__ import annotations

from itertools import pairwise

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.rounding import CONSTANT
from covergraph.rules.conditions import condition
from covergraph.rules.lipschitz import Real, slot_lipschitz
from covergraph.rules.norms import upper
from covergraph.rules.smoothness import slot_smoothness


def composable(node: Node) -> bool:
    """True for a chain whose parts all have finite constants that no level enters, and no condition."""
    try:
        chain_constants(node)
    except UnsupportedOperationError:
        return False
    return True


def chain_constants(node: Node) -> tuple[float, float]:
    """L and tau of a chain, rounded up. Raises `UnsupportedOperationError` for a part without such constants."""
    operation = node.operation
    if not isinstance(operation, op.Composite) or not _is_chain(node):
        raise UnsupportedOperationError(f"rules: {operation.label!r} is no chain of operations without parameters")
    tail = Node(operation.inputs[0], op.Input(), (), operation.shapes[0])
    lipschitz, tau = 1.0, 0.0
    for inner in operation.nodes:
        slope, curve = _constants(inner, tail)
        tau = _up(slope * tau + curve * lipschitz**2)
        lipschitz = _up(slope * lipschitz)
        tail = inner
    return lipschitz, tau


def _is_chain(node: Node) -> bool:
    """Without parameters, and each inner node reads the one before alone."""
    operation = node.operation
    assert isinstance(operation, op.Composite)
    if node.learned or len(operation.inputs) != 1 or len(operation.shapes) != 1:
        return False
    path = [operation.inputs[0], *(inner.name for inner in operation.nodes)]
    steps = zip(pairwise(path), operation.nodes, strict=True)
    return path[-1] == operation.output and all(inner.predecessors == (before,) for (before, _), inner in steps)


def _constants(inner: Node, tail: Node) -> tuple[float, float]:
    if isinstance(inner.operation, op.Call):
        raise UnsupportedOperationError(f"rules: {inner.operation.label!r} in a chain is opened, to look at its slots")
    if condition(inner.operation, inner) is not None:
        raise UnsupportedOperationError(f"rules: {inner.operation.label!r} in a chain has a condition")
    total = sympy.Add(*slot_smoothness(inner.operation, inner).values())
    if total.free_symbols:
        raise UnsupportedOperationError(f"rules: {inner.operation.label!r} in a chain is smooth on bounded sets only")
    slope: Real = slot_lipschitz(inner.operation, inner, tail)
    return _up(float(slope)), upper(total) if total else 0.0


def _up(value: float) -> float:
    return value * CONSTANT


@slot_smoothness.register
def _(operation: op.Composite, node: Node) -> dict[tuple[int, int], sympy.Expr]:
    tau = chain_constants(node)[1]
    return {(0, 0): sympy.Float(tau)} if tau else {}


@slot_lipschitz.register
def _(operation: op.Composite, node: Node, tail: Node, norm: float | None = None) -> Real:
    return chain_constants(node)[0]
