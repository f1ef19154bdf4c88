"""Within a time budget: from bounds along edges to measured norms, those first that move the bound most.

The norms of all pairs are filled in along edges (Proposition 2). Then, round by round, the pairs are measured whose
upper ends would lower log C most per second, by d log C / d log kappa; the others are filled in again from them, and
the bound is evaluated. An upper end holds whatever the order of the rounds: no pair's random starts depend on it, and
the probability of failure is shared by all pairs, chosen or not (Lemma 21).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from covergraph.measure.collect import EXACT
from covergraph.measure.engine import Engine
from covergraph.measure.jacobians import edge_norms, needed_edges
from covergraph.measure.levels import Levels
from covergraph.measure.passes import Found, Samples, Speed, clock
from covergraph.measure.plan import RANDOM, STEPS
from covergraph.values import CurvePoint, Floats, Measurement, Measurements, Pair

PILOT_WIDTH = 30.0
"""A few steps take a norm to this width: enough to guess what measuring it would give."""
PILOT_ROWS = 2
PILOT_SHARE = 0.1
"""At most this share of the budget is spent on guesses."""
PATIENCE = 4.0
"""A round measures for so many times as long as it takes to choose its pairs and to evaluate the bound."""
ENTRIES = 5e8
"""So many products of levels are looked at to choose a round's pairs: of many pairs a random part are candidates."""
DECAY = 0.1
"""Without a guess a norm is taken to be smaller than its bound by e^-0.1 for each node between its ends."""


Evaluation = tuple[float, float, Mapping[Pair, float] | None]
"""A bound, the same over its scale, and how much the logarithm of each pair's norm moves it; infinite and None if there
is no bound yet: without a positive margin, or beyond double precision."""


