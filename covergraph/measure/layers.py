"""Sizes of learned layers: distances to reference weights and operator norms of the true linear maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor

from covergraph.errors import ForeignModelError, NonFiniteError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context
from covergraph.graph.learned import MASK, Split, split
from covergraph.graph.node import Node
from covergraph.measure.edges_spectra import Ends
from covergraph.measure.edges_weights import weight_ends
from covergraph.measure.lanczos import Goal, largest_singular_values, overlap, random_start
from covergraph.measure.linearize import local
from covergraph.measure.norms import euclidean, exact, rounding
from covergraph.values import LayerSize, Measurement

State = Mapping[str, Tensor]
Change = Mapping[str, Tensor]
"""By role, the learned parameters minus their reference values."""
ROWS = 2**24
"""Entries of a large matrix that are copied at once."""


def layer_sizes(graph: ComputationGraph, state: State, reference: State | None) -> dict[str, LayerSize]:
    """The size of every covered node; `reference` holds A, b_A and B = A, and None means 0.

    Both hold what `ComputationGraph.state` gives, effective parameters too. Norms of the same tensors of weights are
    computed once, here and in `edges`.
    """
    return {name: _layer_size(graph, graph[name], state, reference) for name in graph.covered}


def _layer_size(graph: ComputationGraph, node: Node, state: State, reference: State | None) -> LayerSize:
    parts = {role: _parts(graph, node, role, state) for role, _ in node.parameters}
    values = {role: part.counted.detach() for role, part in parts.items()}
    change = values if reference is None else _change(graph, node, parts, reference)
    _require_finite(graph, node, values, change)
    size, zero = distance(node.operation, node, change), distance(node.operation, node, _linear(values))
    slack = max(rounding(v.dtype, *_sides(v)) for v in values.values())
    return LayerSize(
        a=exact(size.a, slack, size.norm),
        b=exact(size.b, slack, "(1,1) norm of the distance"),
        a_zero=exact(zero.a, slack, size.norm.replace("distance", "weights")),
        b_zero=exact(zero.b, slack, "(1,1) norm of the weights"),
        operator=_operator(graph, node, Context(state)),
        bias=_bias(graph, node, state),
    )


def _parts(graph: ComputationGraph, node: Node, role: str, state: State) -> Split:
    """What constants make of a parameter, and what training chooses (Lemma 11)."""
    Context(state).parameter(node, role)
    return split(graph.weights, node.parameter[role], state)


def _change(graph: ComputationGraph, node: Node, parts: Mapping[str, Split], reference: State) -> Change:
    change = {}
    for role, part in parts.items():
        start = _parts(graph, node, role, reference)
        if start.learned.shape != part.learned.shape:
            raise ForeignModelError(
                f"node {node.name!r}: the reference weights have shape {tuple(start.learned.shape)}, expected "
                f"{tuple(part.learned.shape)}; pass a model of the same architecture as init_model"
            )
        change[role] = (part.learned - start.learned).detach()
    return change


def _require_finite(graph: ComputationGraph, node: Node, values: Mapping[str, Tensor], change: Change) -> None:
    """Raise `NonFiniteError` for distances that are no numbers, and say whose entries are to blame."""
    for role, part in change.items():
        if math.isfinite(2 * float(part.abs().sum())):
            continue
        name = node.parameter[role]
        if not math.isfinite(2 * float(values[role].abs().sum())):
            formula = graph.formulas.get(name)
            raise NonFiniteError(
                f"measure: node {node.name!r}: the entries of {name!r}{f' = {formula}' if formula else ''} that depend "
                f"on the model's state go up to {float(values[role].abs().max()):.3g}, expected finite ones; a mask "
                "that training chooses is a part of the class: keep it finite, or register it as a constant that was "
                "fixed before training"
            )
        raise NonFiniteError(f"node {node.name!r}: the reference weights hold NaN or infinite values; pass finite ones")


def _linear(values: Mapping[str, Tensor]) -> Change:
    return {role: value for role, value in values.items() if role not in ("bias", "shift")}


def _sides(value: Tensor) -> tuple[int, int]:
    rows = value.shape[0] if value.dim() else 1
    return rows, value.numel() // max(rows, 1)


@dataclass(frozen=True)
class Distance:
    """Radii of a class around its reference: a of the values, b of the derivatives; what norm of the change a is."""

    a: float
    b: float
    norm: str


@singledispatch
def distance(operation: op.Operation, node: Node, change: Change) -> Distance:
    """The radii of the learned parameters of `node` (Lemmas 2, 3, 4, 11); a role that is not in `change` is fixed."""
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): no rule for the size of {operation.label!r} with the "
        f"parameters {', '.join(node.parameter.values())}; docs/adding_an_op.md says how to add one"
    )


@distance.register(op.Linear)
@distance.register(op.Convolution)
@distance.register(op.TransposedConvolution)
def _(operation: op.Operation, node: Node, change: Change) -> Distance:
    if "weight" not in change:
        return Distance(_entries(change, "bias"), 0.0, "(1,1) norm of the distance of the bias")
    rows = _row_norms(_by_output(operation, change["weight"]))
    if "bias" in change:
        rows = torch.hypot(rows, change["bias"])
    return Distance(float(rows.sum()), _entries(change, "weight"), "(2,1) norm of the transposed distance")


@distance.register
def _(operation: op.Affine, node: Node, change: Change) -> Distance:
    """a = hypot(||dw||_2, ||dbeta||_1): the scales act on disjoint entries, the shifts on all positions (Lemma 11)."""
    size = math.hypot(_length(change, "scale"), _entries(change, "shift"))
    return Distance(size, _entries(change, "scale"), "2 norm of the scale's distance with the 1 norm of the shift's")


@distance.register
def _(operation: op.Embedding, node: Node, change: Change) -> Distance:
    columns = _row_norms(change["weight"].mT) if "weight" in change else torch.zeros(1)
    return Distance(float(columns.sum()), 0.0, "(2,1) norm of the distance")


@distance.register
def _(operation: op.Parameter, node: Node, change: Change) -> Distance:
    return Distance(_entries(change, "value"), 0.0, "(1,1) norm of the distance")


@distance.register
def _(operation: op.ParametricReLU, node: Node, change: Change) -> Distance:
    return Distance(_length(change, "slope"), _entries(change, "slope"), "2 norm of the distance")


def _entries(change: Change, role: str) -> float:
    return float(change[role].abs().sum()) if role in change else 0.0


def _length(change: Change, role: str) -> float:
    return float(euclidean(change[role].reshape(1, -1))[0]) if role in change else 0.0


def _row_norms(matrix: Tensor) -> Tensor:
    """The Euclidean norm of every row."""
    return torch.cat([euclidean(part) for part in torch.split(matrix, max(1, ROWS // matrix.shape[1]))])


def _by_output(operation: op.Operation, weight: Tensor) -> Tensor:
    """The weights as a matrix with one row per output channel."""
    if isinstance(operation, op.TransposedConvolution):  # (c_in, c_out / groups, *kernel)
        weight = weight.reshape(operation.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def _operator(graph: ComputationGraph, node: Node, context: Context) -> Measurement:
    """The norm of the linear part; of a function of its slot, the largest slope; 0 without a slot of reals."""
    ends = _operator_ends(graph, node, context)
    if ends.exact:
        return Measurement(ends.lower, ends.upper, "exact", "operator norm of the layer")
    return Measurement(ends.lower, ends.upper, "certified", "operator norm of the layer")


def _operator_ends(graph: ComputationGraph, node: Node, context: Context) -> Ends:
    match node.operation:
        case op.Parameter() | op.Embedding():
            return Ends(0.0, 0.0, True)
        case op.ParametricReLU():
            steepest = max(1.0, float(context.parameter(node, "slope").abs().amax()))
            return Ends(steepest, steepest, True)
        case op.Affine(scale=False):
            return Ends(1.0, 1.0, True)
        case _:
            shape = graph[node.inputs[0]].shape
            ends = weight_ends(node, shape, context)
            return ends if ends.lower > 0 else replace(ends, lower=min(_lower_end(node, shape, context), ends.upper))


def _lower_end(node: Node, shape: Sequence[int], context: Context) -> float:
    """A lower end of the norm of a large layer, by Lanczos without its matrix."""
    role = next(role for role in ("weight", "scale") if role in node.parameter)
    double = Context({node.parameter[role]: context.parameter(node, role).detach().double()})
    layer = local(node.operation, node, [double.parameter(node, role).new_zeros(1, *shape)], double)

    def product(v: Tensor) -> Tensor:
        return layer.pull(layer.push({0: v}), [0])[0]

    start = random_start(shape, [node.name]).to(double.parameter(node, role))
    found = largest_singular_values(lambda rows: product, start, overlap(1e-3, start.numel()), Goal(1.05, own=True))
    return float(found.lower[0])


def _bias(graph: ComputationGraph, node: Node, state: State) -> Measurement | None:
    """The norm of what is added at one position: of a bias or a shift, of a parameter; of an embedding, its rows.

    Without the constants of a mask: what they are added to is not seen any more.
    """
    role = {op.Affine: "shift", op.Parameter: "value", op.Embedding: "weight"}.get(type(node.operation), "bias")
    if role not in node.parameter:
        return None
    parts = split(graph.weights, node.parameter[role], state)
    rows = torch.where(parts.fixed < MASK, parts.learned, parts.whole).detach()
    rows = rows if isinstance(node.operation, op.Embedding) else rows.reshape(1, -1)
    return exact(float(euclidean(rows).amax()), rounding(rows.dtype, *rows.shape), "Euclidean norm of the bias")
