"""Theorem 1': what a change of shared parameters does to z, and Section G for recurrent networks in numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from handmade import Recurrent
from oracles import Theorem2
from prober import sample_norms
from release import places
from strategies import Builder, Case
from torch import Tensor

from covergraph.bound.certificate import Certificate, _Numbers
from covergraph.bound.constants import release_lipschitz
from covergraph.bound.derive import Bound, Group, derive
from covergraph.graph import operations as op
from covergraph.graph.augmented import Mode
from covergraph.graph.function_rows import ABS
from covergraph.graph.functions import SIN, TANH
from covergraph.graph.interpreter import Context, apply
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.tracers import trace
from covergraph.values import Parameters

SHAPES: dict[str, tuple[op.Operation, tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "linear": (op.Linear(False), (3,), {"weight": (3, 3)}),
    "linear with bias": (op.Linear(True), (2,), {"weight": (2, 2), "bias": (2,)}),
    "linear per position": (op.Linear(True), (3, 2), {"weight": (2, 2), "bias": (2,)}),
    "convolution": (op.Convolution((1,), (1,), (1,), 1, (3,), True), (2, 3), {"weight": (2, 2, 3), "bias": (2,)}),
    "transposed convolution": (
        op.TransposedConvolution((1,), (1,), (0,), (1,), 1, (3,), True),
        (2, 3),
        {"weight": (2, 2, 3), "bias": (2,)},
    ),
    "affine": (op.Affine(True, True), (2, 3), {"scale": (2, 1), "shift": (2, 1)}),
    "shift": (op.Affine(False, True), (2, 3), {"shift": (2, 1)}),
    "PReLU": (op.ParametricReLU(), (3,), {"slope": (3,)}),
}
"""One operation that several nodes share: the shape of its values, and of its parameters by role."""


def tied(name: str, seed: int) -> Case:
    """x -> shared -> abs -> shared -> tanh -> shared -> sin, the first of them behind a layer of its own."""
    operation, shape, roles = SHAPES[name]
    builder = Builder(seed)
    last = builder.linear(builder.input(*shape, name="x"), shape[-1], name="own")
    parameters = builder.learned("shared", **{role: builder.normal(*size) for role, size in roles.items()})
    for t, function in enumerate((ABS, TANH, SIN)):
        last = builder.add(operation, last, name=f"shared{t}", parameters=parameters)
        last = builder.smooth(function, last)
    return Case(builder.graph(builder.flat(last)), builder.state, (builder.normal(1, *shape),))


def recurrent(seed: int, n: int = 1) -> Case:
    torch.manual_seed(seed)
    model = Recurrent().double().eval()
    x = torch.randn(n, 3, 2, dtype=torch.float64)
    return Case(trace(model, (x[:1],)), dict(model.named_parameters()), (x,))


class Change:
    """z before and after the parameters of a group move by `size` in a random direction, node after node.

    Untouched nodes keep their rules; the values of all earlier nodes are those that the new parameters give.
    """

    def __init__(self, case: Case, mode: Mode, seed: int, size: float) -> None:
        self.random = np.random.default_rng(seed)
        self.case, self.bound = case, derive(augment(case.graph, mode=mode))
        (self.group,) = self.bound.groups
        self.start = {name: value.detach() for name, value in case.state.items()}
        moved = {name: torch.from_numpy(self.random.standard_normal(tuple(self.start[name].shape)))
                 for name in self.group.parameters}  # fmt: skip
        length = math.sqrt(sum(float(d.square().sum()) for d in moved.values()))
        self.size = size
        self.end = self.start | {name: self.start[name] + size / length * d for name, d in moved.items()}
        self.label, self.parameters = self.levels()

    def values(self, state: dict[str, Tensor], parameters: Any, cut: dict[str, Tensor]) -> dict[str, Tensor]:
        label = torch.zeros(1, dtype=torch.int64) if parameters is None else self.label
        parameters = parameters or self.uniform(1.0)
        return self.bound.augmented.values(state, self.case.inputs, label, parameters, cut)

    def uniform(self, level: float) -> Parameters:
        a = self.bound.augmented
        s, rho = dict.fromkeys(a.hidden, level), dict.fromkeys(a.conditions, level)
        return Parameters(level, s, dict.fromkeys(a.pair_names, level), {}, {}, rho=rho)

    def levels(self) -> tuple[Tensor, Parameters]:
        """One or two indicators are on their ramps at the start, the others hold; the margin loss is on its slope."""
        a, found = self.bound.augmented, self.values(self.start, None, {})
        label = found[a.base.output].argmax(1)
        margin = float(-found[a.base.output][0].topk(2).values.diff())

        keys = [*a.hidden, *a.pair_names]
        ramps = {keys[i] for i in self.random.integers(0, len(keys), 2)}

        def ratio(key: Any) -> float:
            return float(self.random.uniform(1, 1.5) if key in ramps else self.random.uniform(0.5, 1))

        s = {v: float(found[v].norm()) / ratio(v) for v in a.hidden}
        norms = {pair: float(torch.linalg.matrix_norm(found["D[{},{}]".format(*pair)], 2)) for pair in a.pair_names}
        kappa = {pair: max(norm, 1e-3) / ratio(pair) for pair, norm in norms.items()}
        rho = {c: float(found[a.base[c].inputs[0]].abs().min()) * self.random.uniform(0.5, 1.5) for c in a.conditions}
        return label, Parameters(margin * 1.5, s, kappa, {}, {}, rho=rho, shared={self.group.nodes[0]: 1.0})

    def steps(self) -> list[tuple[str, float]]:
        """|change of z| as one node after the other, in the theorem's order, takes the new parameters."""
        after = self.values(self.end, self.parameters, {})
        cut: dict[str, Tensor] = {}
        before, changes = float(self.values(self.start, self.parameters, cut)["[z]"]), []
        for place in places(self.bound.augmented):
            cut[place.name] = after[place.name]
            z = float(self.values(self.start, self.parameters, cut)["[z]"])
            changes.append((place.name, abs(z - before)))
            before = z
        assert before == pytest.approx(float(after["[z]"]), abs=1e-12)
        return changes

    def weights(self) -> tuple[dict[str, float], float]:
        """What each node of the group may change z by for a change of the parameters by 1, and K_g."""
        a, p = self.bound.augmented, self.parameters
        tau = math.sqrt(2) / p.gamma  # type: ignore[operator]
        base = self.values(self.start, p, {})
        norms = sample_norms({v: float(base[v].norm()) for v in a.base.data_only})
        constants = release_lipschitz(a, tau, p.s, p.kappa, self.bound.taubar(p, norms), p.rho)
        numbers = _Numbers(self.bound, constants, norms, p)
        single: dict[str, float] = {}
        total = []
        for _, c in self.group.parts:
            (u,) = a.base[c.node].predecessors
            is_value = c.kind == "value"
            constant = constants.hidden(c.node) if is_value else constants.jacobian(c.node, u)
            name = c.node if is_value else f"J[{c.node},{u}]"
            single[name] = constant * numbers.sensitivity(c, numbers.radius(c.node))
            total.append(constant)
        return single, numbers.group(self.group, total)[0]


