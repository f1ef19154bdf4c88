"""The failed first attempt: with indicators on the output's derivatives only, no constant exists (Example 1)."""

from __future__ import annotations

import math

import pytest
import torch
from strategies import Builder, Case

from covergraph.bound.constants import release_lipschitz
from covergraph.bound.derive import derive
from covergraph.errors import MissingPairError
from covergraph.graph.augmented import AugmentedGraph, Mode
from covergraph.graph.functions import SIN
from covergraph.passes.augment import augment
from covergraph.values import Parameters


def sines(linear_between: int) -> Case:
    """x -> f1 -> sin -> doubled ... -> f3 -> sin: Example 1, the doubling by linear layers of weight 2."""
    builder = Builder()
    last = builder.smooth(SIN, builder.linear(builder.input(1, name="x"), 1, name="f1"), name="sin1")
    for i in range(linear_between):
        last = builder.linear(last, 1, name=f"double{i}")
    last = builder.linear(last, 1, bias=True, name="f3")
    graph = builder.graph(builder.smooth(SIN, last, name="sin3"))
    state = {name: torch.full_like(value, 2.0) for name, value in builder.state.items()}
    state |= {"f1.weight": torch.ones(1, 1, dtype=torch.float64), "f3.weight": torch.ones(1, 1, dtype=torch.float64)}
    state["f3.bias"] = torch.tensor([math.acos(0.5**linear_between)], dtype=torch.float64)
    return Case(graph, state, (torch.zeros(1, 1, dtype=torch.float64),))


def levels(augmented: AugmentedGraph) -> Parameters:
    """1, but 2 for the derivatives of the output in uncovered nodes: their indicators stay off their ramps."""
    covered, output = augmented.base.covered, augmented.base.output
    kappa = {(w, a): 2.0 if w == output and a not in covered else 1.0 for w, a in augmented.pair_names}
    kappa |= {pair: 2.0 for pair in kappa if pair[1].startswith("double")}
    return Parameters(0.5, dict.fromkeys(augmented.hidden, 1.0), kappa, {}, {})


def slope_at_last_linear(case: Case, mode: Mode, cut: dict[str, float]) -> tuple[float, float, list[float]]:
    """|dz/dh_{f3}| just below its value, z there, and the values of the indicators at it."""
    augmented = augment(case.graph, mode=mode)
    y, parameters = torch.ones(1, dtype=torch.int64), levels(augmented)
    tensors = {
        name: torch.full((1, 1, 1) if name.startswith("J[") else (1, 1), value, dtype=torch.float64)
        for name, value in cut.items()
    }
    found = augmented.values(case.state, case.inputs, y, parameters, tensors)
    indicators = [float(found[node.name]) for node in augmented.graph.nodes if node.operation.label == "indicator"]
    h = (found["f3"] - 1e-9).requires_grad_()
    z = augmented.run(case.state, case.inputs, y, parameters, {**tensors, "f3": h})
    gradient = torch.autograd.grad(z.sum(), h)[0] if z.requires_grad else torch.zeros(1)
    return abs(float(gradient)), float(z.detach()), indicators


@pytest.mark.parametrize("N", [2.0, 10.0, 100.0, 1000.0])
def test_output_only_mode_fails_on_cut_values(N: float) -> None:
    """All its indicators are 1, and the slope of z grows like N; minimal mode has collapsed there."""
    cut = {"sin1": 0.0, "f3": math.acos(1 / N), "J[sin1,f1]": 1.0, "J[f3,sin1]": N}
    slope, _, indicators = slope_at_last_linear(sines(0), "output-only", cut)
    assert min(indicators) >= 1 - 1e-9
    assert slope == pytest.approx(math.sqrt(N**2 - 1), rel=1e-5)
    slope, z, indicators = slope_at_last_linear(sines(0), "minimal", cut)
    assert (min(indicators), z, slope) == (0, 1, 0)


@pytest.mark.parametrize("L", [1, 4, 10])
def test_output_only_mode_fails_on_genuine_networks(L: int) -> None:
    """Nothing is given values but the last linear node its own: the slope is exponential in the depth."""
    case = sines(L)
    slope, z, indicators = slope_at_last_linear(case, "output-only", {})
    assert min(indicators) >= 1 - 1e-9
    assert z < 1e-5
    assert slope == pytest.approx(math.sqrt(4**L - 1), rel=1e-4)
    slope, _, _ = slope_at_last_linear(case, "minimal", {})
    assert slope <= minimal_constant(case)


def minimal_constant(case: Case) -> float:
    augmented = augment(case.graph, mode="minimal")
    p = levels(augmented)
    return release_lipschitz(augmented, 2.0, p.s, p.kappa, derive(augmented).taubar(p)).hidden("f3")


def test_minimal_mode_has_a_constant_where_output_only_mode_has_none() -> None:
    case = sines(0)
    augmented = augment(case.graph, mode="output-only")
    assert set(augmented.pair_names) == {("sin3", v) for v in ("f1", "sin1", "f3")}
    p = levels(augmented)
    constants = release_lipschitz(augmented, 2.0, p.s, p.kappa, derive(augmented).taubar(p))
    with pytest.raises(MissingPairError):
        constants.hidden("f3")
    assert minimal_constant(case) == pytest.approx(8, rel=1e-12)
