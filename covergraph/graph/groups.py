"""Which learned nodes share parameters by name? They may be covered together (Theorem 1')."""

from __future__ import annotations

import networkx as nx

from covergraph.graph.computation_graph import ComputationGraph


def shared_groups(graph: ComputationGraph) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more covered nodes linked by parameters of the same name, in topological order.

    Two names for one storage (a matrix and its transpose) count as two parameters: that covers a larger family.
    """
    ties = nx.Graph()
    for name in graph.covered:
        ties.add_edges_from((("node", name), ("parameter", p)) for _, p in graph[name].parameters)
    members = (sorted(graph.index[n] for kind, n in c if kind == "node") for c in nx.connected_components(ties))
    return tuple(tuple(graph.nodes[i].name for i in c) for c in sorted(members) if len(c) > 1)
