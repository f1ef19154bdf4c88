"""W as a matrix against automatic differentiation, and ends of its gains against dense singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor, nn
from trajectory.recorded import ScaleShift, dense

import covergraph as cg
from covergraph.trajectory.layer import _module_node, at_node
from covergraph.trajectory.layer_map import Map
from covergraph.trajectory.spectrum import Spectrum

NO_GRADIENTS = torch.zeros(1, 1)
LAYERS = {
    "linear": (nn.Linear(6, 4), (6,)),
    "wide": (nn.Linear(3, 7), (3,)),
    "1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "2d": (nn.Conv2d(3, 2, (2, 3), padding=(1, 0), dilation=(1, 2)), (3, 5, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=2), (4, 4, 4)),
    "3d": (nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
}


def map_of(layer: nn.Module, shape: tuple[int, ...]) -> Map:
    from covergraph.trajectory.layer import Watched

    watched = Watched("", "linear", "", node=_module_node("", layer)).completed(shape)  # type: ignore[arg-type]
    if isinstance(layer, nn.Linear):
        return Map(watched.node, shape)
    return Map(Watched("", "convolution", "", node=_module_node("", layer)).completed(shape).node, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LAYERS)
def test_the_matrix_is_the_jacobian(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    layer = layer.double()
    map_, expected = map_of(layer, shape), dense(layer, torch.randn(1, *shape).double())
    assert (map_.outputs, map_.inputs) == tuple(expected.shape)
    torch.testing.assert_close(map_.matrix(layer.weight), expected)
    g = torch.randn(expected.shape[0]).double()
    torch.testing.assert_close(map_.transposed(layer.weight, g), expected.T @ g)


def ends(spectrum: Spectrum, weight: Tensor, gradient: Tensor = NO_GRADIENTS) -> dict[str, float]:
    """The ends for one step with this weight."""
    assert spectrum.weight is not None
    with torch.no_grad():
        spectrum.weight.copy_(weight)
    numbers = torch.full((2,), torch.nan, dtype=torch.float64)
    spectrum.taken = []
    spectrum.measure(1, 0, *numbers)
    moved = spectrum.moved(1, numbers[:1].numpy(), numbers[1:].numpy())
    found = spectrum.ends(moved["drift"], moved["frobenius"], gradient)
    return {name: float(value[0]) for name, value in found.items()}


def spectrum_of(layer: nn.Module, shape: tuple[int, ...], rows: int, **options: object) -> Spectrum:
    given = {"active": False, "basis": None, **options}
    return Spectrum(map_of(layer, shape), layer.weight, 1, rows=rows, **given)  # type: ignore[arg-type]


seeds = st.integers(0, 2**31)
sizes = st.sampled_from([0.0, 1e-6, 1e-2, 0.5])
blocks = st.sampled_from([1, 2**20])  # with these rows, weights are kept or not


@given(seeds, st.sampled_from(sorted(LAYERS)), sizes, blocks, st.sampled_from([torch.float32, torch.float64]))
@examples(60)
def test_ends_enclose_the_singular_values_after_any_change(
    seed: int, name: str, size: float, rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    layer, shape = LAYERS[name]
    layer.to(dtype).reset_parameters()
    x = torch.randn(1, *shape).double()
    spectrum = spectrum_of(layer, shape, rows)
    for scale in (0.0, size, size):
        found = ends(spectrum, layer.weight + scale * torch.randn_like(layer.weight))
        sigma = torch.linalg.svdvals(dense(layer.double(), x))
        layer.to(dtype)
        wide = spectrum.map.outputs > spectrum.map.inputs
        bottom = 0.0 if wide else float(sigma[-1])
        assert found["top_lower"] <= float(sigma[0]) <= found["top_upper"]
        assert found["bottom_lower"] <= bottom <= found["bottom_upper"]
        if scale == 0:
            assert found["top_upper"] - found["top_lower"] < 1e-6 * found["top_upper"]


@given(seeds, sizes, st.integers(1, 5))
@examples(40)
def test_active_rows_bound_the_gain_of_the_gradients_on_them(seed: int, size: float, active: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(5, 12).double()
    spectrum = spectrum_of(layer, (5,), 1, active=True)
    ends(spectrum, layer.weight, torch.ones(1, 12).double())
    gradient = torch.zeros(12).double()
    gradient[torch.randperm(12)[:active]] = torch.randn(active).double()
    found = ends(spectrum, layer.weight + size * torch.randn(12, 5).double(), gradient[None])
    own = torch.linalg.svdvals(layer.weight.detach()[gradient != 0])[-1]
    assert found["bottom_lower"] <= float(own) <= found["bottom_upper"]
    gain = (gradient @ layer.weight.detach()).norm() / gradient.norm()
    assert found["bottom_lower"] <= float(gain)
    if size == 0:
        assert found["bottom_lower"] == pytest.approx(float(own), rel=1e-6)


def test_more_active_rows_than_inputs_have_no_gain() -> None:
    layer = nn.Linear(2, 5).double()
    spectrum = spectrum_of(layer, (2,), 1, active=True)
    found = ends(spectrum, layer.weight.detach(), torch.ones(1, 5).double())
    assert (found["bottom_lower"], found["bottom_upper"]) == (0, 0)
    nothing = ends(spectrum, layer.weight.detach(), torch.zeros(1, 5).double())
    assert np.isnan(nothing["bottom_lower"]) and np.isnan(nothing["bottom_upper"])


@given(seeds, sizes, st.sampled_from([0.0, 1e-9, 0.1, 1.0]))
@examples(40)
def test_a_subspace_bounds_the_gain_of_gradients_in_it_and_beside_it(seed: int, size: float, beside: float) -> None:
    torch.manual_seed(seed)
    layer, basis = nn.Linear(6, 9).double(), torch.randn(9, 3).double()
    spectrum = spectrum_of(layer, (6,), 1, basis=basis)
    gradient = basis @ torch.randn(3).double() + beside * torch.randn(9).double()
    ends(spectrum, layer.weight, gradient[None])
    found = ends(spectrum, layer.weight + size * torch.randn(9, 6).double(), gradient[None])
    gain = (gradient @ layer.weight.detach()).norm() / gradient.norm()
    assert found["bottom_lower"] <= float(gain) * (1 + 1e-12)
    if size == beside == 0:
        own = torch.linalg.svdvals(layer.weight.detach().T @ torch.linalg.qr(basis).Q)[-1]
        assert found["bottom_lower"] == pytest.approx(float(own), rel=1e-5)


def test_a_scale_has_its_largest_and_its_smallest_entry() -> None:
    import covergraph as cg

    model = nn.Sequential(ScaleShift(4), nn.Linear(4, 1))
    graph = cg.trace(model, torch.randn(1, 4))
    watched = at_node(graph, graph["0.scale"], model)
    weight = torch.tensor([0.5, -3.0, 2.0, 1.0])
    model[0].weight.data.copy_(weight)
    spectrum = Spectrum(Map(watched.node, (4,)), model[0].weight, 1, True, None, 1)
    found = ends(spectrum, weight, torch.tensor([[0.0, 1.0, 1.0, 0.0]]).double())
    assert found["top_upper"] == pytest.approx(3.0) and found["bottom_lower"] == pytest.approx(2.0)


def test_a_large_convolution_has_a_certified_upper_end() -> None:
    """1 x 64 x 64 -> 4 x 64 x 64: the norm is found by products, below the ends, and the least gain is not stated."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 4, 3, padding=1)
    spectrum, x = spectrum_of(layer, (1, 64, 64), 1), torch.randn(1, 1, 64, 64)
    assert not spectrum.exact
    for first in (True, False):
        found = ends(spectrum, layer.weight + 0.1 * torch.randn_like(layer.weight))
        for _ in range(60):
            z = layer(x.requires_grad_()) - layer.bias[:, None, None]
            (x,) = torch.autograd.grad(z, x, z)
            norm, x = float(x.norm().sqrt()), x.detach() / x.norm()
        assert norm <= found["top_upper"] <= (1.5 * norm if first else 3.1 * float(layer.weight.detach().norm()))
        assert found["bottom_lower"] == 0


