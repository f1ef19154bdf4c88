"""The papers' own expressions in numbers: hidden constants 1, xi = 0, at the certificate's gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from covergraph.bound.checks import lookup
from covergraph.bound.constants import ReleaseLipschitz
from covergraph.bound.paper import PaperExpression, PaperValue, layers_of
from covergraph.bound.product import product_of_lipschitz
from covergraph.rules.norms import upper
from covergraph.values import Floats, Measurements, Parameters

if TYPE_CHECKING:
    from covergraph.bound.derive import Bound


def paper_values(
    bound: Bound,
    measurements: Measurements,
    parameters: Parameters,
    constants: ReleaseLipschitz,
    delta: float,
    C: float,
    tau: float,
) -> tuple[PaperValue, ...]:
    """Each expression's value, or None with the reason.

    For the covering statements (Lemma 4.1, Theorems 4.2 and 4.3) the value is the C of ln N(eps) <= C^2/eps^2.
    """
    if parameters.gamma is None or measurements.margins is None:
        return tuple(PaperValue(e, None, e.reason or "the loss has no margin") for e in bound.paper)
    tail = math.sqrt(math.log(1 / delta) / measurements.n)
    product = product_of_lipschitz(bound, measurements, tau)

    def value(expression: PaperExpression) -> tuple[float | None, str]:
        match expression.name:
            case "Lemma 4.1":
                if product.log10 is None:
                    return None, product.reason
                root = 0.5 * math.log10(measurements.n)
                return _power(product.log10 + root), "explicit: the C with worst-case Lipschitz constants"
            case "Theorem 4.2" | "Theorem 4.3 (eq. 5)":
                return C, "explicit: the C of this certificate (entropies and Theorem 2)"
            case "eq. (4)":
                number = _equation_4(bound, measurements, parameters, constants) + tail
                return number, "kappa of Theorem 2, of values only; entropies s^2/eps^2"
            case "Theorem 5.1" | "Section H":
                zero = _zero_norm(bound, measurements)
                if zero:
                    return None, zero
                number = theorem_51(bound, measurements, parameters.gamma or 0.0, tail, parameters.rho)
                return number, "at the certificate's gamma" + " and rho" * (expression.name == "Section H")
            case "Theorem 1.1":
                return _theorem_11(bound, measurements, parameters.gamma or 0.0, tail)
            case _ if not measurements.pair_values:
                return None, "norms were not kept by sample"
            case _:
                return _figure_1(bound, measurements), "mean over the samples with positive margin"

    rows = [(e, (None, e.reason) if e.reason else value(e)) for e in bound.paper]
    return tuple(PaperValue(e, number, note) for e, (number, note) in rows)


def _power(log10: float) -> float:
    return 10.0**log10 if log10 < 300 else math.inf


def _equation_4(bound: Bound, measurements: Measurements, parameters: Parameters, constants: ReleaseLipschitz) -> float:
    total = 0.0
    for name in bound.graph.covered:
        (u,) = bound.graph[name].predecessors
        measured = measurements.root_mean_square if u in measurements.root_mean_square else measurements.hidden
        radius = parameters.s[u] if u in parameters.s else measured[u].upper
        total += (constants.hidden(name) * radius) ** (2 / 3)
    return float(total**1.5 / math.sqrt(measurements.n))


def _zero_norm(bound: Bound, measurements: Measurements) -> str:
    """Why Theorem 5.1, which divides by every t and sigma, has no value here at xi = 0; empty if it has one."""
    layers, _ = layers_of(bound)
    norms = {f"t of {v!r}": measurements.hidden[v] for v in layers[2::2]}
    norms |= {f"sigma of {(w, a)}": measurements.pairs[w, a] for w in layers[1:] for a in layers[: layers.index(w)]}
    zeros = [name for name, norm in norms.items() if norm.upper == 0]
    return f"it divides by {zeros[0]}, which is 0 (xi = 0)" if zeros else ""


def theorem_51(
    bound: Bound, measurements: Measurements, gamma: float, tail: float, rho: Mapping[str, float] | None = None
) -> float:
    """Theorem 5.1 with hidden constants 1, by the matrix form with K = sigma and R = 1/sigma on all pairs.

    For activations with kinks Section H: 1/rho of the condition on each pre-activation in place of the curvature.
    """
    layers, _ = layers_of(bound)
    K, R = _sigmas(layers, measurements)
    M = K.T @ R @ K.T
    taubar = bound.augmented.rules[layers[2]].taubar if len(layers) > 2 else {}
    curve = sum(upper(value) for value in taubar.values())
    inverse_t = np.zeros(len(layers))
    t = np.zeros(len(layers))
    for place in range(2, len(layers), 2):
        inverse_t[place] = 1 / measurements.hidden[layers[place]].upper
        t[place - 1] = curve * M[place, place - 1]
        if layers[place] in bound.augmented.conditions:
            t[place - 1] += 1 / lookup(rho or {}, layers[place], "rho")
    hidden = K[-1] / gamma + inverse_t @ K + t @ K
    total = 0.0
    for place in range(1, len(layers), 2):
        size = measurements.layers[layers[place]]
        before = measurements.hidden[layers[place - 1]].upper
        total += (hidden[place] * size.a.upper * before) ** (2 / 3)
        total += (M[place, place - 1] * size.b.upper) ** (2 / 3)
    return float(total**1.5 / math.sqrt(measurements.n) + (len(layers) // 2) * tail)


def _sigmas(layers: tuple[str, ...], measurements: Measurements) -> tuple[Floats, Floats]:
    """K[w, a] = sigma of layers a+1..w (1 on the diagonal) and its inverse off the diagonal."""
    K, R = np.eye(len(layers)), np.zeros((len(layers), len(layers)))
    for w in range(1, len(layers)):
        for a in range(w):
            K[w, a] = measurements.pairs[layers[w], layers[a]].upper
            R[w, a] = 1 / K[w, a]
    return K, R


def _theorem_11(bound: Bound, measurements: Measurements, gamma: float, tail: float) -> tuple[float | None, str]:
    layers, _ = layers_of(bound)
    sigma = max(measurements.pairs[w, a].upper for w in layers[1:] for a in layers[: layers.index(w)])
    t = max(measurements.hidden[name].upper for name in (layers[0], *layers[2::2]))
    if min(sigma, t) < 1:
        return None, f"it supposes sigma, t >= 1, but sigma = {sigma:.3g}, t = {t:.3g}"
    r = len(layers) // 2
    sizes = [measurements.layers[name] for name in layers[1::2]]
    a = (1 + sum(size.a_zero.upper ** (2 / 3) for size in sizes)) ** 1.5
    b = (1 + sum(size.b_zero.upper ** (2 / 3) for size in sizes)) ** 1.5
    leading = ((sigma / gamma + r**3 * sigma**2) * t * a + r**2 * sigma * b) / math.sqrt(measurements.n)
    return leading + r * tail, "at the certificate's gamma"


def _figure_1(bound: Bound, measurements: Measurements) -> float:
    layers, _ = layers_of(bound)
    assert measurements.margins is not None
    hidden = layers[2:-1:2]
    total = sum(
        (measurements.hidden_values[v] * measurements.pair_values[layers[-1], v] for v in hidden),
        np.zeros(measurements.n),
    )
    good = measurements.margins > 0
    return float(np.mean(total[good] / measurements.margins[good])) if good.any() else math.nan
