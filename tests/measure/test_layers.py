"""Sizes of layers: distances by explicit loops, operator norms of convolutions by a matrix built by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense import dense_convolution, spectral
from handmade import NETWORKS, Marked, Network, network, normal, weights
from hypothesis import assume, given
from hypothesis import strategies as st
from operation_cases import random
from strategies import examples
from torch import Tensor, nn

from covergraph.errors import ForeignModelError, NonFiniteError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.measure import edges_weights, layers
from covergraph.measure.edges_spectra import norm_ends
from covergraph.measure.layers import layer_sizes
from covergraph.measure.measure import measure
from covergraph.values import LayerSize, Measurement


class OneConvolution(Marked):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.k = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.k(x)


def one_convolution(layer: nn.Conv2d, side: tuple[int, int]) -> Network:
    shape = (layer.in_channels, *side)
    out = tuple(layer(torch.zeros(1, *shape)).shape[1:])
    ints = [tuple(map(int, v)) for v in (layer.stride, layer.padding, layer.dilation, layer.kernel_size)]
    operation = op.Convolution(*ints[:3], layer.groups, ints[3], bias=True)
    nodes = [
        Node("x", op.Input(), (), shape),
        Node("k", operation, ("x",), out, weights("weight", "bias", of="k")),
    ]
    return network(OneConvolution(layer), nodes, normal(shape))


def sizes(net: Network, start: nn.Module | None = None) -> dict[str, LayerSize]:
    return layer_sizes(net.graph, net.module.state_dict(), None if start is None else start.state_dict())


def assert_encloses(found: Measurement, truth: float) -> None:
    assert found.lower <= truth <= found.upper
    assert found.upper - found.lower <= 1e-9 * truth


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@examples(40)
@given(
    pairs,
    pairs,
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    pairs,
    st.integers(1, 2),
    st.integers(0, 999),
)
def test_norm_of_a_convolution_is_that_of_the_matrix_built_by_hand(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    seed: int,
) -> None:
    side = (6, 5)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(s + 2 * p >= span for s, p, span in zip(side, padding, spans, strict=True)))
    torch.manual_seed(seed)
    layer = nn.Conv2d(2 * groups, 2 * groups, kernel, stride, padding, dilation, groups)  # type: ignore[arg-type]
    net = one_convolution(layer, side)
    dense = dense_convolution(layer.weight, (2 * groups, *side), stride, padding, dilation, groups)
    x = net.inputs(1)[0]
    shift = layer.bias.detach().repeat_interleave(dense.shape[0] // len(layer.bias))
    np.testing.assert_allclose(
        dense @ x.flatten().numpy() + shift.numpy(), layer(x).detach().flatten(), atol=1e-12
    )
    assume(dense.any())
    assert_encloses(sizes(net)["k"].operator, spectral(dense))


def test_distances_by_loops_with_and_without_bias() -> None:
    net = NETWORKS["residual"]()
    start = NETWORKS["residual"]().module
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(torch.randn_like(parameter))
    found, zero = sizes(net, start), sizes(net)
    for parameter in (*net.module.parameters(), *start.parameters()):
        parameter.requires_grad_(False)
    for name in ("a", "b", "c"):
        layer, reference = getattr(net.module, name), getattr(start, name)
        rows_a = rows_b = rows_zero = entries = 0.0
        for i in range(layer.weight.shape[0]):
            shift = [float(layer.weight[i, j] - reference.weight[i, j]) for j in range(layer.weight.shape[1])]
            row = [float(w) for w in layer.weight[i]]
            bias = [] if layer.bias is None else [float(layer.bias[i] - reference.bias[i])]
            rows_a += math.hypot(*shift, *bias)
            rows_b += sum(map(abs, shift))
            rows_zero += math.hypot(*row)
            entries += sum(map(abs, row))
        assert_encloses(found[name].a, rows_a)
        assert_encloses(found[name].b, rows_b)
        assert_encloses(found[name].a_zero, rows_zero)
        assert_encloses(found[name].b_zero, entries)
        assert_encloses(zero[name].b, entries)
        assert_encloses(found[name].operator, spectral(layer.weight.detach()))
        assert (found[name].bias is None) == (layer.bias is None)
        if layer.bias is not None:
            norm = found[name].bias
            assert norm is not None
            assert_encloses(norm, math.hypot(*map(float, layer.bias)))


def test_kernels_are_matrices_with_one_row_a_channel() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, (2, 3), groups=2)
    found = sizes(one_convolution(layer, (4, 4)))["k"]
    rows = [layer.weight[o].flatten().tolist() for o in range(6)]
    assert len(rows[0]) == 2 * 2 * 3
    assert_encloses(found.a_zero, sum(math.hypot(*row) for row in rows))
    assert_encloses(
        found.a, sum(math.hypot(*row, b) for row, b in zip(rows, layer.bias.tolist(), strict=True))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_distances_to_the_reference_survive_the_dtype_of_the_measurement(dtype: torch.dtype) -> None:
    """A cast of the weights to float32 would lose a distance of 1e-9."""
    net = NETWORKS["mlp"]()
    start = copy.deepcopy(net.module)
    with torch.no_grad():
        start.f1.weight += 1e-9
    found = measure(net.bound(), net.module, net.loader(6, 4), init_model=start, dtype=dtype)
    distance = (net.module.f1.weight - start.f1.weight).detach().numpy()
    assert_encloses(found.layers["f1"].b, np.abs(distance).sum())
    assert found.reference == "initial weights"
    assert found.layers["f2"].a.upper == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_reference_weights_must_be_finite(value: float) -> None:
    net = NETWORKS["mlp"]()
    start = copy.deepcopy(net.module)
    with torch.no_grad():
        start.f2.weight[0, 1] = value
    with pytest.raises(NonFiniteError, match=r"'f2'.*reference"):
        sizes(net, start)


def test_reference_of_another_architecture_is_refused() -> None:
    net = NETWORKS["mlp"]()
    start = copy.deepcopy(net.module)
    start.f2 = nn.Linear(6, 7, bias=False)
    with pytest.raises(ForeignModelError, match=r"'f2'.*\(7, 6\).*\(4, 6\).*init_model"):
        sizes(net, start)
    with pytest.raises(ForeignModelError, match=r"'f1'.*'f1\.weight'"):
        sizes(net, nn.Linear(2, 2))


def single(
    operation: op.Operation, shape: tuple[int, ...], out: tuple[int, ...], learned: str, fixed: str = ""
) -> ComputationGraph:
    """One node of `operation`, its learned and fixed roles named after themselves."""
    roles, constants = (tuple((role, role) for role in text.split()) for text in (learned, fixed))
    inputs = () if isinstance(operation, op.Parameter) else ("x",)
    kind: Any = "integer" if isinstance(operation, op.Embedding) else "float"
    held = Weights(constants={name: torch.zeros(1) for _, name in constants})
    nodes = [Node("x", op.Input(), (), shape, kind=kind), Node("v", operation, inputs, out, roles, "", constants)]
    return ComputationGraph(nodes, "v", weights=held)


def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + random(*value.shape, seed=i + 50) for i, (name, value) in enumerate(state.items())}


def parts(values: Tensor) -> list[float]:
    return [float(v) for v in values.flatten()]


def test_rows_of_transposed_convolutions_are_output_channels() -> None:
    """weight[c, o, i] of group g leads from channel 2 g + c to channel 3 g + o."""
    state = {"weight": random(4, 3, 5), "bias": random(6, seed=1)}
    start = changed(state)
    operation = op.TransposedConvolution((2,), (1,), (0,), (1,), 2, (5,), True)
    graph = single(operation, (4, 7), (6, 15), "weight bias")
    found = layer_sizes(graph, state, start)["v"]
    change, shift = state["weight"] - start["weight"], parts(state["bias"] - start["bias"])
    rows, own = ([[] for _ in range(6)] for _ in range(2))  # type: ignore[var-annotated]
    for c, o, i in np.ndindex(4, 3, 5):
        rows[3 * (c // 2) + o].append(float(change[c, o, i]))
        own[3 * (c // 2) + o].append(float(state["weight"][c, o, i]))
    entries = sum(abs(v) for row in rows for v in row)
    assert_encloses(found.a, sum(math.hypot(*row, b) for row, b in zip(rows, shift, strict=True)))
    assert_encloses(found.b, entries)
    assert_encloses(found.a_zero, sum(math.hypot(*row) for row in own))
    plain = torch.func.jacrev(lambda x: F.conv_transpose1d(x, state["weight"], None, 2, 1, 0, 2))
    assert_encloses(found.operator, spectral(plain(random(1, 4, 7)).reshape(6 * 15, -1)))
    assert found.bias is not None
    assert_encloses(found.bias, math.hypot(*parts(state["bias"])))


@pytest.mark.parametrize("learned", ["scale shift", "scale", "shift"])
def test_affine_maps_have_the_entries_of_what_is_learned(learned: str) -> None:
    state = {"scale": random(3, 1), "shift": random(3, 1, seed=1)}
    start = {role: value if role in learned else state[role] for role, value in changed(state).items()}
    graph = single(op.Affine(True, True), (3, 4), (3, 4), learned, " ".join({*state} - {*learned.split()}))
    found = layer_sizes(graph, state, start)["v"]
    scale, shift = (
        sum(map(abs, parts(state[role] - start[role]))) if role in learned else 0.0 for role in ("scale", "shift")
    )
    length = math.hypot(*parts(state["scale"] - start["scale"]))
    assert_encloses(found.a, math.hypot(length, shift))
    assert_encloses(found.b, scale)
    own = parts(state["scale"]) if "scale" in learned else [0.0]
    assert_encloses(found.a_zero, math.hypot(*own))
    assert_encloses(found.b_zero, sum(map(abs, own)))
    assert_encloses(found.operator, max(map(abs, parts(state["scale"]))))
    assert found.bias is not None
    assert_encloses(found.bias, math.hypot(*parts(state["shift"])))


def test_a_learned_bias_beside_a_fixed_weight_is_a_shift() -> None:
    state = {"weight": random(3, 4), "bias": random(3, seed=1)}
    found = layer_sizes(single(op.Linear(True), (4,), (3,), "bias", "weight"), state, None)["v"]
    entries = sum(map(abs, parts(state["bias"])))
    assert_encloses(found.a, entries)
    assert found.b.upper == found.a_zero.upper == found.b_zero.upper == 0
    assert_encloses(found.operator, spectral(state["weight"]))


def test_a_fixed_bias_does_not_count_as_distance() -> None:
    state = {"weight": random(3, 4), "bias": random(3, seed=1)}
    found = layer_sizes(single(op.Linear(True), (4,), (3,), "weight", "bias"), state, None)["v"]
    assert_encloses(found.a, sum(math.hypot(*parts(row)) for row in state["weight"]))
    assert found.bias is not None
    assert_encloses(found.bias, math.hypot(*parts(state["bias"])))


def test_tables_values_and_slopes() -> None:
    table, start = random(5, 3), random(5, 3, seed=1)
    found = layer_sizes(single(op.Embedding(), (2,), (2, 3), "weight"), {"weight": table}, {"weight": start})["v"]
    assert_encloses(found.a, sum(math.hypot(*parts(column)) for column in (table - start).T))
    assert_encloses(found.a_zero, sum(math.hypot(*parts(column)) for column in table.T))
    assert found.b.upper == found.b_zero.upper == found.operator.upper == 0
    assert found.bias is not None
    assert_encloses(found.bias, max(math.hypot(*parts(row)) for row in table))

    found = layer_sizes(single(op.Parameter(), (1,), (5, 3), "value"), {"value": table}, {"value": start})["v"]
    assert_encloses(found.a, sum(map(abs, parts(table - start))))
    assert_encloses(found.a_zero, sum(map(abs, parts(table))))
    assert found.b.upper == found.operator.upper == 0
    assert found.bias is not None
    assert_encloses(found.bias, math.hypot(*parts(table)))

    slope = torch.tensor([0.25, -3.0, 0.5], dtype=torch.float64)
    graph = single(op.ParametricReLU(), (2, 3), (2, 3), "slope")
    found = layer_sizes(graph, {"slope": slope}, {"slope": slope - 2})["v"]
    assert_encloses(found.a, math.sqrt(12))
    assert_encloses(found.b, 6)
    assert_encloses(found.b_zero, 3.75)
    assert_encloses(found.operator, 3)
    assert found.bias is None


def test_operators_of_large_layers_are_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size of exact norms both ends still enclose the norm."""
    monkeypatch.setattr(edges_weights, "norm_ends", lambda matrices: norm_ends(matrices, exact=1))
    weight = random(30, 40)
    found = layer_sizes(single(op.Linear(False), (40,), (30,), "weight"), {"weight": weight}, None)["v"].operator
    assert found.kind == "certified"
    assert 0.99 * found.upper <= found.lower <= spectral(weight) <= found.upper


