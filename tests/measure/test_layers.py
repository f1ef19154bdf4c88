"""Sizes of layers: distances by explicit loops, operator norms of convolutions by a matrix built by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from dense import dense_convolution, spectral
from handmade import NETWORKS, Marked, Network, network, normal, weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from covergraph.errors import ForeignModelError, NonFiniteError
from covergraph.graph import operations as op
from covergraph.graph.node import Node
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


@settings(max_examples=40)
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
