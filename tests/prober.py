"""Random trials of Theorem 2 on one augmented graph, for every node that may be cut.

Cut nodes get values near and far from what the network produces, within what their rules could give (Lemma 18); levels
are such that some indicators lie in their slopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import torch
from hand_rules import ON_POSITIVES, learned_multiplier, prior, quantity
from oracles import Theorem2
from release import Place, Tally, Trial, check, places
from strategies import Case
from torch import Tensor

from covergraph.bound.constants import ReleaseLipschitz, release_lipschitz
from covergraph.bound.derive import Bound, derive
from covergraph.errors import MissingPairError
from covergraph.graph.augmented import AugmentedGraph, ConditionIndicator, NormIndicator, PairIndicator
from covergraph.graph.node import Node
from covergraph.graph.operations import Elementwise
from covergraph.values import Measurement, Parameters

MEMBERS = (0.0, 0.0, 1e-3, 1e-2, 0.03, 0.1, 0.3, 3.0)
"""How far, relative to its norm, the values of a cut node lie from the one that the levels are taken at.

The second is minus the first; it and the last ones lie beyond kinks.
"""


class Prober:
    """Makes trials on one case: cut values near and far, levels in whose slopes the values lie."""

    def __init__(self, case: Case, augmented: AugmentedGraph, seed: int) -> None:
        self.case, self.augmented = case, augmented
        self.bound: Bound = derive(augmented)
        self.random = np.random.default_rng(seed)
        kinds = NormIndicator | PairIndicator | ConditionIndicator
        self.indicators = [node for node in augmented.graph.nodes if isinstance(node.operation, kinds)]
        curved = [node for node in augmented.base.nodes if isinstance(node.operation, Elementwise)]
        self.positive = {node.inputs[0] for node in curved if node.operation.label in ON_POSITIVES}
        self.inputs = tuple(x[:1] for x in case.inputs)
        self.overflows = 0
        self.real = self._run({})

    def trials(self) -> Iterator[tuple[Trial, ReleaseLipschitz]]:
        """One trial for each node that may be cut, with the constants at its levels.

        There is no constant for functions of the sample alone.
        """
        for place in places(self.augmented):
            if place.tail is None and place.head in self.augmented.base.data_only:
                continue
            try:
                trial = self.trial(place)
                _ = trial.z
            except torch.linalg.LinAlgError:  # a value far away is beyond double precision
                self.overflows += 1
                continue
            p = trial.parameters
            taubar = self.bound.taubar(p, sample_norms(trial.norms))
            yield trial, release_lipschitz(self.augmented, trial.slope, p.s, p.kappa, taubar, p.rho)

    def trial(self, place: Place) -> Trial:
        how = self.random.choice(["real", "near", "far"])
        own = self._value(place.name, how)
        earlier = {name: self._value(name, how) for name in self._before(place)}
        label, parameters, norms = self._measure(place, {**earlier, place.name: own})
        members = torch.cat([self._near(own, step) for step in MEMBERS])
        members[1] = -own[0]
        members = self._within(place.name, members)
        return Trial(self.augmented, self.case.state, self.inputs, place, earlier, members, label, parameters, norms)

    def _run(self, cut: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All values at levels that do not matter."""
        zero = torch.zeros(1, dtype=torch.int64)
        return self.augmented.values(self.case.state, self.inputs, zero, self._levels({}, 1.0), cut)

    def _before(self, place: Place) -> list[str]:
        order = places(self.augmented)
        return [p.name for p in order[: order.index(place)]]

    def _value(self, name: str, how: str) -> Tensor:
        real = self.real[name]
        if how == "near":
            size = float(real.square().mean().sqrt())
            real = real * (1 + 0.3 * self._normal(real.shape)) + 0.05 * size * self._normal(real.shape)
        elif how == "far":
            real = 10 ** self.random.uniform(-1, 1.5) * self._normal(real.shape)
        return self._within(name, real)

    def _within(self, name: str, values: Tensor) -> Tensor:
        """Values that the node's rule could have: in its a-priori ball, positive where a logarithm or a root reads."""
        if name in self.positive:
            values = values.abs()
        node = self.augmented.base.by_name.get(name)
        bound = prior(node) if node is not None else None
        if bound is None:
            return values
        norms = values.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in values.shape[1:]))
        return values * (bound / norms.clamp(min=1e-300)).clamp(max=1)

    def _near(self, own: Tensor, step: float) -> Tensor:
        noise = self._normal(own.shape)
        return own + step * float(own.norm()) * noise / float(noise.norm())

    def _normal(self, shape: Any) -> Tensor:
        return torch.from_numpy(self.random.standard_normal(tuple(shape)))

    def _measure(self, place: Place, cut: Mapping[str, Tensor]) -> tuple[Tensor, Parameters, dict[str, float]]:
        """A label with positive margin, levels near what the cut values lead to, norms of data-only nodes."""
        values = self._run(cut)
        base = self.augmented.base
        output = values[base.output]
        label = (output > 0).long()[:, 0] if output.shape[1] == 1 else output.argmax(1)
        top = output[0].abs() if output.shape[1] == 1 else -output[0].topk(2).values.diff()
        margin = float(top[0])
        ratio = self.random.choice([self.random.uniform(0.05, 1), 1.5])
        gamma = margin / ratio if margin > 1e-9 else 1.0
        measured = {node.name: self._quantity(node, values) for node in self.indicators}
        usable = {k: v for k, v in measured.items() if 1e-9 < v < np.inf}
        norms = {name: _norm(values[name]) for name in base.data_only}
        return label, self._levels(usable, gamma, place), norms

    def _quantity(self, node: Node, values: Mapping[str, Tensor]) -> float:
        """What an indicator reads: a norm, or q_c."""
        if not isinstance(node.operation, ConditionIndicator):
            return _norm(values[node.inputs[0]])
        head = node.operation.head
        return float(quantity(head, [values[u] for u in head.inputs]))

    def _ramps(self, names: list[str], place: Place | None) -> set[str]:
        """One to three of the indicators, one of them reached by the cut node if any is."""
        if not names:
            return set()
        reached = nx.descendants(self.augmented.graph.digraph, place.name) if place else set()
        first = self.random.choice([name for name in names if name in reached] or names)
        return {str(first), *map(str, self.random.choice(names, self.random.integers(0, 3)))}

    def _levels(self, norms: Mapping[str, float], gamma: float, place: Place | None = None) -> Parameters:
        """Levels such that some norms lie on their indicators' ramps and the others below; 1 for unknown norms."""
        ramps = self._ramps(list(norms), place)
        s, kappa, rho = {}, {}, {}
        for node in self.indicators:
            ratio = self.random.uniform(1, 1.9) if node.name in ramps else self.random.uniform(0.6, 1)
            level = norms.get(node.name, 1.0) / ratio
            if isinstance(node.operation, NormIndicator):
                s[node.operation.node] = level
            elif isinstance(node.operation, PairIndicator):
                kappa[node.operation.pair] = level
            elif isinstance(node.operation, ConditionIndicator):
                rho[node.operation.head.name] = norms.get(node.name, 1.0) * ratio
        return Parameters(gamma, s, kappa, {}, {}, rho=rho)


def sample_norms(norms: Mapping[str, float]) -> Any:
    """As much of `Measurements` as taubar and the entropies read, of a sample with these norms throughout."""
    measured = {name: Measurement(v, v, "exact", "norm") for name, v in norms.items()}
    return SimpleNamespace(hidden=measured, root_mean_square=measured)


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
    tally.overflows += prober.overflows


def _constant(trial: Trial, constants: ReleaseLipschitz) -> tuple[str, float] | None:
    """The constant of a trial's cut node and the largest of its terms; None if it needs a pair outside P."""
    head, tail = trial.place.head, trial.place.tail
    try:
        if tail is not None:
            return "Jacobian", constants.jacobian(head, tail)
        total = constants.hidden(head)
    except MissingPairError:
        node = trial.augmented.base[head]
        assert not (node.learned if tail is None else learned_multiplier(node))
        return None
    p = trial.parameters
    base, pairs = trial.augmented.base, trial.augmented.pair_names
    terms = Theorem2(base, pairs, trial.slope, p.s, p.kappa, p.rho, trial.norms).hidden(head)
    return max(terms, key=lambda term: terms[term]), total
