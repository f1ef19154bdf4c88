"""The computational graph: a frozen networkx DiGraph whose nodes carry one record each (Definition 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from covergraph.errors import GraphError
from covergraph.graph.groups import linked
from covergraph.graph.node import Node
from covergraph.graph.operations import Input
from covergraph.graph.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor


class ComputationGraph:
    """A DAG of nodes in topological order with one output.

    Args: `nodes` in topological order; `output` the name of h_k; `fingerprint` of the traced model, if any;
    `weights`, what parameter names stand for that are no entries of the model's state.
    Raises `GraphError` if the nodes do not form such a graph.
    """

    def __init__(
        self, nodes: Iterable[Node], output: str, fingerprint: str = "", weights: Weights | None = None
    ) -> None:
        self._nodes = tuple(nodes)
        self.output = output
        self.fingerprint = fingerprint
        self.weights = Weights() if weights is None else weights
        self.verify()

    def replaced(self, nodes: Iterable[Node], output: str | None = None) -> ComputationGraph:
        """A graph of other nodes with the same fingerprint and weights; what passes return."""
        return ComputationGraph(nodes, output or self.output, self.fingerprint, self.weights)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, inputs first where possible, in one fixed topological order."""
        return self._nodes

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        try:
            return self.by_name[name]
        except KeyError:
            raise GraphError(
                f"graph: no node is called {name!r}; the nodes are {', '.join(list(self.by_name)[:12])} …"
            ) from None

    def __len__(self) -> int:
        return len(self.nodes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ComputationGraph):
            return NotImplemented
        return (self.nodes, self.output) == (other.nodes, other.output) and self.weights == other.weights

    def __hash__(self) -> int:
        return hash((self.nodes, self.output))

    def __repr__(self) -> str:
        return self.text()

    @cached_property
    def digraph(self) -> nx.DiGraph:
        """The frozen DiGraph; each node has its record under the key "node"."""
        graph = nx.DiGraph()
        graph.add_nodes_from((node.name, {"node": node}) for node in self.nodes)
        graph.add_edges_from((u, node.name) for node in self.nodes for u in node.predecessors)
        return nx.freeze(graph)

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """Nodes without predecessor."""
        return tuple(node for node in self.nodes if isinstance(node.operation, Input))

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of each node in the topological order."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def reach(self) -> NDArray[np.bool_]:
        """reach[w, a]: a reaches w by at least one edge (positions as in `index`)."""
        reach = np.zeros((len(self), len(self)), dtype=bool)
        for w, node in enumerate(self.nodes):
            for u in node.predecessors:
                reach[w] |= reach[self.index[u]]
                reach[w, self.index[u]] = True
        reach.setflags(write=False)
        return reach

    @cached_property
    def covered(self) -> tuple[str, ...]:
        """Nodes whose class holds more than one rule: those with learned parameters."""
        return tuple(node.name for node in self.nodes if node.learned)

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The covered nodes, grouped: two nodes that share a parameter's storage are in one group."""
        return linked(self.nodes, self.weights.sources)

    @cached_property
    def data_only(self) -> frozenset[str]:
        """Nodes that are functions of the sample alone: inputs, and what fixed operations make of them."""
        fixed: set[str] = set()
        for node in self.nodes:
            if not node.learned and fixed.issuperset(node.inputs):
                fixed.add(node.name)
        return frozenset(fixed)

    @cached_property
    def sequential(self) -> bool:
        """True if the graph is one path from one input to the output."""
        return len(self.inputs) == 1 and all(
            node.inputs == (self.nodes[i].name,) for i, node in enumerate(self.nodes[1:])
        )

    def verify(self) -> None:
        """Raise `GraphError` unless names are unique, inputs come earlier, and the output exists."""
        seen: set[str] = set()
        for node in self.nodes:
            lacking = [name for _, name in node.constants if name not in self.weights.constants]
            if lacking:
                raise GraphError(f"graph: {node.name!r} reads the constants {lacking}, which the graph does not hold")
            if node.name in seen:
                raise GraphError(f"graph: two nodes are called {node.name!r}; names must be unique")
            missing = [u for u in node.inputs if u not in seen]
            if missing:
                raise GraphError(f"graph: {node.name!r} uses {missing} before it is defined; sort the nodes")
            if isinstance(node.operation, Input) and node.inputs:
                raise GraphError(f"graph: the input {node.name!r} has predecessors {node.inputs}")
            seen.add(node.name)
        if self.output not in seen:
            raise GraphError(f"graph: the output {self.output!r} is not a node; choose one of {sorted(seen)[:12]}")

    def text(self) -> str:
        """The graph as text, one node a line, then the output; equal graphs have equal text."""
        return "\n".join([*(node.text() for node in self.nodes), f"return {self.output}"])

    @property
    def formulas(self) -> Mapping[str, str]:
        """What the effective parameters are, by name, as text: of which entries of the state, by which operations."""
        return {name: program.text() for name, program in self.weights.effective.items()}

    def run(self, state: Any, *inputs: Tensor, cut: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every node's value on a batch, by covergraph's own interpreter.

        `state`: the model, or a mapping from dotted names to tensors; `inputs`: one tensor (batch, *shape) per
        input node; `cut`: values for nodes that are not computed but given.
        """
        from covergraph.graph.interpreter import Context, evaluate

        return evaluate(self, Context.of(state, self), self.named_inputs(inputs), cut or {})

    def state(self, model: Any) -> Mapping[str, Tensor]:
        """Every tensor that the nodes may name: the model's state (or a mapping), constants, effective parameters."""
        from covergraph.graph.interpreter import state_of

        return self.weights.complete(state_of(model), (n for node in self.nodes for _, n in node.parameters))

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """The entries of the model's state that the nodes are made of."""
        read = (s for node in self.nodes for _, name in node.parameters for s in self.weights.sources(name))
        return tuple(dict.fromkeys(read))

    def named_inputs(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pair tensors with input nodes; raises `GraphError` on a wrong number or shape."""
        if len(inputs) != len(self.inputs):
            names = [node.name for node in self.inputs]
            raise GraphError(f"graph: {len(inputs)} inputs given, expected {len(names)}: {names}")
        for node, value in zip(self.inputs, inputs, strict=True):
            if tuple(value.shape[1:]) != node.shape:
                raise GraphError(
                    f"graph: input {node.name!r} has shape {tuple(value.shape)}, expected (batch, "
                    f"{', '.join(map(str, node.shape))}); pass samples of the traced shape"
                )
        return {node.name: value for node, value in zip(self.inputs, inputs, strict=True)}
