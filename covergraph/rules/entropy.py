"""How rich is an operation's class? Metric entropies of the class and of its derivatives (Lemmas 2-4, 11, 12).

Both have the form ln N(eps) <= ceil(coefficient / eps^2) * ln(count), and are 0 once eps^2 >= coefficient, with
    coefficient = a^2 (gain * radius^2 + positions)   for the values,
    coefficient = b^2 gain                            for the derivatives in operator norm,
where a, b are the distances of the parameters to fixed reference weights (see `covergraph.measure.layers`) and
radius bounds the norm of the operation's input. Only learned parameters count; constants are the same in all rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node

_AFFINE = "Lemma 11 (Maurey; one atom per parameter)"
_LINEAR = "Lemma 2 (Maurey; Bartlett, Foster, Telgarsky 2017, Lemma 3.2)"
_CONVOLUTION = "Lemma 3 (Lemma 2 on the matrix of patches)"


@dataclass(frozen=True)
class ClassEntropy:
    """The integers of a node's two entropies.

    gain: rho^2, how often an input entry is used at most, 0 if no learned parameter multiplies the input: then the
    radius is not read; positions: P, how often a learned shift is used, else 0; count: the argument of the logarithm
    for values; derivative_count: the same for derivatives, 0 if all rules of the class have one derivative.
    """

    gain: int
    positions: int
    count: int
    derivative_count: int
    source: str


def class_entropy(operation: op.Operation, node: Node, graph: ComputationGraph) -> ClassEntropy | None:
    """The entropies of the class of `node`; None if the class is a single rule, exactly if nothing is learned.

    Raises `UnsupportedOperationError` for an operation without rule or a parameter whose shape the graph lacks.
    """
    return learned_entropy(operation, node, graph) if node.learned else None


@singledispatch
def learned_entropy(operation: op.Operation, node: Node, graph: ComputationGraph) -> ClassEntropy:
    """The entropies of the class of a node with learned parameters."""
    raise UnsupportedOperationError(
        f"{_place(node)}: no entropy rule for {operation.label!r} with learned parameters "
        f"({', '.join(role for role, _ in node.parameters)}); docs/adding_an_op.md says how to add one"
    )


@learned_entropy.register
def _(operation: op.Linear, node: Node, graph: ComputationGraph) -> ClassEntropy:
    return _matrix(node, 1, graph[node.inputs[0]].shape[-1], node.shape[-1], _LINEAR)


@learned_entropy.register
def _(operation: op.Convolution, node: Node, graph: ComputationGraph) -> ClassEntropy:
    axis = -1 - len(operation.kernel)  # the axes before it are positions
    channels = graph[node.inputs[0]].shape[axis] // operation.groups
    columns = channels * math.prod(operation.kernel)
    return _matrix(node, overlap(operation), columns, node.shape[axis], _CONVOLUTION)


@learned_entropy.register
def _(operation: op.TransposedConvolution, node: Node, graph: ComputationGraph) -> ClassEntropy:
    """An entry meets every tap at most once per output channel, so it occurs in at most prod k patches."""
    axis = -1 - len(operation.kernel)
    taps = math.prod(operation.kernel)
    columns = graph[node.inputs[0]].shape[axis] // operation.groups * taps
    return _matrix(node, taps, columns, node.shape[axis], "Lemma 11 (Lemma 2 on the patches of an output entry)")


def _matrix(node: Node, gain: int, columns: int, rows: int, source: str) -> ClassEntropy:
    """Maps of patches by a matrix (rows, columns), with one more column for a bias; either may be a constant."""
    learned = dict(node.parameters)
    weight, bias = columns * ("weight" in learned), int("bias" in learned)
    return ClassEntropy(
        gain=gain if weight else 0,
        positions=bias * (node.size // rows),
        count=2 * (weight + bias) * rows,
        derivative_count=2 * weight * rows,
        source=source,
    )


@learned_entropy.register
def _(operation: op.Affine, node: Node, graph: ComputationGraph) -> ClassEntropy:
    learned = dict(node.parameters)
    if operation.select and "scale" in learned:
        raise UnsupportedOperationError(
            f"{_place(node)}: a learned scale that also masks has no entropy rule: its rules jump where an entry "
            "becomes 0; multiply by the scale and mask by a constant"
        )
    scales, shifts = (parameter_size(graph, node, role) if role in learned else 0 for role in ("scale", "shift"))
    positions = node.size // shifts if shifts else 0
    return ClassEntropy(int(scales > 0), positions, 2 * (scales + shifts), 2 * scales, _AFFINE)


@learned_entropy.register
def _(operation: op.ParametricReLU, node: Node, graph: ComputationGraph) -> ClassEntropy:
    slopes = parameter_size(graph, node, "slope")
    return ClassEntropy(1, 0, 2 * slopes, 2 * slopes, "Lemma 11 (on the negative parts)")


@learned_entropy.register
def _(operation: op.Parameter, node: Node, graph: ComputationGraph) -> ClassEntropy:
    return ClassEntropy(0, 1, 2 * node.size, 0, "Lemma 11 (a parameter as a value)")


@learned_entropy.register
def _(operation: op.Embedding, node: Node, graph: ComputationGraph) -> ClassEntropy:
    """A linear map of one-hot rows, of norm exactly 1 per position."""
    width = node.shape[-1]
    entries = parameter_size(graph, node, "weight")
    return ClassEntropy(0, node.size // width, 2 * entries, 0, "Lemma 11 (Lemma 2 on one-hot rows)")


def parameter_size(graph: ComputationGraph, node: Node, role: str) -> int:
    """The number of entries of a learned parameter or constant; raises `UnsupportedOperationError` if unknown."""
    name = node.parameter[role]
    known = graph.weights.constants
    shape = tuple(known[name].shape) if name in known else graph.weights.shapes.get(name)
    if shape is None:
        raise UnsupportedOperationError(
            f"{_place(node)}: the graph does not hold the shape of the parameter {name!r} ({role}); pass "
            "Weights(shapes={name: shape}) to the graph, as a trace does"
        )
    return math.prod(shape)


def overlap(operation: op.Convolution | op.MaxPool) -> int:
    """rho^2 = prod_i ceil(k_i gcd(stride_i, dilation_i) / stride_i): in how many patches an entry occurs."""
    sides = zip(operation.kernel, operation.stride, operation.dilation, strict=True)
    return math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in sides)


def _place(node: Node) -> str:
    return f"node {node.name!r} ({node.origin or 'top level'})"
