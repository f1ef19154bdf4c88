"""Shifts of one value, and what they change, against what Theorem 2 allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from zoo.place import Picks, Place
from zoo.result import SpotCheck
from zoo.shifted import Network, Norm, NotSettledError

from covergraph.bound.certificate import loss_slope
from covergraph.bound.constants import release_lipschitz
from covergraph.measure.jacobians import filled_norms
from covergraph.values import Pair, Parameters

RAMP, RISE = 1.5, 0.75
"""A level at norm/1.5 puts an indicator in the middle of its ramp; one at q/0.75 that of a condition."""
STEPS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Shifts relative to the value."""
SHORTEST = 1e-7
"""No shift is shorter, relative to the value: its effects would be rounding."""
SHORTER = 8
"""So often a shift is made ten times shorter where something collapses."""


@dataclass(frozen=True)
class Trial:
    """Shifts of one value, with some factors on their ramps."""

    place: Place
    node: str
    picks: Picks

    @property
    def network(self) -> Network:
        return self.place.network

    @cached_property
    def norms(self) -> dict[Pair, Norm]:
        """||D_{w<-a}|| of the picked pairs where nothing is shifted."""
        zero = {self.node: torch.zeros_like(self.network.values[self.node])}
        return {pair: self.network.derivative(pair, zero).norm() for pair in self.picks.pairs}

    @cached_property
    def parameters(self) -> Parameters:
        """The levels with the picked ones on their ramps."""
        given, place = self.place.parameters, self.place
        q = place.derived.measurements.condition_values
        return replace(
            given,
            gamma=None if given.gamma is None else max(self._margin({}), 1e-300) / 0.7,
            kappa={**given.kappa, **{pair: norm.value / RAMP for pair, norm in self.norms.items() if norm.value > 0}},
            s={**given.s, **{w: self._size(w) / RAMP for w in self.picks.hidden if self._size(w) > 0}},
            rho={**given.rho, **{name: float(q[name][place.sample]) / RISE for name in self.picks.conditions}},
        )

    def _size(self, w: str) -> float:
        return float(self.network.values[w].norm())

    def _margin(self, moved: Mapping[str, Tensor]) -> float:
        return float(self._loss_value(moved))

    def _loss_value(self, moved: Mapping[str, Tensor]) -> Tensor:
        """The margin, or the value of a loss that has none."""
        loss, graph, i = self.place.derived.sample.loss, self.network.graph, self.place.sample
        output = moved.get(graph.output, self.network.values[graph.output])
        labels = self.place.derived.sample.labels[i : i + 1]
        if loss.has_margin:
            return loss.margins(output, labels)[0]  # type: ignore[attr-defined]
        return loss.evaluate(output, labels, None)[0]

    @cached_property
    def constants(self) -> tuple[float, float, dict[Pair, float]]:
        """kappatilde_{h_v}; the part of it that belongs to the picked factors and the loss; per pair that of D."""
        bound, levels = self.place.derived.bound, self.parameters
        augmented, graph = bound.augmented, bound.graph
        changed = bool(self.picks.hidden or self.picks.conditions)
        taubar = bound.taubar(levels, self.place.derived.measurements) if changed else self.place.taubar
        tau = loss_slope(bound, levels)
        whole = release_lipschitz(augmented, tau, levels.s, levels.kappa, taubar, levels.rho).hidden(self.node)
        v, index = graph.index[self.node], graph.index
        K = self.bars
        curved = {pair: self._curved(K, taubar, pair) for pair in self.norms}
        part = tau * K[index[graph.output], v]
        part += sum(value / levels.kappa[pair] for pair, value in curved.items())
        part += sum(K[index[w], v] / levels.s[w] for w in self.picks.hidden)
        for name in self.picks.conditions:
            for slot, slope in augmented.conditions[name].slopes.items():
                part += 2 / levels.rho[name] * float(slope) * K[index[graph[name].inputs[slot]], v]
        return whole, part, curved

    @cached_property
    def bars(self) -> NDArray[np.float64]:
        """kappabar as a matrix."""
        graph = self.network.graph
        K = np.eye(len(graph))
        for (w, a), level in self.parameters.kappa.items():
            K[graph.index[w], graph.index[a]] = 2 * level
        return K

    def _curved(self, K: NDArray[np.float64], taubar: Mapping[tuple[int, int, int], float], pair: Pair) -> float:
        """By how much D of a pair can change for a change of h_v by 1: the inner sum of Theorem 2."""
        w, a = (self.network.graph.index[name] for name in pair)
        v = self.network.graph.index[self.node]
        return float(sum(K[w, x] * tau * K[u1, v] * K[u, a] for (x, u, u1), tau in taubar.items()))

    def z(self, shift: Tensor | None) -> tuple[float, float]:
        """The product over the moving factors, and its error."""
        levels = self.parameters
        shifts = {} if shift is None else {self.node: shift}
        moved = self.network.moved(shifts) if shifts else {}
        loss = self._loss_value(moved)
        if levels.gamma is not None:
            loss = (1 - loss / levels.gamma).clamp(0, 1)
        factors = [float(loss) - 1]
        for w in self.picks.hidden:
            size = float(moved.get(w, self.network.values[w]).norm())
            factors.append(float(np.clip(2 - size / levels.s[w], 0, 1)))
        for name in self.picks.conditions:
            factors.append(float(np.clip(2 * self.network.quantity(name, moved) / levels.rho[name] - 1, 0, 1)))
        error = 1e-15
        for pair, at in self.norms.items():
            if at.value == 0:
                continue
            norm = at
            if shift is not None:
                m, d = self.network.derivative(pair, shifts).shape
                norm = self.network.derivative(pair, shifts).norm(at.left if m <= d else at.right)
            factors.append(float(np.clip(2 - norm.value / levels.kappa[pair], 0, 1)))
            error += norm.error / levels.kappa[pair]
        return 1 + float(np.prod(factors)), error

    def checks(self) -> Iterator[SpotCheck]:
        """One check a direction, with the largest step of some that keeps the other indicators at 1."""
        try:
            base, error = self.z(None)
            for direction, step in self.directions():
                shift = self.usable(direction, step)
                if shift is not None:
                    yield self.confirmed(shift, base, error)
        except NotSettledError:
            return

    def directions(self) -> Iterator[tuple[Tensor, float]]:
        """A random one, and where the picked norms grow fastest: vectors as long as the value, and a step."""
        value = self.network.values[self.node]
        size = max(float(value.norm()), 1e-6)
        random = torch.randn(value.shape, generator=self.network.generator, dtype=torch.float64)
        candidates = [random]
        for pair, at in self.norms.items():
            try:
                zero = {self.node: torch.zeros_like(value)}
                candidates.append(self.network.derivative(pair, zero).slope(self.node, at))
            except (NotImplementedError, RuntimeError):  # torch lacks a second derivative
                continue
        for direction in candidates:
            if float(direction.norm()) > 0 and bool(torch.isfinite(direction).all()):
                step = STEPS[int(torch.randint(len(STEPS), (), generator=self.network.generator))]
                yield direction / direction.norm() * size, step

    def usable(self, direction: Tensor, step: float) -> Tensor | None:
        """A shift along a direction, so short that the other norms and conditions stay at their levels, or None."""
        while step > SHORTEST:
            if all(self.calm(factor * step * direction) for factor in (0.5, 1.0)):
                return step * direction
            step *= 0.4
        return None

    def calm(self, shift: Tensor) -> bool:
        """True if no indicator but the picked ones falls, as far as norms and conditions go."""
        moved, levels, bound = self.network.moved({self.node: shift}), self.parameters, self.place.derived.bound
        if any(not bool(torch.isfinite(value).all()) for value in moved.values() if value.is_floating_point()):
            return False
        widths = {w: 2 * RISE if w in self.picks.hidden else 1 for w in bound.augmented.hidden if w in moved}
        if any(float(moved[w].norm()) > width * levels.s[w] for w, width in widths.items()):
            return False
        return all(self._keeps(c, moved) for c in bound.augmented.conditions)

    def _keeps(self, c: str, moved: Mapping[str, Tensor]) -> bool:
        """True if the condition of c holds, with no jump across a kink: an entry that moves by t changes q by 2 t."""
        network, condition = self.network, self.place.derived.bound.augmented.conditions[c]
        read = [network.graph[c].inputs[slot] for slot in condition.slopes]
        steps = [float((moved[u] - network.values[u]).abs().max()) for u in read if u in moved]
        if not steps:
            return True
        floor = self.parameters.rho[c] * (RISE * RISE if c in self.picks.conditions else 1)
        before = float(self.place.derived.measurements.condition_values[c][self.place.sample])
        return network.quantity(c, moved) >= floor and 2 * max(steps) <= before - floor

    def confirmed(self, shift: Tensor, base: float, error: float) -> SpotCheck:
        """The ratios of one shift; too large ones count where nothing collapses, else it is shortened."""
        found = self.check(shift, base, error)
        for _ in range(SHORTER):
            if found.largest <= 1 or self.settled(shift):
                break
            shift = shift / 10
            found = self.check(shift, base, error)
        return found

    def settled(self, shift: Tensor) -> bool:
        """True if on the way the norms of the picked pairs stay below twice their levels, all others below theirs."""
        kappa, network = self.parameters.kappa, self.network
        others = [pair for pair in kappa if pair not in self.norms]
        for factor in (0.5, 1.0):
            part = {self.node: factor * shift}
            values = {**network.values, **network.moved(part)}
            norms = filled_norms(network.graph, values, network.context, others)
            picked = {pair: network.derivative(pair, part).norm().value for pair in self.norms}
            if any(norm > 2 * kappa[pair] for pair, norm in picked.items()):
                return False
            if any(float(norm) > kappa[pair] for pair, norm in norms.items()):
                return False
        return True

    def check(self, shift: Tensor, base: float, error: float) -> SpotCheck:
        """The ratios of one shift."""
        whole, part, curved = self.constants
        size = float(shift.norm())
        after, further = self.z(shift)
        change = max(abs(after - base) - error - further, 0.0)
        zero = {self.node: torch.zeros_like(shift)}
        jacobians = [
            self.network.derivative(pair, {self.node: shift}).change(self.network.derivative(pair, zero))
            / (curved[pair] * size)
            for pair in self.norms
            if curved[pair] > 0
        ]
        found = SpotCheck(
            checks=1,
            ratio=change / (whole * size),
            part=change / (part * size) if part > 0 else 0.0,
            values=self.values(shift, size),
            jacobians=max(jacobians, default=0.0),
        )
        ratios = f"{found.ratio:.3g}, {found.part:.3g}, {found.values:.3g}, {found.jacobians:.3g}"
        return replace(found, worst=f"h[{self.node}] by {size:.3g}, sample {self.place.sample}, {self.picks}: {ratios}")

    def values(self, shift: Tensor, size: float) -> float:
        """The largest |dh_w| / (kappabar_{w<-v} |d|) over the pairs (w, v) of P."""
        graph, pairs = self.network.graph, self.place.derived.bound.augmented.pairs
        column, K = graph.index[self.node], self.bars
        moved = self.network.moved({self.node: shift})
        rows = [(w, graph.nodes[w].name) for w in np.flatnonzero(pairs[:, column])]
        changes = [(w, float((moved[n] - self.network.values[n]).norm())) for w, n in rows if n in moved]
        return max((change / (K[w, column] * size) for w, change in changes), default=0.0)
