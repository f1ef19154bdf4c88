"""measure() on whole networks: every number against plain torch in double, sample by sample."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from dense import dense_derivative, spectral
from handmade import NETWORKS, Marked, Network, mlp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.losses import LipschitzLoss
from covergraph.graph.node import Node
from covergraph.measure import jacobians
from covergraph.measure.measure import measure
from covergraph.values import Measurements

each_network = pytest.mark.parametrize("name", NETWORKS)
N = 10
FORWARD = 1e-13


def truth_of(
    net: Network, samples: int = N
) -> tuple[Mapping[str, list[float]], Mapping[tuple[str, str], list[float]]]:
    """Norms of hidden values and of every measured total derivative, by the plain module in double."""
    inputs, _ = net.sample(samples)
    hidden: dict[str, list[float]] = {node.name: [] for node in net.graph.nodes}
    pairs: dict[tuple[str, str], list[float]] = {pair: [] for pair in net.bound("paper").measured_pairs}
    for i in range(samples):
        one = [x[i : i + 1] for x in inputs]
        net.module(*one)
        for v in hidden:
            hidden[v].append(float(np.linalg.norm(net.module.seen[v].detach().numpy())))
        for w, a in pairs:
            pairs[w, a].append(spectral(dense_derivative(net.module, one, w, a)))
    return hidden, pairs


@each_network
def test_ends_in_double_enclose_the_truth(name: str) -> None:
    net = NETWORKS[name]()
    found = measure(net.bound("paper"), net.module, net.loader(N, 4))
    hidden, pairs = truth_of(net)
    assert found.n == N
    for truth, ends, arrays in (
        (hidden, found.hidden, found.hidden_values),
        (pairs, found.pairs, found.pair_values),
    ):
        for key, values in truth.items():
            at = ends[key]
            # Two forward passes in double differ by their own rounding, which the ends do not contain.
            assert at.lower * (1 - FORWARD) <= max(values) <= at.upper * (1 + FORWARD)
            assert at.upper <= max(values) * (1 + 1e-10)
            assert values[at.sample] == pytest.approx(max(values), rel=FORWARD)
            assert (arrays[key] >= np.array(values) * (1 - FORWARD)).all()
            assert at.kind == ("certified" if found.ways.get(key) == "dense" else "exact")  # type: ignore[call-overload]
    assert set(found.root_mean_square) == net.graph.data_only
    for v, at in found.root_mean_square.items():
        assert at.lower <= np.sqrt(np.mean(np.square(hidden[v]))) <= at.upper


def test_root_mean_square_is_enclosed_for_large_inputs() -> None:
    """The per-sample norms are upper ends, so the lower end must undo their slack."""
    net = mlp((300, 3, 2))
    found = measure(net.bound(), net.module, net.loader(5, 5)).root_mean_square["x"]
    squares = (net.sample(5)[0][0].numpy() ** 2).sum(1)
    assert found.lower <= np.sqrt(squares.mean()) <= found.upper


@each_network
def test_margins_and_training_error(name: str) -> None:
    net = NETWORKS[name]()
    inputs, labels = net.sample(N)
    labels[:3] = (labels[:3] + 1) % 2
    found = measure(net.bound(), net.module, [(*inputs, labels)])
    logits = net.module(*inputs).detach().reshape(N, -1).tolist()
    expected = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        others = [z for j, z in enumerate(row) if j != y]
        expected.append(row[y] - max(others) if len(row) > 1 else (2 * y - 1) * row[0])
    assert found.margins is not None
    np.testing.assert_allclose(found.margins, expected, rtol=1e-12, atol=1e-15)
    assert found.training_error == sum(m <= 0 for m in expected) / N > 0


def rows(found: Measurements) -> np.ndarray:
    """One row a sample, sorted, so that the order of the samples does not matter."""
    columns = [*found.hidden_values.values(), *found.pair_values.values(), found.margins]
    table = np.stack(columns, axis=1)
    return table[np.lexsort(table.T)]


@each_network
def test_order_and_size_of_batches_do_not_matter(name: str) -> None:
    net = NETWORKS[name]()
    bound = net.bound()
    inputs, labels = net.sample(N)
    dataset = TensorDataset(*inputs, labels)
    expected = rows(measure(bound, net.module, [(*inputs, labels)]))
    assert len({tuple(row) for row in expected}) == N
    generator = torch.Generator().manual_seed(1)
    for options in (
        {"batch_size": 1},
        {"batch_size": 4},
        {"batch_size": 3, "shuffle": True, "generator": generator},
    ):
        found = measure(bound, net.module, DataLoader(dataset, **options))
        assert found.n == N
        np.testing.assert_allclose(rows(found), expected, rtol=1e-12)


@each_network
def test_per_sample_arrays_give_the_mean_of_z_that_the_graph_computes(name: str) -> None:
    """The certificate's training term, from the arrays, against augmented.run over a shuffled loader."""
    net = NETWORKS[name]()
    bound = net.bound()
    dataset = TensorDataset(*net.sample(N)[0], net.sample(N)[1])
    found = measure(bound, net.module, DataLoader(dataset, batch_size=3, shuffle=True))
    chosen = choose(bound, found, quantile=0.25)
    tight = dataclasses.replace(
        chosen,
        grid=None, quantile=None,
        s={v: 0.8 * found.hidden[v].upper for v in chosen.s},
        kappa={pair: 0.97 * found.pairs[pair].upper for pair in chosen.kappa},
    )
    certificate = bound.evaluate(found, tight)
    losses = np.clip(1 - found.margins / tight.gamma, 0, 1)
    z = [
        value
        for *inputs, labels in DataLoader(dataset, batch_size=3, shuffle=True)
        for value in bound.augmented.run(net.module, inputs, labels, tight).tolist()
    ]
    assert np.mean(z) <= certificate.training <= np.mean(z) * (1 + 1e-6)  # with its allowance for rounding
    assert np.mean(z) > np.mean(losses) + 1e-3


