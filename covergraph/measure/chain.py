"""Dense Jacobians chained in single or double precision, with upper ends of their norms that are certified (Lemma 23).

Values and local factors are those of double precision; for single precision they are rounded once more. A bound of what
the chain loses is carried along, sharpened by the norms that are already known: of later sources first.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, identity_tangents
from covergraph.graph.node import Node
from covergraph.measure import rounded_chains as rounded_chains  # registers its rules
from covergraph.measure import rounded_curved as rounded_curved
from covergraph.measure.jacobians import Values, chunks, edge_norms, needed_edges
from covergraph.measure.rounded import Rounded, rounded
from covergraph.measure.roundings import DOUBLE, SINGLE, Arithmetic
from covergraph.rounding import BOUND
from covergraph.values import Pair

Ends = dict[Pair, tuple[Tensor, Tensor]]
"""Lower and upper ends of ||D_{w<-a}(x)||_op for every pair and sample: (batch,) each, in double precision."""


def pair_norms(
    graph: ComputationGraph,
    values: Values,
    context: Context,
    pairs: Sequence[Pair],
    memory: int | None = None,
    number: Arithmetic = DOUBLE,
) -> Ends:
    """Ends of the norms of total derivatives at the given values, which are taken for exact, as the weights are.

    (0, 0) for a path through integers only. The upper end is infinite where a number is not finite; in single precision
    also where one is out of range or an operation on the way has no rule. `memory`: bytes that the tangents of one
    chunk of samples may take, if that is less than `jacobians.MEMORY`.
    """
    device = next(iter(values.values())).device
    batch = len(next(iter(values.values())))
    zero = torch.zeros(batch, dtype=torch.float64, device=device)
    if number is SINGLE and not full_precision(device.type):
        return {pair: (zero, zero + torch.inf) for pair in pairs}
    by_source: dict[str, list[str]] = {}
    for w, a in pairs:
        by_source.setdefault(a, []).append(w)
    # Made beforehand: small results between large tangents would keep memory from being given back.
    found = {pair: (zero.clone(), zero.clone()) for pair in pairs}
    with plain_sums(device.type):
        chain = _Chain.of(graph, values, context, pairs, number)
        for node in reversed(graph.nodes):
            a, sinks = node.name, by_source.get(node.name, ())
            for rows, _ in chunks(graph, values, a, memory) if sinks else ():
                for w, made, lost in chain.derivatives(a, sinks, rows):
                    lower, upper = (lost, lost) if made is None else number.ends(made)
                    found[w, a][0][rows] = (lower - lost).nan_to_num(0.0, 0.0).clamp_min(0)
                    found[w, a][1][rows] = ((upper + lost) * BOUND).nan_to_num(torch.inf, torch.inf)
            chain.learn(a, found)
    return found


@dataclass(frozen=True)
class _Chain:
    """Jacobians of the nodes on the ways of the pairs, norms of their edges; `gains`: bounds of ||D_{w<-u}||_op."""

    graph: ComputationGraph
    values: Values
    sinks: Collection[str]
    rules: Mapping[str, Rounded | None]
    edges: Mapping[Pair, Tensor]
    gains: dict[Pair, Tensor]
    number: Arithmetic

    @staticmethod
    def of(
        graph: ComputationGraph, values: Values, context: Context, pairs: Sequence[Pair], number: Arithmetic
    ) -> _Chain:
        """The rules of all operations on paths of the pairs."""
        needed = list(needed_edges(graph, pairs))
        rules: dict[str, Rounded | None] = {}
        for x in dict.fromkeys(x for x, _ in needed):
            node = graph[x]
            slots = [values[u] for u in node.inputs]
            usable = node.kind == "float" and values[x].dtype == torch.float64
            rules[x] = rounded(node.operation, node, slots, context, number) if usable else None
        chosen = [(x, u) for x, u in needed if rules[x] is not None]
        edges = {edge: norm.double() for edge, norm in edge_norms(graph, values, context, chosen).items()}
        return _Chain(graph, values, {w for w, _ in pairs}, rules, edges, {}, number)

    def derivatives(self, a: str, sinks: Collection[str], rows: slice) -> Iterator[tuple[str, Tensor | None, Tensor]]:
        """(w, D as computed, bound of its error in the Frobenius norm) of each sink w that a reaches through reals.

        D: (rows, size w, size a), None if an operation on the way has no rule; the error is infinite then.
        """
        start = identity_tangents(self.values[a][rows].to(self.number.dtype))
        tangents: dict[str, Tensor | None] = {a: start}
        norms: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        between = self._between(a, sinks)
        last = {u: node.name for node in between for u in node.inputs}
        for node in between:
            slots = {i: tangents[u] for i, u in enumerate(node.inputs) if u in tangents}
            if not slots or node.kind == "integer":
                continue
            moved = {i: t for i, t in slots.items() if t is not None}
            rule = self.rules[node.name]
            if rule is None or len(moved) < len(slots) or not moved.keys() <= rule.losses.keys():
                tangents[node.name] = None
            else:
                made = tangents[node.name] = rule.push(moved, rows)
                for i, t in moved.items():
                    if rule.losses[i].terms:
                        u = node.inputs[i]
                        norms[u] = self.number.frobenius(t.reshape(*t.shape[:2], -1)) if u not in norms else norms[u]
                        loss = rule.losses[i].of(norms[u], made[0].numel(), node.inputs == (a,), rows, self.number)
                        losses[node.name] = losses.get(node.name, 0.0) + loss
            if node.name in sinks:
                yield node.name, *self._result(node.name, tangents[node.name], losses, rows, start)
            for u in {u for u in node.inputs if last[u] == node.name}:
                tangents.pop(u, None)

    def _result(
        self, w: str, made: Tensor | None, losses: Mapping[str, Tensor], rows: slice, start: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The matrix, and the sum of what was lost at each node times what the network makes of it until w."""
        if made is None:
            return None, start.new_full((len(start),), torch.inf, dtype=torch.float64)
        total = torch.zeros(len(start), dtype=torch.float64, device=start.device)
        for u, loss in losses.items():
            total += loss if u == w else loss * self.gains[w, u][rows] if (w, u) in self.gains else 0.0
        return made.reshape(*made.shape[:2], -1).transpose(1, 2), total

    def _between(self, a: str, sinks: Collection[str]) -> list[Node]:
        """The nodes on ways from a to the sinks, without a."""
        reach, index = self.graph.reach, self.graph.index
        ends = [index[w] for w in sinks]
        on_way = reach[:, index[a]] & reach[ends].any(0)
        on_way[ends] = reach[ends, index[a]]
        return [node for node, on in zip(self.graph.nodes, on_way, strict=True) if on]

    def learn(self, a: str, found: Ends) -> None:
        """Add bounds of ||D_{w<-a}|| for all sinks w: what was found, or sum_u ||J_{w,u}|| ||D_{u<-a}||."""
        rule = self.rules.get(a)
        if rule is None or not any(loss.terms for loss in rule.losses.values()):
            return
        gains = {a: torch.ones(len(self.values[a]), dtype=torch.float64, device=self.values[a].device)}
        for node in self.graph.nodes[self.graph.index[a] + 1 :]:
            steps = [(u, (node.name, u)) for u in node.predecessors if u in gains]
            terms = [self.edges[edge] * gains[u] for u, edge in steps if edge in self.edges]
            if terms:
                gain = torch.stack(terms).sum(0) * BOUND
                gains[node.name] = torch.minimum(gain, found[node.name, a][1]) if (node.name, a) in found else gain
                if node.name in self.sinks:
                    self.gains[node.name, a] = gains[node.name]


LOWERED = ("NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def full_precision(device: str) -> bool:
    """True unless torch or the environment allow products of float32 numbers in TF32 or bfloat16."""
    if any(os.environ.get(name, "").lower() not in ("", "0", "strict") for name in LOWERED):
        return False
    if not hasattr(torch.backends, "fp32_precision"):  # older torch
        return torch.get_float32_matmul_precision() == "highest"
    names = ("", ".cuda.matmul") if device == "cuda" else ("", ".mkldnn", ".mkldnn.matmul", ".mkldnn.conv")
    return all(attrgetter(f"backends{name}.fp32_precision")(torch) in ("none", "ieee") for name in names)


@contextmanager
def plain_sums(device: str) -> Iterator[None]:
    """Convolutions are sums of products inside: no library that transforms its arguments first (Winograd, FFT).

    Nor is there autocast to half precision, or a record for derivatives.
    """
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        with torch.backends.nnpack.flags(False), torch.autocast(device, enabled=False), torch.no_grad():
            yield
    finally:
        torch.backends.cudnn.enabled = before
