"""The engine: upper and lower ends of the norms of all pairs on a block of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context
from covergraph.measure.jacobians import edge_norms, pair_norms
from covergraph.measure.lanczos import Goal, Product, largest_singular_values, overlap, random_start
from covergraph.measure.linearize import Linearization, Segment
from covergraph.measure.norms import rounding
from covergraph.measure.plan import Plan
from covergraph.values import Pair

FEW = 32
"""Up to so many rows or columns each sample's norm is measured as closely as the largest: that costs no more."""
LEADERS = 64
"""From twice as many rows on, those with the largest cheap bounds go first and set the level."""


@dataclass
class Norms:
    """Of every pair: upper ends by sample, (rows,), and a lower end of the largest."""

    upper: dict[Pair, Tensor] = field(default_factory=dict)
    lower: dict[Pair, float] = field(default_factory=dict)
    steps: dict[Pair, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """Measures the pairs of `plan`: upper ends are at most `width` times the lower end of the largest norm of a pair.

    `failure`: with how much probability some of the random starts may fail, all pairs together; `seed` keys them.
    """

    plan: Plan
    context: Context
    width: float = 1.01
    failure: float = 1e-3
    seed: int = 0
    dtype: torch.dtype = torch.float64
    _fixed: dict[Pair, tuple[float, float]] = field(default_factory=dict)

    @property
    def graph(self) -> ComputationGraph:
        """The graph of the plan."""
        return self.plan.graph

    def block(
        self, values: Mapping[str, Tensor], first: int, levels: Mapping[Pair, float], defined: Tensor
    ) -> Norms:
        """The norms on the samples from number `first` on, whose values are given, where they are `defined`.

        `levels`: lower ends of the largest norms, from other blocks; what is below needs no closer look.
        """
        norms = Norms()
        plan = self.plan
        dense = [pair for pair, way in plan.way.items() if way == "dense"]
        exact = pair_norms(self.graph, values, self.context, dense) if dense else {}
        at = Linearization(self.graph, values, self.context)
        rows = len(defined)
        for pair, way in plan.way.items():
            w, a = pair
            if way == "zero":
                upper, low = torch.zeros(rows, dtype=torch.float64), 0.0
            elif way == "dense":
                upper = _mended(exact[pair], defined)
                low = _undone(upper, rounding(torch.float64, self.graph[w].size, self.graph[a].size))
            elif way == "edge":
                upper = _mended(edge_norms(self.graph, values, self.context, [pair])[pair], defined)
                low = _undone(upper, rounding(torch.float64, 1, 64))
            elif way == "fixed":
                low, high = self._same_for_all(pair, at)
                upper = torch.full((rows,), high, dtype=torch.float64)
            else:
                upper, low = self._lanczos(pair, at, first, levels.get(pair, 0.0), defined, norms)
            norms.upper[pair], norms.lower[pair] = upper, low
        return norms

    @staticmethod
    def _device(at: Linearization) -> torch.device:
        return next(iter(at.values.values())).device

    def _overlap(self, size: int) -> float:
        return overlap(self.failure / max(sum(self.plan.events.values()), 1), size)

    def _lanczos(
        self, pair: Pair, at: Linearization, first: int, level: float, defined: Tensor, known: Norms
    ) -> tuple[Tensor, float]:
        segment = self.plan.segments[pair]
        upper = torch.zeros(len(defined), dtype=torch.float64)
        chosen = defined.nonzero()[:, 0]
        cheap = self._products(pair, known, len(defined))[chosen]
        few = min(self.graph[v].size for v in pair) <= FEW
        low = 0.0
        for part in _stages(cheap):
            rows = chosen[part]
            goal = Goal(self.width, level, own=few, cheap=cheap[part])
            found, steps = self._run(segment, at.narrow(rows.to(self._device(at))), first + rows, goal)
            upper[rows] = found[1]
            low = max(low, float(found[0].max()))
            level = max(level, low)
            known.steps[pair] = known.steps.get(pair, 0) + steps
        return upper, low

    def _run(
        self, segment: Segment, at: Linearization, samples: Tensor, goal: Goal
    ) -> tuple[tuple[Tensor, Tensor], int]:
        w, a = segment.w, segment.a
        sides = (self.graph[a], self.graph[w])
        small = min(sides, key=lambda node: node.size)

        def narrowed(rows: Tensor) -> Product:
            there = at.narrow(rows.to(self._device(at))) if len(rows) < len(samples) else at
            if small.name == a:
                return lambda v: segment.pull(there, segment.push(there, v))
            return lambda v: segment.push(there, segment.pull(there, v))

        keys = [f"{self.seed}|{w}|{a}|{i}" for i in samples.tolist()]
        value = at.values[small.name]
        start = random_start(small.shape, keys).to(value)
        found = largest_singular_values(narrowed, start, self._overlap(small.size), goal)
        return (found.lower, found.upper), int(found.steps.sum())

    def _same_for_all(self, pair: Pair, at: Linearization) -> tuple[float, float]:
        """The ends of a norm that no sample changes, computed once."""
        if pair not in self._fixed:
            one = at.narrow(torch.zeros(1, dtype=torch.int64, device=self._device(at)))
            segment = self.plan.segments[pair]
            (lower, upper), _ = self._run(segment, one, torch.zeros(1, dtype=torch.int64), Goal(self.width, own=True))
            self._fixed[pair] = float(lower[0]), float(upper[0])
        return self._fixed[pair]

    def _products(self, pair: Pair, known: Norms, rows: int) -> Tensor:
        """Cheap upper ends: the least product of two halves, at a node that all paths meet."""
        w, a = pair
        least = torch.full((rows,), torch.inf, dtype=torch.float64)
        for m in self.plan.separators[pair]:
            least = torch.minimum(least, known.upper[w, m] * known.upper[m, a])
        return least * (1 + 1e-15)


def _mended(upper: Tensor, defined: Tensor) -> Tensor:
    """Upper ends in double, 0 where a sample is not defined and they are not finite."""
    ends = upper.double().cpu()
    return torch.where(defined | torch.isfinite(ends), ends, 0.0)


def _undone(upper: Tensor, relative: float) -> float:
    """The lower end of the largest norm, from upper ends that are `relative` above the computed values."""
    return float(upper.max()) * (1 - relative) / (1 + relative)


def _stages(cheap: Tensor) -> list[Tensor]:
    """Positions of rows: first those with the largest cheap bounds."""
    if len(cheap) < 2 * LEADERS or not bool(torch.isfinite(cheap).all()):
        return [torch.arange(len(cheap))] if len(cheap) else []
    order = cheap.argsort(descending=True, stable=True)
    return [order[:LEADERS].sort().values, order[LEADERS:].sort().values]
