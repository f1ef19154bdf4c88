"""Maxima, minima and norms over axes: values for every spelling of axes, and what stays a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.tracers import trace

INPUT = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(function: Callable[[Tensor], Tensor]) -> ComputationGraph:
    """The graph, whose values `trace` has compared with the function's."""
    graph = trace(Apply(function), INPUT)
    torch.testing.assert_close(graph.run({}, INPUT)[graph.output], function(INPUT), check_dtype=False)
    return graph


def operations(graph: ComputationGraph) -> list[op.Operation]:
    return [node.operation for node in graph.nodes]


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "last axis": (lambda x: torch.linalg.vector_norm(x, dim=-1), (2,), (4, 3)),
    "kept": (lambda x: torch.linalg.vector_norm(x, dim=(1, 3), keepdim=True), (0, 2), (1, 3, 1)),
    "all": (lambda x: torch.linalg.vector_norm(x.flatten(1), dim=1), (0,), ()),
    "torch.norm": (lambda x: torch.norm(x, p=2, dim=2), (1,), (4, 5)),
    "Frobenius": (lambda x: torch.linalg.matrix_norm(x), (1, 2), (4,)),
    "of a distance": (lambda x: F.pairwise_distance(x, 2 * x), (2,), (4, 3)),
}


@pytest.mark.parametrize("name", NORMS)
def test_euclidean_norms_are_one_record(name: str) -> None:
    function, axes, shape = NORMS[name]
    found = [node for node in traced(function).nodes if isinstance(node.operation, op.VectorNorm)]
    assert [node.operation for node in found] == [op.VectorNorm(axes)]
    assert found[0].shape == shape


@pytest.mark.parametrize("order", [1, 3, float("inf")])
def test_other_norms_stay_calls(order: float) -> None:
    (call,) = [o for o in operations(traced(lambda x: x.norm(p=order, dim=1))) if isinstance(o, op.Call)]
    assert call.target == "aten.linalg_vector_norm.default"


def test_unit_vectors_and_cosines_need_no_call() -> None:
    for function in (lambda x: F.normalize(x, dim=1), lambda x: F.cosine_similarity(x, x.flip(1).sin(), dim=1)):
        made = operations(traced(function))
        assert any(isinstance(o, op.VectorNorm) for o in made)
        assert not any(isinstance(o, op.Call) for o in made)


def test_values_of_extrema_are_records_and_positions_calls() -> None:
    largest = traced(lambda x: x.max(2)[0])
    assert largest[largest.output].operation == op.Maximum((1,))
    smallest = traced(lambda x: x.min(3, keepdim=True).values)
    assert op.Maximum((2,)) in operations(smallest)
    assert smallest[smallest.output].shape == (4, 3, 1)
    both = traced(lambda x: x.max(1)[0] + x.max(1).indices)
    assert op.Maximum((0,)) in operations(both)
    assert [o.output for o in operations(both) if isinstance(o, op.Call) and o.output is not None] == [1]


def test_maxima_of_integers_stay_calls() -> None:
    graph = traced(lambda x: (x > 0).long().amax(1).to(x.dtype))
    assert "aten.amax.default" in {o.target for o in operations(graph) if isinstance(o, op.Call)}


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_one_bag_a_sample_is_rows_and_their_sum(mode: str) -> None:
    model, ids = nn.EmbeddingBag(9, 6, mode=mode), torch.randint(9, (3, 7))
    graph = trace(model, ids)
    assert [type(o) for o in operations(graph)] == [op.Input, op.Embedding, op.Sum]
    torch.testing.assert_close(graph.run(model, ids)[graph.output], model(ids))


def test_other_bags_stay_calls() -> None:
    for model in (nn.EmbeddingBag(9, 6, mode="max"), nn.EmbeddingBag(9, 6, padding_idx=0)):
        graph = trace(model, torch.randint(9, (3, 7)))
        assert isinstance(graph[graph.output].operation, op.Call)
