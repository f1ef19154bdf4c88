"""From an augmented graph to its bound: every constant as an expression (Theorems 1-3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import sympy

from covergraph.bound.symbols import Symbols
from covergraph.bound.tables import IndexedSum
from covergraph.bound.theorem import CERTIFICATE, RADEMACHER
from covergraph.errors import GraphError, ParameterError, UnsupportedOperationError
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.groups import shared_groups
from covergraph.kinds import MEASUREMENTS, NUMBER, PARAMETERS, WHOLE, Kind, require
from covergraph.rules.entropy import ClassEntropy
from covergraph.rules.norms import upper
from covergraph.values import Measurements, Pair, Parameters

if TYPE_CHECKING:
    from covergraph.bound.certificate import Certificate
    from covergraph.bound.paper import PaperExpression

_KINDS: Mapping[str, Kind] = {
    "measurements": MEASUREMENTS,
    "parameters": PARAMETERS.or_none(),
    "delta": NUMBER,
    "choices": WHOLE,
}


@dataclass(frozen=True)
class Contribution:
    """One covered class: the values of a node, the derivatives of its edge, or all of a group that shares parameters.

    Its entropy is at most ceil(coefficient / eps^2) * logarithm; `weight` is the release-Lipschitz constant K_g.
    """

    node: str
    kind: Literal["value", "derivative", "shared"]
    weight: sympy.Symbol
    coefficient: sympy.Expr
    logarithm: sympy.Expr
    entropy: ClassEntropy

    @property
    def E(self) -> sympy.Expr:
        """E_g = (2 coefficient logarithm)^(1/2); the 2 pays for the ceiling (Proposition 3)."""
        return sympy.sqrt(2 * self.coefficient * self.logarithm)


@dataclass(frozen=True)
class Group:
    """Nodes that share parameters by name, covered together (Theorem 1').

    `parts` are (r, c): the weight K_g of `contribution` is the sum of r * c.weight over the members' contributions c.
    """

    nodes: tuple[str, ...]
    parameters: tuple[str, ...]
    contribution: Contribution
    parts: tuple[tuple[sympy.Expr, Contribution], ...]

    @property
    def weight(self) -> sympy.Expr:
        """K_g = sum of kappatilde_{h_v} r_v + kappatilde_J r^J."""
        return sympy.Add(*[r * c.weight for r, c in self.parts])


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


@dataclass(frozen=True, eq=False)
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
    groups: tuple[Group, ...] = ()

    def __eq__(self, other: object) -> bool:
        """Bounds are equal if their augmented graphs are: all else is derived."""
        return self.augmented == other.augmented if isinstance(other, Bound) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.augmented)

    def __reduce__(self) -> tuple[Any, ...]:
        return derive, (self.augmented,)

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
        """C = (sum_g (K_g E_g)^(2/3))^(3/2), with one symbol per K_g (Proposition 3).

        Of a group that shares parameters the smaller of two covers counts: node by node, or together (Theorem 1').
        """
        tied = {id(c) for group in self.groups for _, c in group.parts}
        terms = [_term(c) for c in self.contributions if id(c) not in tied]
        for group in self.groups:
            untied = sympy.Add(*[_term(c) for _, c in group.parts], evaluate=False)
            terms.append(sympy.Min(untied, _term(group.contribution), evaluate=False))
        total = sympy.Add(*terms, evaluate=False)
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

    def taubar(
        self, parameters: Parameters | None = None, measurements: Measurements | None = None
    ) -> dict[tuple[int, int, int], float]:
        """taubar_{x;u,u'} as numbers that are not below the symbolic ones, by position in the graph.

        Where they depend on levels s and rho, or on norms of data-only nodes, these are read. Raises `ParameterError`
        if one is lacking.
        """
        first = self.symbols.first
        found: dict[tuple[int, int, int], float] = {}
        for (x, u, v), value in self.symbols.curved.items():
            number = self._upper(value, parameters, measurements)
            if not math.isfinite(number):
                node = self.graph[self.symbols.name(x)]
                raise UnsupportedOperationError(
                    f"node {node.name!r} ({node.origin or 'top level'}): taubar of {node.operation.label!r} is beyond "
                    f"double precision at the norms of this sample ({value}); scale what it reads, or bound it"
                )
            found[x - first, u - first, v - first] = number
        return found

    def _upper(self, value: sympy.Expr, parameters: Parameters | None, measurements: Measurements | None) -> float:
        table = {symbol: self._level(symbol, parameters, measurements) for symbol in value.free_symbols}
        return upper(value.xreplace(table))

    def _level(
        self, symbol: sympy.Basic, parameters: Parameters | None, measurements: Measurements | None
    ) -> sympy.Rational:
        kind, node = self._levels[symbol]
        values: Mapping[str, Any] = getattr(parameters, kind, {}) if kind in ("s", "rho") else {}
        if kind == "norm" and measurements is not None:
            values = {node: measurements.hidden[node].upper}
        if node not in values:
            raise ParameterError(f"bound: taubar depends on {symbol} of {node!r}, which is not given; use choose(...)")
        return sympy.Rational(values[node])

    @cached_property
    def _levels(self) -> dict[sympy.Basic, tuple[str, str]]:
        """What the symbols in taubar stand for."""
        names = [node.name for node in self.graph.nodes]
        known: dict[sympy.Basic, tuple[str, str]] = {self.symbols.s(name): ("s", name) for name in names}
        known |= {self.symbols.rho(name): ("rho", name) for name in names}
        return known | {self.symbols.limit(name): ("norm", name) for name in self.graph.data_only}

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

        given = {"measurements": measurements, "parameters": parameters, "delta": delta, "choices": choices}
        require("evaluate", _KINDS, **given)
        chosen = choose(self, measurements) if parameters is None else parameters
        return certify(self, measurements, chosen, delta, choices)

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
    contributions = tuple(_contributions(symbols))
    return Bound(
        augmented,
        symbols,
        ByNode(hidden, lambda name: hidden_constant(symbols, symbols.place(name))),
        ByNode(edges, lambda edge: jacobian_constant(symbols, *map(symbols.place, edge))),
        contributions,
        tuple(_groups(symbols, contributions)),
    )


def jacobian_constant(symbols: Symbols, x: Any, u: Any) -> sympy.Expr:
    """kappatilde_{J_{x,u}} = sum_{(w,a) in P} kappabar_{w<-x} kappabar_{u<-a} / kappa_{w<-a} (Theorem 2)."""
    w, a = sympy.symbols("w a", integer=True)
    return IndexedSum(_through(symbols, w, a, x, u), (a, symbols.first, u), (w, x, symbols.last))


def hidden_constant(symbols: Symbols, v: int) -> sympy.Expr:
    """kappatilde_{h_v} of Theorem 2: through the loss, norms, conditions (Theorem 2'), and varying Jacobians."""
    w, a, x, u, v1 = sympy.symbols("w a x u u'", integer=True)
    bar, first, last = symbols.kappabar, symbols.first, symbols.last
    tau = symbols.augmented.loss.tau(symbols.base[symbols.base.output])
    loss = tau * bar[last, v]
    norms = IndexedSum(bar[w, v] * symbols.hidden[w], (w, v, last))
    if symbols.augmented.conditions:
        norms += IndexedSum(bar[w, v] * symbols.slope[w], (w, v, last))
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
        entropy = symbols.augmented.rules[name].entropy
        assert entropy is not None
        radius = symbols.radius(name)
        value = symbols.a(name) ** 2 * (entropy.gain * radius**2 + entropy.positions)
        weight = symbols.weight
        yield Contribution(name, "value", weight(name, "value"), value, _log(entropy.count), entropy)
        if entropy.derivative_count:
            derivative = symbols.b(name) ** 2 * entropy.gain
            logarithm = _log(entropy.derivative_count)
            yield Contribution(name, "derivative", weight(name, "derivative"), derivative, logarithm, entropy)


def _groups(symbols: Symbols, contributions: tuple[Contribution, ...]) -> Iterator[Group]:
    """The groups of two or more nodes that share a parameter by name (Theorem 1')."""
    base = symbols.base
    for nodes in shared_groups(base):
        parameters = tuple(dict.fromkeys(name for v in nodes for _, name in base[v].parameters))
        if any(name not in base.weights.shapes for name in parameters) or _two_roles(base, nodes):
            continue  # of unknown size, or r_v would be larger; covered node by node, which is valid too
        count = 2 * sum(math.prod(base.weights.shapes[name]) for name in parameters)
        entropy = ClassEntropy(0, 1, count, 0, "Theorem 1' (Maurey, shared parameters)")
        first = nodes[0]
        coefficient = symbols.t(first) ** 2
        together = Contribution(first, "shared", symbols.weight(first, "shared"), coefficient, _log(count), entropy)
        parts = tuple((_sensitivity(symbols, c), c) for c in contributions if c.node in nodes)
        yield Group(nodes, parameters, together, parts)


def _two_roles(base: ComputationGraph, nodes: tuple[str, ...]) -> bool:
    """True if some node uses one parameter in two roles: Theorem 1' excludes it."""
    names = [[name for _, name in base[v].parameters] for v in nodes]
    return any(len(set(found)) < len(found) for found in names)


def _sensitivity(symbols: Symbols, c: Contribution) -> sympy.Expr:
    """r_v = (gain s^2 + positions)^(1/2), r^J = gain^(1/2): what a change of the parameters by 1 does to the class."""
    if c.kind == "derivative":
        return sympy.sqrt(c.entropy.gain)
    radius = symbols.radius(c.node) if c.entropy.gain else sympy.Integer(0)
    return sympy.sqrt(c.entropy.gain * radius**2 + c.entropy.positions)


def _term(c: Contribution) -> sympy.Expr:
    return (c.weight * c.E) ** sympy.Rational(2, 3)


def _log(count: int) -> sympy.Expr:
    return sympy.log(sympy.Integer(count), evaluate=False)