@pytest.mark.parametrize("mode", ["minimal", "paper"])
@pytest.mark.parametrize("name", [*SHAPES, "recurrent"])
def test_z_moves_no_faster_than_the_weight_of_its_group(name: str, mode: Mode) -> None:
    largest = 0.0
    for seed in range(3):
        case = recurrent(seed) if name == "recurrent" else tied(name, seed)
        for size in (1e-4, 1e-2, 1.0):
            change = Change(case, mode, seed, size)
            single, weight = change.weights()
            assert weight == pytest.approx(sum(single.values()), rel=1e-12)
            steps = change.steps()
            for place, moved in steps:
                assert moved <= single.get(place, 0.0) * size * (1 + 1e-9) + 1e-12, (name, seed, size, place)
            assert abs(sum(moved for _, moved in steps)) <= size * weight * (1 + 1e-9) + 1e-12
            largest = max(largest, *(moved / (size * single[p]) for p, moved in steps if single.get(p, 0.0) > 0))
    assert largest > 1e-3  # z does move


ATTAINED = {"linear": 0.999, "linear with bias": 0.999, "affine": 0.8, "shift": 0.999, "PReLU": 0.999}
"""What share of r_v a value with a single entry attains, at least."""


def rule(case: Case, theta: Tensor, h: Tensor) -> Tensor:
    """The value of the node `shared1` at h, as a function of the shared parameters side by side."""
    node, names = case.graph["shared1"], [name for _, name in case.graph["shared1"].parameters]
    parts = theta.split([case.state[name].numel() for name in names])
    state = {name: part.reshape(case.state[name].shape) for name, part in zip(names, parts, strict=True)}
    return apply(node.operation, node, [h], Context(state)).flatten()


