"""The symbols of a bound: one per parameter, indexed by the position of the node.

Inputs have the positions ..., -1, 0; the other nodes 1, ..., k in topological order, k being the output.
"""

from __future__ import annotations

from functools import cached_property

import sympy

from covergraph.bound.tables import Missing, Table
from covergraph.graph.augmented import AugmentedGraph
from covergraph.rules.smoothness import smoothness
from covergraph.values import Pair

N = sympy.Symbol("n", positive=True)
DELTA = sympy.Symbol("delta", positive=True)


class Symbols:
    """Symbols and tables of one augmented graph.

    Tables: `kappabar` (kappabar_{w<-a}: 1 if w = a, 0 if a does not reach w, 2 kappa_{w<-a} on P), `inverse`
    (1/kappa_{w<-a} on P, else 0), `hidden` (1/s_w on S, else 0) and `taubar` (taubar_{x;u,u'}).
    """

    def __init__(self, augmented: AugmentedGraph) -> None:
        self.augmented = augmented
        self.base = augmented.base
        self.first = 1 - len(self.base.inputs)
        self.last = self.place(self.base.output)
        key = str(hash(augmented.base)) + str(hash(augmented.pairs.tobytes())) + str(augmented.hidden)
        self.kappabar = Table(r"\bar\kappa_{{{0} \leftarrow {1}}}", key, self._kappabar)
        self.inverse = Table(r"\varrho_{{{0} \leftarrow {1}}}", key, self._inverse)
        self.hidden = Table(r"\varsigma_{{{0}}}", key, self._hidden)
        self.taubar = Table(r"\bar\tau_{{{0};{1},{2}}}", key, self._taubar)

    def place(self, name: str) -> int:
        """The position of a node."""
        return self.base.index[name] + self.first

    def name(self, place: int) -> str:
        """The node at a position."""
        return self.base.nodes[place - self.first].name

    def kappa(self, pair: Pair) -> sympy.Symbol:
        """kappa_{w<-a}: a bound of ||D_{w<-a}||_op."""
        w, a = pair
        return _positive(rf"\kappa_{{{self.place(w)} \leftarrow {self.place(a)}}}")

    def s(self, node: str) -> sympy.Symbol:
        """s_v: a bound of ||h_v||."""
        return _positive(f"s_{{{self.place(node)}}}")

    def a(self, node: str) -> sympy.Symbol:
        """a_v: a bound of the distance ||W^T - A^T||_{2,1} (bias included)."""
        return _positive(f"a_{{{self.place(node)}}}")

    def b(self, node: str) -> sympy.Symbol:
        """b_v: a bound of the distance ||W - B||_{1,1}."""
        return _positive(f"b_{{{self.place(node)}}}")

    def weight(self, node: str, kind: str) -> sympy.Symbol:
        """A name for the release-Lipschitz constant of a covered node, or of its edge Jacobian."""
        letter = "h" if kind == "value" else "J"
        return _positive(rf"\tilde\kappa_{{{letter}_{{{self.place(node)}}}}}")

    def radius(self, node: str) -> sympy.Expr:
        """The norm of the value that `node` (covered) reads, where nothing has collapsed.

        2 s_u for a hidden predecessor u, the root mean square X_u for a data-only one.
        """
        (u,) = self.base[node].predecessors
        return _positive(f"X_{{{self.place(u)}}}") if u in self.base.data_only else 2 * self.s(u)

    @cached_property
    def curved(self) -> dict[tuple[int, int, int], sympy.Expr]:
        """taubar_{x;u,u'} > 0 by positions."""
        return {
            (self.place(node.name), self.place(u), self.place(v)): value
            for node in self.base.nodes
            for (u, v), value in smoothness(node).items()
        }

    def _kappabar(self, w: int, a: int) -> sympy.Expr:
        i, j = w - self.first, a - self.first
        if i == j:
            return sympy.Integer(1)
        if not self.base.reach[i, j]:
            return sympy.Integer(0)
        if self.augmented.pairs[i, j]:
            return 2 * self.kappa((self.name(w), self.name(a)))
        return Missing(rf"\kappa_{{{w} \leftarrow {a}}}", positive=True)

    def _inverse(self, w: int, a: int) -> sympy.Expr:
        if not self.augmented.pairs[w - self.first, a - self.first]:
            return sympy.Integer(0)
        return 1 / self.kappa((self.name(w), self.name(a)))

    def _hidden(self, w: int) -> sympy.Expr:
        name = self.name(w)
        return 1 / self.s(name) if name in self.augmented.hidden else sympy.Integer(0)

    def _taubar(self, x: int, u: int, v: int) -> sympy.Expr:
        return self.curved.get((x, u, v), sympy.Integer(0))


def _positive(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True)
