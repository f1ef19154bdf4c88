"""How far can rounding have moved the output of a graph? What a comparison of two ways to compute it has to allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node

EPS = 2.0**-52
DRAWS = 3
"""Random signs that are tried: that all of them nearly cancel in the output is unlikely."""
SLACK = 4.0
"""Above the largest of the draws."""
STEPS = 32
"""Rounding errors of a result that come on top of those of its sums."""


def rounding_of_output(graph: ComputationGraph, context: Context, inputs: Mapping[str, Tensor]) -> Tensor:
    """How far rounding may have moved each entry of the output: (batch, *shape) (docs/tracing.md).

    Every weight, and every value where it is made, moves by a relative (n + 32) 2^-52 with a random sign, n the terms
    of the longest sum: so far can an operation that is backward stable be from its exact result. What cancels, or is
    never seen, on the way from a value to the output is so on the way of its error, too.
    """
    generator = torch.Generator().manual_seed(0)
    longest = max((_terms(graph, node) for node in graph.nodes), default=1)
    move = (longest + STEPS) * EPS
    base = _run(graph, context, inputs, {}, 0.0, generator)
    output = base[graph.output]
    found = torch.zeros_like(output)
    state = context.state
    for _ in range(DRAWS):
        moved = Context({name: _moved(value, move, generator) for name, value in state.items()})
        change = _run(graph, moved, inputs, base, move, generator)[graph.output] - output
        found = torch.maximum(found, change.abs().nan_to_num(0.0, 0.0, 0.0))
    return SLACK * found


def _run(
    graph: ComputationGraph, context: Context, inputs: Mapping[str, Tensor], base: Mapping[str, Tensor], move: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Every node's value, moved; integers, and what calls make of the data alone, jump and stay as in `base`."""
    values: dict[str, Tensor] = {}
    batch = len(next(iter(inputs.values())))
    for node in graph.nodes:
        if base and (node.kind == "integer" or (isinstance(node.operation, op.Call) and node.name in graph.data_only)):
            value = base[node.name]
        elif node.name in inputs:
            value = inputs[node.name]
        else:
            made = apply(node.operation, node, [values[u] for u in node.inputs], context)
            value = made if node.inputs else made.expand(batch, *made.shape[1:])
        values[node.name] = _moved(value, move, generator)
    return values


def _moved(value: Tensor, move: float, generator: torch.Generator) -> Tensor:
    """Every entry times 1 + move or 1 - move."""
    if move == 0 or not (value.is_floating_point() or value.is_complex()):
        return value
    signs = 2 * torch.randint(0, 2, value.shape, generator=generator, dtype=torch.int8) - 1
    return value * (1 + move * signs.to(value.device, torch.float64))


def _terms(graph: ComputationGraph, node: Node) -> int:
    """How many terms the sums of a node have at most."""
    return max(_lengths(graph, node))


def _lengths(graph: ComputationGraph, node: Node) -> Iterator[int]:
    sides = [graph[u].shape for u in node.inputs]
    yield 1
    match node.operation:
        case op.Linear() | op.AxisMap() | op.MatrixProduct() | op.Softmax() | op.Attention():
            yield max((side for shape in sides for side in shape), default=1)
        case op.Convolution() | op.TransposedConvolution():
            yield math.prod(node.operation.kernel) * max(sides[0])
        case op.Normalize(group):
            yield group
        case op.Elementwise() | op.Affine() | op.Product() | op.Add() | op.Rearrange() | op.Concatenate():
            return
        case _:
            yield max((math.prod(shape) for shape in sides), default=1)
