"""Sizes of learned layers: distances to reference weights and operator norms of the true linear maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from covergraph.errors import ForeignModelError, NonFiniteError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, edge_jacobian
from covergraph.graph.node import Node
from covergraph.graph.operations import Linear
from covergraph.measure.norms import euclidean, exact, rounding
from covergraph.values import LayerSize, Measurement

State = Mapping[str, Tensor]


def layer_sizes(graph: ComputationGraph, state: State, reference: State | None) -> dict[str, LayerSize]:
    """The size of every covered node; `reference` holds A, b_A and B = A, and None means 0."""
    return {name: _layer_size(graph, graph[name], state, reference) for name in graph.covered}


def _layer_size(graph: ComputationGraph, node: Node, state: State, reference: State | None) -> LayerSize:
    weight = _matrix(node, state)
    shift = torch.zeros_like(weight) if reference is None else _matrix(node, reference)
    if shift.shape != weight.shape:
        raise ForeignModelError(
            f"node {node.name!r}: the reference weights have shape {tuple(shift.shape)}, expected "
            f"{tuple(weight.shape)}; pass a model of the same architecture as init_model"
        )
    bias = None
    rows = weight - shift
    if "bias" in node.parameter:
        vector = _parameter(node, state, "bias")
        start = torch.zeros_like(vector) if reference is None else _parameter(node, reference, "bias")
        rows = torch.cat([rows, (vector - start)[:, None]], 1)
        length = float(euclidean(vector[None])[0])
        bias = exact(length, rounding(vector.dtype, 1, len(vector)), "Euclidean norm of the bias")
    if not torch.isfinite(rows).all():
        raise NonFiniteError(f"node {node.name!r}: the reference weights hold NaN or infinite values; pass finite ones")
    slack = rounding(weight.dtype, *weight.shape)
    return LayerSize(
        a=exact(float(euclidean(rows).sum()), slack, "(2,1) norm of the transposed distance"),
        b=exact(float((weight - shift).abs().sum()), slack, "(1,1) norm of the distance"),
        a_zero=exact(float(euclidean(weight).sum()), slack, "(2,1) norm of the transposed weights"),
        b_zero=exact(float(weight.abs().sum()), slack, "(1,1) norm of the weights"),
        operator=_operator_norm(graph, node, state),
        bias=bias,
    )


def _operator_norm(graph: ComputationGraph, node: Node, state: State) -> Measurement:
    """The spectral norm of the layer's linear map: W itself, or the dense matrix of the convolution."""
    matrix = _matrix(node, state)
    if not isinstance(node.operation, Linear):
        zero = matrix.new_zeros(1, *graph[node.inputs[0]].shape)
        matrix = edge_jacobian(node, node.inputs[0], [zero], Context(state))[0]
    norm = float(torch.linalg.matrix_norm(matrix, ord=2))
    return exact(norm, rounding(matrix.dtype, *matrix.shape), "operator norm of the layer")


def _matrix(node: Node, state: State) -> Tensor:
    """The weights as a matrix with one row per output channel."""
    return _parameter(node, state, "weight").flatten(1)


def _parameter(node: Node, state: State, role: str) -> Tensor:
    return Context(state).parameter(node, role)
