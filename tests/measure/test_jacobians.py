"""Total derivatives and their norms against torch.func.jacrev on the plain module and numpy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense import dense_derivative, spectral
from handmade import NETWORKS, Network, mlp

from covergraph.graph.interpreter import Context, edge_jacobian
from covergraph.measure import jacobians
from covergraph.measure.jacobians import edge_norms, filled_norms, pair_norms, total_derivatives

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
    for (w, a), norms in found.items():
        truth = [
            spectral(dense_derivative(net.module, [x[i : i + 1] for x in inputs], w, a))
            for i in range(SAMPLES)
        ]
        np.testing.assert_array_less(truth, norms.numpy() * (1 + 1e-15))
        np.testing.assert_allclose(norms.numpy(), truth, rtol=1e-9)


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
            torch.testing.assert_close(one[key], other[key], rtol=1e-13, atol=0)


def test_one_chunk_holds_one_sample_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    _, values, _ = run(net, 5)
    monkeypatch.setattr(jacobians, "MEMORY", 1)
    assert [len(part["x"]) for part in jacobians._chunks(net.graph, values, "x")] == [1] * 5
