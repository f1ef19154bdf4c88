"""Lowered graphs against what they were made from: values, derivatives, and the second lowering."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, edge_jacobian
from covergraph.graph.operations import Attention, Composite, Recurrent
from covergraph.passes.lower import lower
from covergraph.tracers import trace

WRITTEN_OUT = (Attention, Composite, Recurrent)


def lowered(model: nn.Module, *inputs: Tensor) -> ComputationGraph:
    """The model's graph, lowered, after the checks of `assert_lowered` with the model's own value as the oracle."""
    model = model.double().eval()
    graph = trace(model, tuple(x[:1] for x in inputs))
    return assert_lowered(graph, model, model(*inputs), *inputs)


def assert_lowered(graph: ComputationGraph, state: Any, expected: Tensor, *inputs: Tensor) -> ComputationGraph:
    """The graph, lowered: equal values at kept nodes, `expected` at the output; lowered again, it is the same."""
    after = lower(graph)
    before, values = graph.run(state, *inputs), after.run(state, *inputs)
    assert (after.output, after.fingerprint) == (graph.output, graph.fingerprint)
    assert {name: tuple(v.shape[1:]) for name, v in values.items()} == {n.name: n.shape for n in after.nodes}
    for name in values.keys() & before.keys():
        torch.testing.assert_close(values[name], before[name], rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)
    torch.testing.assert_close(
        values[after.output], expected.reshape(values[after.output].shape), rtol=1e-11, atol=1e-11
    )
    assert not [n.name for n in after.nodes if isinstance(n.operation, WRITTEN_OUT) and n.name not in graph.data_only]
    assert set(after.state_names) == set(graph.state_names)
    assert lower(after) == after
    return after


def derivative(graph: ComputationGraph, state: Any, x: Tensor) -> Tensor:
    """The output's Jacobian in the only input, (batch, outputs, inputs), by the path sums over edge Jacobians."""
    context, values = Context.of(state, graph), graph.run(state, x)
    (start,) = graph.inputs
    total = {start.name: torch.eye(start.size, dtype=x.dtype).expand(len(x), -1, -1)}
    for node in graph.nodes:
        slots = [values[u] for u in node.inputs]
        edges = [edge_jacobian(node, u, slots, context) @ total[u] for u in node.predecessors if u in total]
        if edges:
            total[node.name] = torch.stack(edges).sum(0)
    return total[graph.output]


def assert_same_derivative(model: nn.Module, after: ComputationGraph, x: Tensor) -> None:
    """The path sums over the lowered graph's edges are the model's own Jacobian, which is not 0."""
    with sdpa_kernel(SDPBackend.MATH):  # the others have no derivative in a mask
        rows = [torch.autograd.functional.jacobian(model, sample[None]) for sample in x]
    dense = torch.stack(rows).reshape(len(x), -1, x[0].numel())
    assert dense.abs().max() > 1e-3
    torch.testing.assert_close(derivative(after, model, x), dense, rtol=1e-10, atol=1e-10)
