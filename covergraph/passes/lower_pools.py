"""ReLU and max-pool as one node: apart, a window without a positive entry would be a tie of zeros."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import UNARY
from covergraph.graph.node import Node
from covergraph.graph.operations import Elementwise, MaxPool, Softmax
from covergraph.passes.draft import Draft
from covergraph.passes.pooling import covers
from covergraph.passes.rewriting import uses

KEEP_SIGN: tuple[type[op.Operation], ...] = (
    *(op.Add, op.Concatenate, op.Reshape, op.Rearrange, op.Sum, op.AveragePool, op.MaxPool, op.Maximum),
    *(op.Product, op.MatrixProduct),
)
"""What these make of values that are not negative is not negative."""


def rectify_pools(graph: ComputationGraph) -> ComputationGraph:
    """relu(maxpool(x)) and maxpool(relu(x)) become one node of x, called like the later one.

    ReLU of what is never negative goes: its argument may well be 0, where ReLU has no derivative. A max-pool that
    others read, too, stays before its ReLU; a ReLU that others read stays beside the pool. What depends on the data
    alone stays.
    """
    count = uses(graph)
    draft = Draft(graph)
    positive = _nonnegative(graph)
    for node in graph.nodes:
        draft.put(node)
        node = draft.nodes[node.name]
        if _is_relu(node) and positive.issuperset(node.inputs) and not _is_rectified(draft.nodes[node.inputs[0]]):
            if node.name != graph.output and node.name not in graph.data_only:
                draft.names[node.name] = node.inputs[0]
                del draft.nodes[node.name]
            continue
        if len(node.inputs) != 1 or node.name in graph.data_only:
            continue
        before = draft.nodes[node.inputs[0]]
        if _is_relu(node) and _is_rectified(before) and count[before.name] > 1:
            draft.names[node.name] = before.name
            del draft.nodes[node.name]
        else:
            draft.nodes[node.name] = _joined(node, before, count[before.name] == 1)
    return draft.finished()


def _joined(node: Node, before: Node, alone: bool) -> Node:
    """The node reading what is before `before`, if the two are a ReLU and a max-pool, or ReLU of what is ReLU."""
    operation, inner = node.operation, before.operation
    if _is_relu(node) and _is_rectified(before):
        return replace(node, operation=inner, inputs=before.inputs)
    if _is_relu(node) and isinstance(inner, MaxPool) and alone:
        return replace(node, operation=replace(inner, rectify=True), inputs=before.inputs)
    if isinstance(operation, MaxPool) and covers(operation) and _is_relu(before):
        return replace(node, operation=replace(operation, rectify=True), inputs=before.inputs)
    return node


def _nonnegative(graph: ComputationGraph) -> set[str]:
    """Nodes none of whose entries is ever negative: ReLU, softmax, and what sums, means, maxima make of them."""
    found: set[str] = set()
    for node in graph.nodes:
        softmax = isinstance(node.operation, Softmax) and not node.operation.log
        kept = bool(node.inputs) and isinstance(node.operation, KEEP_SIGN) and found.issuperset(node.inputs)
        if softmax or _is_rectified(node) or kept:
            found.add(node.name)
    return found


def _is_relu(node: Node) -> bool:
    return isinstance(node.operation, Elementwise) and node.operation.function == UNARY["relu"]


def _is_rectified(node: Node) -> bool:
    """True for ReLU, alone or with a max-pool."""
    return _is_relu(node) or (isinstance(node.operation, MaxPool) and node.operation.rectify)