@each_network
def test_filled_in_pairs_are_certified_and_never_below_the_measured_ones(name: str) -> None:
    net = NETWORKS[name]()
    bound = net.bound("paper")
    measured = measure(bound, net.module, net.loader(N, 4))
    filled = measure(bound, net.module, net.loader(N, 4), fill=True)
    _, pairs = truth_of(net)
    for pair, at in filled.pairs.items():
        assert at.kind == "certified"
        assert at.lower <= max(pairs[pair]) <= at.upper * (1 + FORWARD)
        assert (filled.pair_values[pair] >= np.array(pairs[pair]) * (1 - FORWARD)).all()
        # Equal up to rounding where one edge is the only path.
        assert (filled.pair_values[pair] >= measured.pair_values[pair] * (1 - 1e-9)).all()


def test_small_memory_gives_the_same_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETWORKS["convolutional"]()
    expected = measure(net.bound(), net.module, net.loader(N, 5))
    monkeypatch.setattr(jacobians, "MEMORY", 2000)
    np.testing.assert_allclose(
        rows(measure(net.bound(), net.module, net.loader(N, 5))), rows(expected), rtol=1e-13
    )


@each_network
def test_jacobians_in_single_precision_have_certified_norms(name: str) -> None:
    net = NETWORKS[name]()
    bound = net.bound("paper")
    found = measure(bound, net.module, net.loader(N, 4), dtype=torch.float32)
    exact = measure(bound, net.module, net.loader(N, 4))
    _, pairs = truth_of(net)
    assert found.dtype == "float32" and found.failure == 0
    for pair, values in pairs.items():
        at = found.pairs[pair]
        assert at.lower <= max(values) <= at.upper <= 1.0101 * at.lower + 1e-250
        assert (found.pair_values[pair] >= np.array(values) * (1 - FORWARD)).all()
        assert at.kind == ("certified" if found.ways[pair] == "dense" else "exact")
    assert {v: at.upper for v, at in found.hidden.items()} == {v: at.upper for v, at in exact.hidden.items()}
    assert any(at.upper != exact.pairs[pair].upper for pair, at in found.pairs.items())
    bound.evaluate(found)


def test_losses_of_the_user_are_measured_instead_of_margins() -> None:
    net = mlp()
    brier = LipschitzLoss(lambda h, y: ((h - nn.functional.one_hot(y, 3)) ** 2).sum(1).clamp(0, 1), 2.0)
    found = measure(net.bound(loss=brier), net.module, net.loader(N, 4))
    inputs, labels = net.sample(N)
    expected = ((net.module(*inputs) - nn.functional.one_hot(labels, 3)) ** 2).sum(1).clamp(0, 1)
    assert found.margins is None and found.training_error is None
    np.testing.assert_allclose(found.losses, expected.detach().numpy(), rtol=1e-12)


def test_a_node_may_have_any_name() -> None:
    net = mlp((3, 4, 2))
    nodes = [
        dataclasses.replace(
            node,
            name="loss" if node.name == "t1" else node.name,
            inputs=tuple("loss" if u == "t1" else u for u in node.inputs),
        )
        for node in net.graph.nodes
    ]
    renamed = dataclasses.replace(net, graph=graph_like(net, nodes))
    found = measure(renamed.bound(), net.module, net.loader(N, 4))
    expected = measure(net.bound(), net.module, net.loader(N, 4))
    np.testing.assert_array_equal(found.hidden_values["loss"], expected.hidden_values["t1"])
    np.testing.assert_array_equal(found.margins, expected.margins)


def graph_like(net: Network, nodes: list[Node]) -> ComputationGraph:
    return ComputationGraph(nodes, net.graph.output, fingerprint(nodes, net.module))


def test_modes_of_the_model_and_its_parts_are_restored() -> None:
    net = mlp()
    net.module.train()
    net.module.f2.eval()
    measure(net.bound(), net.module, net.loader(4, 4))
    assert net.module.training and net.module.f1.training and not net.module.f2.training


def test_a_state_serves_as_model() -> None:
    net = mlp()
    by_state = measure(net.bound(), dict(net.module.state_dict()), net.loader(N, 4))
    np.testing.assert_array_equal(rows(by_state), rows(measure(net.bound(), net.module, net.loader(N, 4))))


def test_a_single_model_gives_the_same_numbers_as_its_double() -> None:
    """The dtype of the model does not matter: the network is its weights."""
    net = mlp()
    single = copy.deepcopy(net.module).float()
    double = copy.deepcopy(single).double()
    found, expected = (
        measure(bound_of(net, module), module, net.loader(N, 4)) for module in (single, double)
    )
    np.testing.assert_array_equal(rows(found), rows(expected))


def bound_of(net: Network, module: Marked) -> Bound:
    other = dataclasses.replace(net, module=module)
    return dataclasses.replace(other, graph=graph_like(other, list(net.graph.nodes))).bound()


@pytest.mark.parametrize("scale", [1e160, 1e-160])
def test_squares_that_leave_double_precision_do_no_harm(scale: float) -> None:
    net, unit = mlp(scale=scale), mlp()
    found = measure(net.bound(), net.module, net.loader(4, 2))
    expected = measure(unit.bound(), unit.module, unit.loader(4, 2))
    assert found.hidden["f1"].upper / scale == pytest.approx(expected.hidden["f1"].upper, rel=1e-9)
    assert found.layers["f1"].a.upper / scale == pytest.approx(expected.layers["f1"].a.upper, rel=1e-9)
