"""From an augmented graph to its bound: every constant as an expression (Theorems 1-3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import sympy

from covergraph.bound.symbols import Symbols
from covergraph.bound.tables import IndexedSum
from covergraph.bound.theorem import CERTIFICATE, RADEMACHER
from covergraph.errors import GraphError
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.rules.entropy import ClassEntropy, class_entropy
from covergraph.values import Measurements, Pair, Parameters

if TYPE_CHECKING:
    from covergraph.bound.certificate import Certificate
    from covergraph.bound.paper import PaperExpression


@dataclass(frozen=True)
class Contribution:
    """One covered class: the values of a node, or the derivatives of its edge.

    Its entropy is at most ceil(coefficient / eps^2) * logarithm; `weight` is the release-Lipschitz constant K_g.
    """

    node: str
    kind: Literal["value", "derivative"]
    weight: sympy.Symbol
    coefficient: sympy.Expr
    logarithm: sympy.Expr
    entropy: ClassEntropy

    @property
    def E(self) -> sympy.Expr:
        """E_g = (2 coefficient logarithm)^(1/2); the 2 pays for the ceiling (Proposition 3)."""
        return sympy.sqrt(2 * self.coefficient * self.logarithm)


class ByNode(Mapping[Any, sympy.Expr]):
    """Expressions by name, made when they are read."""

    def __init__(self, keys: tuple[Any, ...], make: Any) -> None:
        self._keys, self._make, self._made = dict.fromkeys(keys), make, dict[Any, sympy.Expr]()

    def __getitem__(self, key: Any) -> sympy.Expr:
        if key not in self._keys:
            raise GraphError(f"bound: no expression for {key!r}; the keys are {list(self._keys)[:12]} …")
        if key not in self._made:
            self._made[key] = self._make(key)
        return self._made[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True)
class Bound:
    """The generalization bound of an augmented graph, as expressions.

    kappa_h[v]: kappatilde_{h_v} of every node that is not data-only; kappa_J[x, u]: kappatilde_{J_{x,u}} of every
    edge; both with unevaluated sums (`.doit()` expands). `contributions`: the covered classes.
    """

    augmented: AugmentedGraph
    symbols: Symbols
    kappa_h: Mapping[str, sympy.Expr]
    kappa_J: Mapping[Pair, sympy.Expr]
    contributions: tuple[Contribution, ...]

    @property
    def graph(self) -> ComputationGraph:
        """The pruned graph without augmentation."""
        return self.augmented.base

    @property
    def tau(self) -> sympy.Expr:
        """tau_l, the loss's Lipschitz constant in the output."""
        return self.augmented.loss.tau(self.graph[self.graph.output])

    @property
    def C(self) -> sympy.Expr:
        """C = (sum_g (K_g E_g)^(2/3))^(3/2), with one symbol per K_g (Proposition 3)."""
        third = sympy.Rational(2, 3)
        total = sympy.Add(*[(g.weight * g.E) ** third for g in self.contributions], evaluate=False)
        return sympy.Pow(total, sympy.Rational(3, 2), evaluate=False)

    @property
    def rademacher(self) -> Mapping[str, sympy.Expr]:
        """Both routes from C to the Rademacher complexity, in the symbols C and n."""
        return RADEMACHER

    @property
    def certificate(self) -> sympy.Expr:
        """The right side of Theorem 3, in the symbols C, n, delta, the training value and the union cost."""
        return CERTIFICATE

    @cached_property
    def paper(self) -> tuple[PaperExpression, ...]:
        """The paper's own expressions, each with a reason where its domain excludes this graph."""
        from covergraph.bound.paper import paper_expressions

        return paper_expressions(self)

    @cached_property
    def measured_pairs(self) -> tuple[Pair, ...]:
        """P, and the pairs from the inputs that only the paper's expressions read."""
        extra = [pair for expression in self.paper for pair in expression.pairs]
        return tuple(dict.fromkeys([*self.augmented.pair_names, *extra]))

    @cached_property
    def taubar(self) -> dict[tuple[int, int, int], float]:
        """taubar_{x;u,u'} as numbers that are not below the symbolic ones, by position in the graph."""
        first = self.symbols.first
        return {(x - first, u - first, v - first): _upper(value) for (x, u, v), value in self.symbols.curved.items()}

    def evaluate(
        self,
        measurements: Measurements,
        parameters: Parameters | None = None,
        delta: float = 0.05,
        choices: int = 1,
    ) -> Certificate:
        """The certificate of Theorem 3 at confidence 1 - delta; `parameters` default to `choose(...)`.

        `choices`: among how many augmented losses (modes, losses, reference weights) the user chose after seeing
        the data; their logarithm is added. Raises `ForeignModelError` for measurements of another model.
        """
        from covergraph.bound.certificate import certify
        from covergraph.bound.choose import choose

        return certify(self, measurements, parameters or choose(self, measurements), delta, choices)

    def to_latex(self) -> str:
        """The statement of the bound as a LaTeX fragment (amsmath, longtable)."""
        from covergraph.report.latex import statement

        return statement(self)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle C = {sympy.latex(self.C)}$"

    def __repr__(self) -> str:
        return (
            f"Bound({self.augmented.mode} mode: {len(self.graph)} nodes, |S| = {len(self.augmented.hidden)}, "
            f"|P| = {int(self.augmented.pairs.sum())}, {len(self.contributions)} covered classes)"
        )


