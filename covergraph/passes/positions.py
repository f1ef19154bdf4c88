"""Layers that a model applies to a flat list of positions, on the positions' own axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import networkx as nx

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Shape, Steps, View
from covergraph.passes.rearrangements import rearranged, steps_of
from covergraph.passes.rewriting import parameter_shape
from covergraph.passes.simplification import simplify


def restore_positions(graph: ComputationGraph) -> ComputationGraph:
    """(n, t, d) -> view (n t, d) -> linear -> view (n, t, m) becomes linear on (n, t, d): "addmm and view".

    The same for functions of every entry, sums, norms and softmax of the last axis between the two views. A group of
    such nodes is rewritten only if rearrangements alone read its results; where its list has more axes than the
    positions, only if these undo it. A view that is left may do nothing: `compose_rearrangements` drops it.
    """
    flat = _flat_nodes(graph)
    chosen: set[str] = set()
    read: set[str] = set()
    for group in _groups(graph, flat):
        sources = {u for name in group for u in flat[name].inputs} - group
        if _closed(graph, flat, group) and not sources & chosen and not group & read:
            chosen |= group
            read |= sources
    return graph.replaced([_rewritten(graph, flat, chosen, node) for node in graph.nodes]) if chosen else graph


@dataclass(frozen=True)
class _Flat:
    """A node on a flat list of positions: their own axes, and what to read there instead of each input."""

    positions: Shape
    inputs: tuple[str, ...]


def _flat_nodes(graph: ComputationGraph) -> dict[str, _Flat]:
    """The token-wise nodes whose slots are all flat: views that keep the last axis, or such nodes."""
    flat: dict[str, _Flat] = {}
    for node in graph.nodes:
        if node.inputs and _token_wise(graph, node):
            sources = [_position_axes(graph, flat, u) for u in node.inputs]
            shapes = {source[0] for source in sources if source is not None}
            if len(shapes) == 1 and None not in sources:
                flat[node.name] = _Flat(shapes.pop(), tuple(source[1] for source in sources if source is not None))
    return flat


def _position_axes(graph: ComputationGraph, flat: Mapping[str, _Flat], name: str) -> tuple[Shape, str] | None:
    """The positions' own axes and the node that has them, for a flat node or a view of the positions."""
    node = graph[name]
    if name in flat:
        return flat[name].positions, name
    if not isinstance(node.operation, op.Reshape):
        return None
    shape = graph[node.inputs[0]].shape
    keeps = len(shape) > 0 and len(node.shape) > 0 and shape[-1] == node.shape[-1]
    return (shape[:-1], node.inputs[0]) if keeps else None


def _token_wise(graph: ComputationGraph, node: Node) -> bool:
    """True if the node does the same at every position, which are the axes before the last one."""
    match node.operation:
        case op.Linear() | op.Elementwise() | op.Add() | op.Subtract() | op.Product() | op.Divide():
            return True
        case op.Affine():
            shapes = [parameter_shape(graph, name) for name in node.parameter.values()]
            inner = graph[node.inputs[0]].shape == node.shape
            return inner and all(s is not None and all(n == 1 for n in s[:-1]) and len(s) < 3 for s in shapes)
        case op.Normalize(group):
            return len(node.shape) > 0 and node.shape[-1] % group == 0
        case op.Softmax(axis):
            return axis == len(node.shape) - 1
        case _:
            return False


def _groups(graph: ComputationGraph, flat: Mapping[str, _Flat]) -> Iterable[set[str]]:
    """Flat nodes that read each other, which are rewritten together."""
    joined = nx.Graph()
    joined.add_nodes_from(flat)
    joined.add_edges_from((u, name) for name in flat for u in graph[name].inputs if u in flat)
    return nx.connected_components(joined)


def _closed(graph: ComputationGraph, flat: Mapping[str, _Flat], group: set[str]) -> bool:
    """True if only rearrangements read the group's results, so that no view is added."""
    readers = [graph[reader] for name in group for reader in graph.digraph.successors(name) if reader not in group]
    if graph.output in group or any(steps_of(reader) is None for reader in readers):
        return False
    merged = all(_simpler(flat[name].positions, graph[name].shape[:-1]) for name in group)
    return merged or all(not _steps_from(graph, flat, reader) for reader in readers)


def _simpler(positions: Shape, axes: Shape) -> bool:
    """True if the positions' own axes are more than the list's, or the same with fewer axes of length 1."""
    own, listed = ([n for n in shape if n > 1] for shape in (positions, axes))
    return len(positions) > len(axes) or (own == listed and len(positions) < len(axes))


def _steps_from(graph: ComputationGraph, flat: Mapping[str, _Flat], reader: Node) -> Steps:
    """The steps of a rearrangement of a flat node, when that is on the positions' own axes."""
    before, steps = graph[reader.inputs[0]].shape, steps_of(reader)
    assert steps is not None
    return simplify((View(before), *steps), (*flat[reader.inputs[0]].positions, before[-1]))


def _rewritten(graph: ComputationGraph, flat: Mapping[str, _Flat], chosen: set[str], node: Node) -> Node:
    """A node of a group on the positions' own axes; a view or the like that reads the group from there."""
    if node.name in chosen:
        operation, shape = node.operation, (*flat[node.name].positions, node.shape[-1])
        if isinstance(operation, op.Softmax):
            operation = replace(operation, axis=len(shape) - 1)
        return replace(node, operation=operation, inputs=flat[node.name].inputs, shape=shape)
    if steps_of(node) is None or node.inputs[0] not in chosen:
        return node
    return rearranged(node, node.inputs[0], _steps_from(graph, flat, node))
