"""The product-of-Lipschitz-constants bound on the same DAG (Bartlett, Foster, Telgarsky 2017; Proposition 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mpmath
import numpy as np

from covergraph.bound.derive import Bound
from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.rules.lipschitz import Real, slot_lipschitz
from covergraph.rules.radii import worst_radius
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
        if c.kind != "value":
            continue
        gain, positions = c.entropy.gain, c.entropy.positions
        radius = radii[bound.graph[c.node].inputs[0]] if gain else mpmath.mpf(0)
        a = mpmath.mpf(measurements.layers[c.node].a.upper)
        size = a * mpmath.sqrt(gain * radius**2 + positions)
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
                constant = slot_lipschitz(node.operation, node, graph[u], _norm(graph, node, measurements))
                slopes[u] += constant * slopes[node.name]
    return slopes


def worst_case_radii(bound: Bound, measurements: Measurements) -> dict[str, Real]:
    """Bounds of the root mean square of ||h_v|| over the sample that hold for every network of the class.

    Data-only nodes without a norm, integers and masks of infinity, are left out.
    """
    graph, known = bound.graph, measurements.root_mean_square
    radii: dict[str, Real] = {name: mpmath.mpf(known[name].upper) for name in graph.data_only if name in known}
    for node in graph.nodes:
        if node.name in graph.data_only:
            continue
        inputs = [] if isinstance(node.operation, op.Embedding) else [_read(radii, u, node) for u in node.inputs]
        norm, shift = _norm(graph, node, measurements), _shift(graph, node, measurements)
        radii[node.name] = worst_radius(node, graph, inputs, norm, shift)
    return radii


def _read(radii: dict[str, Real], u: str, node: Node) -> Real:
    if u not in radii:
        raise UnsupportedOperationError(f"{node.operation.label!r} {node.name!r} reads {u!r}, which has no finite norm")
    return radii[u]


def _norm(graph: ComputationGraph, node: Node, measurements: Measurements) -> float | None:
    """The measured operator norm of a learned node, or that of a fixed map, by its constant."""
    if node.name in measurements.layers:
        return measurements.layers[node.name].operator.upper
    match node.operation:
        case op.Linear() | op.AxisMap():
            return _constant(graph, node, "weight", 2)
        case op.Affine(scale=True):
            return _constant(graph, node, "scale", math.inf)
        case op.ParametricReLU():
            return _constant(graph, node, "slope", math.inf)
        case _:
            return None


def _shift(graph: ComputationGraph, node: Node, measurements: Measurements) -> float | None:
    """The Euclidean norm of a bias, shift or value, learned or constant."""
    layer = measurements.layers.get(node.name)
    if layer is not None and layer.bias is not None:
        return layer.bias.upper
    role = next((role for role, _ in node.constants if role in ("bias", "shift", "value")), None)
    return None if role is None else _constant(graph, node, role, None)


def _constant(graph: ComputationGraph, node: Node, role: str, order: float | None) -> float:
    """A norm of a constant: spectral (2) of a matrix, the largest entry (inf), or Euclidean (None)."""
    values = np.asarray(graph.weights.constants[node.parameter[role]].double())
    return float(np.linalg.norm(values if order == 2 else values.reshape(-1), order)) if values.size else 0.0
