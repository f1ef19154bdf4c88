"""How large can a value be at worst? Norms for product-of-constants bounds (Proposition 7)."""

from __future__ import annotations

from collections.abc import Sequence

import mpmath
import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import T
from covergraph.graph.node import Node
from covergraph.rules.entropy import parameter_size
from covergraph.rules.lipschitz import Real, slot_lipschitz
from covergraph.rules.norms import norm_bound

_ZERO_AT_ZERO = (
    *(op.Reshape, op.AveragePool, op.Rearrange, op.Sum, op.AxisMap),
    *(op.MaxPool, op.Maximum, op.VectorNorm, op.ParametricReLU),
)
"""Operations of one slot that map 0 to 0."""


def worst_radius(
    node: Node, graph: ComputationGraph, radii: Sequence[Real], norm: float | None, shift: float | None
) -> Real:
    """A bound of the root mean square of ||h_v|| from such bounds of the values in the slots.

    `norm` bounds the operator norm of a node with parameters or constants, `shift` the Euclidean norm of what it adds:
    of the tensor of role bias, shift or value, or of the largest row of an embedding's table. Raises
    `UnsupportedOperationError` where there is no bound.
    """
    operation = node.operation
    prior = norm_bound(operation, node)
    if prior is not None:
        return mpmath.mpf(str(sympy.N(prior, 30)))
    match operation:
        case op.Parameter() | op.Constant():
            return _known(node, shift)
        case op.Embedding():  # one row of the table per position
            return mpmath.sqrt(node.size // node.shape[-1]) * _known(node, shift)
        case op.Linear() | op.Convolution() | op.TransposedConvolution() | op.Affine():
            return _steepest(node, graph, norm) * radii[0] + _shift(node, graph, shift)
        case op.Elementwise(function):
            at_zero = abs(function.expression.subs(T, 0))
            return _steepest(node, graph, norm) * radii[0] + mpmath.mpf(float(at_zero)) * mpmath.sqrt(node.size)
        case op.Softmax():  # its logarithm, which is -log d where all scores are equal
            return _log_softmax(operation, node, graph, radii)
        case op.Add() | op.Subtract():
            return mpmath.fsum(radii)
        case op.Concatenate():
            return mpmath.sqrt(mpmath.fsum(r**2 for r in radii))
        case op.Composite():
            return _chain(operation, graph, radii)
        case op.Call(target=target):
            raise UnsupportedOperationError(f"the call of {target} has no worst-case norm")
        case _ if isinstance(operation, _ZERO_AT_ZERO):
            return _steepest(node, graph, norm) * radii[0]
        case _:
            raise UnsupportedOperationError(f"{operation.label!r} has no worst-case norm")


def _chain(operation: op.Composite, graph: ComputationGraph, radii: Sequence[Real]) -> Real:
    """The bound of the last of the inner nodes, from node to node."""
    inputs = [Node(u, op.Input(), (), s) for u, s in zip(operation.inputs, operation.shapes, strict=True)]
    inside = ComputationGraph([*inputs, *operation.nodes], operation.output, weights=graph.weights)
    known = dict(zip(operation.inputs, radii, strict=True))
    for inner in operation.nodes:
        known[inner.name] = worst_radius(inner, inside, [known[u] for u in inner.inputs], None, None)
    return known[operation.output]


def _steepest(node: Node, graph: ComputationGraph, norm: float | None) -> Real:
    """The Lipschitz constant of a node with one slot."""
    return slot_lipschitz(node.operation, node, graph[node.inputs[0]], norm)


def _shift(node: Node, graph: ComputationGraph, shift: float | None) -> Real:
    """The norm of what is added: every entry of a bias or shift occurs equally often."""
    role = next((role for role in ("bias", "shift") if role in node.parameter), None)
    if role is None:
        return mpmath.mpf(0)
    copies = node.size // _entries(node, graph, role)
    return mpmath.sqrt(copies) * _known(node, shift)


def _entries(node: Node, graph: ComputationGraph, role: str) -> int:
    match node.operation:
        case op.Linear():
            return node.shape[-1]
        case op.Convolution(kernel=kernel) | op.TransposedConvolution(kernel=kernel):
            return node.shape[-1 - len(kernel)]
        case _:
            return parameter_size(graph, node, role)


def _log_softmax(operation: op.Softmax, node: Node, graph: ComputationGraph, radii: Sequence[Real]) -> Real:
    if operation.causal or "mask" in node.parameter:
        raise UnsupportedOperationError(f"{operation.label!r} with a mask has no worst-case norm")
    steepest = mpmath.sqrt(node.shape[operation.axis])
    return steepest * mpmath.fsum(radii) + mpmath.log(node.shape[operation.axis]) * mpmath.sqrt(node.size)


def _known(node: Node, number: float | None) -> Real:
    if number is None or not mpmath.isfinite(number):
        raise UnsupportedOperationError(f"{node.operation.label!r} {node.name!r} with a norm that is not measured")
    return mpmath.mpf(number)
