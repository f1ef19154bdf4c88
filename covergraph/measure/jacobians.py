"""Total derivatives by tangents, norms of edges, and norms filled in from edges. `chain` certifies those of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, identity_tangents, tangent
from covergraph.graph.node import Node
from covergraph.graph.operations import Concatenate
from covergraph.measure.edges import edge_bound
from covergraph.measure.norms import rounding
from covergraph.values import Floats, Pair

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
        if all(t is None for t in slots) or node.kind == "integer":  # which does not vary
            continue
        result = tangent(node.operation, node, [values[u] for u in node.inputs], slots, context)
        tangents[node.name] = result
        if node.name in wanted:
            yield node.name, result.reshape(*result.shape[:2], -1).transpose(1, 2)


def chunks(
    graph: ComputationGraph, values: Values, source: str, memory: int | None = None
) -> Iterator[tuple[slice, Values]]:
    """The values of so many samples that their tangents from `source` fit into the memory, one sample at least."""
    batch = values[source].shape[0]
    per_sample = values[source].element_size() * graph[source].size * sum(node.size for node in graph.nodes)
    limit = MEMORY if memory is None else min(memory, MEMORY)
    size = max(1, min(batch, limit // max(per_sample, 1)))
    for start in range(0, batch, size):
        rows = slice(start, start + size)
        yield rows, {name: value[rows] for name, value in values.items()}


def filled_norms(
    graph: ComputationGraph, values: Values, context: Context, pairs: Sequence[Pair]
) -> dict[Pair, Tensor]:
    """Upper bounds sum_u ||J_{w,u}(x)|| kappa_{u<-a}(x) instead of the norms themselves (Proposition 2).

    All sources at once: one matrix (sources, batch) a node, in double precision; infinite where it overflows.
    """
    sources = {a: i for i, a in enumerate(dict.fromkeys(a for _, a in pairs))}
    wanted: dict[str, list[str]] = {}
    for w, a in pairs:
        wanted.setdefault(w, []).append(a)
    norms = edge_norms(graph, values, context, needed_edges(graph, pairs))
    edges = {edge: norm.double().cpu().numpy() for edge, norm in norms.items()}
    last = {u: x for x, u in edges}
    slack = 1 + rounding(torch.float64, 1, len(graph))
    bounds: dict[str, Floats] = {}
    result: dict[Pair, Tensor] = {}
    for node in graph.nodes:
        if node.name in sources:
            bounds[node.name] = np.zeros((len(sources), len(values[node.name])))
            bounds[node.name][sources[node.name]] = 1
        _fill_in(graph, node, edges, bounds, list(sources))
        for a in wanted.get(node.name, ()):
            result[node.name, a] = torch.from_numpy(bounds[node.name][sources[a]] * slack)
        for u in (u for u in node.predecessors if last.get(u) == node.name):
            del bounds[u]
    return result


def _fill_in(
    graph: ComputationGraph,
    node: Node,
    edges: Mapping[Pair, Floats],
    bounds: dict[str, Floats],
    sources: Sequence[str],
) -> None:
    """Add to the bounds of one node from all sources, (sources, batch), what its edges bring; 0 without a path."""
    rows = np.array([graph.index[a] for a in sources])
    for u in (u for u in node.predecessors if (node.name, u) in edges):
        above = graph.reach[graph.index[u]][rows] | (rows == graph.index[u])
        with np.errstate(over="ignore", invalid="ignore"):
            term = edges[node.name, u] * bounds[u][above]
        total = bounds.setdefault(node.name, np.zeros_like(bounds[u]))
        total[above] += np.where(np.isnan(term), np.inf, term)


def needed_edges(graph: ComputationGraph, pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The edges (x, u) that lie on a path of a wanted pair."""
    reach = (graph.reach | np.eye(len(graph), dtype=bool)).astype(np.float32)
    wanted = np.zeros_like(reach)
    for w, a in pairs:
        wanted[graph.index[w], graph.index[a]] = 1
    needed = reach.T @ wanted @ reach.T  # [x, u]: x reaches w, a reaches u
    for node in graph.nodes:
        for u in node.predecessors:
            if needed[graph.index[node.name], graph.index[u]] > 0:
                yield node.name, u


def edge_norms(
    graph: ComputationGraph, values: Values, context: Context, edges: Iterable[Pair] | None = None
) -> dict[Pair, Tensor]:
    """Upper bounds of ||J_{x,u}||_op for edges u -> x, given as (x, u), by default all: (batch,) each."""
    chosen = ((node.name, u) for node in graph.nodes for u in node.predecessors) if edges is None else edges
    return {(x, u): _edge_norm(graph[x], u, values, context) for x, u in chosen}


def _edge_norm(node: Node, u: str, values: Values, context: Context) -> Tensor:
    """The sum over the slots that u fills (Lemma 8); these are orthogonal to each other in a concatenation."""
    slots = [values[v] for v in node.inputs]
    terms = [edge_bound(node.operation, node, i, slots, context) for i, v in enumerate(node.inputs) if v == u]
    if len(terms) == 1:
        return terms[0]
    return torch.stack(terms).norm(dim=0) if isinstance(node.operation, Concatenate) else torch.stack(terms).sum(0)
