"""The augmented graph (Definition 2): edge Jacobians, total derivatives, soft indicators, loss, product sink.

The pairs P are held as a boolean matrix over the base graph's positions. They become nodes only when somebody
reads the nodes (to print, draw or run the graph), so a graph with many thousand pairs stays cheap to reason about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covergraph.errors import GraphError, ParameterError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.interpreter import Context, apply, edge_jacobian, evaluate
from covergraph.graph.losses import Loss
from covergraph.graph.node import Node
from covergraph.values import Pair

Mode = Literal["minimal", "paper", "output-only"]
LABEL, LOSS, SINK = "[label]", "[loss]", "[z]"


@dataclass(frozen=True)
class Label(op.Operation):
    """The label y, an input of the loss only."""


@dataclass(frozen=True)
class EdgeJacobian(op.Operation):
    """J_{x,u}: the derivative of the rule of `head` in the value of `tail`, at the values of pr(head)."""

    head: Node
    tail: str

    @property
    def label(self) -> str:
        return "jacobian"


@dataclass(frozen=True)
class TotalDerivative(op.Operation):
    """D_{w<-a} = sum_u J_{w,u} D_{u<-a}, with `pair` (w, a); `terms`: the slots of each, (J, D), or (J,) if u = a."""

    pair: Pair
    terms: tuple[tuple[int, ...], ...]

    @property
    def label(self) -> str:
        return "total"


@dataclass(frozen=True)
class NormIndicator(op.Operation):
    """1_{<= s_v}(||h_v||)."""

    node: str

    @property
    def label(self) -> str:
        return "indicator"


@dataclass(frozen=True)
class PairIndicator(op.Operation):
    """1_{<= kappa_{w<-a}}(||D_{w<-a}||_op)."""

    pair: Pair

    @property
    def label(self) -> str:
        return "indicator"


@dataclass(frozen=True)
class ConditionIndicator(op.Operation):
    """1_{>= rho_c}(q_c), q_c the condition of the node `head`, at the values of pr(head)."""

    head: Node

    @property
    def label(self) -> str:
        return "indicator"


@dataclass(frozen=True)
class LossNode(op.Operation):
    """l(h_k, y)."""

    loss: Loss

    @property
    def label(self) -> str:
        return f"{self.loss.name}_loss"


@dataclass(frozen=True)
class Sink(op.Operation):
    """z = 1 + (l - 1) * product of the indicators; the first slot is the loss."""


AUGMENTING = (Label, EdgeJacobian, TotalDerivative, NormIndicator, PairIndicator, ConditionIndicator, LossNode, Sink)
"""What an augmentation adds to its base."""


class AugmentedGraph:
    """The Lipschitz augmentation of a `base` graph: its loss, its set S, its pairs P, its conditions and its mode.

    `hidden` is S in topological order; `pairs[w, a]` is True if (w, a) is in P (positions of `base`); `rules` says of
    every node that is not data-only what the bound needs, its condition included. `source` is the graph that was
    lowered to `base`, as it was traced. `graph` is the whole augmented graph, made when it is first read.
    """

    def __init__(
        self,
        base: ComputationGraph,
        loss: Loss,
        mode: Mode,
        hidden: Sequence[str],
        pairs: NDArray[np.bool_],
        rules: Mapping[str, Any] | None = None,
        source: ComputationGraph | None = None,
    ) -> None:
        self.base, self.loss, self.mode = base, loss, mode
        self.source = base if source is None else source
        self.rules = rules or {}
        self.hidden = tuple(hidden)
        self.pairs = pairs.copy()
        self.pairs.setflags(write=False)
        unreachable = self.pairs & ~base.reach
        if unreachable.any() or any(name not in base.by_name for name in self.hidden):
            raise GraphError("augmented graph: S or P names a node or a pair that the base graph does not have")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AugmentedGraph):
            return NotImplemented
        own, others = ((g.base, g.source, g.loss, g.mode, g.hidden) for g in (self, other))
        return own == others and bool(np.array_equal(self.pairs, other.pairs))

    def __hash__(self) -> int:
        return hash((self.base, self.mode, self.hidden))

    @cached_property
    def graph(self) -> ComputationGraph:
        """All nodes, those of the base first; its output is z."""
        return self.base.replaced(_materialize(self), SINK)

    @cached_property
    def conditions(self) -> Mapping[str, Any]:
        """The conditions by the node that has them, in topological order."""
        return {name: rule.condition for name, rule in self.rules.items() if rule.condition is not None}

    @cached_property
    def pair_names(self) -> tuple[Pair, ...]:
        """P as names (w, a), ordered by w, then by a."""
        names = [node.name for node in self.base.nodes]
        return tuple((names[w], names[a]) for w, a in np.argwhere(self.pairs))

    def __repr__(self) -> str:
        return self.text()

    def text(self) -> str:
        """The whole graph as text, or of a large one the base and how many indicators there are."""
        if len(self.base) > 400:
            return f"{self.base.text()}\n# {self.mode} mode: |S| = {len(self.hidden)}, |P| = {self.pairs.sum()}"
        return self.graph.text()

    def run(
        self,
        model: Any,
        x: Tensor | Sequence[Tensor],
        y: Tensor,
        parameters: Any,
        cut: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """z on a batch, shape (batch,), evaluated node by node; differentiable in the values of cut nodes.

        `model`: the module or its state; `parameters`: a `Parameters` (gamma, s, kappa); `cut`: values that
        replace the named nodes (hidden values (batch, *shape), Jacobians (batch, size x, size u)).
        """
        return self.values(model, x, y, parameters, cut)[SINK]

    def values(
        self,
        model: Any,
        x: Tensor | Sequence[Tensor],
        y: Tensor,
        parameters: Any,
        cut: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Like `run`, but every node's value by name."""
        inputs = (x,) if isinstance(x, Tensor) else tuple(x)
        context = Context(self.base.state(model), labels=y, parameters=parameters)
        return evaluate(self.graph, context, self.base.named_inputs(inputs), cut or {})


