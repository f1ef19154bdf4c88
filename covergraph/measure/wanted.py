"""What a bound wants to have measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.losses import Loss
from covergraph.values import Pair

if TYPE_CHECKING:
    from covergraph.bound.derive import Bound


@dataclass(frozen=True)
class Wanted:
    """The graph that is measured, and the `source` that it was lowered from, as it was traced.

    `pairs` (w, a): norms of D_{w<-a}; `read`: nodes whose norms enter the bound; `conditions`: of each node that has
    one the slots that its q_c reads; `groups`: parameters of which one distance is taken, by the group's first node.
    """

    graph: ComputationGraph
    source: ComputationGraph
    loss: Loss
    pairs: tuple[Pair, ...]
    read: frozenset[str]
    conditions: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(bound: Bound) -> Wanted:
        """By the bound's sets S, P and C, and what its radii and the paper's expressions read."""
        graph, augmented = bound.graph, bound.augmented
        return Wanted(
            graph,
            augmented.source,
            augmented.loss,
            bound.measured_pairs,
            _read(bound),
            {name: tuple(condition.slopes) for name, condition in augmented.conditions.items()},
            {group.nodes[0]: tuple(group.parameters) for group in bound.groups},
        )


def _read(bound: Bound) -> frozenset[str]:
    """S, what covered nodes read, what some taubar needs, and the output."""
    graph, rules = bound.graph, bound.augmented.rules
    read = {u for name in graph.covered if (e := rules[name].entropy) and e.gain for u in graph[name].inputs}
    read |= {u for name, rule in rules.items() for u in rule.radii(graph[name])}
    return frozenset(read | {graph.output, *bound.augmented.hidden})
