"""How rich is an operation's class? Metric entropies of the class and of its derivatives (Lemmas 2-4).

Both have the form ln N(eps) <= ceil(coefficient / eps^2) * ln(count), and are 0 once eps^2 >= coefficient, with
    coefficient = a^2 (gain * radius^2 + positions)   for the values,
    coefficient = b^2 gain                            for the derivatives in operator norm,
where a, b are the distances of the parameters to fixed reference weights (see `covergraph.measure.distances`) and
radius bounds the norm of the operation's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node


@dataclass(frozen=True)
class ClassEntropy:
    """The integers of a node's two entropies.

    gain: rho^2, how often an input entry is used at most; positions: P if there is a bias, else 0;
    count: the argument of the logarithm for values; derivative_count: the same for derivatives.
    """

    gain: int
    positions: int
    count: int
    derivative_count: int
    source: str


@singledispatch
def class_entropy(operation: op.Operation, node: Node, graph: ComputationGraph) -> ClassEntropy | None:
    """The entropies of the class of `node`, None if the class is a single rule."""
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): no entropy rule for {operation.label!r}; "
        "docs/adding_an_op.md says how to add one"
    )


@class_entropy.register(op.Input)
@class_entropy.register(op.Elementwise)
@class_entropy.register(op.Product)
@class_entropy.register(op.Add)
@class_entropy.register(op.Subtract)
@class_entropy.register(op.Concatenate)
@class_entropy.register(op.Reshape)
@class_entropy.register(op.AveragePool)
def _(operation: op.Operation, node: Node, graph: ComputationGraph) -> ClassEntropy | None:
    return None


@class_entropy.register
def _(operation: op.Linear, node: Node, graph: ComputationGraph) -> ClassEntropy | None:
    rows, columns = node.shape[-1], graph[node.inputs[0]].shape[-1]
    bias = int(operation.bias)
    return ClassEntropy(
        gain=1,
        positions=bias * math.prod(node.shape[:-1]),
        count=2 * (columns + bias) * rows,
        derivative_count=2 * columns * rows,
        source="Lemma 2 (Maurey; Bartlett, Foster, Telgarsky 2017, Lemma 3.2)",
    )


@class_entropy.register
def _(operation: op.Convolution, node: Node, graph: ComputationGraph) -> ClassEntropy | None:
    axis = -1 - len(operation.kernel)  # the axes before it are positions
    rows = node.shape[axis]
    channels = graph[node.inputs[0]].shape[axis] // operation.groups
    columns = channels * math.prod(operation.kernel)
    bias = int(operation.bias)
    return ClassEntropy(
        gain=overlap(operation),
        positions=bias * (node.size // rows),
        count=2 * (columns + bias) * rows,
        derivative_count=2 * columns * rows,
        source="Lemma 3 (Lemma 2 on the matrix of patches)",
    )


def overlap(operation: op.Convolution) -> int:
    """rho^2 = prod_i ceil(k_i gcd(stride_i, dilation_i) / stride_i): in how many patches an entry occurs."""
    sides = zip(operation.kernel, operation.stride, operation.dilation, strict=True)
    return math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in sides)
