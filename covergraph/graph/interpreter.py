"""The interpreter: every node's value, by the rules of the operations (`dispatch` says where they are)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from covergraph.errors import GraphError
from covergraph.graph import composed_rules, curved_rules, linear_rules, recurrent_rules
from covergraph.graph.dispatch import Context, apply, edge_jacobian, identity_tangents, state_of, tangent
from covergraph.graph.node import Node

if TYPE_CHECKING:
    from covergraph.graph.computation_graph import ComputationGraph

__all__ = ["RULES", "Context", "apply", "edge_jacobian", "evaluate", "identity_tangents", "state_of", "stream"]
__all__ += ["tangent"]

RULES = (linear_rules, curved_rules, recurrent_rules, composed_rules)
"""The modules that hold the rules; importing them registers these."""


def evaluate(
    graph: ComputationGraph, context: Context, given: Mapping[str, Tensor], cut: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Every node's value in topological order; nodes in `given` or `cut` are not computed."""
    unknown = [name for name in cut if name not in graph.by_name]
    if unknown:
        graph[unknown[0]]
    return dict(stream(graph, context, given, cut, keep=True))


def stream(
    graph: ComputationGraph,
    context: Context,
    given: Mapping[str, Tensor],
    cut: Mapping[str, Tensor] | None = None,
    keep: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every node in topological order; unless `keep`, a value is dropped after its last use."""
    cut = cut or {}
    values: dict[str, Tensor] = {}
    last = {u: node.name for node in graph.nodes for u in node.inputs}
    batch = next((len(value) for value in (*given.values(), *cut.values())), 1)
    for node in graph.nodes:
        if node.name in cut:
            value = _cut_value(node, cut[node.name])
        elif node.name in given:
            value = given[node.name]
        else:
            value = apply(node.operation, node, [values[u] for u in node.inputs], context)
            same = not node.inputs and value.shape[:1] == (1,)  # a parameter or a constant: the same for all samples
            value = value.expand(batch, *value.shape[1:]) if same else value
        values[node.name] = value
        yield node.name, value
        if not keep:
            for u in {u for u in (*node.inputs, node.name) if last.get(u, u) == node.name}:
                del values[u]


def _cut_value(node: Node, value: Tensor) -> Tensor:
    if tuple(value.shape[1:]) != node.shape:
        raise GraphError(
            f"cut: the value given for {node.name!r} has shape {tuple(value.shape)}, expected "
            f"{('batch', *node.shape)}; pass one value per sample"
        )
    return value