class Refinement:
    """Rounds of measuring, after a pass that filled in all pairs along edges.

    `evaluate`: what the bound is with some measurements; `began`: when the first pass did.
    """

    def __init__(
        self,
        evaluate: Callable[[Measurements], Evaluation],
        engine: Engine,
        samples: Samples,
        began: float,
        budget: float,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.evaluate, self.engine, self.plan = evaluate, engine, engine.plan
        self.samples, self.filled, self.advance = samples, samples.filled, advance
        self.began, self.end, self.budget = began, began + budget, budget
        self.speed, self.ratio, self.decay = Speed(), 1.0, DECAY
        self.choosing, self.evaluating = 0.0, 0.0
        self.lower: dict[Pair, float] = {}
        self.pilots: dict[Pair, float] = {}
        self.done: dict[Pair, Found] = {}
        self.curve: list[CurvePoint] = []
        self.weights: Mapping[Pair, float] = dict.fromkeys(self.plan.pairs, 1.0)
        self.best = self.filled
        self._evaluate(self.filled)

    def result(self) -> Measurements:
        """The measurements of the best point of the curve, with the curve."""
        if clock() + (clock() - self.began) / 2 < self.end:  # for a third pass, as long as the two before
            levels = self._levels()
            while (chosen := self._chosen(levels)) and (found := self._measured(chosen)):
                self._evaluate(self._taken(levels, found))
        return replace(self.best, pair_values=self._by_sample(), curve=tuple(self.curve))

    def _evaluate(self, measurements: Measurements) -> None:
        """A point of the curve: the least bound so far."""
        began = clock()
        value, normalized, weights = self.evaluate(measurements)
        self.weights = self.weights if weights is None else weights
        if not self.curve or value <= self.curve[-1].value:
            self.best = measurements
        else:
            value, normalized = self.curve[-1].value, self.curve[-1].normalized
        self.curve.append(CurvePoint(clock() - self.began, value, normalized, len(self.done)))
        self.evaluating = clock() - began

    def _levels(self) -> Levels:
        """One pass: norms of edges, from which all others are filled in, and guesses on a few samples."""
        graph, pairs = self.plan.graph, self.plan.pairs
        edges = dict.fromkeys(needed_edges(graph, pairs), 0.0)
        with torch.no_grad():
            for start, values, defined in self.samples:
                for edge, ends in edge_norms(graph, values, self.engine.context, edges).items():
                    there = torch.nan_to_num(ends.double().cpu()[defined], nan=math.inf, posinf=math.inf)
                    edges[edge] = max([edges[edge], *there.tolist()])
                if start == 0:
                    self._guess(values, defined)
        levels = Levels(graph, pairs, edges)
        levels.lower_to({pair: ends.upper for pair, ends in self.filled.pairs.items()})
        gaps = [math.log(levels[w, a] / low) / (graph.index[w] - graph.index[a]) for (w, a), low in self.pilots.items()]
        self.decay = float(np.median(gaps)) if gaps else DECAY
        return levels

    def _guess(self, values: Mapping[str, Tensor], defined: Tensor) -> None:
        """Rough norms on a few samples, of the pairs that matter most first: lower ends of the largest norms."""
        rows = defined.nonzero()[:PILOT_ROWS, 0]
        few = {name: value[rows.to(value.device)] for name, value in values.items()}
        end = clock() + PILOT_SHARE * self.budget
        rough = replace(self.engine, width=PILOT_WIDTH, _fixed={})
        pairs = [pair for pair, way in self.plan.way.items() if way == "lanczos" and len(rows)]
        for pair in sorted(pairs, key=lambda pair: -self.weights.get(pair, 0.0)):
            began = clock()
            if began >= end:
                return
            norms = replace(rough, plan=self.plan.restricted([pair])).block(few, 0, {}, defined[rows])
            self.speed.learn(self.plan.cost[pair] * norms.steps[pair] / STEPS, clock() - began, guess=True)
            if norms.lower[pair] > 0:
                self.pilots[pair] = self.lower[pair] = norms.lower[pair]

    def _chosen(self, levels: Levels) -> list[Pair]:
        """The pairs of the next round: those that lower log C most per second, if there is time for them."""
        began = clock()
        weights = levels.matrix(self.weights)
        left = self.end - began - self.samples.seconds - self.choosing - self.evaluating
        seconds = {pair: self._seconds(pair) for pair in self.plan.pairs if pair not in self.done}
        feasible = [pair for pair in seconds if seconds[pair] < left]
        count = min(len(feasible), 1 + int(ENTRIES / weights.size))
        candidates = random.Random(len(self.done)).sample(feasible, count) if count < len(feasible) else feasible
        gains = {pair: levels.gain(pair, self._expected(levels, pair), weights) for pair in candidates}
        self.choosing = clock() - began
        enough = PATIENCE * (self.samples.seconds + self.choosing + self.evaluating)
        least = 1e-6 * self.budget
        chosen: list[Pair] = []
        total = 0.0
        for pair in sorted(gains, key=lambda pair: -gains[pair] / (seconds[pair] + least)):
            if total + seconds[pair] < left:
                chosen.append(pair)
                total += seconds[pair]
            if total >= enough:
                break
        return chosen

    def _seconds(self, pair: Pair) -> float:
        """How long a pair should take on all samples."""
        return self.speed.expected(self.plan.cost[pair] * self.filled.n)

    def _expected(self, levels: Levels, pair: Pair) -> float:
        """What measuring a pair should give."""
        w, a = (self.plan.graph.index[v] for v in pair)
        if pair in self.pilots:
            return min(levels[pair], self.pilots[pair] * self.ratio)
        return levels[pair] * math.exp(-self.decay * (w - a - 1))

    def _measured(self, pairs: Sequence[Pair]) -> dict[Pair, Found]:
        """One pass; of a pass that the end of the budget stops, the pairs that were finished."""
        keep = bool(self.filled.pair_values)
        found = {pair: Found(pair, keep) for pair in pairs}
        quick = [pair for pair in pairs if self.plan.way[pair] != "lanczos"]
        groups = [quick] * bool(quick) + [[pair] for pair in pairs if self.plan.way[pair] == "lanczos"]
        with torch.no_grad():
            for start, values, defined in self.samples.until(self.end):
                for group in groups:
                    began = clock()
                    if began >= self.end:
                        break
                    engine = replace(self.engine, plan=self.plan.restricted(group))
                    norms = engine.block(values, start, self.lower, defined)
                    for pair in group:
                        found[pair].add(norms, defined, start)
                    self.speed.learn(sum(self.plan.cost[pair] for pair in group) * len(defined), clock() - began)
        return {pair: one for pair, one in found.items() if one.n == self.filled.n}

    def _taken(self, levels: Levels, found: Mapping[Pair, Found]) -> Measurements:
        """Fill in the other pairs again from what was found; all ends as they are then."""
        self.done |= found
        levels.lower_to({pair: one.top.upper for pair, one in found.items()})
        for pair, one in found.items():
            self.lower[pair] = max(self.lower.get(pair, 0.0), one.top.lower)
        known = [self.done[pair].top.upper / low for pair, low in self.pilots.items() if pair in self.done]
        self.ratio = max(float(np.median(known)), 1.0) if known else self.ratio
        self.advance(len(found))
        ways = {pair: way if pair in self.done else "filled" for pair, way in self.plan.way.items()}
        started = any(way in RANDOM for way in ways.values())
        return replace(
            self.filled,
            pairs={pair: self._ends(pair, levels[pair]) for pair in self.filled.pairs},
            filled=False,
            failure=self.engine.failure if started else 0.0,
            width=self.engine.width if started else 1.0,
            ways=ways,
            steps={pair: one.steps for pair, one in self.done.items() if one.steps},
        )

    def _ends(self, pair: Pair, level: float) -> Measurement:
        """Of one pair: as measured, along edges on the samples, or filled in from other pairs, whichever is least."""
        tops = [self.filled.pairs[pair]] + ([self.done[pair].top] if pair in self.done else [])
        top = min(tops, key=lambda top: top.upper)
        exact = pair in self.done and self.plan.way[pair] in EXACT
        upper, sample = (top.upper, top.sample) if top.upper <= level else (level, None)
        lower = min(self.lower.get(pair, 0.0), upper)
        return Measurement(lower, upper, "exact" if exact else "certified", "operator", sample)

    def _by_sample(self) -> dict[Pair, Floats]:
        """Upper ends by sample at the best point; none of them exceeds that of the largest norm."""
        values = dict(self.filled.pair_values)
        for pair in values:
            measured = [self.done[pair].ends()] if self.best.ways.get(pair, "filled") != "filled" else []
            values[pair] = np.minimum.reduce([values[pair], *measured]).clip(max=self.best.pairs[pair].upper)
        return values
