"""The bound that needs no data: the product of the layers' worst-case constants, summed over the graph's paths."""

from __future__ import annotations

import math
from functools import partial

import mpmath
from torch import nn

from covergraph.errors import TrajectoryError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.measure.edges_weights import weight_ends
from covergraph.rounding import PATHS
from covergraph.rules.lipschitz import Real, slot_lipschitz
from covergraph.trajectory.facts import changes_in_training
from covergraph.trajectory.layer import Watched


def required_graph(graph: ComputationGraph | None, watched: Watched, faithful: bool) -> ComputationGraph:
    """The graph; raises `TrajectoryError` unless it has the layer and computes what is trained (`faithful`)."""
    if graph is None or not watched.place:
        raise TrajectoryError(
            f"trajectory: product needs the model's graph with the layer {watched.name!r} on it, and the model cannot "
            "be traced, or its graph has no such node; record without product=..."
        )
    if not faithful:
        raise TrajectoryError(
            "trajectory: product needs a graph that computes what is trained, and in train mode the model's output is "
            "another one (functional dropout, noise); record without product=..."
        )
    return graph


def log_product(graph: ComputationGraph, model: nn.Module, start: str) -> float:
    """An upper bound of log λ: L_v = Σ over edges v -> x of Lip(x, v) L_x, L = 1 at the output (Proposition 7).

    `start`: the watched layer's node, whose input λ is taken in. Of the network in eval mode. Raises `TrajectoryError`
    for an operation without a worst-case constant, and for modules that do something else in train mode.
    """
    if path := changes_in_training(model):
        raise TrajectoryError(
            f"trajectory: the module {path!r} is in train mode, where the product of the layers' constants does not "
            "bound what it does; record without product=..., or freeze it with .eval()"
        )
    context = Context.of(model, graph)
    slopes: dict[str, Real] = {node.name: mpmath.mpf(0) for node in graph.nodes} | {graph.output: mpmath.mpf(1)}
    for node in reversed(graph.nodes):
        if slopes[node.name] == 0 or not node.inputs:
            continue
        for u in node.predecessors if node.name != start else node.predecessors[:1]:
            try:
                constant = slot_lipschitz(node.operation, node, graph[u], _norm(graph, node, context))
            except UnsupportedOperationError as error:
                raise TrajectoryError(
                    f"trajectory: node {node.name!r} ({node.origin or 'top level'}) has no constant for the product "
                    f"over paths ({error}); record without product=..."
                ) from error
            if node.name == start:
                return float(mpmath.log(constant * slopes[start])) + PATHS * len(graph)
            slopes[u] += constant * slopes[node.name]
    return -math.inf


def _norm(graph: ComputationGraph, node: Node, context: Context) -> float | None:
    """The upper end of the norm of the linear part; the largest slope."""
    largest = partial(context.parameter, node)
    match node.operation:
        case op.Affine(scale=False):
            return 1.0
        case op.ParametricReLU():
            return float(largest("slope").detach().abs().amax())
        case op.Linear() | op.Convolution() | op.TransposedConvolution() | op.AxisMap() | op.Affine():
            return weight_ends(node, graph[node.inputs[0]].shape, context).upper
        case _:
            return None
