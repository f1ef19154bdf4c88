"""Theorem L3: what steady training with Dropout says of generalization, in the paper's form and made explicit.

The logarithm and the o(1) of λ_steady are the paper's and could not be derived again, so nothing here is a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covergraph.errors import TrajectoryError
from covergraph.kinds import REGIONS, require
from covergraph.trajectory.assumptions import RELATIVE
from covergraph.trajectory.covering import CoveringNumber, greedy_cover, intrinsic_dimension
from covergraph.trajectory.ledger import Ledger, Statement
from covergraph.trajectory.patterns import Patterns, patterns
from covergraph.trajectory.region_ledger import Consistency
from covergraph.trajectory.robustness_ledger import decided, robustness_ledger, sound
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from covergraph.graph.computation_graph import ComputationGraph

GRID = math.pi**2 / 3 - 1
"""Σ (1+|j|)^{-2} over all integers j: radius 2^{-j} gets the share 1/(GRID (1+|j|)²) of δ."""


@dataclass(frozen=True)
class Robustness:
    """Theorem L3 on one network.

    steady: λ_f <= λ_steady, with the largest sampled slope as value; generalization: |er_emp - er_exp| at most the
    explicit form, value None unless it was measured. radius: r; cover: N at r rounded down to the grid; log_order:
    log √((N(r) + log(1/δ))/n), the paper's O(·); log_explicit: log √((2K ln 2 + 2 ln(1/δ'))/n); log_samples: log r^-k.
    """

    steady: Statement
    generalization: Statement
    radius: float
    cover: CoveringNumber | None
    log_order: float
    log_explicit: float
    log_samples: float

    def text(self) -> str:
        """The numbers, the vacuous ones called so, and the ledger."""
        ledger = self.generalization.ledger.text()
        if self.cover is None:
            return f"Theorem L3: no statement of generalization\n{ledger}"
        vacuous = " (vacuous: an error rate is at most 1)" if self.log_explicit >= 0 else ""
        details = self.steady.details
        return "\n".join([
            f"Theorem L3: λ_steady = {details['lambda_steady']:.4g}, {details['ratio']:.4g} times the largest sampled "
            f"slope; the paper's sandwich allows O({details['logarithm']:.3g})",
            f"  r = {self.radius:.4g}; N({self.cover.radius:.4g}) = {_power(self.cover.log_number)}, {self.cover.what}",
            f"  √((N + log 1/δ)/n) = {_power(self.log_order)}: the paper's O(·), not a certificate",
            f"  √((2K ln 2 + 2 ln 1/δ')/n) = {_power(self.log_explicit)}{vacuous}",
            f"  r^-k = {_power(self.log_samples)} samples, k = {details['dimension']:.3g}, in the paper's O(·)",
            ledger,
        ])

    def __repr__(self) -> str:
        return self.text()


def theorem3(
    graph: ComputationGraph, model: nn.Module | Mapping[str, Tensor], points: Tensor,
    *, phi: float, beta: float, gamma: float, zeta: float, delta: float = 0.05, sample: Tensor | None = None,
    cover: Callable[[Floats, float], CoveringNumber] = greedy_cover, dimension: float | None = None,
    gap: float | None = None, consistent: Consistency | None = None, trajectory: Trajectory | None = None,
    rows: slice = slice(None),
) -> Robustness:
    """Theorem L3 for f = `model` with training points (n, *shape), trained (τ, φ)-steadily with Dropout 1/2.

    Args: `phi`, `beta` >= ‖W_1‖, `gamma` of Assumption 1, `zeta` with f^t(x^t) in [ζ, 1-ζ]; `sample` (k, *shape), other
    points of 𝒳 at which condition (b) and slopes are looked at; `cover` makes N from samples (n, n_0) and a radius;
    `dimension` k (default: estimated); `gap`, |er_emp - er_exp| where it was measured; the others as of `theorem2`.
    Raises `TrajectoryError` where the graph is no chain, or a number is out of range.
    """
    require(
        "theorem3", REGIONS, graph=graph, model=model, points=points, phi=phi, beta=beta, gamma=gamma, zeta=zeta,
        delta=delta, sample=sample, cover=cover, dimension=dimension, gap=gap, consistent=consistent,
        trajectory=trajectory, rows=rows,
    )
    positive = all(0 < value < math.inf for value in (phi, beta, 1.0 if dimension is None else dimension))
    if not (positive and 0 <= gamma < math.inf and 0 < zeta <= 0.5 and 0 < delta < 1):
        raise TrajectoryError(
            f"theorem 3: phi {phi}, beta {beta}, gamma {gamma}, zeta {zeta}, delta {delta}, dimension {dimension}; "
            "expected phi, beta and dimension > 0, gamma >= 0, all finite, zeta in (0, 1/2], delta in (0, 1)"
        )
    trained = patterns(graph, model, points)
    at = trained if sample is None else patterns(graph, model, sample)
    ledger = robustness_ledger(model, trained, at, phi, beta, gamma, zeta, consistent, trajectory, rows)
    data = points.detach().double().flatten(1).cpu().numpy()
    k = intrinsic_dimension(data) if dimension is None else dimension
    numbers = _numbers(trained, phi, beta, gamma, zeta) | {"dimension": k}
    steady = _steady(trained, at, numbers, ledger)
    radius, ledger = numbers["radius"], Ledger((*ledger, sound(steady), decided(trained)))
    if not (ledger.states("upper") and 0 < radius < math.inf):
        none = Statement("Theorem L3", EXPLICIT, gap, None, None, ledger, details=numbers)
        return Robustness(steady, none, radius, None, math.nan, math.nan, math.nan)
    bits = grid_exponent(radius)
    covering = cover(data, 2.0**-bits)
    log_explicit = robustness_form(covering.log_number, len(points), delta, bits)
    log_order = (np.logaddexp(cover(data, radius).log_number, math.log(-math.log(delta))) - math.log(len(points))) / 2
    upper = math.exp(log_explicit) if log_explicit < 709 else math.inf
    general = Statement("Theorem L3", EXPLICIT, gap, None, upper, ledger, details=numbers | {"delta": delta})
    return Robustness(steady, general, radius, covering, float(log_order), log_explicit, -k * math.log(radius))


EXPLICIT = r"|er_{emp}-er_{exp}|\le\sqrt{(2K\ln2+2\ln(1/\delta'))/n},\ K=2N(\mathcal X;\ell_2;2^{-j}),\ 2^{-j}<r"
STEADY = r"\lambda_f\le\lambda_{steady}=\tfrac{c\varphi}4\log\sum_{l<d}n_l"


def grid_exponent(radius: float) -> int:
    """The least j with 2^{-j} < radius, strictly: then no point of a cell reaches f = 1/2."""
    mantissa, exponent = math.frexp(radius)  # radius = mantissa 2^exponent, mantissa in [1/2, 1)
    return 1 - exponent if mantissa > 0.5 else 2 - exponent


def robustness_form(log_number: float, n: int, delta: float, bits: int) -> float:
    """log √((2K ln 2 + 2 ln(1/δ'))/n) with K = 2 N, δ' = δ/(GRID (1+|j|)²), j = `bits`.

    Xu and Mannor (2012), for the cells of each radius 2^{-j}, all j together with probability 1 - δ.
    """
    share = math.log(1 / delta) + math.log(GRID) + 2 * math.log1p(abs(bits))
    return float(np.logaddexp(math.log(4 * math.log(2)) + log_number, math.log(2 * share)) - math.log(n)) / 2


def _numbers(trained: Patterns, phi: float, beta: float, gamma: float, zeta: float) -> dict[str, float]:
    """p_min, c, the logarithm, λ_steady and r; infinite or NaN where p_min or the logarithm is 0."""
    frequency = min((float(layer.mean(axis=0).min()) for layer in trained.layers), default=0.0)
    neurons = sum(layer.shape[1] for layer in trained.layers)
    logarithm = math.log(neurons) if neurons else 0.0
    c = (1 + gamma) * beta / ((1 - zeta) * zeta * frequency) if frequency else math.inf
    steady = c * phi * logarithm / 4 if frequency else math.inf
    confidence = float(np.min(np.abs(np.tanh(trained.logits / 2))))  # |1 - 2f|
    radius = confidence / (4 * steady) if 0 < steady < math.inf else math.nan
    return {
        "p_min": frequency, "zeta": zeta, "phi": phi, "beta": beta, "gamma": gamma, "c": c, "logarithm": logarithm,
        "lambda_steady": steady, "radius": radius,
    }


def _steady(trained: Patterns, at: Patterns, numbers: dict[str, float], ledger: Ledger) -> Statement:
    """λ_f, at least the largest sampled slope, against λ_steady."""
    largest = float(max(trained.lam.max(), at.lam.max()))
    steady = numbers["lambda_steady"]
    stated = ledger.states("upper") and 0 < steady < math.inf
    ratio = steady / largest if largest else math.inf
    room = RELATIVE["float32" if trained.single else "float64"] * largest
    return Statement(
        "Theorem L3 (λ_steady)", STEADY, largest, None, steady if stated else None, ledger, room,
        details=numbers | {"ratio": ratio},
    )


def _power(log_value: float) -> str:
    """A number given by its logarithm, as a power of ten where it is large."""
    return f"{math.exp(log_value):.4g}" if abs(log_value) < 50 else f"10^{log_value / math.log(10):.4g}"
