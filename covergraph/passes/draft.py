"""A graph in the making: its nodes so far, and new ones with their constants under names of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Constant, Operation, Rearrange
from covergraph.graph.rearrange import Expand, RearrangeStep, Shape, Steps, View, result_shape
from covergraph.passes.rearrangements import rearranged, steps_of
from covergraph.passes.rewriting import fresh, resolved, rewired
from covergraph.passes.simplification import simplify


class Draft:
    """Takes the nodes of `graph` one by one, as they are or replaced; methods that add a node return its name.

    `names` says what nodes that are dropped are called now.
    """

    def __init__(self, graph: ComputationGraph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {}
        self.names: dict[str, str] = {}
        self._constants: dict[str, Tensor] = {}
        self._reserved = {*graph.by_name, *graph.weights.constants, *_state_names(graph)}

    def put(self, node: Node) -> None:
        """Append a node under its own name, reading its inputs under their new names."""
        self.nodes[node.name] = rewired(node, self.names)

    def add(self, name: str, operation: Operation, inputs: Sequence[str], shape: Shape, by: Node, **roles: str) -> str:
        """Append a new node, made from the node `by`; `roles`: the role here and that in `by` of its tensors."""
        parameters, constants = (
            tuple((role, dict(held)[was]) for role, was in roles.items() if was in dict(held))
            for held in (by.parameters, by.constants)
        )
        name = self._fresh(name)
        self.nodes[name] = Node(name, operation, tuple(inputs), shape, parameters, by.origin, constants)
        return name

    def map(self, name: str, source: str, steps: Steps, by: Node) -> str:
        """A linear index map of `source`, which it reads through other such maps; `source` itself for the identity."""
        before = steps_of(self.nodes[source])
        if before is not None:
            source, steps = self.nodes[source].inputs[0], before + steps
        shape = self.shape(source)
        steps = simplify(steps, shape)
        if not steps:
            return source
        made = self.add(name, Rearrange(steps), (source,), result_shape(steps, shape), by)
        self.nodes[made] = replace(rearranged(self.nodes[made], source, steps), kind=self.nodes[source].kind)
        return made

    def broadcast(self, name: str, source: str, shape: Shape, by: Node) -> str:
        """`source` repeated to `shape`, with new axes in front where it has fewer; itself if it has this shape."""
        given = self.shape(source)
        if given == shape:
            return source
        steps: list[RearrangeStep] = [View((1,) * (len(shape) - len(given)) + given), Expand(shape)]
        return self.map(name, source, tuple(steps), by)

    def fixed(self, name: str, value: Tensor, by: Node) -> str:
        """A constant as a node."""
        held = self.constant(name, value)
        name = self._fresh(name)
        roles = (("value", held),)
        self.nodes[name] = Node(name, Constant(), (), tuple(value.shape), origin=by.origin, constants=roles)
        return name

    def constant(self, name: str, value: Tensor) -> str:
        """A new constant of the graph, for use in a role."""
        name = fresh(name, self._reserved | self._constants.keys())
        self._constants[name] = value
        return name

    def shape(self, name: str) -> Shape:
        """The shape of a node that is there already."""
        return self.nodes[name].shape

    def finished(self) -> ComputationGraph:
        """The graph of all nodes, with the fingerprint and the weights of the given one."""
        given, output = self.graph, resolved(self.graph.output, self.names)
        if not self._constants:
            return given.replaced(self.nodes.values(), output)
        weights = replace(given.weights, constants={**given.weights.constants, **self._constants})
        return ComputationGraph(self.nodes.values(), output, given.fingerprint, weights)

    def _fresh(self, name: str) -> str:
        return fresh(name, self.graph.by_name.keys() | self.nodes.keys())


def _state_names(graph: ComputationGraph) -> set[str]:
    """The names of tensors that a constant must not take: it would hide an entry of the model's state."""
    held: Mapping[str, object] = {**graph.weights.effective, **graph.weights.ties, **graph.weights.shapes}
    return {*held, *graph.state_names, *(name for node in graph.nodes for _, name in node.parameters)}
