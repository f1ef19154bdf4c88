"""The network linearized at a block of samples: products with its Jacobians, in both directions, without forming them.

Every node gives a `Local`, see `local_rules`. All tensors have rows, one for each sample, as leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.measure import local_curved as local_curved  # registers rules
from covergraph.measure import local_linear as local_linear
from covergraph.measure.local_rules import Local as Local
from covergraph.measure.local_rules import Moved, Slots, local_at
from covergraph.measure.local_rules import local as local

At = Callable[[str], Local]
"""The Jacobian of a node, by name."""


class Linearization:
    """The Jacobians of all nodes at the values of some rows of a block; made when they are used.

    `values`: of all rows of the block; `rows`: those that count, by default all.
    """

    def __init__(
        self, graph: ComputationGraph, values: Mapping[str, Tensor], context: Context, rows: Tensor | None = None
    ) -> None:
        self.graph, self.values, self.context, self.rows = graph, values, context, rows
        self._whole: Linearization | None = None
        self._locals: dict[str, Local] = {}

    def narrow(self, rows: Tensor) -> Linearization:
        """The same at some of its rows; what was made for all is not made again."""
        if len(rows) == self._count and torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            return self
        part = Linearization(self.graph, self.values, self.context, rows if self.rows is None else self.rows[rows])
        part._whole = self if self.rows is None else self._whole
        return part

    @property
    def _count(self) -> int:
        return len(next(iter(self.values.values())) if self.rows is None else self.rows)

    @torch.no_grad()
    def at(self, name: str) -> Local:
        """The Jacobian of one node."""
        if name not in self._locals:
            self._locals[name] = self._narrowed(name) or self._made(name)
        return self._locals[name]

    def _narrowed(self, name: str) -> Local | None:
        narrow = self._whole.at(name).narrow if self._whole is not None else None
        return narrow(self.rows) if narrow is not None and self.rows is not None else None

    def _made(self, name: str) -> Local:
        node = self.graph[name]
        slots = [self.values[u] if self.rows is None else self.values[u][self.rows] for u in node.inputs]
        return local_at(node, slots, self.context)


@dataclass(frozen=True)
class Sweep:
    """The nodes through which `sources` reach `sink` by reals, in topological order."""

    nodes: tuple[Node, ...]
    sources: tuple[str, ...]
    sink: str

    @staticmethod
    def of(nodes: Sequence[Node], sources: Sequence[str], sink: str) -> Sweep:
        """The sweep through some of `nodes`; there is no derivative in a node of integers."""
        reached, needed = set(sources), {sink}
        for node in nodes:
            if node.kind != "integer" and not reached.isdisjoint(node.inputs):
                reached.add(node.name)
        for node in reversed(nodes):
            if node.name in needed and node.name in reached:
                needed.update(node.inputs)
        return Sweep(tuple(n for n in nodes if n.name in needed & reached), tuple(sources), sink)

    @cached_property
    def _slots(self) -> tuple[tuple[tuple[int, str], ...], ...]:
        """The slots of each node that move."""
        moving = {*self.sources, *(node.name for node in self.nodes)}
        return tuple(tuple((i, u) for i, u in enumerate(node.inputs) if u in moving) for node in self.nodes)

    @cached_property
    def _done(self) -> tuple[frozenset[str], ...]:
        """What is not used after each node."""
        last = {u: k for k, slots in enumerate(self._slots) for _, u in slots}
        return tuple(frozenset(u for _, u in slots if last[u] == k) for k, slots in enumerate(self._slots))

    def push(self, at: At, tangents: Mapping[str, Tensor]) -> Tensor | None:
        """The tangent of the sink from those of some sources; None if they do not reach it."""
        moved = dict(tangents)
        for node, places, done in zip(self.nodes, self._slots, self._done, strict=True):
            slots = {i: moved[u] for i, u in places if u in moved}
            if slots:
                moved[node.name] = at(node.name).push(slots)
            for u in done:
                moved.pop(u, None)
        return moved.get(self.sink)

    def pull(self, at: At, cotangent: Tensor) -> dict[str, Tensor]:
        """The cotangents of the sources from that of the sink."""
        moved = {self.sink: cotangent}
        for node, places in zip(reversed(self.nodes), reversed(self._slots), strict=True):
            if node.name not in moved:
                continue
            for i, c in at(node.name).pull(moved.pop(node.name), [i for i, _ in places]).items():
                u = node.inputs[i]
                moved[u] = moved[u] + c if u in moved else c
        return moved


@dataclass(frozen=True)
class Segment:
    """D_{w<-a} as a product of local Jacobians: the nodes on paths from a to w, in topological order."""

    w: str
    a: str
    nodes: tuple[Node, ...]

    @staticmethod
    def of(graph: ComputationGraph, w: str, a: str) -> Segment:
        """The segment of a pair of `graph`, a before w; without nodes if a reaches w through integers only."""
        i, j = graph.index[a], graph.index[w]
        on_paths = graph.reach[i + 1 : j, i] & graph.reach[j, i + 1 : j]
        inner = [graph.nodes[k] for k in on_paths.nonzero()[0] + i + 1]
        sources = [] if graph[a].kind == "integer" else [a]
        return Segment(w, a, Sweep.of([*inner, graph[w]], sources, w).nodes)

    @cached_property
    def sweep(self) -> Sweep:
        """The way from a to w."""
        return Sweep(self.nodes, (self.a,), self.w)

    @torch.no_grad()
    def push(self, at: Linearization, tangent: Tensor) -> Tensor:
        """D t, (rows, *shape of w)."""
        found = self.sweep.push(at.at, {self.a: tangent})
        return tangent.new_zeros(len(tangent), *at.graph[self.w].shape) if found is None else found

    @torch.no_grad()
    def pull(self, at: Linearization, cotangent: Tensor) -> Tensor:
        """D' c, (rows, *shape of a)."""
        found = self.sweep.pull(at.at, cotangent).get(self.a)
        return cotangent.new_zeros(len(cotangent), *at.graph[self.a].shape) if found is None else found


