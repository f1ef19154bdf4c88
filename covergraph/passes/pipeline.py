"""The canonical form of a traced graph: all passes in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.passes.biases import fold_biases
from covergraph.passes.concatenations import join_concatenations
from covergraph.passes.duplicates import merge_duplicates
from covergraph.passes.functions import recognize_functions
from covergraph.passes.norms import recognize_norms
from covergraph.passes.pooling import pool_before_relu
from covergraph.passes.positions import restore_positions
from covergraph.passes.prune import prune
from covergraph.passes.rearrangements import compose_rearrangements

Pass: TypeAlias = Callable[[ComputationGraph], ComputationGraph]
"""A graph in, a graph out with the same output value on every sample; the constructor verifies each result."""

PIPELINE: tuple[Pass, ...] = (
    merge_duplicates,
    join_concatenations,
    compose_rearrangements,
    restore_positions,
    recognize_norms,
    recognize_functions,
    fold_biases,
    pool_before_relu,
    compose_rearrangements,
)

ROUNDS = 3
"""What one pass makes possible for an earlier one is seen in the next round; few graphs need a third."""


def canonicalize(graph: ComputationGraph) -> ComputationGraph:
    """The graph in the small vocabulary that the rules know, without what its output does not need.

    All inputs stay, in their order. Equal graphs come out equal; one in canonical form comes out as it is.
    """
    graph = prune(graph)
    for _ in range(ROUNDS):
        before = graph
        for rewrite in PIPELINE:
            graph = prune(rewrite(graph))
        if graph == before:
            break
    return graph
