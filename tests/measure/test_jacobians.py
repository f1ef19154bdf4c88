"""Total derivatives and their norms against torch.func.jacrev on the plain module and numpy's SVD."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from counting import calls
from dense import dense_derivative, spectral
from handmade import NETWORKS, Network, mlp
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, examples

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, edge_jacobian
from covergraph.graph.node import Node
from covergraph.measure import jacobians
from covergraph.measure.chain import pair_norms
from covergraph.measure.edges import edge_bound
from covergraph.measure.jacobians import edge_norms, filled_norms, total_derivatives

each_network = pytest.mark.parametrize("name", NETWORKS)
SAMPLES = 3


def all_pairs(net: Network) -> list[tuple[str, str]]:
    nodes, reach = net.graph.nodes, net.graph.reach
    return [(nodes[w].name, nodes[a].name) for w, a in np.argwhere(reach)]


def run(
    net: Network, samples: int = SAMPLES
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor], Context]:
    inputs, _ = net.sample(samples, seed=1)
    return inputs, net.graph.run(net.module, *inputs), Context.of(net.module)


@each_network
def test_total_derivatives_are_those_of_the_module(name: str) -> None:
    net = NETWORKS[name]()
    inputs, values, context = run(net)
    by_source: dict[str, list[str]] = {}
    for w, a in all_pairs(net):
        by_source.setdefault(a, []).append(w)
    checked = 0
    with torch.no_grad():
        for a, sinks in by_source.items():
            for w, found in total_derivatives(net.graph, values, context, a, sinks):
                for i in range(SAMPLES):
                    expected = dense_derivative(net.module, [x[i : i + 1] for x in inputs], w, a)
                    np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-10, atol=1e-12)
                    checked += 1
    assert checked == SAMPLES * len(all_pairs(net))


@each_network
def test_ends_of_pair_norms_enclose_the_singular_value(name: str) -> None:
    net = NETWORKS[name]()
    inputs, values, context = run(net)
    with torch.no_grad():
        found = pair_norms(net.graph, values, context, all_pairs(net))
    for (w, a), (lower, upper) in found.items():
        truth = [
            spectral(dense_derivative(net.module, [x[i : i + 1] for x in inputs], w, a))
            for i in range(SAMPLES)
        ]
        np.testing.assert_array_less(truth, upper.numpy() * (1 + 1e-15))
        np.testing.assert_array_less(lower.numpy(), np.array(truth) * (1 + 1e-15))
        np.testing.assert_allclose(upper.numpy(), lower.numpy(), rtol=1e-9)


@each_network
def test_edges_sum_over_the_slots_that_one_node_fills(name: str) -> None:
    """J_{x,u}: the derivative of one node in one predecessor, everything else held."""
    net = NETWORKS[name]()
    inputs, values, context = run(net, 1)
    with torch.no_grad():
        norms = edge_norms(net.graph, values, context)
    for node in net.graph.nodes:
        for u in node.predecessors:
            others = {v: values[v] for v in node.predecessors if v != u}

            def rule(
                h: torch.Tensor, u: str = u, others: dict[str, torch.Tensor] = others, x: str = node.name
            ):  # type: ignore[no-untyped-def]
                return net.graph.run(net.module, *inputs, cut={u: h, **others})[x]

            dense = torch.func.jacrev(rule)(values[u]).reshape(node.size, -1).detach()
            found = edge_jacobian(node, u, [values[v] for v in node.inputs], context)[0].detach()
            torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-12)
            assert float(norms[node.name, u]) == pytest.approx(spectral(dense), rel=1e-9)


@each_network
def test_values_filled_in_are_never_below_the_measured_ones(name: str) -> None:
    net = NETWORKS[name]()
    inputs, values, context = run(net)
    pairs = all_pairs(net)
    with torch.no_grad():
        filled = filled_norms(net.graph, values, context, pairs)
    assert set(filled) == set(pairs)
    larger = 0
    for w, a in pairs:
        truth = [
            spectral(dense_derivative(net.module, [x[i : i + 1] for x in inputs], w, a))
            for i in range(SAMPLES)
        ]
        assert (filled[w, a].numpy() >= truth).all()
        larger += int((filled[w, a].numpy() > 1.01 * np.array(truth)).sum())
    assert larger > 0


def test_filling_in_sums_over_all_predecessors() -> None:
    """plus = b(t) + t is bounded by ||J_{plus,b}|| ||J_{b,t}|| + ||J_{plus,t}||."""
    net = NETWORKS["residual"]()
    _, values, context = run(net)
    with torch.no_grad():
        edges = edge_norms(net.graph, values, context)
        filled = filled_norms(net.graph, values, context, [("plus", "t")])
    by_hand = edges["plus", "b"] * edges["b", "t"] + edges["plus", "t"]
    torch.testing.assert_close(filled["plus", "t"], by_hand)


@pytest.mark.parametrize("memory", [1, 3000, 10**5])
@each_network
def test_chunks_of_samples_give_identical_numbers(
    name: str, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = NETWORKS[name]()
    _, values, context = run(net, 7)
    pairs = all_pairs(net)
    with torch.no_grad():
        expected = pair_norms(net.graph, values, context, pairs), edge_norms(net.graph, values, context)
        monkeypatch.setattr(jacobians, "MEMORY", memory)
        found = pair_norms(net.graph, values, context, pairs), edge_norms(net.graph, values, context)
    for one, other in zip(expected, found, strict=True):
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-11, atol=0)


def test_one_chunk_holds_one_sample_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    _, values, _ = run(net, 5)
    monkeypatch.setattr(jacobians, "MEMORY", 1)
    assert [len(part["x"]) for _, part in jacobians.chunks(net.graph, values, "x")] == [1] * 5


def test_chunks_respect_a_smaller_memory_than_the_usual_one() -> None:
    net = mlp()
    _, values, _ = run(net, 5)
    entries = net.graph["x"].size * sum(node.size for node in net.graph.nodes)
    two = [rows for rows, _ in jacobians.chunks(net.graph, values, "x", memory=2 * 8 * entries)]
    assert two == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert len(list(jacobians.chunks(net.graph, values, "x"))) == 1


@examples(40)
@given(cases(batch=2), st.data())
def test_filling_in_sums_the_products_along_all_paths(case: Case, data: st.DataObject) -> None:
    """Also from inputs, and for any choice of pairs: an edge that is left out lies on no path of theirs."""
    graph, context = case.graph, Context(case.state)
    values = graph.run(case.state, *case.inputs)
    every = [(graph.nodes[w].name, graph.nodes[a].name) for w, a in np.argwhere(graph.reach)]
    pairs = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    with torch.no_grad():
        edges = edge_norms(graph, values, context)
        filled = filled_norms(graph, values, context, pairs)

    def along_paths(w: str, a: str) -> torch.Tensor:
        if w == a:
            return torch.ones(2, dtype=torch.float64)
        ways = [edges[w, u] * along_paths(u, a) for u in graph[w].predecessors]
        return torch.stack(ways).sum(0) if ways else torch.zeros(2, dtype=torch.float64)

    assert set(filled) == set(pairs)
    for w, a in pairs:
        torch.testing.assert_close(filled[w, a], along_paths(w, a), rtol=1e-11, atol=0)


def test_only_edges_on_paths_of_wanted_pairs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETWORKS["residual"]()
    _, values, context = run(net)
    seen = []

    def noted(operation: op.Operation, node: Node, slot: int, *rest: Any) -> torch.Tensor:
        seen.append((node.name, node.inputs[slot]))
        return edge_bound(operation, node, slot, *rest)

    monkeypatch.setattr(jacobians, "edge_bound", noted)
    with torch.no_grad():
        filled_norms(net.graph, values, context, [("plus", "t")])
    assert sorted(seen) == [("b", "t"), ("plus", "b"), ("plus", "t")]
    assert filled_norms(net.graph, values, context, []) == {}


def test_edges_that_are_not_asked_for_are_left_out() -> None:
    net = NETWORKS["residual"]()
    _, values, context = run(net)
    with torch.no_grad():
        every = edge_norms(net.graph, values, context)
        some = edge_norms(net.graph, values, context, [e for e in every if e[1] not in net.graph.data_only])
    assert set(every) - set(some) == {edge for edge in every if edge[1] in net.graph.data_only} != set()
    assert all(torch.equal(every[edge], some[edge]) for edge in some)


def test_products_that_overflow_are_infinite() -> None:
    """1e200 * 1e200 is infinite and stays so behind an edge of norm 0; there is no NaN."""
    names = ["x", "a", "b", "c"]
    nodes = [Node("x", op.Input(), (), (1,))]
    nodes += [
        Node(w, op.Linear(False), (u,), (1,), (("weight", w),)) for u, w in itertools.pairwise(names)
    ]
    sizes = {"a": 1e200, "b": 1e200, "c": 0.0}
    state = {w: torch.full((1, 1), size, dtype=torch.float64) for w, size in sizes.items()}
    graph = ComputationGraph(nodes, "c")
    values = {name: torch.zeros(2, 1, dtype=torch.float64) for name in names}
    filled = filled_norms(graph, values, Context(state), [("b", "x"), ("c", "x"), ("c", "b")])
    assert [filled[pair].tolist() for pair in filled] == [[np.inf] * 2, [np.inf] * 2, [0.0] * 2]


def filled(nodes: int) -> tuple[int, Any]:
    """Calls of functions that it takes to fill in all pairs of a chain, each node added to all of the last three."""
    chain = [Node("0", op.Input(), (), (1,))]
    for i in range(1, nodes):
        chain.append(Node(str(i), op.Add(), tuple(str(j) for j in range(max(0, i - 3), i)), (1,)))
    graph = ComputationGraph(chain, str(nodes - 1))
    values = {node.name: torch.zeros(1, 1, dtype=torch.float64) for node in chain}
    pairs = [(str(w), str(a)) for w in range(nodes) for a in range(w)]
    found: dict[tuple[str, str], torch.Tensor] = {}
    return calls(lambda: found.update(filled_norms(graph, values, Context({}), pairs))), found


def test_work_grows_with_the_pairs_and_no_faster() -> None:
    (few, _), (many, found) = filled(50), filled(200)
    assert many <= 1.2 * few * (200 / 50) ** 2
    assert [float(found[str(w), "0"]) for w in (1, 2, 3, 4)] == pytest.approx([1, 2, 4, 7], rel=1e-9)
