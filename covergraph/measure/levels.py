"""What do some norms say about the others? Upper ends of all pairs, filled in from each other (Proposition 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.values import Floats, Pair

Bools = NDArray[np.bool_]
REMEMBERED = 2**26
"""So many entries are kept of which nodes lie on all paths of which pairs."""


class Levels:
    """Upper ends of the largest norms over the sample: `upper[w, a]` of D_{w<-a} by position, 1 for w = a.

    0 without a path, infinite where nothing is known. `edges`: upper ends of ||J_{x,u}||, (x, u), for all edges on
    paths of `pairs`.
    """

    def __init__(self, graph: ComputationGraph, pairs: Sequence[Pair], edges: Mapping[Pair, float]) -> None:
        self.graph = graph
        self.edges = {(graph.index[x], graph.index[u]): value for (x, u), value in edges.items() if value > 0}
        self._slack = 1 + 8 * np.finfo(np.float64).eps * (len(self.edges) + 1)
        self._above: Bools = graph.reach | np.eye(len(graph), dtype=bool)
        self._separated: dict[int, Bools] = {}
        self._known = graph.reach & _inside(self._above, [(graph.index[w], graph.index[a]) for w, a in pairs])
        self.upper: Floats = np.where(graph.reach & ~self._known, np.inf, np.eye(len(graph)))
        self._along_edges()

    def __getitem__(self, pair: Pair) -> float:
        w, a = pair
        return float(self.upper[self.graph.index[w], self.graph.index[a]])

    def matrix(self, values: Mapping[Pair, float]) -> Floats:
        """Values of pairs by position, 0 for the others."""
        found = np.zeros_like(self.upper)
        for (w, a), value in values.items():
            found[self.graph.index[w], self.graph.index[a]] = value
        return found

    def lower_to(self, found: Mapping[Pair, float]) -> None:
        """Take upper ends that are known from elsewhere, where they are smaller, and fill in all others again."""
        for (w, a), value in found.items():
            i, j = self.graph.index[w], self.graph.index[a]
            self.upper[i, j] = min(self.upper[i, j], value)
        self._equal()
        places = range(1, len(self.graph) - 1)
        for i in (*places, *reversed(places)):
            self._cut(i)

    def _along_edges(self) -> None:
        start = np.eye(len(self.graph))
        for (x, u), value in sorted(self.edges.items()):
            with np.errstate(over="ignore", invalid="ignore"):
                start[x] += np.where(start[u] > 0, value * start[u], 0.0)
        self.upper[self._known] = start[self._known] * self._slack

    def _cut(self, i: int) -> None:
        """Sort the paths from a < i to w > i: through node i, or along one edge u -> x with u < i < x."""
        crossing = [(x, u, value) for (x, u), value in self.edges.items() if u < i < x]
        left = np.stack([self.upper[i + 1 :, i], *(self.upper[i + 1 :, x] * value for x, _, value in crossing)], 1)
        right = np.stack([self.upper[i, :i], *(self.upper[u, :i] for _, u, _ in crossing)])
        with np.errstate(over="ignore", invalid="ignore"):
            found = _number(left @ right) * self._slack
        there = self.upper[i + 1 :, :i]
        self.upper[i + 1 :, :i] = np.where(self._known[i + 1 :, :i], np.minimum(there, found), there)

    def _equal(self) -> None:
        """Pass on what holds for norms that are equal, by `read` and `written`."""
        for x in range(len(self.graph)):
            y = self.read[x]
            below = np.arange(len(self.graph)) > y
            self.upper[below, y] = np.minimum(self.upper[below, y], self.upper[below, x])
        for x in reversed(range(len(self.graph))):
            y = self.written[x]
            self.upper[y, :y] = np.minimum(self.upper[y, :y], self.upper[x, :y])

    @cached_property
    def read(self) -> Sequence[int]:
        """By node x: the y, at or after x, with D_{w<-x} = +-D_{w<-y} up to order of entries for all w after y."""
        readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for u in node.inputs:
                readers.setdefault(u, []).append(node)
        found = list(range(len(self.graph)))
        for x, node in reversed(list(enumerate(self.graph.nodes))):
            after = readers.get(node.name, [])
            if len(after) == 1 and node.name != self.graph.output and _is_identity(after[0], node):
                found[x] = found[self.graph.index[after[0].name]]
        return found

    @cached_property
    def written(self) -> Sequence[int]:
        """By node x: the y, at or before x, with D_{x<-a} = D_{y<-a} up to order of entries for all a before y."""
        found = list(range(len(self.graph)))
        for x, node in enumerate(self.graph.nodes):
            if isinstance(node.operation, op.Reshape):
                found[x] = found[self.graph.index[node.inputs[0]]]
        return found

    def _separates(self, m: int) -> Bools:
        """[w, a]: every path from a to w, of which there is one, meets m."""
        if m not in self._separated:
            above = self._above
            crossing = [(x, u) for x, u in self.edges if u < m < x]
            around = above[:, [x for x, _ in crossing]].astype(np.float32) @ above[[u for _, u in crossing]]
            found: Bools = above[:, m][:, None] & above[m][None, :] & ~(around > 0)
            found[m], found[:, m] = above[m], above[:, m]
            if (len(self._separated) + 1) * found.size > REMEMBERED:
                return found
            self._separated[m] = found
        return self._separated[m]

    def gain(self, pair: Pair, guess: float, weights: Floats) -> float:
        """What would log C lose if the norm of `pair` were `guess`? To first order, products with it included.

        `weights`: d log C / d log kappa by position.
        """
        w, a = (self.graph.index[v] for v in pair)
        if self.read[a] < self.written[w]:
            w, a = self.written[w], self.read[a]
        late, early = self._separates(w), self._separates(a)
        rows, columns = late[:, a], early[w]
        through = late[np.ix_(rows, columns)] & early[np.ix_(rows, columns)]
        new = np.outer(self.upper[rows, w] * guess, self.upper[a, columns])
        with np.errstate(divide="ignore", invalid="ignore"):
            less = np.log(self.upper[np.ix_(rows, columns)] / new)
        useful = through & (less > 0) & np.isfinite(less)
        return float(np.sum(less[useful] * weights[np.ix_(rows, columns)][useful]))


def _is_identity(node: Node, source: Node) -> bool:
    """True if the Jacobian of `node` in `source` is plus or minus the identity, up to shapes."""
    if isinstance(node.operation, (op.Add, op.Subtract)):
        return node.inputs.count(source.name) == 1 and node.shape == source.shape
    return isinstance(node.operation, op.Reshape)


def _inside(above: Bools, pairs: Sequence[tuple[int, int]]) -> Bools:
    """[x, u]: some pair (w, a) has all paths from u to x within its own."""
    wanted = np.zeros(above.shape, dtype=np.float32)
    for w, a in pairs:
        wanted[w, a] = 1
    return (above.T.astype(np.float32) @ wanted @ above.T.astype(np.float32)) > 0


def _number(values: Floats) -> Floats:
    """Infinite where an infinite bound met a 0."""
    return np.where(np.isnan(values), np.inf, values)
