"""Every operation in terms of those that have rules: the form of a graph that bounds are derived on."""

from __future__ import annotations

from collections.abc import Callable

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.passes.lower_attention import open_attention
from covergraph.passes.lower_composites import open_composites
from covergraph.passes.lower_pools import rectify_pools
from covergraph.passes.prune import prune
from covergraph.passes.unroll import unroll


def _opened(node: Node) -> bool:
    return False


def lower(graph: ComputationGraph, keep: Callable[[Node], bool] = _opened) -> ComputationGraph:
    """The pruned graph with composite nodes opened, attention and recurrent layers written out, ReLU in max-pools.

    Every node that stays has its value, and the output its name. Nodes that depend on the data alone need no rule and
    stay. `keep`: which chains without parameters stay one node (Lemma 17), by default none. A lowered graph comes out
    as it is.
    """
    graph = prune(open_composites(graph, keep))
    for rewrite in (open_attention, unroll, rectify_pools):
        graph = prune(rewrite(graph))
    return graph
