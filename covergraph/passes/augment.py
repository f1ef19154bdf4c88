"""Lipschitz augmentation of a computational graph (Definition 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from covergraph.errors import GraphError, UnsupportedOperationError
from covergraph.graph.augmented import AugmentedGraph, Mode
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.losses import Loss, MarginLoss
from covergraph.graph.operations import Elementwise, Recurrent
from covergraph.kinds import GRAPH, LOSS, require
from covergraph.passes.lower import lower
from covergraph.rules.composition import composable
from covergraph.rules.requirements import NodeRules, limited_nodes, requirements

Bools = NDArray[np.bool_]
LARGEST = 4000
"""A lowered graph of more nodes is refused: it would have millions of pairs."""
Rules = Mapping[str, NodeRules]


def augment(graph: ComputationGraph, loss: Loss | None = None, mode: Mode = "minimal") -> AugmentedGraph:
    """This is no image transform: it is the *Lipschitz augmentation* of a graph, after Wei and Ma (2019).

    The result computes z = 1 + (l - 1) * prod of soft indicators on ||h_v||, v in S, on ||D_{w<-a}||_op, (w, a) in P,
    and on the conditions q_c >= rho_c of operations with kinks or poles: an upper bound of the loss l that is
    Lipschitz in every node (Theorem 2). The graph is lowered first: attention and recurrent layers are written out.

    Args: `loss`, by default the margin loss; `mode`: "minimal", the smallest closed S and P (Proposition 1);
    "paper", all post-activation nodes and all ancestor pairs; "output-only", eq. (2) of Wei and Ma, their first
    attempt, whose release-Lipschitz constants are unbounded: for teaching.
    Raises `UnsupportedOperationError` for an operation without rule, `GraphError` if nothing is learned.
    """
    require("augment", {"graph": GRAPH, "loss": LOSS.or_none()}, graph=graph, loss=loss)
    if mode not in get_args(Mode):
        raise GraphError(f"augment: mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    base = lower(graph, keep=composable)
    _require_size(base, graph)
    loss = loss or MarginLoss()
    loss.tau(base[base.output])
    if not base.covered:
        raise GraphError("augment: the graph has no learned parameter (linear or convolution); nothing to bound")
    rules = requirements(base, paper=mode == "paper")
    hidden = hidden_nodes(base, mode, rules)
    pairs = {"minimal": _minimal, "paper": _all_pairs, "output-only": _output_only}[mode](base, hidden, rules)
    return AugmentedGraph(base, loss, mode, hidden, pairs, rules, graph)


def _require_size(base: ComputationGraph, graph: ComputationGraph) -> None:
    """Raise `UnsupportedOperationError` if layers written out step by step make a graph that is too large."""
    if len(base) <= LARGEST:
        return
    steps = [node for node in graph.nodes if isinstance(node.operation, Recurrent)]
    first = f"node {steps[0].name!r} ({steps[0].origin or 'top level'}): " if steps else ""
    written = f"; {len(steps)} layers ({steps[0].operation.label}) are written out step by step" if steps else ""
    raise UnsupportedOperationError(
        f"{first}augment: the lowered graph has {len(base)} nodes, expected at most {LARGEST}{written}; bound the "
        "model on shorter sequences, or a part of it (output=)"
    )


def hidden_nodes(base: ComputationGraph, mode: Mode, rules: Rules) -> tuple[str, ...]:
    """S: the nodes whose norm the bound reads, in paper mode also the post-activation nodes.

    Data-only nodes are functions of the sample itself and carry no indicator.
    """
    chosen = limited_nodes(base, rules)
    if mode == "paper":
        chosen |= {node.name for node in base.nodes if is_activation(node.operation)}
    return tuple(node.name for node in base.nodes if node.name in chosen - base.data_only)


def is_activation(operation: object) -> bool:
    """A non-linear element-wise function."""
    return isinstance(operation, Elementwise) and not operation.function.is_affine


def _all_pairs(base: ComputationGraph, hidden: tuple[str, ...], rules: Rules) -> Bools:
    pairs = base.reach.copy()
    pairs[:, [node.kind != "float" for node in base.nodes]] = False
    return pairs


def _output_only(base: ComputationGraph, hidden: tuple[str, ...], rules: Rules) -> Bools:
    pairs = np.zeros_like(base.reach)
    k = base.index[base.output]
    pairs[k] = base.reach[k] & np.array([node.name not in base.data_only for node in base.nodes])
    return pairs


def _minimal(base: ComputationGraph, hidden: tuple[str, ...], rules: Rules) -> Bools:
    """The closure of Proposition 1 by sweeps over the edges until nothing is added."""
    reach = base.reach
    above = reach | np.eye(len(base), dtype=bool)
    covered = np.array([node.name in base.covered for node in base.nodes])
    pairs = np.zeros_like(reach)
    for name in (base.output, *hidden, *_conditioned(base, rules)):
        pairs[base.index[name]] = reach[base.index[name]] & covered
    edges = _relevant_edges(base, rules)
    while True:
        before = pairs.sum()
        for x, u, varying in edges:
            _close(pairs, above, covered, x, u, varying)
        if pairs.sum() == before:
            return pairs


def _conditioned(base: ComputationGraph, rules: Rules) -> list[str]:
    """The nodes that some condition reads: pr(c)."""
    return [
        base[name].inputs[slot]
        for name, rule in rules.items()
        if rule.condition is not None
        for slot in rule.condition.slopes
        if base[name].inputs[slot] not in base.data_only
    ]


def _relevant_edges(base: ComputationGraph, rules: Rules) -> list[tuple[int, int, list[int]]]:
    """Edges (x, u, [u' with taubar_{x;u,u'} > 0]) whose Jacobian is learned or varies with learned values."""
    edges = []
    for node in base.nodes:
        if node.name not in rules:
            continue
        rule = rules[node.name]
        learned = rule.entropy is not None and rule.entropy.derivative_count > 0
        for u in node.predecessors:
            varying = [base.index[v] for (first, v) in rule.taubar if first == u and v not in base.data_only]
            if varying or learned:
                edges.append((base.index[node.name], base.index[u], varying))
    return edges


def _close(pairs: Bools, above: Bools, covered: Bools, x: int, u: int, varying: list[int]) -> None:
    """Add what the pairs that run through the edge u -> x ask for: (w, x), (u, a), (u', covered v)."""
    through = pairs & above[:, x][:, None] & above[u][None, :]
    if not through.any():
        return
    later, earlier = through.any(axis=1), through.any(axis=0)
    pairs[later, x] = True
    pairs[u, earlier] = True
    for v in varying:
        pairs[v] |= above[v] & covered
        pairs[v, v] = False
    pairs[x, x] = pairs[u, u] = False
