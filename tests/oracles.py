"""Slow, independent ways to get what the program computes: dense derivatives, Theorem 2 by loops, sums by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import sympy
import torch
from hand_rules import condition, curved_pairs, learned_multiplier, norm_readers, prior, taubar
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.values import Pair


def _jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Dense Jacobian per sample, (batch, size of value, size of argument), of a function of batches."""
    rows = [torch.func.jacrev(function)(sample[None]) for sample in at]
    sizes = [(function(at[:1]).numel(), at[0].numel())] * len(rows)
    return torch.stack([row.reshape(size) for row, size in zip(rows, sizes, strict=True)])


def total_derivative(
    graph: ComputationGraph, state: Mapping[str, Tensor], inputs: Sequence[Tensor], w: str, a: str
) -> Tensor:
    """D_{w<-a} of each sample: h_w as a function of h_a, with a cut and everything else computed."""
    return _per_sample(graph, state, inputs, w, a, lambda values: {})


def edge_jacobian(
    graph: ComputationGraph, state: Mapping[str, Tensor], inputs: Sequence[Tensor], x: str, u: str
) -> Tensor:
    """J_{x,u} of each sample: all predecessors of x cut, u varied."""
    return _per_sample(graph, state, inputs, x, u, lambda values: {p: values[p] for p in graph[x].inputs})


