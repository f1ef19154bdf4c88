"""The product-of-Lipschitz-constants bound on the same DAG (Bartlett, Foster, Telgarsky 2017; Proposition 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mpmath

from covergraph.bound.derive import Bound
from covergraph.errors import UnsupportedOperationError
from covergraph.rules.lipschitz import Real, slot_lipschitz, worst_radius
from covergraph.values import Measurements


@dataclass(frozen=True)
class ProductBound:
    """C / sqrt(n) with worst-case constants, explicit and with hidden constants 1; or the reason for "—".

    Values are log10, since products of norms overflow.
    """

    log10: float | None
    log10_unit: float | None
    reason: str = ""


def product_of_lipschitz(bound: Bound, measurements: Measurements, tau: float) -> ProductBound:
    """Theorem 1 without augmentation: K_v = tau * sum over paths of products of layer constants."""
    try:
        slopes = lipschitz_to_output(bound, measurements)
        radii = worst_case_radii(bound, measurements)
    except UnsupportedOperationError as error:
        return ProductBound(None, None, str(error))
    explicit, unit = mpmath.mpf(0), mpmath.mpf(0)
    for c in bound.contributions:
        if c.kind == "derivative":
            continue
        (u,) = bound.graph[c.node].predecessors
        a = mpmath.mpf(measurements.layers[c.node].a.upper)
        size = a * mpmath.sqrt(c.entropy.gain * radii[u] ** 2 + c.entropy.positions)
        K = tau * slopes[c.node]
        explicit += (K * size * mpmath.sqrt(2 * math.log(c.entropy.count))) ** (mpmath.mpf(2) / 3)
        unit += (K * size) ** (mpmath.mpf(2) / 3)
    root = mpmath.sqrt(measurements.n)
    logs = [float(mpmath.log10(x**1.5 / root)) if x > 0 else -math.inf for x in (explicit, unit)]
    return ProductBound(logs[0], logs[1])


def lipschitz_to_output(bound: Bound, measurements: Measurements) -> dict[str, Real]:
    """L_{k<-v} = sum over edges v -> x of Lip(x, v) L_{k<-x}; L_{k<-k} = 1."""
    graph = bound.graph
    slopes = {node.name: mpmath.mpf(0) for node in graph.nodes}
    slopes[graph.output] = mpmath.mpf(1)
    for node in reversed(graph.nodes):
        if slopes[node.name] == 0:
            continue
        for u in node.predecessors:
            if u not in graph.data_only:
                constant = slot_lipschitz(node.operation, node.inputs.count(u), _norm(measurements, node.name))
                slopes[u] += constant * slopes[node.name]
    return slopes


def worst_case_radii(bound: Bound, measurements: Measurements) -> dict[str, Real]:
    """Bounds of the root mean square of ||h_v|| over the sample that hold for every network of the class."""
    radii: dict[str, Real] = {}
    for node in bound.graph.nodes:
        if node.name in bound.graph.data_only:
            radii[node.name] = mpmath.mpf(measurements.root_mean_square[node.name].upper)
            continue
        layer = measurements.layers.get(node.name)
        bias = layer.bias.upper if layer and layer.bias else None
        inputs = [radii[u] for u in node.inputs]
        radii[node.name] = worst_radius(node, inputs, _norm(measurements, node.name), bias)
        assert not node.learned or layer is not None
    return radii


def _norm(measurements: Measurements, name: str) -> float | None:
    layer = measurements.layers.get(name)
    return layer.operator.upper if layer else None
