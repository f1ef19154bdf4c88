"""One node for a chain of linear index maps."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Rearrange, Reshape
from covergraph.graph.rearrange import Steps, View
from covergraph.passes.rewriting import renamed, rewired
from covergraph.passes.simplification import simplify


def compose_rearrangements(graph: ComputationGraph) -> ComputationGraph:
    """Every rearrangement reads what is none, in few steps; it is a `Reshape` if it only changes the shape.

    What changes nothing goes. A map that is read in between stays as long as others use it.
    """
    maps: dict[str, tuple[str, Steps]] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for given in graph.nodes:
        node = rewired(given, names)
        steps = steps_of(node)
        if steps is not None:
            source, before = maps.get(node.inputs[0], (node.inputs[0], ()))
            steps = simplify(before + steps, graph[source].shape)
            if not steps:
                names[node.name] = source
                continue
            maps[node.name] = (source, steps)
            node = rearranged(node, source, steps)
        nodes.append(node)
    return renamed(graph, nodes, names)


def steps_of(node: Node) -> Steps | None:
    """The steps of a node that is a linear index map; None of another node."""
    match node.operation:
        case Reshape():
            return (View(node.shape),)
        case Rearrange(steps):
            return steps
        case _:
            return None


def rearranged(node: Node, source: str, steps: Steps) -> Node:
    """The node as the map `steps` of `source`; the same object if it is that already."""
    operation = Reshape() if steps == (View(node.shape),) else Rearrange(steps)
    if (operation, (source,)) == (node.operation, node.inputs):
        return node
    return replace(node, operation=operation, inputs=(source,))
