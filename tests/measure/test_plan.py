"""The planner: what goes which way, the nodes that all paths meet, blocks under a limit of memory."""

from __future__ import annotations

import pytest
import torch
from oracles import ancestor_pairs
from strategies import Builder
from torch import nn

from covergraph import augment, derive, measure, trace
from covergraph.errors import ParameterError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.measure.plan import plan

EVERY = 2**30


def test_random_starts_are_counted_over_all_pairs_whatever_is_measured_of_them() -> None:
    """tanh edges have closed forms, layers are the same for all samples, the rest depends on the sample."""
    graph = chain(20, 3)
    pairs = ancestor_pairs(graph)
    found = plan(graph, pairs, 3, EVERY, "lanczos")
    names = [node.name for node in graph.nodes]
    assert found.way[names[2], names[1]] == "edge"
    assert found.way[names[3], names[2]] == "fixed"
    assert found.starts == len(pairs) - 3
    part = found.restricted(pairs[:4])
    assert set(part.way) == set(pairs[:4]) and part.starts == found.starts and part.block == found.block


def chain(width: int, layers: int) -> ComputationGraph:
    builder = Builder()
    top = builder.input(4)
    for _ in range(layers):
        top = builder.add(op.Elementwise(TANH), builder.linear(top, width, True))
    return builder.graph(top)


def test_small_networks_are_measured_exactly_and_large_ones_by_lanczos() -> None:
    small, huge = chain(16, 3), chain(512, 3)
    assert set(plan(small, ancestor_pairs(small), 1000, EVERY).way.values()) == {"edge", "dense"}
    inner = [pair for pair in ancestor_pairs(huge) if pair[1] != huge.nodes[0].name]
    assert set(plan(huge, inner, 1000, EVERY).way.values()) == {"edge", "fixed", "lanczos"}
    assert set(plan(huge, ancestor_pairs(huge), 1000, EVERY, "exact").way.values()) == {"edge", "dense"}


def test_blocks_respect_the_memory() -> None:
    graph = chain(1000, 4)
    sizes = [plan(graph, [], 10**6, memory).block for memory in (2**20, 2**23, 2**40)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(ParameterError, match="memory is 1000 bytes, expected at least"):
        plan(graph, [], 10, 1000)


def test_a_path_through_integers_has_no_derivative() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.table, self.last = nn.Linear(3, 4), nn.Embedding(7, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
            return self.last(torch.tanh(self.first(x)) + self.table(i))

    model, x, i = Rounded().eval(), torch.randn(6, 3), torch.arange(6)
    bound = derive(augment(trace(model, (x, i))))
    found = measure(bound, model, [(x, i, torch.zeros(6, dtype=torch.long))])
    assert {found.ways[pair] for pair in found.ways} <= {"dense", "edge", "zero"}
    assert found.failure == 0
