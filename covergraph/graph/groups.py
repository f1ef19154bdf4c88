"""Which learned nodes share parameters?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import networkx as nx

from covergraph.graph.node import Node

if TYPE_CHECKING:
    from covergraph.graph.computation_graph import ComputationGraph

Groups = tuple[tuple[str, ...], ...]


def linked(nodes: Sequence[Node], sources: Callable[[str], Iterable[str]]) -> Groups:
    """The learned nodes, grouped: two nodes with a common source of their parameters are in one group; in order."""
    place = {node.name: i for i, node in enumerate(nodes)}
    ties = nx.Graph()
    for node in nodes:
        for _, name in node.parameters:
            ties.add_node(("node", node.name))
            ties.add_edges_from((("node", node.name), ("source", source)) for source in sources(name))
    components = (sorted(place[n] for kind, n in c if kind == "node") for c in nx.connected_components(ties))
    return tuple(tuple(nodes[i].name for i in c) for c in sorted(c for c in components if c))


def shared_groups(graph: ComputationGraph) -> Groups:
    """Groups of two or more covered nodes linked by parameters of the same name (Theorem 1').

    Two names for one storage (a matrix and its transpose) count as two parameters: that covers a larger family.
    """
    return tuple(group for group in linked(graph.nodes, lambda name: (name,)) if len(group) > 1)
