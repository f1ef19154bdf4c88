"""What can an operation do at worst? Lipschitz constants and norms for product-of-constants bounds (Proposition 7).

Only the comparison with Bartlett, Foster, Telgarsky (2017) uses these; the data-dependent bound does not.
Numbers are `mpmath.mpf`, whose exponent is unbounded: products of norms overflow doubles in deep networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any, TypeAlias

import mpmath

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.functions import T
from covergraph.graph.node import Node
from covergraph.rules.suprema import supremum

Real: TypeAlias = Any
"""An mpmath number, which has no types."""


@singledispatch
def slot_lipschitz(operation: op.Operation, multiplicity: int, norm: float | None) -> Real:
    """Lipschitz constant in a predecessor that fills `multiplicity` slots; `norm` bounds ||W||_op of a layer."""
    raise UnsupportedOperationError(f"{operation.label!r} has no finite worst-case Lipschitz constant")


@slot_lipschitz.register(op.Linear)
@slot_lipschitz.register(op.Convolution)
def _(operation: op.Operation, multiplicity: int, norm: float | None) -> Real:
    if norm is None:
        raise UnsupportedOperationError(f"{operation.label!r} with a constant weight, whose norm is not measured")
    return mpmath.mpf(norm)


@slot_lipschitz.register
def _(operation: op.Elementwise, multiplicity: int, norm: float | None) -> Real:
    return mpmath.mpf(supremum(operation.function.expression, 1).upper())


@slot_lipschitz.register(op.Add)
@slot_lipschitz.register(op.Subtract)
def _(operation: op.Operation, multiplicity: int, norm: float | None) -> Real:
    return mpmath.mpf(multiplicity)


@slot_lipschitz.register
def _(operation: op.Concatenate, multiplicity: int, norm: float | None) -> Real:
    return mpmath.sqrt(multiplicity)


@slot_lipschitz.register
def _(operation: op.Reshape, multiplicity: int, norm: float | None) -> Real:
    return mpmath.mpf(1)


@slot_lipschitz.register
def _(operation: op.AveragePool, multiplicity: int, norm: float | None) -> Real:
    """A mean over K entries has norm 1/sqrt(K), and an entry lies in at most prod ceil(k/stride) windows."""
    windows = math.prod(-(-k // s) for k, s in zip(operation.kernel, operation.stride, strict=True))
    whole = operation.count_include_pad and not operation.ceil_mode
    return mpmath.sqrt(mpmath.mpf(windows) / (math.prod(operation.kernel) if whole else 1))


def worst_radius(node: Node, radii: Sequence[Real], norm: float | None, bias_norm: float | None) -> Real:
    """A bound of ||h_v|| from bounds of the norms in the slots, the layer's norm and its bias (norm ||b||)."""
    operation = node.operation
    match operation:
        case op.Linear() | op.Convolution():
            channels = node.shape[-1 if isinstance(operation, op.Linear) else -1 - len(operation.kernel)]
            shift = mpmath.sqrt(node.size // channels) * (bias_norm or 0.0)
            return slot_lipschitz(operation, 1, norm) * radii[0] + shift
        case op.Elementwise(function):
            at_zero = abs(function.expression.subs(T, 0))
            return slot_lipschitz(operation, 1, None) * radii[0] + mpmath.mpf(float(at_zero)) * mpmath.sqrt(node.size)
        case op.Add() | op.Subtract():
            return mpmath.fsum(radii)
        case op.Concatenate():
            return mpmath.sqrt(mpmath.fsum(r**2 for r in radii))
        case _:
            return slot_lipschitz(operation, 1, None) * radii[0]
