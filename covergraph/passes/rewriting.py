"""What passes share: who uses a node, and other names for nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from itertools import chain, count

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Shape


def uses(graph: ComputationGraph) -> Counter[str]:
    """In how many slots each node stands; to be the output is one use more."""
    return Counter([u for node in graph.nodes for u in node.inputs] + [graph.output])


def resolved(name: str, names: Mapping[str, str]) -> str:
    """What `name` is called in the end, where names may lead to names."""
    while name in names:
        name = names[name]
    return name


def rewired(node: Node, names: Mapping[str, str]) -> Node:
    """The node, reading its inputs under their other names; the same object if nothing changes."""
    inputs = tuple(resolved(u, names) for u in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)


def renamed(graph: ComputationGraph, nodes: Iterable[Node], names: Mapping[str, str]) -> ComputationGraph:
    """A graph of `nodes` with other names for what the keys of `names` were, the output included."""
    return graph.replaced([rewired(node, names) for node in nodes], resolved(graph.output, names))


def fresh(name: str, taken: Container[str]) -> str:
    """`name`, with a number if it is taken."""
    numbered = (f"{name}_{i}" for i in count(1))
    return next(n for n in chain([name], numbered) if n not in taken)


def parameter_shape(graph: ComputationGraph, name: str) -> Shape | None:
    """The shape of a parameter or constant of the graph, None if the graph does not say it."""
    if name in graph.weights.constants:
        return tuple(graph.weights.constants[name].shape)
    return graph.weights.shapes.get(name)
