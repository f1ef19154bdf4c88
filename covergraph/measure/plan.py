"""Which way to the norm of each pair? The planner: closed forms, dense Jacobians, or Lanczos, by what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from covergraph.errors import ParameterError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.measure.linearize import Segment
from covergraph.values import Pair

Method = Literal["zero", "edge", "dense", "lanczos", "fixed"]
"""zero: a reaches w through integers only; edge: one operation with a closed form; dense: certified, by the chained
Jacobian; lanczos: certified from a random start; fixed: so too, but the same for all samples."""
RANDOM = ("lanczos", "fixed")
"""Ways that need random starts."""
Preference = Literal["auto", "exact", "lanczos"]
PATIENCE = 20.0
"""Seconds that dense Jacobians of all pairs and samples may take before cheaper ways are looked for."""
SPEED = 2e10
"""Operations a second of two cores in double precision, roughly."""
STEPS = 16
"""What a run of Lanczos takes, usually."""
DENSE_BYTES = 2**30
"""The tangents of one sample may take so much."""
CLOSED = (op.Elementwise, op.Affine, op.ParametricReLU, op.Product, op.Add, op.Subtract, op.Reshape, op.Concatenate)
"""One edge of these has its norm in closed form, not only a bound."""
FIXED = (*op.FIXED_LINEAR, op.Linear, op.Convolution, op.TransposedConvolution, op.Affine)
"""Operations whose Jacobian is the same for all samples."""
ROWS = 512
"""At most so many samples make a block."""


@dataclass(frozen=True)
class Plan:
    """How every pair is measured: `way` by pair. `starts`: of how many pairs random starts decide (Lemma 21).

    `block`: how many samples are measured together; `cost`: operations for one sample, by pair, roughly.
    """

    graph: ComputationGraph
    way: Mapping[Pair, Method]
    starts: int
    block: int
    cost: Mapping[Pair, float] = field(repr=False)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs, the shortest segments first."""
        return tuple(self.way)

    @cached_property
    def segments(self) -> Mapping[Pair, Segment]:
        """The segments of the pairs that Lanczos measures."""
        return {pair: Segment.of(self.graph, *pair) for pair, way in self.way.items() if way in RANDOM}

    @property
    def operations(self) -> float:
        """What one sample costs, roughly."""
        return sum(self.cost.values())

    def restricted(self, pairs: Collection[Pair]) -> Plan:
        """The same for some of the pairs; their random starts may fail no more often than in the whole plan."""
        kept = set(pairs)
        return replace(self, way={pair: way for pair, way in self.way.items() if pair in kept})

    @property
    def counts(self) -> Mapping[str, int]:
        """How many pairs go which way."""
        return dict(Counter(self.way.values()))

    def __repr__(self) -> str:
        ways = ", ".join(f"{count} {way}" for way, count in self.counts.items())
        return f"Plan({ways}; blocks of {self.block} samples)"


def plan(
    graph: ComputationGraph, pairs: Sequence[Pair], n: int, memory: int, preferred: Preference = "auto"
) -> Plan:
    """The plan for `pairs` on n samples; a block of samples takes at most `memory` bytes if one sample does."""
    ordered = sorted(pairs, key=lambda p: (_between(graph, *p).sum(), graph.index[p[1]], graph.index[p[0]]))
    costs = _Costs(graph)
    way: dict[Pair, Method] = {}
    for pair in ordered:
        closed = _closed(graph, *pair)
        way[pair] = closed if closed else "dense" if preferred == "exact" else "lanczos"
    if preferred == "auto":
        _choose_dense(graph, way, costs, n)
    for pair in [pair for pair, method in way.items() if method == "lanczos"]:
        if all(isinstance(node.operation, FIXED) for node in Segment.of(graph, *pair).nodes):
            way[pair] = "fixed"
    starts = sum(method in RANDOM for method in way.values())
    cost = {pair: costs.of(pair, method) for pair, method in way.items()}
    return Plan(graph, way, starts, _block(graph, n, memory), cost)


