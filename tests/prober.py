"""Random trials of Theorem 2 on one augmented graph, for every node that may be cut.

Cut nodes get values near and far from what the network produces; levels are such that some indicators lie in their
slopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
import numpy as np
import torch
from oracles import Theorem2
from release import Place, Tally, Trial, check, places
from strategies import Case
from torch import Tensor

from covergraph.bound.constants import ReleaseLipschitz, release_lipschitz
from covergraph.bound.derive import Bound, derive
from covergraph.errors import MissingPairError
from covergraph.graph.augmented import AugmentedGraph, NormIndicator, PairIndicator
from covergraph.values import Parameters

MEMBERS = (0.0, 0.0, 1e-3, 1e-2, 0.03, 0.1, 0.3, 3.0)
"""How far, relative to its norm, the values of a cut node lie from the one that the levels are taken at."""


class Prober:
    """Makes trials on one case: cut values near and far, levels in whose slopes the values lie."""

    def __init__(self, case: Case, augmented: AugmentedGraph, seed: int) -> None:
        self.case, self.augmented = case, augmented
        self.bound: Bound = derive(augmented)
        self.random = np.random.default_rng(seed)
        kinds = NormIndicator | PairIndicator
        self.indicators = [node for node in augmented.nodes if isinstance(node.operation, kinds)]
        self.inputs = tuple(x[:1] for x in case.inputs)
        self.real = self._run({})

    def trials(self) -> Iterator[tuple[Trial, ReleaseLipschitz]]:
        """One trial for each node that may be cut, with the constants at its levels."""
        for place in places(self.augmented):
            trial = self.trial(place)
            p = trial.parameters
            yield trial, release_lipschitz(self.augmented, trial.slope, p.s, p.kappa, self.bound.taubar)

    def trial(self, place: Place) -> Trial:
        how = self.random.choice(["real", "near", "far"])
        own = self._value(self.real[place.name], how)
        earlier = {name: self._value(self.real[name], how) for name in self._before(place)}
        label, parameters = self._measure(place, {**earlier, place.name: own})
        members = torch.cat([self._near(own, step) for step in MEMBERS])
        members[1] = -own[0]
        return Trial(self.augmented, self.case.state, self.inputs, place, earlier, members, label, parameters)

    def _run(self, cut: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All values at levels that do not matter."""
        zero = torch.zeros(1, dtype=torch.int64)
        return self.augmented.values(self.case.state, self.inputs, zero, self._levels({}, 1.0), cut)

    def _before(self, place: Place) -> list[str]:
        order = places(self.augmented)
        return [p.name for p in order[: order.index(place)]]

    def _value(self, real: Tensor, how: str) -> Tensor:
        if how == "real":
            return real
        if how == "near":
            return real * (1 + 0.3 * self._normal(real.shape))
        return 10 ** self.random.uniform(-1, 1.5) * self._normal(real.shape)

    def _near(self, own: Tensor, step: float) -> Tensor:
        noise = self._normal(own.shape)
        return own + step * float(own.norm()) * noise / float(noise.norm())

    def _normal(self, shape: Any) -> Tensor:
        return torch.from_numpy(self.random.standard_normal(tuple(shape)))

    def _measure(self, place: Place, cut: Mapping[str, Tensor]) -> tuple[Tensor, Parameters]:
        """A label with positive margin, and levels near the norms that the cut values lead to."""
        values = self._run(cut)
        output = values[self.augmented.base.output]
        label = (output > 0).long()[:, 0] if output.shape[1] == 1 else output.argmax(1)
        top = output[0].abs() if output.shape[1] == 1 else -output[0].topk(2).values.diff()
        margin = float(top[0])
        ratio = self.random.choice([self.random.uniform(0.05, 1), 1.5])
        gamma = margin / ratio if margin > 1e-9 else 1.0
        norms = {node.name: _norm(values[node.inputs[0]]) for node in self.indicators}
        return label, self._levels({k: v for k, v in norms.items() if v > 1e-9}, gamma, place)

    def _ramps(self, names: list[str], place: Place | None) -> set[str]:
        """One to three of the indicators, one of them reached by the cut node if any is."""
        if not names:
            return set()
        reached = nx.descendants(self.augmented.digraph, place.name) if place else set()
        first = self.random.choice([name for name in names if name in reached] or names)
        return {str(first), *map(str, self.random.choice(names, self.random.integers(0, 3)))}

    def _levels(self, norms: Mapping[str, float], gamma: float, place: Place | None = None) -> Parameters:
        """Levels such that some norms lie on their indicators' ramps and the others below; 1 for unknown norms."""
        ramps = self._ramps(list(norms), place)
        s, kappa = {}, {}
        for node in self.indicators:
            ratio = self.random.uniform(1, 1.9) if node.name in ramps else self.random.uniform(0.6, 1)
            level = norms.get(node.name, 1.0) / ratio
            if isinstance(node.operation, NormIndicator):
                s[node.operation.node] = level
            elif isinstance(node.operation, PairIndicator):
                kappa[node.operation.pair] = level
        return Parameters(gamma, s, kappa, {}, {})


def _norm(value: Tensor) -> float:
    return float(torch.linalg.matrix_norm(value, ord=2)) if value.dim() == 3 else float(value.flatten(1).norm())


def probe(case: Case, augmented: AugmentedGraph, seed: int, tally: Tally) -> None:
    """Check every node of the augmented graph whose constant can be read; covered nodes must be readable."""
    prober = Prober(case, augmented, seed)
    for trial, constants in prober.trials():
        found = _constant(trial, constants)
        if found is None:
            continue
        term, constant = found
        ratios = check(trial, constant)
        if len(ratios):
            tally.add(term, ratios)


def _constant(trial: Trial, constants: ReleaseLipschitz) -> tuple[str, float] | None:
    """The constant of a trial's cut node and the largest of its terms; None if it needs a pair outside P."""
    head, tail = trial.place.head, trial.place.tail
    try:
        if tail is not None:
            return "Jacobian", constants.jacobian(head, tail)
        total = constants.hidden(head)
    except MissingPairError:
        assert head not in trial.augmented.base.covered
        return None
    p = trial.parameters
    terms = Theorem2(trial.augmented.base, trial.augmented.pair_names, trial.slope, p.s, p.kappa).hidden(head)
    return max(terms, key=lambda term: terms[term]), total