def test_a_huge_layer_has_its_frobenius_norm() -> None:
    layer = nn.Linear(3000, 1500)
    spectrum = spectrum_of(layer, (3000,), 1)
    object.__setattr__(spectrum, "exact", False)
    found = ends(spectrum, layer.weight.detach())
    norm = float(torch.linalg.matrix_norm(layer.weight.detach()[:100], 2))
    assert norm <= found["top_upper"] <= 1.6 * float(layer.weight.detach().norm())
    assert found["bottom_lower"] == 0 and np.isnan(found["bottom_upper"])


@pytest.mark.parametrize("sides", [(6, 9), (9, 6)])
def test_small_weights_are_known_at_every_step(sides: tuple[int, int]) -> None:
    """Also within a block, where W has gone further than its least singular value; active rows, too."""
    torch.manual_seed(3)
    rows, columns = sides
    net = nn.Sequential(nn.Linear(columns, rows), nn.ReLU(), nn.Linear(rows, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    weights, supports = [], []
    with cg.TrajectoryRecorder(net, optimizer, active_rows=rows > columns) as recorder:
        for _ in range(60):
            optimizer.zero_grad()
            x = torch.randn(1, columns)
            (net(x) - x.sum()).square().sum().backward()
            weights.append(net[0].weight.detach().double().clone())
            supports.append(net[0].bias.grad != 0)
            optimizer.step()
    found = recorder.trajectory
    exact = [torch.linalg.svdvals(w) for w in weights]
    np.testing.assert_allclose(found["top_upper"], [float(s[0]) for s in exact], rtol=1e-10)
    np.testing.assert_allclose(found["top_lower"], [float(s[0]) for s in exact], rtol=1e-10)
    if rows > columns:
        exact = [torch.linalg.svdvals(w[s]) for w, s in zip(weights, supports, strict=True)]
    known = [i for i, s in enumerate(supports) if 0 < int(s.sum()) <= columns]
    assert len(known) > 20
    least = [float(exact[i][-1]) for i in known]
    np.testing.assert_allclose(found["bottom_lower"][known], least, rtol=1e-9)
    np.testing.assert_allclose(found["bottom_upper"][known], least, rtol=1e-9)