def _between(graph: ComputationGraph, w: str, a: str) -> np.ndarray:
    """Marks the nodes on paths from a to w, without a, with w."""
    i, j = graph.index[a], graph.index[w]
    inside = graph.reach[:, i] & graph.reach[j]
    inside[j] = True
    return inside


def _closed(graph: ComputationGraph, w: str, a: str) -> Method | None:
    """The way of a pair without choice: no real path, or one edge with a closed form."""
    node, nodes = graph[w], Segment.of(graph, w, a).nodes
    if not nodes:
        return "zero"
    if len(nodes) == 1 and node.inputs.count(a) == 1 and isinstance(node.operation, CLOSED):
        return "edge"
    return None


def _choose_dense(graph: ComputationGraph, way: dict[Pair, Method], costs: _Costs, n: int) -> None:
    """Dense where all are affordable together, or where it is cheaper than Lanczos."""
    open_ = [pair for pair, method in way.items() if method == "lanczos"]
    possible = {pair for pair in open_ if costs.dense_bytes(*pair) <= DENSE_BYTES}
    dense = {pair: costs.dense(*pair) for pair in possible}
    all_affordable = len(possible) == len(open_) and n * sum(dense.values()) / SPEED <= PATIENCE
    for pair in possible:
        if all_affordable or dense[pair] <= costs.lanczos(*pair):
            way[pair] = "dense"


class _Costs:
    """Operations for one sample, roughly; what is bound by memory counts ten operations an entry."""

    def __init__(self, graph: ComputationGraph) -> None:
        self.graph = graph
        self.sweep = np.array([_operations(graph, node) for node in graph.nodes])

    def of(self, pair: Pair, method: Method) -> float:
        """What a sample costs one way."""
        return self.dense(*pair) if method == "dense" else self.lanczos(*pair) if method == "lanczos" else 0.0

    def dense(self, w: str, a: str) -> float:
        """Columns of D, its Gram matrix and eigenvalues."""
        m, d = self.graph[w].size, self.graph[a].size
        small = min(m, d)
        return float(d * self.sweep[_between(self.graph, w, a)].sum() + 2 * m * d * small + 30 * small**3)

    def dense_bytes(self, w: str, a: str) -> int:
        """The widest two tangents at once."""
        inside = _between(self.graph, w, a)
        widest = max(node.size for node, used in zip(self.graph.nodes, inside, strict=True) if used)
        return 16 * self.graph[a].size * widest

    def lanczos(self, w: str, a: str) -> float:
        """Both sweeps of each step."""
        steps = min(STEPS, self.graph[w].size, self.graph[a].size)
        return float(2 * steps * self.sweep[_between(self.graph, w, a)].sum())


def _operations(graph: ComputationGraph, node: Node) -> float:
    slots = [graph[u].size for u in node.inputs]
    match node.operation:
        case op.Linear() | op.AxisMap():
            shape = graph[node.inputs[0]].shape
            wide = shape[node.operation.axis] if isinstance(node.operation, op.AxisMap) else shape[-1]
            return 2.0 * node.size * wide
        case op.Convolution(kernel=kernel, groups=groups):
            channels = graph[node.inputs[0]].shape[-len(kernel) - 1]
            return 4.0 * node.size * channels / groups * float(np.prod(kernel))
        case op.TransposedConvolution(kernel=kernel, groups=groups):
            channels = node.shape[-len(kernel) - 1]
            return 4.0 * slots[0] * channels / groups * float(np.prod(kernel))
        case op.MatrixProduct():
            return 2.0 * node.size * graph[node.inputs[0]].shape[-1]
        case _:
            return 10.0 * (node.size + sum(slots))


def _block(graph: ComputationGraph, n: int, memory: int) -> int:
    """So many samples that values, derivatives and a few vectors fit into the memory."""
    per_sample = 8 * 6 * sum(node.size for node in graph.nodes)
    if memory < 2**20:
        raise ParameterError(f"measure: the memory is {memory} bytes, expected at least {2**20}")
    return max(1, min(n, ROWS, memory // per_sample))