def is_augmented(graph: ComputationGraph) -> bool:
    """Whether a graph is the whole one of an augmentation."""
    return isinstance(graph[graph.output].operation, Sink)


def _materialize(graph: AugmentedGraph) -> list[Node]:
    base = graph.base
    nodes = [*base.nodes]
    needed = _needed_derivatives(graph)
    edges = _needed_edges(base, needed)
    nodes += [_edge_node(base, x, u) for x, u in edges]
    nodes += [_derivative_node(base, w, a, needed) for w, a in needed]
    norms = [Node(f"1[{v}]", NormIndicator(v), (v,), ()) for v in graph.hidden]
    pairs = [Node(f"1[{w},{a}]", PairIndicator((w, a)), (f"D[{w},{a}]",), ()) for w, a in graph.pair_names]
    conditions = [_condition_node(base[name]) for name in graph.conditions]
    loss = Node(LOSS, LossNode(graph.loss), (base.output, LABEL), ())
    factors = tuple(node.name for node in (loss, *norms, *pairs, *conditions))
    return [*nodes, *norms, *pairs, *conditions, Node(LABEL, Label(), (), ()), loss, Node(SINK, Sink(), factors, ())]


def _edge_node(base: ComputationGraph, x: str, u: str) -> Node:
    head = base[x]
    shape = (head.size, base[u].size)
    operation = EdgeJacobian(head, u)
    return Node(f"J[{x},{u}]", operation, head.inputs, shape, head.parameters, constants=head.constants)


def _condition_node(head: Node) -> Node:
    operation = ConditionIndicator(head)
    return Node(f"1[q {head.name}]", operation, head.inputs, ())


def _needed_derivatives(graph: AugmentedGraph) -> dict[Pair, None]:
    """Pairs of P and those that their path sums run through, in topological order of w, then of a."""
    base = graph.base
    reach, needed = base.reach, graph.pairs.copy()
    for w in range(len(base) - 1, -1, -1):
        for u in base.nodes[w].predecessors:
            i = base.index[u]
            needed[i] |= needed[w] & reach[i]
    names = [node.name for node in base.nodes]
    return {(names[w], names[a]): None for w, a in np.argwhere(needed)}