@pytest.mark.parametrize("name", SHAPES)
def test_nodes_move_no_faster_than_their_sensitivity(name: str) -> None:
    """||R^theta(h) - R^theta'(h)|| <= r_v ||theta - theta'||_F; the same of Jacobians, in operator norm, with r^J."""
    case, largest = tied(name, 0), 0.0
    (group,) = derive(augment(case.graph)).groups
    contributions = {c.kind: c.entropy for _, c in group.parts if c.node == "shared1"}
    theta = torch.cat([case.state[name].flatten() for name in group.parameters])
    for seed in range(8):
        torch.manual_seed(seed)
        h = -torch.rand(1, *case.graph["shared1"].shape, dtype=torch.float64)  # negative, where a slope counts
        if seed % 2:
            h.flatten()[1:] = 0
        change = torch.func.jacrev(lambda at, h=h: rule(case, at, h))(theta)
        entropy = contributions["value"]
        limit = math.sqrt(entropy.gain * float(h.square().sum()) + entropy.positions)
        largest = max(largest, float(torch.linalg.matrix_norm(change, 2)) / limit)
        slopes = torch.func.jacrev(lambda at, h=h: torch.func.jacrev(lambda x: rule(case, at, x))(h))(theta)
        slopes = slopes.reshape(len(change), h.numel(), len(theta))
        for d in torch.randn(20, len(theta), dtype=torch.float64):
            moved = float(torch.linalg.matrix_norm(slopes @ d, 2) / d.norm())
            assert moved <= math.sqrt(contributions["derivative"].gain if "derivative" in contributions else 0) + 1e-12
    assert ATTAINED.get(name, 0.5) <= largest <= 1 + 1e-12


@pytest.fixture(scope="module")
def section_g() -> tuple[Bound, Certificate]:
    case = recurrent(0, 12)
    bound = derive(augment(case.graph))
    labels = case.graph.run(case.state, *case.inputs)[case.graph.output].argmax(1)
    labels[0] = 1 - labels[0]
    found = measure(bound, case.state, [(*case.inputs, labels)])
    return bound, bound.evaluate(found)


def group_of(bound: Bound) -> Group:
    (group,) = bound.groups
    return group


def test_section_g_in_numbers(section_g: tuple[Bound, Certificate]) -> None:
    """K = sum over t of kappatilde_{h_t} (|h_{t-1}|^2 + 1)^(1/2) + kappatilde_{J_t}; E^2 = 2 t^2 ln(2 dim)."""
    bound, certificate = section_g
    p = certificate.parameters
    assert p.gamma is not None
    loops = Theorem2(bound.graph, bound.augmented.pair_names, math.sqrt(2) / p.gamma, p.s, p.kappa)
    before = {0: "rnn.h0", 1: "rnn.0.h", 2: "rnn.1.h"}
    reach = {0: 0.0, 1: 2 * p.s["rnn.0.h"], 2: 2 * p.s["rnn.1.h"]}  # h_0 = 0
    weight = 0.0
    for t in range(3):
        name = f"rnn.{t}.recurrent"
        weight += sum(loops.hidden(name).values()) * math.hypot(reach[t], 1)
        weight += loops.jacobian(name, before[t])
    (share,) = [s for s in certificate.shares if s.contribution.kind == "shared"]
    assert share.weight == pytest.approx(weight, rel=1e-9)
    assert share.root == pytest.approx(p.shared["rnn.0.recurrent"] * math.sqrt(2 * math.log(2 * 12)), rel=1e-12)
    assert {s.contribution.node for s in certificate.shares} == {"rnn.driven", "head", "rnn.0.recurrent"}


def test_the_distance_of_shared_parameters_is_counted_once(section_g: tuple[Bound, Certificate]) -> None:
    _, certificate = section_g
    state = recurrent(0).state
    distance = sum(float(state[f"rnn.{name}_hh_l0"].detach().abs().sum()) for name in ("weight", "bias"))
    t = certificate.parameters.shared["rnn.0.recurrent"]
    assert distance <= t <= 1.05 * distance * (1 + 1e-9)


def test_the_expression_of_the_group_is_its_number(section_g: tuple[Bound, Certificate]) -> None:
    """K_g as an expression, the weights of its members and the levels put in."""
    bound, certificate = section_g
    p, group = certificate.parameters, group_of(bound)
    values: dict[Any, float] = {bound.symbols.s(v): s for v, s in p.s.items()}
    values |= {bound.symbols.radius("rnn.0.recurrent"): 0.0}
    for _, c in group.parts:
        (u,) = bound.graph[c.node].predecessors
        hidden = c.kind == "value"
        constants = certificate.constants
        values[c.weight] = constants.hidden(c.node) if hidden else constants.jacobian(c.node, u)
    (share,) = [s for s in certificate.shares if s.contribution.kind == "shared"]
    assert float(group.weight.subs(values)) == pytest.approx(share.weight, rel=1e-12)


def test_the_smaller_cover_counts(section_g: tuple[Bound, Certificate]) -> None:
    """C with every group covered node by node is larger here; it is what the members' own terms add up to."""
    bound, certificate = section_g
    numbers = _Numbers(bound, certificate.constants, certificate.measurements, certificate.parameters)
    untied = [numbers.weight_and_root(c) for c in bound.contributions]
    alone = sum((K * E) ** (2 / 3) for K, E in untied) ** 1.5
    assert alone > certificate.C
    together = sum((s.weight * s.root) ** (2 / 3) for s in certificate.shares) ** 1.5
    assert math.isclose(certificate.C, together, rel_tol=1e-8)
