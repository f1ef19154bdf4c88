"""The engine: upper and lower ends of the norms of all pairs on a block of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context
from covergraph.graph.operations import Elementwise
from covergraph.measure.chain import Ends, pair_norms
from covergraph.measure.jacobians import edge_norms, filled_norms
from covergraph.measure.lanczos import Goal, Interval, Product, largest_singular_values, overlap, random_start
from covergraph.measure.linearize import Linearization, Segment
from covergraph.measure.norms import rounding
from covergraph.measure.plan import Plan
from covergraph.measure.roundings import SINGLE
from covergraph.values import Pair

ALLOWED = 0.01
"""Relative margin for single precision, at most."""
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
    `dtype`: in which precision Jacobians are formed; `memory`: bytes that they may take.
    """

    plan: Plan
    context: Context
    width: float = 1.01
    failure: float = 1e-3
    seed: int = 0
    dtype: torch.dtype = torch.float64
    memory: int = 2**30
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
        formed = self._formed(values, dense)
        at = Linearization(self.graph, values, self.context)
        long = [pair for pair, way in plan.way.items() if way == "lanczos"]
        along = filled_norms(self.graph, values, self.context, long) if long else {}
        rows = len(defined)
        for pair, way in plan.way.items():
            if way == "zero":
                upper, low = torch.zeros(rows, dtype=torch.float64), 0.0
            elif way == "dense":
                lower, upper = (_mended(end, defined) for end in formed[pair])
                low = float(lower.max())
            elif way == "edge":
                upper = _mended(edge_norms(self.graph, values, self.context, [pair])[pair], defined)
                low = _undone(upper, rounding(torch.float64, 1, 64))
                if isinstance(self.graph[pair[0]].operation, Elementwise):
                    low = max(low - 2.0**-45, 0.0)  # more than twice the absolute error of a slope
            elif way == "fixed":
                low, high = self._same_for_all(pair, at)
                upper = torch.full((rows,), high, dtype=torch.float64)
            else:
                upper, low, norms.steps[pair] = self._lanczos(
                    pair, at, first, levels.get(pair, 0.0), defined, along[pair]
                )
            norms.upper[pair], norms.lower[pair] = upper, low
        return norms

    @staticmethod
    def _device(at: Linearization) -> torch.device:
        return next(iter(at.values.values())).device

    def _overlap(self, size: int) -> float:
        return overlap(self.failure / max(self.plan.starts, 1), size)

    def _formed(self, values: Mapping[str, Tensor], pairs: Sequence[Pair]) -> Ends:
        """Ends of the norms of pairs by their dense Jacobians, (rows,) each.

        In single precision where its margin leaves both ends within `width`, else in double.
        """
        if not pairs:
            return {}
        found: Ends = {}
        if self.dtype == torch.float32:
            allowed = 1 + min(self.width - 1, 2 * ALLOWED)
            single = pair_norms(self.graph, values, self.context, pairs, self.memory // 2, SINGLE)
            found = {p: ends for p, ends in single.items() if bool((ends[1] <= allowed * ends[0]).all())}
        left = [pair for pair in pairs if pair not in found]
        return found | (pair_norms(self.graph, values, self.context, left, self.memory // 2) if left else {})

    def _lanczos(
        self, pair: Pair, at: Linearization, first: int, level: float, defined: Tensor, cheap: Tensor
    ) -> tuple[Tensor, float, int]:
        """Upper ends, a lower end of the largest norm, and the steps; `cheap`: upper ends along edges."""
        upper = torch.zeros(len(defined), dtype=torch.float64)
        few = min(self.graph[v].size for v in pair) <= FEW
        low, steps = 0.0, 0
        for rows in _stages(defined.nonzero()[:, 0], cheap):
            goal = Goal(self.width, level, own=few, cheap=cheap[rows])
            narrow = at.narrow(rows.to(self._device(at)))
            found = self._run(self.plan.segments[pair], narrow, first + rows, goal)
            upper[rows] = found.upper
            low = max(low, float(found.lower.max()))
            level = max(level, low)
            steps += int(found.steps.sum())
        return upper, low, steps

    def _run(
        self, segment: Segment, at: Linearization, samples: Tensor, goal: Goal
    ) -> Interval:
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
        return largest_singular_values(narrowed, start, self._overlap(small.size), goal)

    def _same_for_all(self, pair: Pair, at: Linearization) -> tuple[float, float]:
        """The ends of a norm that no sample changes, computed once."""
        if pair not in self._fixed:
            one = at.narrow(torch.zeros(1, dtype=torch.int64, device=self._device(at)))
            segment = self.plan.segments[pair]
            found = self._run(segment, one, torch.zeros(1, dtype=torch.int64), Goal(self.width, own=True))
            self._fixed[pair] = float(found.lower[0]), float(found.upper[0])
        return self._fixed[pair]


def _mended(upper: Tensor, defined: Tensor) -> Tensor:
    """Upper ends in double, 0 where a sample is not defined and they are not finite."""
    ends = upper.double().cpu()
    return torch.where(defined | torch.isfinite(ends), ends, 0.0)


def _undone(upper: Tensor, relative: float) -> float:
    """The lower end of the largest norm, from upper ends that are `relative` above the computed values."""
    return float(upper.max()) * (1 - relative) / (1 + relative)


def _stages(rows: Tensor, cheap: Tensor) -> list[Tensor]:
    """The rows in the order in which they are measured: of many, first those with the largest cheap bounds."""
    if len(rows) < 2 * LEADERS:
        return [rows] if len(rows) else []
    order = rows[cheap[rows].argsort(descending=True, stable=True)]
    return [order[:LEADERS].sort().values, order[LEADERS:].sort().values]
