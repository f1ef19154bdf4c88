"""Recurrent layers written out time by time; all times share the parameters by name."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Concatenate, Recurrent, Reshape
from covergraph.graph.rearrange import Expand, Steps, View, index_map
from covergraph.passes.draft import Draft
from covergraph.passes.rearrangements import rearranged, steps_of
from covergraph.passes.recurrence import Recurrence
from covergraph.passes.rewriting import rewired
from covergraph.passes.simplification import simplify

Names = tuple[str, ...]
"""The nodes of h_t, or of c_t, by time."""


def unroll(graph: ComputationGraph) -> ComputationGraph:
    """A recurrent layer becomes W_ih x at all times, the nodes of each time, and the sequence of their results.

    The layers of h_t and of c_t with equal slots and parameters share these nodes. An index map of the sequence that
    takes one time alone reads the node of that time. What depends on the data alone stays.
    """
    draft = Draft(graph)
    layers: dict[object, tuple[Names, Names]] = {}
    sequences: dict[str, Names] = {}
    for given in graph.nodes:
        node = rewired(given, draft.names)
        operation = node.operation
        if isinstance(operation, Recurrent) and node.name not in graph.data_only:
            content = replace(operation, cells=False), node.inputs, node.parameters, node.constants
            if content not in layers:
                layers[content] = Recurrence.of(draft, node, operation).unrolled()
            sequences[node.name] = layers[content][int(operation.cells)]
            _put_sequence(draft, node, sequences[node.name])
        elif node.inputs[:1] and node.inputs[0] in sequences and steps_of(node) is not None:
            _put_map(draft, node, sequences[node.inputs[0]])
        else:
            draft.put(node)
    return draft.finished()


def _put_sequence(draft: Draft, node: Node, steps: Names) -> None:
    """The values of all times, (..., T, H): side by side on the last axis, then in this shape."""
    *before, times, size = node.shape
    joined = steps[0]
    if times > 1:
        joined = draft.add(f"{node.name}.times", Concatenate(len(before)), steps, (*before, times * size), node)
    draft.put(Node(node.name, Reshape(), (joined,), node.shape, origin=node.origin))


def _put_map(draft: Draft, node: Node, names: Names) -> None:
    """A map of a sequence, as a map of one time's node if it takes no other time; what changes nothing goes."""
    sequence = draft.nodes[node.inputs[0]]
    steps, shape = steps_of(node) or (), sequence.shape
    read = index_map(steps, shape)
    before: Steps = (View(shape),)
    source = sequence.inputs[0]
    times = {*(read[read >= 0] // shape[-1] % shape[-2]).tolist()}
    if len(times) == 1:
        source, before = names[times.pop()], (View((*shape[:-2], 1, shape[-1])), Expand(shape))
    steps = simplify((*before, *steps), draft.shape(source))
    if steps or node.name == draft.graph.output:
        draft.put(rearranged(node, source, steps or (View(node.shape),)))
    else:
        draft.names[node.name] = source
