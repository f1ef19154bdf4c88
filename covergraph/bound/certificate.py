"""The certificate: Theorem 3 evaluated, with each of its terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from covergraph.bound.checks import check_membership, check_same_model, lookup, price
from covergraph.bound.constants import ReleaseLipschitz, release_lipschitz
from covergraph.bound.derive import Bound, Contribution, Group
from covergraph.bound.numeric import delta_numeric
from covergraph.bound.paper import PaperValue
from covergraph.bound.paper_values import paper_values
from covergraph.bound.product import ProductBound, product_of_lipschitz
from covergraph.bound.rademacher import (
    check_delta,
    complexity,
    deviation,
    dudley,
    one_step,
    samples_needed,
)
from covergraph.errors import ParameterError
from covergraph.graph.losses import GAMMA
from covergraph.rounding import CONSTANT, VALUES
from covergraph.rules.norms import upper
from covergraph.values import Floats, Measurements, Pair, Parameters

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Share:
    """What one covered class contributes: weight K_g, root E_g, and its share of C^(2/3)."""

    contribution: Contribution
    weight: float
    root: float
    share: float


@dataclass(frozen=True, eq=False)
class Certificate:
    """With probability >= 1 - delta - delta_numeric: E[l] <= E[z] <= `value`, the sum of three terms.

    delta: over the sample; delta_numeric: over the random starts by which norms were measured, 0 if there were none
    (`bound.numeric`).
    training: mean of z over the sample; complexity_term: 2 Rad_S, by the smaller of two routes; deviation_term:
    3 ((ln(2/delta) + union cost)/(2n))^(1/2). For a margin loss E[l] bounds the error. `vacuous`: value >= 1.
    """

    bound: Bound
    measurements: Measurements
    parameters: Parameters
    delta: float
    C: float
    route: str
    training: float
    complexity_term: float
    deviation_term: float
    union_cost: float
    samples_needed: float | None
    shares: tuple[Share, ...]
    constants: ReleaseLipschitz
    product: ProductBound
    paper: tuple[PaperValue, ...]
    delta_numeric: float = 0.0
    choices: int = 1

    def __eq__(self, other: object) -> bool:
        """Certificates are equal if what they were made from is: all else follows."""
        return self._made_from == other._made_from if isinstance(other, Certificate) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return certify, self._made_from

    @property
    def _made_from(self) -> tuple[Any, ...]:
        return self.bound, self.measurements, self.parameters, self.delta, self.choices

    @property
    def n(self) -> int:
        """The number of samples, all measured."""
        return self.measurements.n

    @property
    def confidence(self) -> float:
        """1 - delta - delta_numeric: how probable is it, at least, that the statement holds?"""
        return 1 - self.delta - self.delta_numeric

    @property
    def normalized(self) -> float:
        """C / sqrt(n)."""
        return self.C / math.sqrt(self.n)

    @property
    def log10(self) -> float:
        """log10 of C / sqrt(n)."""
        return math.log10(self.normalized) if self.C > 0 else -math.inf

    @property
    def value(self) -> float:
        """The certified bound."""
        return (self.training + self.complexity_term + self.deviation_term) * (1 + VALUES)

    @property
    def vacuous(self) -> bool:
        """A bound of 1 or more says nothing about a loss in [0, 1]."""
        return self.value >= 1

    def explain(self) -> str:
        """Three sentences for a human."""
        from covergraph.report.explain import explain

        return explain(self)

    def log_derivatives(self) -> dict[Pair, float]:
        """d log C / d log kappa by pair of P: which norm would it pay to measure more closely?"""
        from covergraph.bound.sensitivity import derivatives

        return derivatives(self)

    def to_frame(self) -> pd.DataFrame:
        """One row a contribution: node, class, K_g, E_g, share, entropy source."""
        from covergraph.report.frames import contributions_frame

        return contributions_frame(self)

    def to_latex(self) -> str:
        """A LaTeX fragment with the numbers of every term."""
        from covergraph.report.latex import certificate_fragment

        return certificate_fragment(self)

    def plot(self) -> Figure:
        """Shares of the contributions, and the terms of the certificate."""
        from covergraph.report.plots import plot_certificate

        return plot_certificate(self)

    def _repr_html_(self) -> str:
        from covergraph.report.frames import certificate_html

        return certificate_html(self)

    def _repr_latex_(self) -> str:
        return f"$$\n{self.to_latex()}\n$$"

    def __repr__(self) -> str:
        from covergraph.report.numbers import plain

        word = "vacuous" if self.vacuous else "non-vacuous"
        numbers = (self.value, self.training, self.complexity_term, self.deviation_term, self.normalized)
        value, training, complexity, deviation, normalized = (plain(number, 4, "up") for number in numbers)
        starts = f"; random starts fail with probability {plain(self.delta_numeric, 4, 'up')}"
        return (
            f"Certificate({value}, {word}: training {training} + complexity {complexity} + deviation {deviation}; "
            f"C/sqrt(n) = {normalized}{starts if self.delta_numeric else ''})"
        )


def certify(
    bound: Bound, measurements: Measurements, parameters: Parameters, delta: float, choices: int = 1
) -> Certificate:
    """Evaluate Theorem 3 at the parameters (see `Bound.evaluate`)."""
    check_same_model(bound, measurements)
    check_delta(delta)
    check_membership(measurements, parameters)
    numeric = delta_numeric(bound, measurements, parameters, delta)
    tau = loss_slope(bound, parameters)
    taubar = bound.taubar(parameters, measurements)
    constants = release_lipschitz(bound.augmented, tau, parameters.s, parameters.kappa, taubar, parameters.rho)
    shares = _shares(bound, constants, measurements, parameters)
    C = complexity([s.weight for s in shares], [s.root for s in shares]) * (1 + VALUES)
    training = float(np.mean(augmented_loss(bound, measurements, parameters, allowance=VALUES)))
    cost = price(parameters, choices)
    n = measurements.n
    routes = {"Dudley": dudley(C, n), "one step": one_step(C, n)}
    route = min(routes, key=lambda name: routes[name])
    return Certificate(
        bound,
        measurements,
        parameters,
        delta,
        C,
        route,
        training,
        2 * routes[route],
        deviation(n, delta, cost),
        cost,
        samples_needed(training, C, delta, cost),
        shares,
        constants,
        product_of_lipschitz(bound, measurements, tau),
        paper_values(bound, measurements, parameters, constants, delta, C, tau),
        numeric,
        choices,
    )


def loss_slope(bound: Bound, parameters: Parameters) -> float:
    """tau_l as a number; raises `ParameterError` if a margin loss has no positive gamma."""
    if bound.augmented.loss.has_margin and not (parameters.gamma and parameters.gamma > 0):
        raise ParameterError(f"bound: gamma is {parameters.gamma}, expected a positive number; use choose(...)")
    value = bound.tau.subs(GAMMA, sympy.Float(parameters.gamma, 30)) if parameters.gamma else bound.tau
    return float(value) * CONSTANT


def augmented_loss(bound: Bound, measurements: Measurements, parameters: Parameters, allowance: float = 0.0) -> Floats:
    """z on every sample, from the upper ends of its norms and the lower ends of its conditions: shape (n,).

    `allowance`: a relative error of norms, and of margins relative to the largest one, for which z is still an
    upper end.
    """
    if measurements.margins is not None:
        assert parameters.gamma is not None
        slack = allowance * np.abs(measurements.margins).max()
        loss = np.clip(1 - (measurements.margins - slack) / parameters.gamma, 0, 1)
    else:
        assert measurements.losses is not None
        loss = np.minimum(measurements.losses + allowance, 1)
    product = np.ones(measurements.n)
    for v in bound.augmented.hidden:
        product *= _indicator(measurements.hidden_values[v], lookup(parameters.s, v, "s"), allowance)
    for pair in bound.augmented.pair_names:
        kappa = lookup(parameters.kappa, pair, "kappa")
        if measurements.pairs[pair].upper * (1 + allowance) > kappa:
            product *= _indicator(_norms(measurements, pair, kappa), kappa, allowance)
    for name in bound.augmented.conditions:
        level = lookup(parameters.rho, name, "rho")
        product *= np.clip(2 * measurements.condition_values[name] * (1 - allowance) / level - 1, 0, 1)
    result: Floats = 1 + (loss - 1) * product
    return result


def _norms(measurements: Measurements, pair: Pair, kappa: float) -> Floats:
    """Upper ends of a pair by sample, (n,); the largest one, (), for all of them where kappa is not below it."""
    largest = measurements.pairs[pair].upper
    if kappa >= largest:
        return np.asarray(largest)
    if pair not in measurements.pair_values:
        raise ParameterError(
            f"bound: kappa of {pair} is {kappa:.6g}, below the largest norm {largest:.6g}, but of {measurements.n} "
            f"samples and {len(measurements.pairs)} pairs only the largest norms were kept; use choose(...)"
        )
    return measurements.pair_values[pair]


def _indicator(values: Floats, threshold: float, allowance: float) -> Floats:
    result: Floats = np.clip(2 - values * (1 + allowance) / threshold, 0, 1)
    return result


def _shares(
    bound: Bound, constants: ReleaseLipschitz, measurements: Measurements, parameters: Parameters
) -> tuple[Share, ...]:
    """The covered classes with their numbers; of each group the smaller of two covers."""
    numbers = _Numbers(bound, constants, measurements, parameters)
    rows = {id(c): (c, *numbers.weight_and_root(c)) for c in bound.contributions}
    for group in bound.groups:
        tied = [rows[id(c)] for _, c in group.parts]
        together = (group.contribution, *numbers.group(group, [K for _, K, _ in tied]))
        if _size(*together[1:]) < sum(_size(K, E) for _, K, E in tied):
            for c, *_ in tied:
                del rows[id(c)]
            rows[id(group.contribution)] = together
    total = sum(_size(K, E) for _, K, E in rows.values())
    return tuple(Share(c, K, E, _size(K, E) / total if total else 0.0) for c, K, E in rows.values())


def _size(K: float, E: float) -> float:
    return float((K * E) ** (2 / 3))


@dataclass(frozen=True)
class _Numbers:
    """K_g and E_g of covered classes as numbers."""

    bound: Bound
    constants: ReleaseLipschitz
    measurements: Measurements
    parameters: Parameters

    def weight_and_root(self, contribution: Contribution) -> tuple[float, float]:
        """K_g and E_g of the values or the derivatives of one node."""
        name, entropy = contribution.node, contribution.entropy
        if contribution.kind == "derivative":
            b = lookup(self.parameters.b, name, "b")
            (u,) = self.bound.graph[name].predecessors
            root = b * math.sqrt(2 * entropy.gain * math.log(entropy.derivative_count))
            return self.constants.jacobian(name, u), root
        size = lookup(self.parameters.a, name, "a") * self.sensitivity(contribution, self.radius(name))
        return self.constants.hidden(name), size * math.sqrt(2 * math.log(entropy.count))

    def group(self, group: Group, weights: Sequence[float]) -> tuple[float, float]:
        """K_g = sum of kappatilde_{h_v} r_v + kappatilde_J r^J and E_g of a group (Theorem 1')."""
        parts = [c for _, c in group.parts]
        K = sum(w * self.sensitivity(c, self.radius(c.node)) for w, c in zip(weights, parts, strict=True))
        t = lookup(self.parameters.shared, group.nodes[0], "t")
        return K, t * math.sqrt(2 * math.log(group.contribution.entropy.count))

    def sensitivity(self, contribution: Contribution, radius: float) -> float:
        """(gain s^2 + positions)^(1/2) for values, gain^(1/2) for derivatives."""
        root = math.sqrt(contribution.entropy.gain)
        if contribution.kind == "derivative":
            return root
        return math.hypot(root * radius, math.sqrt(contribution.entropy.positions))

    def radius(self, name: str) -> float:
        """The norm of what a covered node reads: the root mean square if that is data-only, else where z < 1."""
        node, graph = self.bound.graph[name], self.bound.graph
        if not node.inputs or not self.bound.augmented.rules[name].entropy.gain:
            return 0.0
        u = node.inputs[0]
        if u in graph.data_only:
            return self.measurements.root_mean_square[u].upper
        if u in self.bound.augmented.hidden:
            return 2 * lookup(self.parameters.s, u, "s")
        return upper(self.bound.symbols.limit(u))