def _per_sample(
    graph: ComputationGraph,
    state: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    w: str,
    a: str,
    others: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> Tensor:
    found = []
    for i in range(len(inputs[0])):
        sample = [x[i : i + 1] for x in inputs]
        values = graph.run(state, *sample)

        def value(h: Tensor, sample: list[Tensor] = sample, values: Mapping[str, Tensor] = values) -> Tensor:
            return graph.run(state, *sample, cut={**others(values), a: h})[w]

        found.append(_jacobian(value, values[a]))
    return torch.cat(found)


def ancestor_pairs(graph: ComputationGraph) -> list[Pair]:
    """All (w, a) with a path from a to w."""
    return [(w, a) for w, above in ancestors(graph).items() for a in sorted(above)]


def ancestors(graph: ComputationGraph) -> dict[str, set[str]]:
    """Every node's ancestors, by walking the inputs."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        found[node.name] = set(node.inputs).union(*(found[u] for u in node.inputs))
    return found


def limited(graph: ComputationGraph) -> set[str]:
    """S_min: nodes that are read by their norm, without an a-priori bound, not functions of the sample alone."""
    free = [node for node in graph.nodes if node.name not in graph.data_only]
    read = {u for node in free if _varies(graph, node) for u in norm_readers(node)}
    return {node.name for node in free if node.name in read and prior(node) is None}


def _varies(graph: ComputationGraph, node: Node) -> bool:
    """False for a quotient by a function of the sample: then its derivatives do not depend on the numerator."""
    return not (isinstance(node.operation, op.Divide) and node.inputs[1] in graph.data_only)


class Theorem2:
    """kappatilde by explicit loops over pairs and edges; a pair that is needed but absent raises KeyError."""

    def __init__(
        self,
        graph: ComputationGraph,
        pairs: Collection[Pair],
        tau: float,
        s: Mapping[str, float],
        kappa: Mapping[Pair, float],
        rho: Mapping[str, float] | None = None,
        norms: Mapping[str, float] | None = None,
    ) -> None:
        """`rho` by conditioned node; `norms`: the largest norms of nodes that are functions of the sample."""
        self.graph, self.pairs, self.tau, self.s = graph, pairs, tau, s
        self.rho, self.norms = rho or {}, norms or {}
        self.kappa = {pair: kappa[pair] for pair in pairs}
        self.above = ancestors(graph)
        free = [node for node in graph.nodes if node.name not in graph.data_only]
        self.taubar = {node.name: taubar(node, self.radius, self.rho.get(node.name, math.nan)) for node in free}

    def radius(self, u: str) -> float:
        """The largest norm of h_u where nothing has collapsed; NaN, which enters no taubar > 0, if u is not in S."""
        if u in self.graph.data_only:
            return self.norms[u]
        bound = prior(self.graph[u])
        return 2 * self.s.get(u, math.nan) if bound is None else bound

    def bar(self, w: str, a: str) -> float:
        if w == a:
            return 1.0
        return 2 * self.kappa[w, a] if a in self.above[w] else 0.0

    def between(self, low: str, high: str) -> bool:
        return low == high or low in self.above[high]

    def jacobian(self, x: str, u: str) -> float:
        total = 0.0
        for w, a in self.pairs:
            if self.between(a, u) and self.between(x, w):
                total += self.bar(w, x) * self.bar(u, a) / self.kappa[w, a]
        return total

    def hidden(self, v: str) -> dict[str, float]:
        """The terms of kappatilde_{h_v}: loss, norms, conditions, curvature."""
        loss = self.tau * self.bar(self.graph.output, v) if self.tau else 0.0
        norms = sum(self.bar(w, v) / s for w, s in self.s.items() if self.between(v, w))
        return {"loss": loss, "norms": norms, "conditions": self.conditions(v), "curvature": self.curvature(v)}

    def conditions(self, v: str) -> float:
        """sum over c of (2 / rho_c) times the change of q_c, through every value that it reads."""
        total = 0.0
        for name, rho in self.rho.items():
            for slot, slope in condition(self.graph[name]).items():
                u = self.graph[name].inputs[slot]
                total += 2 / rho * slope * self.bar(u, v) if self.between(v, u) else 0.0
        return total

    def curvature(self, v: str) -> float:
        total = 0.0
        for w, a in self.pairs:
            for node in self.graph.nodes:
                if not self.between(node.name, w):
                    continue
                for (u, other), constant in self.taubar.get(node.name, {}).items():
                    if self.between(a, u) and self.between(v, other):
                        change = constant * self.bar(other, v)
                        total += self.bar(w, node.name) * change * self.bar(u, a) / self.kappa[w, a]
        return total


def closed_pairs(graph: ComputationGraph, hidden: Collection[str]) -> set[Pair]:
    """P of minimal mode: rules 1 and 2 of Proposition 1 applied pair by pair until nothing is new."""
    above = ancestors(graph)
    covered = set(graph.covered)
    found: set[Pair] = set()
    read = [node.inputs[slot] for node in graph.nodes for slot in condition(node)]
    waiting = [(w, v) for w in (graph.output, *hidden, *read) for v in covered & above[w]]
    while waiting:
        w, a = waiting.pop()
        if w == a or a not in above[w] or (w, a) in found:
            continue
        found.add((w, a))
        for node in graph.nodes:
            for u in dict.fromkeys(node.inputs):
                across = (a == u or a in above[u]) and (node.name == w or node.name in above[w])
                varying = [v for (first, v) in curved_pairs(node) if first == u and v not in graph.data_only]
                if across and (varying or learned_multiplier(node)):
                    waiting += [(w, node.name), (u, a)]
                    waiting += [(v, c) for v in varying for c in covered & above[v]]
    return found


Level = Callable[[int, int], sympy.Expr]


class SequentialSums:
    """The closed sums of Theorem 2 on a path 0, ..., k, as they are written in the sequential case.

    `kappa(j1, j)` is kappa_{j1<-j}, the level of layers j, ..., j1 for j <= j1; `s[j]` for j in S; `tau[j]` is
    taubar of layer j; `rho[j]` for layers with a condition on h_{j-1}; `has(j1, j)` says whether the pair is in P.
    """

    def __init__(
        self,
        k: int,
        slope: sympy.Expr,
        s: Mapping[int, sympy.Expr],
        tau: Mapping[int, sympy.Expr],
        rho: Mapping[int, sympy.Expr],
        kappa: Level,
        has: Callable[[int, int], bool],
    ) -> None:
        self.k, self.slope, self.s, self.tau, self.kappa, self.has = k, slope, s, tau, kappa, has
        self.rho = rho

    def two(self, j1: int, j: int) -> sympy.Expr:
        """2 kappa_{j1<-j}, or 1 for the empty product."""
        return sympy.Integer(1) if j1 == j - 1 else 2 * self.kappa(j1, j)

    def jacobian(self, i: int) -> sympy.Expr:
        two, total = self.two, sympy.Integer(0)
        for j in range(1, i + 1):
            for j1 in range(i, self.k + 1):
                if self.has(j1, j):
                    total += two(j1, i + 1) * two(i - 1, j) / self.kappa(j1, j)
        return total

    def value(self, i: int) -> sympy.Expr:
        two, total = self.two, self.slope * self.two(self.k, i + 1)
        for j in range(i, self.k + 1):
            if j in self.s:
                total += two(j, i + 1) / self.s[j]
            if j in self.rho and j > i:
                total += 2 / self.rho[j] * two(j - 1, i + 1)
        for j in range(1, self.k + 1):
            for j1 in range(j, self.k + 1):
                for j2 in range(max(i + 1, j), j1 + 1):
                    if self.has(j1, j) and j2 in self.tau:
                        factors = two(j1, j2 + 1) * two(j2 - 1, i + 1) * two(j2 - 1, j)
                        total += self.tau[j2] * factors / self.kappa(j1, j)
        return total
