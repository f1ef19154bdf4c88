"""What a graph asks of its bound: taubar and condition of every node, and the norms that must be limited.

Nodes that are functions of the sample alone are asked nothing: their values and Jacobians never vary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.rules.conditions import Condition, condition
from covergraph.rules.entropy import ClassEntropy, class_entropy
from covergraph.rules.norms import norm_bound
from covergraph.rules.placeholders import RHO, slot_of
from covergraph.rules.smoothness import smoothness

SAME_SHAPE = (op.Add, op.Subtract, op.Product, op.Divide, op.Affine, op.ParametricReLU, op.Softmax, op.Elementwise)


@dataclass(frozen=True)
class NodeRules:
    """taubar_{x;u,u'} of a node by pairs of predecessors, with placeholders; its condition; its class if learned."""

    taubar: Mapping[tuple[str, str], sympy.Expr]
    condition: Condition | None
    entropy: ClassEntropy | None

    def radii(self, node: Node) -> set[str]:
        """The predecessors on whose norm some taubar depends."""
        symbols = (symbol for value in self.taubar.values() for symbol in value.free_symbols)
        return {node.inputs[slot] for slot in map(slot_of, symbols) if slot is not None}


def requirements(base: ComputationGraph, paper: bool = False) -> dict[str, NodeRules]:
    """The rules of every node that is not data-only; `paper` keeps what only pairs from inputs read.

    Raises `UnsupportedOperationError` that names all operations without a rule.
    """
    found: dict[str, NodeRules] = {}
    refused: dict[str, tuple[str, int]] = {}
    for node in base.nodes:
        if node.name in base.data_only:
            continue
        try:
            found[node.name] = _node_rules(node, base, paper)
        except UnsupportedOperationError as error:
            first, count = refused.get(node.operation.label, (str(error), 0))
            refused[node.operation.label] = (first, count + 1)
    if refused:
        (first, _), *rest = refused.values()
        others = [f"{label} ({count})" for label, (_, count) in refused.items()]
        raise UnsupportedOperationError(first + (f"; without rule are {', '.join(others)}" if rest else ""))
    return found


def _node_rules(node: Node, base: ComputationGraph, paper: bool) -> NodeRules:
    if node.kind != "float" and not isinstance(node.operation, op.Input):
        raise UnsupportedOperationError(
            f"node {node.name!r} ({node.origin or 'top level'}): {node.operation.label!r} makes {node.kind} values of "
            "learned ones, which have no derivative rule; compute them from the inputs alone, or in real numbers; "
            "torch.where(h > c, f(h), g(h)) has one if c is a number, and f and g have values at all numbers"
        )
    _require_shapes(node, base)
    entropy = class_entropy(node.operation, node, base)
    table = smoothness(node, base.data_only)
    kept = {key: value for key, value in table.items() if paper or key[0] not in base.data_only}
    found = condition(node.operation, node)
    if found is None:
        return NodeRules(kept, None, entropy)
    varies = any(node.inputs[slot] not in base.data_only for slot in found.slopes)
    read = any(value.has(RHO) for value in kept.values())
    return NodeRules(kept, found if varies or read else None, entropy)


def _require_shapes(node: Node, base: ComputationGraph) -> None:
    """The rules of these operations are for slots of the node's own shape; traced graphs spell expansions out."""
    for u in node.inputs if isinstance(node.operation, SAME_SHAPE) else ():
        if base[u].shape != node.shape:
            raise UnsupportedOperationError(
                f"node {node.name!r} ({node.origin or 'top level'}): {node.operation.label!r} reads {u!r} of shape "
                f"{base[u].shape}, expected {node.shape}; expand it by a Rearrange node"
            )


def limited_nodes(base: ComputationGraph, rules: Mapping[str, NodeRules]) -> set[str]:
    """S_min: what covered nodes with a radius read, and what some taubar needs; not data-only, no a-priori bound."""
    chosen: set[str] = set()
    for name, rule in rules.items():
        chosen |= rule.radii(base[name])
        if rule.entropy is not None and rule.entropy.gain:
            chosen.update(base[name].predecessors)
    return {u for u in chosen - base.data_only if norm_bound(base[u].operation, base[u]) is None}
