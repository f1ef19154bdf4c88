"""Slow, independent ways to get what the program computes: dense derivatives, Theorem 2 by loops, sums by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import sympy
import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.values import Pair

CURVATURE = {
    "tanh": 4 / (3 * math.sqrt(3)),
    "softplus": 1 / 4,
    "gelu": math.sqrt(2 / math.pi),
    "silu": 1 / 2,
    "elu": 1.0,
    "sin": 1.0,
    "cos": 1.0,
    "offset_sine": 1 / 2,
}
"""sup |phi''| as the literature and pencil have it."""


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


def ancestors(graph: ComputationGraph) -> dict[str, set[str]]:
    """Every node's ancestors, by walking the inputs."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        found[node.name] = set(node.inputs).union(*(found[u] for u in node.inputs))
    return found


def taubar(node: Node) -> dict[Pair, float]:
    """taubar_{x;u,u'} > 0 of x = node, by hand: curvature on the diagonal, products across their two slots."""
    if isinstance(node.operation, op.Elementwise):
        (u,) = node.inputs
        constant = CURVATURE.get(node.operation.function.name, 0.0)
        return {(u, u): constant} if constant else {}
    if isinstance(node.operation, op.Product):
        u, v = node.inputs
        return {(u, u): 2.0} if u == v else {(u, v): 1.0, (v, u): 1.0}
    return {}


class Theorem2:
    """kappatilde by explicit loops over pairs and edges; a pair that is needed but absent raises KeyError."""

    def __init__(
        self,
        graph: ComputationGraph,
        pairs: Collection[Pair],
        tau: float,
        s: Mapping[str, float],
        kappa: Mapping[Pair, float],
    ) -> None:
        self.graph, self.pairs, self.tau, self.s = graph, pairs, tau, s
        self.kappa = {pair: kappa[pair] for pair in pairs}
        self.above = ancestors(graph)

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
        """The three terms of kappatilde_{h_v}: loss, norms, curvature."""
        loss = self.tau * self.bar(self.graph.output, v) if self.tau else 0.0
        norms = sum(self.bar(w, v) / s for w, s in self.s.items() if self.between(v, w))
        return {"loss": loss, "norms": norms, "curvature": self.curvature(v)}

    def curvature(self, v: str) -> float:
        total = 0.0
        for w, a in self.pairs:
            for node in self.graph.nodes:
                if not self.between(node.name, w):
                    continue
                for (u, other), constant in taubar(node).items():
                    if self.between(a, u) and self.between(v, other):
                        change = constant * self.bar(other, v)
                        total += self.bar(w, node.name) * change * self.bar(u, a) / self.kappa[w, a]
        return total


def closed_pairs(graph: ComputationGraph, hidden: Collection[str]) -> set[Pair]:
    """P of minimal mode: rules 1 and 2 of Proposition 1 applied pair by pair until nothing is new."""
    above = ancestors(graph)
    covered = set(graph.covered)
    found: set[Pair] = set()
    waiting = [(w, v) for w in (graph.output, *hidden) for v in covered & above[w]]
    while waiting:
        w, a = waiting.pop()
        if w == a or a not in above[w] or (w, a) in found:
            continue
        found.add((w, a))
        for node in graph.nodes:
            for u in dict.fromkeys(node.inputs):
                across = (a == u or a in above[u]) and (node.name == w or node.name in above[w])
                varying = [v for (first, v) in taubar(node) if first == u and v not in graph.data_only]
                if across and (varying or node.name in covered):
                    waiting += [(w, node.name), (u, a)]
                    waiting += [(v, c) for v in varying for c in covered & above[v]]
    return found


Level = Callable[[int, int], sympy.Expr]


class SequentialSums:
    """The closed sums of Theorem 2 on a path 0, ..., k, as they are written in the sequential case.

    `kappa(j1, j)` is kappa_{j1<-j}, the level of layers j, ..., j1 for j <= j1; `s[j]` for j in S; `tau[j]` is
    taubar of layer j; `has(j1, j)` says whether the pair is in P.
    """

    def __init__(
        self,
        k: int,
        slope: sympy.Expr,
        s: Mapping[int, sympy.Expr],
        tau: Mapping[int, sympy.Expr],
        kappa: Level,
        has: Callable[[int, int], bool],
    ) -> None:
        self.k, self.slope, self.s, self.tau, self.kappa, self.has = k, slope, s, tau, kappa, has

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
        for j in range(1, self.k + 1):
            for j1 in range(j, self.k + 1):
                for j2 in range(max(i + 1, j), j1 + 1):
                    if self.has(j1, j) and j2 in self.tau:
                        factors = two(j1, j2 + 1) * two(j2 - 1, i + 1) * two(j2 - 1, j)
                        total += self.tau[j2] * factors / self.kappa(j1, j)
        return total
