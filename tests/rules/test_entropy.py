"""Entropies by brute force (Lemmas 2-4): covers built atom by atom, and patch matrices by explicit loops.

Lemma 2's cover consists of the averages of k atoms, k = ceil(coefficient / eps^2), out of `count` signed and
scaled unit matrices. For tiny classes all averages are listed: every sampled member must be near one of them.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from dense import spectral
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from patches import convolution, patches

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.graph.node import Node
from covergraph.rules.entropy import ClassEntropy, class_entropy

Array = NDArray[np.float64]


def entropy_of(operation: op.Operation, before: tuple[int, ...], after: tuple[int, ...]) -> ClassEntropy:
    bias = (("bias", "f.bias"),) if getattr(operation, "bias", False) else ()
    nodes = [
        Node("x", op.Input(), (), before),
        Node("f", operation, ("x",), after, (("weight", "f.weight"), *bias)),
    ]
    graph = ComputationGraph(nodes, "f")
    found = class_entropy(operation, graph["f"], graph)
    assert found is not None
    return found


def averages(atoms: Array, k: int) -> Array:
    """All averages of k atoms with repetition, one a row of the first axis."""
    chosen = np.array(list(combinations_with_replacement(range(len(atoms)), k)))
    flat = atoms.reshape(len(atoms), -1)
    total = sum(flat[chosen[:, i]] for i in range(k))
    return (total / k).reshape(len(chosen), *atoms.shape[1:])


def members(rng: np.random.Generator, count: int, rows: int, columns: int, a: float, p: int) -> Array:
    """Matrices with sum of row p-norms = a: random ones, sparse ones and single entries."""
    dense = rng.standard_normal((count, rows, columns))
    dense *= rng.random(dense.shape) < rng.choice([0.4, 1.0], size=(count, 1, 1))
    sizes = np.linalg.norm(dense, ord=p, axis=2).sum(1)
    return a * dense[sizes > 0] / sizes[sizes > 0, None, None]


def maurey_atoms(data: list[Array], a: float) -> Array:
    """+-(a max ||Z||_F / ||Z_{:,i}||) e_j e_i^T, where output j reads Z = data[j] (rows: points)."""
    size = a * max(np.linalg.norm(Z) for Z in data)
    atoms = []
    for sign, j, i in product((1, -1), range(len(data)), range(data[0].shape[1])):
        atom = np.zeros((len(data), data[0].shape[1]))
        atom[j, i] = sign * size / np.linalg.norm(data[j][:, i])
        atoms.append(atom)
    return np.array(atoms)


def distances(candidates: Array, target: Array, data: list[Array], n: int) -> Array:
    """L2(P_n) distances of all candidates from one target; `data` hold all positions of n samples."""
    square = sum(((candidates[:, j] - target[j]) @ Z.T) ** 2 for j, Z in enumerate(data))
    return np.sqrt(square.sum(axis=1) / n)


def covers(entropy: ClassEntropy, data: list[Array], radius: float, a: float, eps: float, seed: int) -> float:
    """The largest distance of a member from the cover of Lemma 2, relative to eps; its size is checked."""
    rng = np.random.default_rng(seed)
    coefficient = a**2 * (entropy.gain * radius**2 + entropy.positions)
    k = math.ceil(coefficient / eps**2)
    atoms = maurey_atoms(data, a)
    assert len(atoms) == entropy.count
    cover = averages(atoms, k)
    assert math.log(len(cover)) <= k * math.log(entropy.count)
    n = 3
    sample = members(rng, 150, *atoms.shape[1:], a, 2)
    return max(distances(cover, W, data, n).min() for W in sample) / eps


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bias", [False, True])
def test_linear_classes_have_the_cover_of_lemma_2(bias: bool, seed: int) -> None:
    """{x -> Wx + b: ||[W b]^T||_{2,1} <= a} on 3 points with mean square norm radius^2, 2 positions."""
    rng = np.random.default_rng(seed)
    n, positions, d, m = 3, 2, 2, 2
    points = rng.standard_normal((n * positions, d)) * rng.exponential(size=d)
    radius = math.sqrt((points**2).sum() / n)
    stacked = np.hstack([points, np.ones((len(points), 1))]) if bias else points
    entropy = entropy_of(op.Linear(bias), (positions, d), (positions, m))
    for eps, a in ((0.6 * radius, 1.0), (1.2 * radius, 2.5)):
        eps = math.hypot(eps, bias * 0.8)
        assert covers(entropy, [stacked] * m, radius, a, eps, seed) <= 1


def test_the_check_of_covers_can_fail() -> None:
    """With too few atoms an average some member is farther than eps away."""
    points = np.diag([1.0, 1.0, 1.0]) * math.sqrt(3)
    entropy = entropy_of(op.Linear(False), (3,), (2,))
    radius = math.sqrt((points**2).sum() / 3)
    assert covers(entropy, [points] * 2, radius, 1.0, 0.9, 0) <= 1
    assert covers(entropy, [points] * 2, radius / 2, 1.0, 0.9, 0) > 1


def test_a_class_within_eps_of_zero_needs_one_element() -> None:
    """Entropy 0 if eps^2 >= coefficient: the constant map covers, for ||Wx + b|| <= a (||x||^2 + 1)^(1/2)."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((5, 3))
    stacked = np.hstack([points, np.ones((5, 1))])
    radius = math.sqrt((points**2).sum() / 5)
    entropy = entropy_of(op.Linear(True), (3,), (2,))
    a = 1.7
    limit = a * math.sqrt(entropy.gain * radius**2 + entropy.positions)
    for W in members(rng, 200, 2, 4, a, 2):
        assert np.sqrt(((stacked @ W.T) ** 2).sum() / 5) <= limit