@pytest.mark.parametrize("stride", [1, 2])
def test_operators_of_convolutions_on_large_images_have_both_ends(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges_weights, "DENSE", 1)
    operation = op.Convolution((stride, stride), (1, 1), (1, 1), 1, (3, 3), False)
    shape = (4, -(-9 // stride), -(-9 // stride))
    weight = random(4, 3, 3, 3)
    found = layer_sizes(single(operation, (3, 9, 9), shape, "weight"), {"weight": weight}, None)["v"].operator
    truth = spectral(dense_convolution(weight, (3, 9, 9), (stride, stride), (1, 1), (1, 1), 1))
    assert found.kind == "certified"
    assert 0.95 * truth <= found.lower <= truth <= found.upper <= 1.1 * truth


def test_rows_of_large_matrices_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, state = single(op.Linear(False), (4,), (7,), "weight"), {"weight": random(7, 4)}
    whole = layer_sizes(graph, state, None)["v"].a
    monkeypatch.setattr(layers, "ROWS", 9)
    assert layer_sizes(graph, state, None)["v"].a == whole


def test_a_layer_without_a_rule_is_refused_by_name() -> None:
    graph = single(op.Attention(1.0), (2, 2), (2, 2), "mask")
    with pytest.raises(UnsupportedOperationError, match=r"'v' .*'attention' .*mask.*adding_an_op"):
        layer_sizes(graph, {"mask": random(2, 2)}, None)
