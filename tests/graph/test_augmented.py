"""The augmented graph computes what Definition 2 says: derivatives, soft indicators, z."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hand_rules import quantity
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import edge_jacobian, total_derivative
from strategies import Builder, Case, cases, examples
from torch import Tensor

from covergraph.bound.certificate import augmented_loss
from covergraph.bound.derive import derive
from covergraph.errors import GraphError, LabelError, ParameterError
from covergraph.graph.augmented import (
    LOSS,
    SINK,
    AugmentedGraph,
    EdgeJacobian,
    Mode,
    NormIndicator,
    PairIndicator,
    TotalDerivative,
    condition_indicator,
    soft_indicator,
)
from covergraph.graph.function_rows import RELU
from covergraph.graph.functions import TANH
from covergraph.graph.losses import LipschitzLoss
from covergraph.graph.operations import Add, Concatenate, Product
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.values import Parameters

modes = st.sampled_from(["minimal", "paper", "output-only"])
positive = st.floats(1e-3, 1e3)


class Everywhere(dict[object, float]):
    """The same level for every key."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: object) -> float:
        return self.level


def levels(level: float, gamma: float = 1.0) -> Parameters:
    every = Everywhere(level)
    return Parameters(gamma, every, every, {}, {}, rho=every)  # type: ignore[arg-type]


def labels_of(case: Case) -> Tensor:
    output = case.graph.run(case.state, *case.inputs)[case.graph.output]
    return torch.arange(len(output)) % max(output.shape[1], 2)


def values(case: Case, augmented: AugmentedGraph, parameters: Parameters) -> dict[str, Tensor]:
    return augmented.values(case.state, case.inputs, labels_of(case), parameters)