def _needed_edges(base: ComputationGraph, needed: Mapping[Pair, None]) -> list[Pair]:
    edges: dict[Pair, None] = {}
    for w, a in needed:
        for u in base[w].predecessors:
            if u == a or (u, a) in needed:
                edges[w, u] = None
    return sorted(edges, key=lambda e: (base.index[e[0]], base[e[0]].inputs.index(e[1])))


def _derivative_node(base: ComputationGraph, w: str, a: str, needed: Mapping[Pair, None]) -> Node:
    inputs: list[str] = []
    terms: list[tuple[int, ...]] = []
    for u in base[w].predecessors:
        names = [f"J[{w},{u}]"] if u == a else [f"J[{w},{u}]", f"D[{u},{a}]"] if (u, a) in needed else []
        if names:
            terms.append(tuple(range(len(inputs), len(inputs) + len(names))))
            inputs += names
    return Node(f"D[{w},{a}]", TotalDerivative((w, a), tuple(terms)), tuple(inputs), (base[w].size, base[a].size))


def soft_indicator(value: Tensor, threshold: float) -> Tensor:
    """1_{<= kappa}(t) = clip(2 - t/kappa, 0, 1): slope 1/kappa, 0 from 2 kappa on (Lemma 1)."""
    return (2 - value / threshold).clamp(0, 1)


def condition_indicator(value: Tensor, threshold: float) -> Tensor:
    """1_{>= rho}(q) = clip(2 q/rho - 1, 0, 1): slope 2/rho, 0 up to rho/2 (Lemma 10)."""
    return (2 * value / threshold - 1).clamp(0, 1)


def _threshold(values: Mapping[Any, float], key: Any, symbol: str) -> float:
    if key not in values:
        raise ParameterError(f"augmented graph: the parameters have no {symbol} for {key!r}; use choose(...)")
    return values[key]


@apply.register
def _(operation: Label, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    if context.labels is None:
        raise ParameterError("augmented graph: no labels given; pass y to run(model, x, y, parameters)")
    return context.labels


@apply.register
def _(operation: EdgeJacobian, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return edge_jacobian(operation.head, operation.tail, slots, context)


@apply.register
def _(operation: TotalDerivative, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    terms = [slots[t[0]] if len(t) == 1 else slots[t[0]] @ slots[t[1]] for t in operation.terms]
    return torch.stack(terms).sum(0)


@apply.register
def _(operation: NormIndicator, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    norms = slots[0].reshape(slots[0].shape[0], -1).norm(dim=1).nan_to_num(nan=torch.inf)
    return soft_indicator(norms, _threshold(context.parameters.s, operation.node, "s"))


@apply.register
def _(operation: PairIndicator, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    kappa = _threshold(context.parameters.kappa, operation.pair, "kappa")
    finite = torch.isfinite(slots[0]).all(2).all(1)
    norms = torch.linalg.matrix_norm(torch.where(finite[:, None, None], slots[0], 0.0), ord=2)
    return torch.where(finite, soft_indicator(norms, kappa), 0.0)  # beyond a pole every level is exceeded


@apply.register
def _(operation: ConditionIndicator, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    rho = _threshold(context.parameters.rho, operation.head.name, "rho")
    q = condition_value(operation.head.operation, operation.head, slots, context)
    return condition_indicator(q.nan_to_num(nan=0.0, posinf=torch.inf), rho)


@apply.register
def _(operation: LossNode, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    return operation.loss.evaluate(slots[0], slots[1], context.parameters.gamma)


@apply.register
def _(operation: Sink, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    if len(slots) == 1:
        return slots[0]
    factors = torch.stack(list(slots[1:]))
    collapsed = (factors == 0).any(0)  # there the loss need not be a number
    return torch.where(collapsed, 1.0, 1 + (slots[0] - 1) * factors.prod(0))
