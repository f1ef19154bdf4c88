"""Attention as what it is made of: two matrix products with a softmax between them."""

from __future__ import annotations

import math

import torch

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import LOG
from covergraph.graph.functions import affine
from covergraph.graph.node import Node
from covergraph.graph.operations import Add, Affine, Attention, Elementwise, MatrixProduct, Softmax
from covergraph.graph.rearrange import Permute
from covergraph.passes.draft import Draft


def open_attention(graph: ComputationGraph) -> ComputationGraph:
    """softmax(scale q k^T + mask) v, node by node; only where it depends on more than the data.

    A mask that is constant or made of the data stays with the softmax, another one is added before it.
    """
    draft = Draft(graph)
    for node in graph.nodes:
        if isinstance(node.operation, Attention) and node.name not in graph.data_only:
            _write_out(draft, node, node.operation)
        else:
            draft.put(node)
    return draft.finished()


def _write_out(draft: Draft, node: Node, operation: Attention) -> None:
    q, k, v = _aligned(draft, node)
    *before, rows, _ = draft.shape(q)
    columns, rank = draft.shape(k)[-2], len(before) + 2
    keys = draft.map(f"{node.name}.keys", k, (Permute((*range(rank - 2), rank - 1, rank - 2)),), node)
    scores = draft.add(f"{node.name}.scores", MatrixProduct(), (q, keys), (*before, rows, columns), node)
    if operation.scale != 1:
        scale = Elementwise(affine(operation.scale, 0))
        scores = draft.add(f"{node.name}.scaled", scale, (scores,), draft.shape(scores), node)
    weights = _weights(draft, node, operation, scores)
    draft.put(Node(node.name, MatrixProduct(), (weights, v), node.shape, origin=node.origin))


def _aligned(draft: Draft, node: Node) -> list[str]:
    """q, k and v with equal axes before the last two."""
    shapes = [draft.shape(u) for u in node.inputs[:3]]
    before = tuple(torch.broadcast_shapes(*(shape[:-2] for shape in shapes)))  # type: ignore[no-untyped-call]
    slots = zip(("query", "key", "value"), node.inputs, shapes, strict=False)
    return [draft.broadcast(f"{node.name}.{word}", u, (*before, *s[-2:]), node) for word, u, s in slots]


def _weights(draft: Draft, node: Node, operation: Attention, scores: str) -> str:
    """The softmax of the masked scores over the keys."""
    shape = draft.shape(scores)
    softmax = Softmax(len(shape) - 1, causal=operation.causal)
    name = f"{node.name}.weights"
    if "mask" in dict(node.parameters):
        scores = draft.add(f"{node.name}.masked", Affine(False, True), (scores,), shape, node, shift="mask")
        return draft.add(name, softmax, (scores,), shape, node)
    if "mask" in dict(node.constants):
        return draft.add(name, softmax, (scores,), shape, _with_additive(draft, node), mask="mask")
    if len(node.inputs) == 3:
        return draft.add(name, softmax, (scores,), shape, node)
    mask = _mask_slot(draft, node, shape)
    if node.inputs[3] in draft.graph.data_only:
        return draft.add(name, softmax, (scores, mask), shape, node)
    masked = draft.add(f"{node.name}.masked", Add(), (scores, mask), shape, node)
    return draft.add(name, softmax, (masked,), shape, node)


def _mask_slot(draft: Draft, node: Node, shape: tuple[int, ...]) -> str:
    """The mask from the graph in the shape of the scores; the logarithm makes 0 and -inf of a boolean one."""
    mask = node.inputs[3]
    if draft.nodes[mask].kind == "integer":
        mask = draft.add(f"{node.name}.additive", Elementwise(LOG), (mask,), draft.shape(mask), node)
    return draft.broadcast(f"{node.name}.mask", mask, shape, node)


def _with_additive(draft: Draft, node: Node) -> Node:
    """The node with a mask that is added: 0 where a boolean one is true, -inf elsewhere."""
    held = draft.graph.weights.constants[dict(node.constants)["mask"]]
    if held.dtype != torch.bool:
        return node
    added = torch.zeros(held.shape, dtype=torch.float64).masked_fill(~held, -math.inf)
    name = draft.constant(f"{node.name}.mask", added)
    return Node(node.name, node.operation, node.inputs, node.shape, (), node.origin, (("mask", name),))