def norms(augmented: AugmentedGraph, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The argument of every indicator of a norm, by its name, each (batch,)."""
    result = {}
    for node in augmented.graph.nodes:
        if isinstance(node.operation, NormIndicator):
            result[node.name] = found[node.inputs[0]].flatten(1).norm(dim=1)
        if isinstance(node.operation, PairIndicator):
            result[node.name] = torch.linalg.svdvals(found[node.inputs[0]])[:, 0]
    return result


def quantities(augmented: AugmentedGraph, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q_c by the node that has the condition, each (batch,)."""
    base = augmented.base
    return {name: quantity(base[name], [found[u] for u in base[name].inputs]) for name in augmented.conditions}


def exact_levels(augmented: AugmentedGraph, found: Mapping[str, Tensor], factor: float) -> Parameters:
    """Levels at `factor` times the largest norm (1 where that is 0); rho the smallest q over `factor`."""
    arguments = norms(augmented, found)
    smallest = {name: float(q.min()) for name, q in quantities(augmented, found).items()}
    assume(all(q > 1e-9 for q in smallest.values()))
    rho = {name: q / factor if q < np.inf else 1.0 for name, q in smallest.items()}
    s, kappa = {}, {}
    for name, norm in arguments.items():
        operation = augmented.graph[name].operation
        level = factor * float(norm.max()) or 1.0
        if isinstance(operation, NormIndicator):
            s[operation.node] = level
        if isinstance(operation, PairIndicator):
            kappa[operation.pair] = level
    return Parameters(0.7, s, kappa, {}, {}, rho=rho)


@given(st.floats(0, 1e4), positive)
def test_soft_indicator_has_its_slope_and_support(t: float, kappa: float) -> None:
    value = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    result = soft_indicator(value, kappa)
    assert 0 <= result <= 1
    if t <= kappa:
        assert result == 1
    if t >= 2 * kappa:
        assert result == 0
    if kappa * 1.001 < t < kappa * 1.999:
        assert result.item() == pytest.approx((2 * kappa - t) / kappa, rel=1e-9)
        assert torch.autograd.grad(result, value)[0].item() == pytest.approx(-1 / kappa)


@given(st.floats(0, 1e4), st.floats(0, 1e4), positive)
def test_soft_indicator_is_lipschitz_and_never_rises(t: float, other: float, kappa: float) -> None:
    low, high = sorted((t, other))
    first, second = (float(soft_indicator(torch.tensor(x, dtype=torch.float64), kappa)) for x in (low, high))
    assert 0 <= first - second <= (high - low) / kappa * (1 + 1e-9) + 1e-12


@given(st.floats(0, 3), positive)
def test_the_indicator_of_a_condition_has_its_slope_and_support(share: float, rho: float) -> None:
    q = torch.tensor(share * rho, dtype=torch.float64, requires_grad=True)
    result = condition_indicator(q, rho)
    assert 0 <= result <= 1
    if q >= rho:
        assert result == 1
    if q <= rho / 2:
        assert result == 0
    if 0.501 < share < 0.999:
        assert result.item() == pytest.approx(2 * share - 1, rel=1e-9)
        assert torch.autograd.grad(result, q)[0].item() == pytest.approx(2 / rho)


@pytest.mark.parametrize("mode", ["minimal", "paper"])
def test_z_falls_to_the_loss_as_a_condition_holds(mode: Mode) -> None:
    """x -> f -> relu -> g with weights 1: 2 |x| - 1 of 1 - l is left at rho = 1."""
    builder = Builder()
    r = builder.smooth(RELU, builder.linear(builder.input(1, name="x"), 1, name="f"), name="r")
    graph = builder.graph(builder.linear(r, 1, name="g"))
    state = {name: torch.ones(1, 1, dtype=torch.float64) for name in builder.state}
    augmented = augment(graph, LipschitzLoss(lambda h, y: 0.2 + 0 * h[:, 0], 1.0), mode)
    x = torch.tensor([[0.7], [-0.75], [3.0], [0.4], [-0.5]], dtype=torch.float64)
    at = Parameters(None, levels(1e9).s, levels(1e9).kappa, {}, {}, rho={"r": 1.0})
    z = augmented.run(state, (x,), torch.zeros(5), at)
    assert z.tolist() == pytest.approx([1 - 0.8 * 0.4, 1 - 0.8 * 0.5, 0.2, 1, 1], rel=1e-12)


@examples(40)
@given(cases(), modes, positive, positive)
def test_z_lies_between_the_loss_and_one(case: Case, mode: str, level: float, gamma: float) -> None:
    augmented = augment(case.graph, mode=mode)  # type: ignore[arg-type]
    found = values(case, augmented, levels(level, gamma))
    z, loss = found[SINK], found[LOSS]
    assert ((z >= loss - 1e-15) & (z <= 1)).all()
    arguments = torch.stack([*norms(augmented, found).values(), torch.zeros(len(z), dtype=z.dtype)])
    near = torch.stack([*quantities(augmented, found).values(), torch.full_like(z, torch.inf)]).amin(0)
    all_hold = (arguments <= level).all(0) & (near >= level)
    assert torch.equal(z[all_hold], 1 + (loss[all_hold] - 1))
    assert (z[(arguments >= 2 * level).any(0) | (near <= level / 2)] == 1).all()


@examples(25)
@given(cases(), modes)
def test_z_is_the_loss_where_all_indicators_hold(case: Case, mode: str) -> None:
    augmented = augment(case.graph, mode=mode)  # type: ignore[arg-type]
    first = values(case, augmented, levels(1.0))
    found = values(case, augmented, exact_levels(augmented, first, 1 + 1e-12))
    assert torch.allclose(found[SINK], found[LOSS], rtol=0, atol=1e-15)


@examples(25)
@given(cases(), modes, st.floats(0.5, 1))
def test_z_is_the_product_formula(case: Case, mode: str, factor: float) -> None:
    augmented = augment(case.graph, mode=mode)  # type: ignore[arg-type]
    first = values(case, augmented, levels(1.0))
    parameters = exact_levels(augmented, first, factor)
    found = values(case, augmented, parameters)
    expected = 1 - found[LOSS]
    for name, q in quantities(augmented, first).items():
        expected = expected * (2 * q / parameters.rho[name] - 1).clip(0, 1)
    for name, norm in norms(augmented, first).items():
        operation = augmented.graph[name].operation
        level = (
            parameters.s[operation.node]
            if isinstance(operation, NormIndicator)
            else parameters.kappa[operation.pair]  # type: ignore[attr-defined]
        )
        expected = expected * (2 - norm / level).clip(0, 1)
    assert torch.allclose(1 - found[SINK], expected, rtol=1e-9, atol=1e-12)


@examples(10)
@given(cases(largest=5), st.sampled_from(["minimal", "paper"]), st.floats(0.6, 1))
def test_the_certificate_averages_the_same_z(case: Case, mode: str, factor: float) -> None:
    """Its z comes from measured ends; it is not below that of the graph, and differs by what rounding is allowed.

    The graph's own norms of Jacobians may be rounding alone, as behind a normalization of two entries without eps: the
    measured upper ends, Lemma 23's margin included, are then what z is lifted by, at a slope of 1/kappa (Lemma 1).
    """
    augmented = augment(case.graph, mode=mode)  # type: ignore[arg-type]
    bound = derive(augmented)
    labels = labels_of(case)
    measured = measure(bound, case.state, [(*case.inputs, labels)])
    first = values(case, augmented, levels(1.0))
    parameters = exact_levels(augmented, first, factor)
    z = augmented.run(case.state, case.inputs, labels, parameters).numpy()
    found = augmented_loss(bound, measured, parameters)
    slack = np.full(len(z), 1e-9 + sum(2e-9 * 1e2 / rho for rho in parameters.rho.values()))  # q is lowered by 1e-9
    for name, norm in norms(augmented, first).items():
        operation = augmented.graph[name].operation
        if isinstance(operation, PairIndicator):
            upper = measured.pair_values[operation.pair]
            slack += np.maximum(upper - norm.numpy(), 0) / parameters.kappa[operation.pair]
    assert (found >= z - 1e-12).all() and (found <= z + slack).all()


@examples(12)
@given(cases(largest=5, batch=2))
def test_derivative_nodes_equal_dense_automatic_derivatives(case: Case) -> None:
    augmented = augment(case.graph, mode="paper")
    found, base = values(case, augmented, levels(1.0)), augmented.base
    pairs = [(w.name, a.name) for w in base.nodes for a in base.nodes]
    dense = {f"J[{x},{u}]": (edge_jacobian, x, u) for x, u in pairs if u in base[x].inputs}
    dense |= {f"D[{w},{a}]": (total_derivative, w, a) for w, a in augmented.pair_names}
    kinds = EdgeJacobian | TotalDerivative
    assert set(dense) == {node.name for node in augmented.graph.nodes if isinstance(node.operation, kinds)}
    for name, (oracle, w, a) in dense.items():
        expected = oracle(base, case.state, case.inputs, w, a)
        close = 1e-12 * (1 + float(expected.abs().max()))
        assert torch.allclose(found[name], expected, rtol=1e-10, atol=close), name


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Product(), lambda h: torch.diag_embed(2 * h)),
        (Add(), lambda h: 2 * torch.eye(3, dtype=h.dtype).expand(len(h), 3, 3)),
        (Concatenate(0), lambda h: torch.eye(3, dtype=h.dtype).repeat(2, 1).expand(len(h), 6, 3)),
    ],
    ids=["x * x", "x + x", "cat(x, x)"],
)
def test_a_node_that_fills_two_slots(operation: Product | Add | Concatenate, expected: object) -> None:
    builder = Builder(seed=3)
    f = builder.linear(builder.input(2, name="x"), 3, name="f")
    graph = builder.graph(builder.add(operation, f, f, name="twice"))
    case = Case(graph, builder.state, (builder.normal(4, 2),))
    found = values(case, augment(graph, mode="minimal"), levels(1.0))
    by_hand = expected(found["f"])  # type: ignore[operator]
    dense = edge_jacobian(graph, case.state, case.inputs, "twice", "f")
    for name in ("J[twice,f]", "D[twice,f]"):
        assert torch.equal(found[name], by_hand)
        assert torch.allclose(found[name], dense)