@local.register
def _(operation: op.Composite, node: Node, slots: Slots, context: Context) -> Local:
    """The chain of what is inside."""
    rows, values = len(slots[0]), dict(zip(operation.inputs, slots, strict=True))
    for inner in operation.nodes:
        made = apply(inner.operation, inner, [values[u] for u in inner.inputs], context)
        values[inner.name] = made.expand(rows, *made.shape[1:])
    sources = [u for u in operation.inputs if values[u].is_floating_point() or values[u].is_complex()]
    sweep = Sweep.of(operation.nodes, sources, operation.output)
    locals_ = {n.name: local_at(n, [values[u] for u in n.inputs], context) for n in sweep.nodes}
    return _chained(operation, node, [tuple(slot.shape[1:]) for slot in slots], sweep, locals_)


def _chained(
    operation: op.Composite, node: Node, shapes: Sequence[tuple[int, ...]], sweep: Sweep, locals_: Mapping[str, Local]
) -> Local:
    names = operation.inputs

    def push(moved: Moved) -> Tensor:
        one = next(iter(moved.values()))
        found = sweep.push(locals_.__getitem__, {names[i]: t for i, t in moved.items()})
        return one.new_zeros(len(one), *node.shape) if found is None else found

    def pull(c: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        found = sweep.pull(locals_.__getitem__, c)
        return {i: found[names[i]] if names[i] in found else c.new_zeros(len(c), *shapes[i]) for i in wanted}

    def narrow(rows: Tensor) -> Local:
        parts = {name: inner.narrow(rows) for name, inner in locals_.items() if inner.narrow is not None}
        return _chained(operation, node, shapes, sweep, parts)

    narrows = all(inner.narrow is not None for inner in locals_.values())
    return Local(push, pull, narrow if narrows else None)
