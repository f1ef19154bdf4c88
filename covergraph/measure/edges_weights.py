"""Operator norms of the linear maps that weights make: both ends, computed once for each tensor of weights."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, edge_jacobian
from covergraph.graph.node import Node
from covergraph.measure.edges_convolutions import Correlation, correlation_ends
from covergraph.measure.edges_spectra import Ends, norm_ends, remembered

DENSE = 2**20
"""A convolution whose matrix has at most so many entries gets the exact norm of this matrix."""
Shape = tuple[int, ...]


def weight_ends(node: Node, shape: Shape, context: Context) -> Ends:
    """Ends of the operator norm of the linear part of `node`, whose only slot has `shape`."""
    operation = node.operation
    weight = context.parameter(node, "scale" if isinstance(operation, op.Affine) else "weight")
    question = (operation, shape, node.shape)
    return remembered(weight, question, lambda: _ends(operation, node, weight.detach(), shape))


@singledispatch
def _ends(operation: op.Operation, node: Node, weight: Tensor, shape: Shape) -> Ends:
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): {operation.label!r} is no linear map with one weight"
    )


@_ends.register(op.Linear)
@_ends.register(op.AxisMap)
def _(operation: op.Operation, node: Node, weight: Tensor, shape: Shape) -> Ends:
    return norm_ends(weight.double()[None])


@_ends.register
def _(operation: op.Affine, node: Node, weight: Tensor, shape: Shape) -> Ends:
    top = float(weight.abs().amax())
    return Ends(top, top, True)


@_ends.register
def _(operation: op.Convolution, node: Node, weight: Tensor, shape: Shape) -> Ends:
    rank = len(operation.kernel)
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)
    if _is_small(node, shape, rank):
        return _dense(node, weight, shape[-rank - 1 :])
    return correlation_ends(weight, Correlation(*sides, shape[-rank:], node.shape[-rank:]))


@_ends.register
def _(operation: op.TransposedConvolution, node: Node, weight: Tensor, shape: Shape) -> Ends:
    """It is the adjoint of the convolution with the same weight, from the images of the node to those of the slot."""
    rank = len(operation.kernel)
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)
    if _is_small(node, shape, rank):
        return _dense(node, weight, shape[-rank - 1 :])
    return correlation_ends(weight, Correlation(*sides, node.shape[-rank:], shape[-rank:]))


def _is_small(node: Node, shape: Shape, rank: int) -> bool:
    columns, rows = (torch.Size(sides[-rank - 1 :]).numel() for sides in (shape, node.shape))
    return columns * max(rows, columns) <= DENSE


def _dense(node: Node, weight: Tensor, shape: Shape) -> Ends:
    zero = torch.zeros(1, *shape, dtype=torch.float64, device=weight.device)
    context = Context({node.parameter["weight"]: weight.double()})
    return norm_ends(edge_jacobian(node, node.inputs[0], [zero], context), weight[0].numel())