def derive(augmented: AugmentedGraph) -> Bound:
    """The bound of an augmented graph on any DAG: Theorem 2 per node, entropies, contributions and C.

    Expressions are made when read. Raises `UnsupportedOperationError` for an operation without rule.
    """
    if not isinstance(augmented, AugmentedGraph):
        raise GraphError(f"derive: expected an augmented graph, got {type(augmented).__name__}; call augment(graph)")
    symbols = Symbols(augmented)
    base = augmented.base
    hidden = tuple(node.name for node in base.nodes if node.name not in base.data_only)
    edges = tuple((node.name, u) for node in base.nodes for u in node.predecessors)
    return Bound(
        augmented,
        symbols,
        ByNode(hidden, lambda name: hidden_constant(symbols, symbols.place(name))),
        ByNode(edges, lambda edge: jacobian_constant(symbols, *map(symbols.place, edge))),
        tuple(_contributions(symbols)),
    )


def jacobian_constant(symbols: Symbols, x: Any, u: Any) -> sympy.Expr:
    """kappatilde_{J_{x,u}} = sum_{(w,a) in P} kappabar_{w<-x} kappabar_{u<-a} / kappa_{w<-a} (Theorem 2)."""
    w, a = sympy.symbols("w a", integer=True)
    return IndexedSum(_through(symbols, w, a, x, u), (a, symbols.first, u), (w, x, symbols.last))


def hidden_constant(symbols: Symbols, v: int) -> sympy.Expr:
    """kappatilde_{h_v} of Theorem 2: through the loss, through norms, through varying Jacobians."""
    w, a, x, u, v1 = sympy.symbols("w a x u u'", integer=True)
    bar, first, last = symbols.kappabar, symbols.first, symbols.last
    tau = symbols.augmented.loss.tau(symbols.base[symbols.base.output])
    loss = tau * bar[last, v]
    norms = IndexedSum(bar[w, v] * symbols.hidden[w], (w, v, last))
    if v == last:
        return loss + norms
    curved = symbols.taubar[x, u, v1] * bar[v1, v] * _through(symbols, w, a, x, u)
    limits = [(a, first, u), (w, x, last), (u, first, x - 1), (v1, v, x - 1), (x, v + 1, last)]
    return loss + norms + IndexedSum(curved, *limits)


def _through(symbols: Symbols, w: Any, a: Any, x: Any, u: Any) -> sympy.Expr:
    """The term of the pair (w, a) for a change of J_{x,u}."""
    return symbols.inverse[w, a] * symbols.kappabar[w, x] * symbols.kappabar[u, a]


def _contributions(symbols: Symbols) -> Iterator[Contribution]:
    for name in symbols.base.covered:
        node = symbols.base[name]
        entropy = class_entropy(node.operation, node, symbols.base)
        assert entropy is not None
        radius = symbols.radius(name)
        value = symbols.a(name) ** 2 * (entropy.gain * radius**2 + entropy.positions)
        derivative = symbols.b(name) ** 2 * entropy.gain
        weight = symbols.weight
        yield Contribution(name, "value", weight(name, "value"), value, _log(entropy.count), entropy)
        yield Contribution(
            name, "derivative", weight(name, "derivative"), derivative, _log(entropy.derivative_count), entropy
        )


def _log(count: int) -> sympy.Expr:
    return sympy.log(sympy.Integer(count), evaluate=False)


def _upper(value: sympy.Expr) -> float:
    """A double that is not below an exact positive expression."""
    return float(sympy.N(value, 30)) * (1 + 2**-50)