@pytest.mark.parametrize(("m", "d"), [(1, 1), (2, 2), (2, 3), (3, 1)])
def test_derivatives_have_the_cover_of_lemma_4(m: int, d: int) -> None:
    """{W: ||W||_{1,1} <= b} in operator norm: averages of ceil(b^2/eps^2) matrices +-b e_j e_i^T."""
    rng = np.random.default_rng(m * 10 + d)
    b = 1.3
    entropy = entropy_of(op.Linear(True), (d,), (m,))
    units = b * np.eye(m * d).reshape(-1, m, d)
    atoms = np.concatenate([units, -units])
    assert len(atoms) == entropy.derivative_count
    for eps in (0.8 * b, 0.5 * b):
        k = math.ceil(b**2 * entropy.gain / eps**2)
        cover = averages(atoms, k)
        assert math.log(len(cover)) <= k * math.log(entropy.derivative_count)
        for W in members(rng, 60, m, d, b, 1):
            assert min(spectral(V - W) for V in cover) <= eps


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_have_the_cover_of_lemma_3(groups: int, bias: bool) -> None:
    """The class acts linearly on the patches of 3 samples; an entry lies in up to rho^2 patches."""
    rng = np.random.default_rng(7)
    n, length, m = 3, 4, 2
    layer = convolution((2,) if groups == 2 or bias else (3,), (1,), (1,), (1,), groups, bias)
    samples = rng.standard_normal((n, groups, length))
    places = patches(samples[0], layer)[0].shape[0]
    per_group = [np.concatenate([patches(x, layer)[g] for x in samples]) for g in range(groups)]
    data = [per_group[j * groups // m] for j in range(m)]
    if bias:
        data = [np.hstack([Z, np.ones((len(Z), 1))]) for Z in data]
    radius = math.sqrt((samples**2).sum() / n)
    entropy = entropy_of(layer, (groups, length), (m, places))
    a = 1.2
    eps = 0.6 * a * math.sqrt(entropy.gain * radius**2 + entropy.positions)
    assert covers(entropy, data, radius, a, eps, 0) <= 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_counts_of_linear_classes(d: int, m: int, places: int, bias: bool) -> None:
    entropy = entropy_of(op.Linear(bias), (places, d), (places, m))
    parameters = m * d + (m if bias else 0)
    assert (entropy.count, entropy.derivative_count) == (2 * parameters, 2 * m * d)
    assert (entropy.gain, entropy.positions) == (1, places if bias else 0)


def test_a_convolution_at_several_positions_has_the_counts_of_one_with_more_places() -> None:
    """Axes before the channels are positions: 5 images per sample have 5 times the places, the same class."""
    layer = op.Convolution((1, 1), (1, 1), (1, 1), 2, (3, 3), True)
    one = entropy_of(layer, (4, 6, 6), (8, 6, 6))
    five = entropy_of(layer, (5, 4, 6, 6), (5, 8, 6, 6))
    assert (one.count, one.derivative_count, one.gain) == (five.count, five.derivative_count, five.gain)
    assert one.count == 2 * (2 * 9 + 1) * 8
    assert (one.positions, five.positions) == (36, 5 * 36)



@pytest.mark.parametrize("bias", [False, True])
def test_counts_of_convolutions(bias: bool) -> None:
    """Signed parameters of a grouped kernel with torch's own shapes; bias acts at every position."""
    layer = torch.nn.Conv2d(4, 6, (2, 3), stride=2, groups=2, bias=bias)
    after = layer(torch.zeros(1, 4, 7, 9)).shape[1:]
    entropy = entropy_of(convolution((2, 3), (2, 2), (0, 0), (1, 1), 2, bias), (4, 7, 9), tuple(after))
    assert entropy.count == 2 * sum(p.numel() for p in layer.parameters())
    assert entropy.derivative_count == 2 * layer.weight.numel()
    assert entropy.positions == (after[1] * after[2] if bias else 0)
    assert entropy.gain == 1 * 2


@pytest.mark.parametrize(
    "operation",
    [
        op.Input(),
        op.Elementwise(TANH),
        op.Product(),
        op.Add(),
        op.Subtract(),
        op.Concatenate(0),
        op.Reshape(),
        op.AveragePool((2,), (2,), (0,)),
    ],
    ids=lambda o: o.label,
)
def test_operations_without_parameters_are_single_rules(operation: op.Operation) -> None:
    node = Node("v", operation, (), (2,))
    assert class_entropy(operation, node, ComputationGraph([node], "v")) is None


def test_operations_without_rule_are_refused_by_name() -> None:
    class Unknown(op.Operation):
        pass

    node = Node("v", Unknown(), (), (2,), (("weight", "v.weight"),), "net.v")
    with pytest.raises(
        UnsupportedOperationError, match=r"'v' \(net\.v\): no entropy rule for 'unknown' .*\(weight\).*adding_an_op"
    ):
        class_entropy(node.operation, node, ComputationGraph([node], "v"))


def test_all_averages_are_listed() -> None:
    """Their number is a binomial coefficient, at most count^k."""
    atoms = np.eye(5)
    assert len(averages(atoms, 3)) == math.comb(5 + 3 - 1, 3) <= 5**3
