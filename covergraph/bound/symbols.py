"""The symbols of a bound: one per parameter, indexed by the position of the node.

Inputs have the positions ..., -1, 0; the other nodes 1, ..., k in topological order, k being the output.
"""

from __future__ import annotations

from functools import cached_property

import sympy

from covergraph.bound.tables import Missing, Table
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.node import Node
from covergraph.rules.norms import norm_bound
from covergraph.rules.placeholders import RHO, slot_of
from covergraph.values import Pair

N = sympy.Symbol("n", positive=True)
DELTA = sympy.Symbol("delta", positive=True)


class Symbols:
    """Symbols and tables of one augmented graph.

    Tables: `kappabar` (kappabar_{w<-a}: 1 if w = a, 0 if a does not reach w, 2 kappa_{w<-a} on P), `inverse`
    (1/kappa_{w<-a} on P, else 0), `hidden` (1/s_w on S, else 0), `slope` (the sum over the conditions c that read w of
    2 Lip_w(q_c)/rho_c) and `taubar` (taubar_{x;u,u'}).
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
        self.slope = Table(r"\vartheta_{{{0}}}", key, self._slope)
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

    def t(self, node: str) -> sympy.Symbol:
        """t_g: a bound of ||theta - theta_0||_1 of the parameters that the group of `node` shares."""
        return _positive(f"t_{{{self.place(node)}}}")

    def rho(self, node: str) -> sympy.Symbol:
        """rho_c: the level of the condition of `node`."""
        return _positive(rf"\rho_{{{self.place(node)}}}")

    def weight(self, node: str, kind: str) -> sympy.Symbol:
        """A name for the release-Lipschitz constant of a covered node, of its edge Jacobian, or of its group."""
        letter = {"value": "h", "derivative": "J", "shared": "g"}[kind]
        return _positive(rf"\tilde\kappa_{{{letter}_{{{self.place(node)}}}}}")

    def radius(self, node: str) -> sympy.Expr:
        """The norm of the value that `node` (covered) reads, where nothing has collapsed; 0 without predecessor.

        2 s_u for a hidden predecessor u, its a-priori bound if there is one, the root mean square X_u for a data-only
        one.
        """
        if not self.base[node].inputs:
            return sympy.Integer(0)
        (u,) = self.base[node].predecessors
        return _positive(f"X_{{{self.place(u)}}}") if u in self.base.data_only else self.limit(u)

    def limit(self, u: str) -> sympy.Expr:
        """The largest norm of h_u where nothing has collapsed; for data-only u its largest norm on the sample."""
        if u in self.base.data_only:
            return _positive(rf"\hat X_{{{self.place(u)}}}")
        prior = norm_bound(self.base[u].operation, self.base[u])
        return 2 * self.s(u) if prior is None or u in self.augmented.hidden else prior

    @cached_property
    def curved(self) -> dict[tuple[int, int, int], sympy.Expr]:
        """taubar_{x;u,u'} > 0 by positions; it may depend on levels s and rho."""
        return {
            (self.place(name), self.place(u), self.place(v)): self._filled(self.base[name], value)
            for name, rule in self.augmented.rules.items()
            for (u, v), value in rule.taubar.items()
        }

    def _filled(self, node: Node, value: sympy.Expr) -> sympy.Expr:
        """A rule's expression with this graph's symbols for its placeholders."""
        places = {s: slot for s in value.free_symbols if (slot := slot_of(s)) is not None}
        table = {symbol: self.limit(node.inputs[slot]) for symbol, slot in places.items()}
        return value.xreplace(table | {RHO: self.rho(node.name)})

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

    def _slope(self, w: int) -> sympy.Expr:
        return sympy.Add(*[2 * lip / self.rho(name) for name, lip in self._readers.get(self.name(w), ())])

    @cached_property
    def _readers(self) -> dict[str, list[tuple[str, sympy.Expr]]]:
        """By node: the conditions that read it, with their Lipschitz constants in it."""
        readers: dict[str, list[tuple[str, sympy.Expr]]] = {}
        for name, condition in self.augmented.conditions.items():
            for slot, lip in condition.slopes.items():
                readers.setdefault(self.base[name].inputs[slot], []).append((name, lip))
        return readers

    def _taubar(self, x: int, u: int, v: int) -> sympy.Expr:
        return self.curved.get((x, u, v), sympy.Integer(0))


def _positive(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True)