def residual() -> Case:
    builder = Builder(seed=1)
    f = builder.linear(builder.input(2, name="x"), 2, name="f")
    k = builder.add(Add(), f, builder.smooth(TANH, f, name="t"), name="k")
    return Case(builder.graph(k), builder.state, (builder.normal(3, 2),))


def test_cut_values_are_used_and_what_follows_is_computed_from_them() -> None:
    case = residual()
    augmented = augment(case.graph, mode="minimal")
    f = torch.zeros(3, 2, dtype=torch.float64)
    J = 5 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    found = augmented.values(case.state, case.inputs, labels_of(case), levels(1.0), {"f": f, "J[k,t]": J})
    assert torch.equal(found["k"], f)
    assert torch.equal(found["J[k,t]"], J)
    assert torch.allclose(found["D[k,f]"], 6 * torch.eye(2, dtype=torch.float64))


def test_expanded_tensors_may_be_cut_in() -> None:
    case = residual()
    augmented = augment(case.graph, mode="minimal")
    one = torch.ones(1, 2, dtype=torch.float64)
    runs = [
        augmented.run(case.state, case.inputs, labels_of(case), levels(1.0), {"f": f})
        for f in (one.expand(3, 2), one.repeat(3, 1))
    ]
    assert torch.equal(*runs)


def test_bad_arguments_of_run() -> None:
    case = residual()
    augmented = augment(case.graph, mode="minimal")
    labels = labels_of(case)
    with pytest.raises(ParameterError, match=r"no kappa for \('k', 'f'\)"):
        augmented.run(case.state, case.inputs, labels, Parameters(1.0, {}, {}, {}, {}))
    with pytest.raises(LabelError, match="sample 0"):
        augmented.run(case.state, case.inputs, labels + 7, levels(1.0))
    with pytest.raises(GraphError, match="no node is called 'g'"):
        augmented.run(case.state, case.inputs, labels, levels(1.0), {"g": case.inputs[0]})
    with pytest.raises(GraphError, match="2 inputs given"):
        augmented.run(case.state, case.inputs * 2, labels, levels(1.0))


def test_a_loss_outside_the_unit_interval_is_refused() -> None:
    case = residual()
    loss = LipschitzLoss(lambda output, labels: output.norm(dim=1) + 2, 1.0, "far")
    augmented = augment(case.graph, loss)
    with pytest.raises(LabelError, match="'far'"):
        augmented.run(case.state, case.inputs, labels_of(case), levels(1.0))
