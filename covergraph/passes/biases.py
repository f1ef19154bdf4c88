"""A learned shift right after a layer without bias is the layer's bias."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Affine, Convolution, Linear, TransposedConvolution
from covergraph.graph.rearrange import Shape
from covergraph.graph.weights import Instruction, Program, Result, Source
from covergraph.passes.rewriting import parameter_shape, renamed, uses


def fold_biases(graph: ComputationGraph) -> ComputationGraph:
    """W h, then + b with one learned entry per output unit or channel, becomes W h + b, under the layer's name.

    Only where nothing else reads W h, and W is learned, too. Where b has axes of length 1, the bias is a view of it.
    """
    count = uses(graph)
    layers: dict[str, Node] = {}
    names: dict[str, str] = {}
    effective = dict(graph.weights.effective)
    for node in graph.nodes:
        layer = graph[node.inputs[0]] if node.inputs else node
        if count[layer.name] != 1 or not _is_bias(graph, layer, node):
            continue
        shift, axes = node.parameter["shift"], _unit_axes(layer)
        bias = shift
        if parameter_shape(graph, shift) != (layer.shape[-1 - axes],):
            bias = f"{shift}:flat"
            effective[bias] = _flattened(shift, effective.get(shift))
        layers[layer.name] = _with_bias(layer, bias)
        names[node.name] = layer.name
    if not names:
        return graph
    kept = [layers.get(node.name, node) for node in graph.nodes if node.name not in names]
    weights = replace(graph.weights, effective=effective)
    return renamed(ComputationGraph(graph.nodes, graph.output, graph.fingerprint, weights), kept, names)


def _is_bias(graph: ComputationGraph, layer: Node, node: Node) -> bool:
    """True if `node` adds to a layer without bias a learned tensor that varies along the outputs only."""
    o = layer.operation
    plain = isinstance(o, (Linear, Convolution, TransposedConvolution)) and not o.bias
    learned = dict(node.parameters).get("shift")
    if not plain or node.operation != Affine(scale=False, shift=True) or learned is None or not layer.learned:
        return False
    shape, rank = parameter_shape(graph, learned), len(layer.shape)
    if shape is None:
        return False
    outputs = rank - 1 - _unit_axes(layer)
    varying: Shape = tuple(n if axis == outputs else 1 for axis, n in enumerate(layer.shape))
    return ((1,) * (rank - len(shape)) + shape)[-rank:] == varying and all(n == 1 for n in shape[:-rank])


def _unit_axes(layer: Node) -> int:
    """How many axes follow that of the outputs: those of the images."""
    o = layer.operation
    return len(o.kernel) if isinstance(o, (Convolution, TransposedConvolution)) else 0


def _flattened(name: str, program: Program | None) -> Program:
    """The entries of a tensor in one axis."""
    before = program.instructions if program else ()
    start = Result(len(before) - 1) if program else Source(name)
    return Program((*before, Instruction("aten.reshape.default", (start, (-1,)))))


def _with_bias(layer: Node, name: str) -> Node:
    o = layer.operation
    assert isinstance(o, (Linear, Convolution, TransposedConvolution))
    return replace(layer, operation=replace(o, bias=True), parameters=(*layer.parameters, ("bias", name)))
