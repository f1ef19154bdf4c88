"""What can an operation do at worst? Lipschitz constants for product-of-constants bounds (Proposition 7).

Only the comparison with Bartlett, Foster, Telgarsky (2017) uses these; the data-dependent bound does not.
Numbers are `mpmath.mpf`, whose exponent is unbounded: products of norms overflow doubles in deep networks.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any, TypeAlias

import mpmath
import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.graph.rearrange import most_copies
from covergraph.rules.calls import call_lipschitz
from covergraph.rules.entropy import overlap
from covergraph.rules.suprema import supremum

Real: TypeAlias = Any
"""An mpmath number, which has no types."""


@singledispatch
def slot_lipschitz(operation: op.Operation, node: Node, tail: Node, norm: float | None = None) -> Real:
    """Lipschitz constant of `node` in its predecessor `tail`, summed over the slots that it fills.

    `norm` bounds the operator norm of a node with parameters or constants. Raises `UnsupportedOperationError` where
    no constant holds for all values.
    """
    raise UnsupportedOperationError(f"{operation.label!r} has no finite worst-case Lipschitz constant")


@slot_lipschitz.register(op.Linear)
@slot_lipschitz.register(op.Convolution)
@slot_lipschitz.register(op.TransposedConvolution)
@slot_lipschitz.register(op.AxisMap)
def _(operation: op.Operation, node: Node, tail: Node, norm: float | None = None) -> Real:
    if norm is None:
        raise UnsupportedOperationError(f"{operation.label!r} with a constant weight, whose norm is not measured")
    return mpmath.mpf(norm)


@slot_lipschitz.register
def _(operation: op.Affine, node: Node, tail: Node, norm: float | None = None) -> Real:
    if not operation.scale:
        return mpmath.mpf(1)
    if norm is None:
        raise UnsupportedOperationError(f"{operation.label!r} with a constant scale, whose norm is not measured")
    return mpmath.mpf(norm)


@slot_lipschitz.register
def _(operation: op.ParametricReLU, node: Node, tail: Node, norm: float | None = None) -> Real:
    """max(1, |a|): `norm` bounds |a|."""
    if norm is None:
        raise UnsupportedOperationError(f"{operation.label!r} with a constant slope, whose norm is not measured")
    return max(mpmath.mpf(1), mpmath.mpf(norm))


@slot_lipschitz.register
def _(operation: op.Elementwise, node: Node, tail: Node, norm: float | None = None) -> Real:
    return mpmath.mpf(supremum(operation.function.expression, 1).upper())


@slot_lipschitz.register(op.Add)
@slot_lipschitz.register(op.Subtract)
def _(operation: op.Operation, node: Node, tail: Node, norm: float | None = None) -> Real:
    return mpmath.mpf(_slots(node, tail))


@slot_lipschitz.register
def _(operation: op.Concatenate, node: Node, tail: Node, norm: float | None = None) -> Real:
    return mpmath.sqrt(_slots(node, tail))


@slot_lipschitz.register(op.Reshape)
@slot_lipschitz.register(op.Maximum)
@slot_lipschitz.register(op.VectorNorm)
def _(operation: op.Operation, node: Node, tail: Node, norm: float | None = None) -> Real:
    """Each entry belongs to one group, and the largest entry and the norm of a group are 1-Lipschitz."""
    return mpmath.mpf(1)


@slot_lipschitz.register
def _(operation: op.Rearrange, node: Node, tail: Node, norm: float | None = None) -> Real:
    """The square root of the largest number of copies of an entry; exact."""
    return mpmath.sqrt(most_copies(operation.steps, tail.shape))


@slot_lipschitz.register
def _(operation: op.Sum, node: Node, tail: Node, norm: float | None = None) -> Real:
    """A sum of k entries has norm sqrt(k), their mean 1/sqrt(k); an entry belongs to one sum."""
    entries = tail.size // max(node.size, 1)
    return 1 / mpmath.sqrt(max(entries, 1)) if operation.mean else mpmath.sqrt(entries)


@slot_lipschitz.register
def _(operation: op.AveragePool, node: Node, tail: Node, norm: float | None = None) -> Real:
    """A mean over K entries has norm 1/sqrt(K), and an entry lies in at most prod ceil(k/stride) windows."""
    windows = math.prod(-(-k // s) for k, s in zip(operation.kernel, operation.stride, strict=True))
    whole = operation.count_include_pad and not operation.ceil_mode
    return mpmath.sqrt(mpmath.mpf(windows) / (math.prod(operation.kernel) if whole else 1))


@slot_lipschitz.register
def _(operation: op.MaxPool, node: Node, tail: Node, norm: float | None = None) -> Real:
    """The maximum of a window is 1-Lipschitz in its entries, an entry lies in at most `overlap` windows."""
    return mpmath.sqrt(overlap(operation))


@slot_lipschitz.register
def _(operation: op.Softmax, node: Node, tail: Node, norm: float | None = None) -> Real:
    """1/2, the largest eigenvalue of diag(p) - p p^T; of the logarithm sqrt(d).

    I - 1 p^T is a projection, as p^T 1 = 1, hence (d > 1) of the norm of its complement 1 p^T: sqrt(d) ||p||.
    """
    constant = mpmath.sqrt(node.shape[operation.axis]) if operation.log else mpmath.mpf("0.5")
    return _slots(node, tail) * constant


@slot_lipschitz.register
def _(operation: op.Normalize, node: Node, tail: Node, norm: float | None = None) -> Real:
    """1/sqrt(eps), taken where a group is constant (zero, if the mean is not subtracted)."""
    if operation.eps <= 0:
        raise UnsupportedOperationError(f"{operation.label!r} with eps = {operation.eps:g} has no finite constant")
    return 1 / mpmath.sqrt(mpmath.mpf(operation.eps))


@slot_lipschitz.register
def _(operation: op.Call, node: Node, tail: Node, norm: float | None = None) -> Real:
    """What the registry says (Lemma 20)."""
    known = call_lipschitz(operation)
    filled = [slot for slot, name in enumerate(node.inputs) if name == tail.name]
    if any(slot not in known for slot in filled):
        raise UnsupportedOperationError(f"the rule of {operation.target} has no worst-case Lipschitz constant")
    return mpmath.fsum(mpmath.mpf(str(sympy.N(known[slot], 30))) for slot in filled)


def _slots(node: Node, tail: Node) -> int:
    return node.inputs.count(tail.name)
