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
from covergraph.graph.operations import Elementwise
from covergraph.passes.prune import prune
from covergraph.rules.smoothness import smoothness

Bools = NDArray[np.bool_]


def augment(graph: ComputationGraph, loss: Loss | None = None, mode: Mode = "minimal") -> AugmentedGraph:
    """This is no image transform: it is the *Lipschitz augmentation* of a graph, after Wei and Ma (2019).

    The result computes z = 1 + (l - 1) * prod of soft indicators on ||h_v||, v in S, and on ||D_{w<-a}||_op,
    (w, a) in P: an upper bound of the loss l that is Lipschitz in every node (Theorem 2).

    Args: `loss`, by default the margin loss; `mode`: "minimal", the smallest closed S and P (Proposition 1);
    "paper", all post-activation nodes and all ancestor pairs; "output-only", eq. (2) of Wei and Ma, their first
    attempt, whose release-Lipschitz constants are unbounded: for teaching.
    Raises `UnsupportedOperationError` for an operation without rule, `GraphError` if nothing is learned.
    """
    if mode not in get_args(Mode):
        raise GraphError(f"augment: mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    base = prune(graph)
    loss = loss or MarginLoss()
    loss.tau(base[base.output])
    if not base.covered:
        raise GraphError("augment: the graph has no learned parameter (linear or convolution); nothing to bound")
    curved = _smoothness(base)
    hidden = hidden_nodes(base, mode)
    pairs = {"minimal": _minimal, "paper": _all_pairs, "output-only": _output_only}[mode](base, hidden, curved)
    return AugmentedGraph(base, loss, mode, hidden, pairs)


def _smoothness(base: ComputationGraph) -> dict[str, Mapping[tuple[str, str], object]]:
    """taubar of every node; raises `UnsupportedOperationError` with all operations that have no rule."""
    found: dict[str, Mapping[tuple[str, str], object]] = {}
    refused: dict[str, tuple[str, int]] = {}
    for node in base.nodes:
        try:
            found[node.name] = smoothness(node)
        except UnsupportedOperationError as error:
            first, count = refused.get(node.operation.label, (str(error), 0))
            refused[node.operation.label] = (first, count + 1)
    if not refused:
        return found
    (first, _), *rest = refused.values()
    others = [f"{label} ({count})" for label, (_, count) in refused.items()]
    raise UnsupportedOperationError(first + (f"; without rule are {', '.join(others)}" if rest else ""))


def hidden_nodes(base: ComputationGraph, mode: Mode) -> tuple[str, ...]:
    """S: the predecessors of covered nodes, in paper mode also the post-activation nodes.

    Data-only nodes are functions of the sample itself and carry no indicator.
    """
    chosen = {u for name in base.covered for u in base[name].predecessors}
    if mode == "paper":
        chosen |= {node.name for node in base.nodes if is_activation(node.operation)}
    return tuple(node.name for node in base.nodes if node.name in chosen - base.data_only)


def is_activation(operation: object) -> bool:
    """A non-linear element-wise function."""
    return isinstance(operation, Elementwise) and not operation.function.is_affine


def _all_pairs(base: ComputationGraph, hidden: tuple[str, ...], curved: Mapping[str, object]) -> Bools:
    return base.reach.copy()


def _output_only(base: ComputationGraph, hidden: tuple[str, ...], curved: Mapping[str, object]) -> Bools:
    pairs = np.zeros_like(base.reach)
    k = base.index[base.output]
    pairs[k] = base.reach[k] & np.array([node.name not in base.data_only for node in base.nodes])
    return pairs


def _minimal(
    base: ComputationGraph, hidden: tuple[str, ...], curved: Mapping[str, Mapping[tuple[str, str], object]]
) -> Bools:
    """The closure of Proposition 1 by sweeps over the edges until nothing is added."""
    reach = base.reach
    above = reach | np.eye(len(base), dtype=bool)
    covered = np.array([node.name in base.covered for node in base.nodes])
    pairs = np.zeros_like(reach)
    for name in (base.output, *hidden):
        pairs[base.index[name]] = reach[base.index[name]] & covered
    edges = _relevant_edges(base, curved)
    while True:
        before = pairs.sum()
        for x, u, varying in edges:
            _close(pairs, above, covered, x, u, varying)
        if pairs.sum() == before:
            return pairs


def _relevant_edges(
    base: ComputationGraph, curved: Mapping[str, Mapping[tuple[str, str], object]]
) -> list[tuple[int, int, list[int]]]:
    """Edges (x, u, [u' with taubar_{x;u,u'} > 0]) whose Jacobian is learned or varies with learned values."""
    edges = []
    for node in base.nodes:
        for u in node.predecessors:
            varying = [base.index[v] for (first, v) in curved[node.name] if first == u and v not in base.data_only]
            if varying or node.learned:
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
