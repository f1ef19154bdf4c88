"""Dense Jacobians by tangents: exact total derivatives, their norms, and norms filled in from edges.

This is the one place that computes operator norms of total derivatives; a faster engine can replace
`pair_norms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, edge_jacobian, identity_tangents, tangent
from covergraph.measure.norms import rounding, spectral_norms
from covergraph.values import Pair

Values = Mapping[str, Tensor]
MEMORY = 256 * 2**20
"""Bytes that the tangents of one chunk of samples may take."""


def total_derivatives(
    graph: ComputationGraph, values: Values, context: Context, source: str, sinks: Iterable[str]
) -> Iterator[tuple[str, Tensor]]:
    """(w, D_{w<-source}) for each sink w, dense (batch, size w, size source), in topological order."""
    wanted = set(sinks)
    last = max(graph.index[w] for w in wanted)
    tangents: dict[str, Tensor] = {source: identity_tangents(values[source])}
    for node in graph.nodes[graph.index[source] + 1 : last + 1]:
        slots = [tangents.get(u) for u in node.inputs]
        if all(t is None for t in slots):
            continue
        result = tangent(node.operation, node, [values[u] for u in node.inputs], slots, context)
        tangents[node.name] = result
        if node.name in wanted:
            yield node.name, result.reshape(*result.shape[:2], -1).transpose(1, 2)


def pair_norms(graph: ComputationGraph, values: Values, context: Context, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
    """Upper ends of ||D_{w<-a}(x)||_op for every pair and sample: (batch,) each."""
    by_source: dict[str, list[str]] = {}
    for w, a in pairs:
        by_source.setdefault(a, []).append(w)
    norms: dict[Pair, list[Tensor]] = {pair: [] for pair in pairs}
    for a, sinks in by_source.items():
        for part in _chunks(graph, values, a):
            for w, derivative in total_derivatives(graph, part, context, a, sinks):
                slack = 1 + rounding(derivative.dtype, *derivative.shape[1:])
                norms[w, a].append(spectral_norms(derivative) * slack)
    return {pair: torch.cat(parts) for pair, parts in norms.items()}


def _chunks(graph: ComputationGraph, values: Values, source: str) -> Iterator[Values]:
    batch = values[source].shape[0]
    per_sample = values[source].element_size() * graph[source].size * sum(node.size for node in graph.nodes)
    size = max(1, min(batch, MEMORY // max(per_sample, 1)))
    for start in range(0, batch, size):
        yield {name: value[start : start + size] for name, value in values.items()}


def filled_norms(
    graph: ComputationGraph, values: Values, context: Context, pairs: Sequence[Pair]
) -> dict[Pair, Tensor]:
    """Upper bounds sum_u ||J_{w,u}(x)|| kappa_{u<-a}(x) instead of the norms themselves (Proposition 2)."""
    edges = edge_norms(graph, values, context)
    result: dict[Pair, Tensor] = {}
    for a in dict.fromkeys(a for _, a in pairs):
        bounds: dict[str, Tensor] = {a: torch.ones_like(next(iter(edges.values())))}
        for node in graph.nodes[graph.index[a] + 1 :]:
            terms = [edges[node.name, u] * bounds[u] for u in node.predecessors if u in bounds]
            if terms:
                bounds[node.name] = torch.stack(terms).sum(0)
        result |= {(w, a): bounds[w] for w, source in pairs if source == a}
    return result


def edge_norms(graph: ComputationGraph, values: Values, context: Context) -> dict[Pair, Tensor]:
    """Upper ends of ||J_{x,u}||_op for every edge u -> x and sample: (batch,) each."""
    norms: dict[Pair, Tensor] = {}
    for node in graph.nodes:
        for u in node.predecessors:
            parts = []
            for part in _chunks(graph, values, u):
                jacobian = edge_jacobian(node, u, [part[v] for v in node.inputs], context)
                slack = 1 + rounding(jacobian.dtype, *jacobian.shape[1:])
                parts.append(spectral_norms(jacobian) * slack)
            norms[node.name, u] = torch.cat(parts)
    return norms
