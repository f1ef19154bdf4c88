"""Where a bound is checked: a sample on which its conditions hold, with levels around which indicators are 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from zoo.bounds import Derived
from zoo.shifted import Network

from covergraph.graph.interpreter import Context
from covergraph.values import Pair, Parameters

NEAR = 12
"""At least so many of the nearest pairs are there to pick from: their levels are the tightest."""


@dataclass(frozen=True)
class Place:
    """A bound at one of its samples on which every condition holds, at levels around which indicators are 1."""

    derived: Derived
    sample: int
    network: Network

    @cached_property
    def parameters(self) -> Parameters:
        """The chosen levels, with room for a shift; those of conditions at half of this sample's own."""
        chosen, values = self.derived.parameters, self.derived.measurements.condition_values
        return replace(
            chosen,
            s={name: 1.25 * level for name, level in chosen.s.items()},
            kappa={pair: 1.25 * level for pair, level in chosen.kappa.items()},
            rho={name: min(float(values[name][self.sample]) / 2, 1e6) for name in chosen.rho},
        )

    @cached_property
    def taubar(self) -> dict[tuple[int, int, int], float]:
        return self.derived.bound.taubar(self.parameters, self.derived.measurements)

    @cached_property
    def varying(self) -> list[tuple[int, int, int]]:
        return [key for key, value in self.taubar.items() if value > 0]

    @cached_property
    def above(self) -> NDArray[np.bool_]:
        """above[w, v]: v = w, or v reaches w."""
        graph = self.network.graph
        return graph.reach | np.eye(len(graph), dtype=bool)


def places(derived: Derived, deadline: float = math.inf) -> Iterator[Place]:
    """The bound at its samples, those first that keep farthest away from where conditions fail."""
    measured, graph, sample = derived.measurements, derived.bound.graph, derived.sample
    least = np.full(measured.n, np.inf)
    for q in measured.condition_values.values():
        least = np.minimum(least, q)
    for i in np.argsort(-least):
        if least[i] > 0:
            inputs = [x[i : i + 1] for x in sample.inputs]
            context = Context(graph.state(sample.state))
            with torch.no_grad():
                values = graph.run(sample.state, *inputs)
            yield Place(derived, int(i), Network(graph, context, values, deadline))


@dataclass(frozen=True)
class Picks:
    """The factors of z that are put on their ramps."""

    pairs: tuple[Pair, ...]
    hidden: tuple[str, ...]
    conditions: tuple[str, ...]


def picks(place: Place, v: str, generator: np.random.Generator, share: float, pair: bool) -> Picks:
    """Some factors that depend on h_v; a pair among the nearest, or among a share of these."""
    bound, graph = place.derived.bound, place.network.graph
    position, above = graph.index[v], place.above
    able = np.zeros_like(above)
    for x, u, changed in place.varying:
        if above[changed, position]:
            able |= bound.augmented.pairs & above[:, x][:, None] & above[u][None, :]
    pairs = np.argwhere(able)
    pairs = pairs[np.argsort(pairs[:, 0] - np.minimum(pairs[:, 1], position), kind="stable")]
    pairs = pairs[: max(NEAR, round(share * len(pairs)))] if pair else pairs[:0]
    names = [node.name for node in graph.nodes]
    chosen = [pairs[generator.integers(len(pairs))]] if len(pairs) else []
    hidden = [w for w in bound.augmented.hidden if above[graph.index[w], position]]
    conditions = [
        name
        for name, condition in bound.augmented.conditions.items()
        if np.isfinite(place.derived.measurements.condition_values[name][place.sample])
        and any(above[graph.index[graph[name].inputs[slot]], position] for slot in condition.slopes)
    ]
    return Picks(
        tuple((names[w], names[a]) for w, a in chosen),
        tuple(hidden[generator.integers(len(hidden))] for _ in hidden[:1]) if generator.random() < 0.5 else (),
        tuple(conditions[generator.integers(len(conditions))] for _ in conditions[:1])
        if generator.random() < 0.5
        else (),
    )
