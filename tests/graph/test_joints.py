"""phi' is that of the symbolic pieces at every break point where phi is C^1, whatever autograd says there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import mpmath
import pytest
import sympy
import torch
from hypothesis import given
from strategies import examples
from torch import Tensor, nn
from torch.nn import functional as F

import covergraph as cg
from covergraph.errors import UnsupportedOperationError
from covergraph.graph import function_rows as rows
from covergraph.graph import functions, kinks
from covergraph.graph.functions import ScalarFunction, T
from covergraph.graph.joints import KINKED
from covergraph.graph.operations import Elementwise
from covergraph.trajectory import theorem1

COMPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "symmetric log": lambda h: torch.sign(h) * torch.log(h.abs() + 1),
    "two halves": lambda h: F.relu(h) - F.relu(-h),
    "of sign and exp": lambda h: 0.5 + 0.5 * torch.sign(h) * (1 - torch.exp(-h.abs())),
    "ELU by hand": lambda h: F.relu(h) + torch.exp(-F.relu(-h)) - 1,
    "odd square": lambda h: h.abs() * h,
    "softsign by hand": lambda h: h / (1 + h.abs()),
    "away from 0": lambda h: F.relu(h - 0.1) - F.relu(0.1 - h),
    "with cancellation": lambda h: F.relu((h + 1000.0) - 1000.1) - F.relu(0.1 - h),
    "two joints": lambda h: F.relu(h - 1) - F.relu(1 - h) + (h + 2).abs() * (h + 2),
    "slopes that add up": lambda h: 0.5 * h.abs() - F.relu(h) + h * torch.sigmoid(h),
    "leaky halves": lambda h: F.leaky_relu(h, 0.5) - F.leaky_relu(-h, 0.5),
    "of minima": lambda h: torch.clamp(h, max=0.3) + torch.clamp(h, min=0.3),
    "celu by hand": lambda h: F.relu(h) + 2 * (torch.exp(-F.relu(-h) / 2) - 1),
    "far away": lambda h: F.relu(h - 1e6) - F.relu(1e6 - h),
}


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.function, self.b = nn.Linear(3, 4, bias=False), function, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def fused(function: Callable[[Tensor], Tensor]) -> ScalarFunction:
    graph = cg.trace(Net(function), torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    (row,) = [node.operation.function for node in graph.nodes if isinstance(node.operation, Elementwise)]
    return row


def beside(point: float) -> list[float]:
    """The point, the floats beside it, and some that are near."""
    near = [math.nextafter(point, side) for side in (-math.inf, math.inf)]
    return [point, *near, *(point + s * (1 + abs(point)) * 2.0**-k for s in (-1, 1) for k in (50, 30, 21, 18, 10))]


def symbolic(parts: tuple[kinks.Part, ...], at: float) -> float:
    """phi' by the piece in which a float lies, with 40 digits."""
    exact = sympy.Rational(at)
    part = next((p for p in parts if p.start <= exact < p.end), parts[-1])
    return float(sympy.diff(part.phi, T).subs(T, exact).evalf(40))


def compare(row: ScalarFunction) -> int:
    """Hold phi' to its pieces on both sides of every joint; how many joints there are."""
    if not row.expression.has(*KINKED):
        return 0
    try:
        groups = kinks.good_parts(row.expression)
    except UnsupportedOperationError:
        return 0
    points = [(float(p.end), parts) for parts in groups for p in parts[:-1]]
    for point, parts in points:
        at = torch.tensor(beside(point), dtype=torch.float64)
        found = row.derivative(at)
        allowed = row.slope_error(at, found)
        for x, slope, error in zip(at.tolist(), found.tolist(), allowed.tolist(), strict=True):
            assert abs(slope - symbolic(parts, x)) <= error <= 1e-9 * (1 + abs(slope)), (row.name, x)
    return len(points)


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_functions_have_the_slopes_of_their_pieces(name: str) -> None:
    assert compare(fused(COMPOSED[name])) >= 1


def test_autograd_errs_at_some_of_them() -> None:
    """Else this file would test nothing."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(COMPOSED["symmetric log"](x), x)
    row = fused(COMPOSED["symmetric log"])
    assert float(slope) == 0 and float(row.derivative(x.detach())) == 1


ROWS = [row for module in (functions, rows) for row in vars(module).values() if isinstance(row, ScalarFunction)]
MADE = [
    rows.elu(0.5), rows.elu(2.0, 1.5, 0.5), rows.celu(0.7), rows.leaky_relu(0.2), rows.clamp(-1, 2),
    rows.softshrink(0.3), rows.threshold(1.0, 1.0), rows.threshold(0.5, 0.0), rows.hardshrink(0.5),
]


def test_every_row_has_the_slopes_of_its_pieces() -> None:
    found = {row.name: compare(row) for row in (*ROWS, *MADE)}
    assert {"elu", "softsign"} <= {name for name, count in found.items() if count}
    assert found["relu"] == found["abs"] == 0  # true kinks are conditions


PIECES = (sympy.Abs(T), sympy.Max(T, 0), sympy.Max(-T, 0), sympy.sign(T) * T**2, T, sympy.tanh(T))


@given(st.lists(st.integers(-2, 2), min_size=6, max_size=6), st.integers(-3, 3))
@examples(15)
def test_sums_of_kinks_are_c1_or_have_a_condition(weights: list[int], shift: int) -> None:
    """At the kink all of them have, phi' is symbolic, or the point is no point of a good interval."""
    point = sympy.Rational(shift, 7)
    expression = sum((w * piece for w, piece in zip(weights, PIECES, strict=True)), sympy.S.Zero).subs(T, T - point)
    steps = (torch.abs, torch.relu, lambda x: torch.relu(-x), lambda x: torch.sign(x) * x**2, lambda x: x, torch.tanh)
    row = ScalarFunction(
        "sum", expression, lambda x: sum((w * f(x - float(point)) for w, f in zip(weights, steps, strict=True)), 0 * x)
    )
    left = sum(w * s for w, s in zip(weights, (-1, 0, -1, 0, 1, 1), strict=True))
    right = sum(w * s for w, s in zip(weights, (1, 1, 0, 0, 1, 1), strict=True))
    assert (left == right) == any(a < float(point) < b for a, b in kinks.good_intervals(expression))
    compare(row)


STEADY = [row for row in ROWS if row.slope is not None] + [rows.softplus(2.0, 30.0)]
GRID = [s * v for v in (0.0, 1e-9, 0.1, 0.74, 1.28, 3.0, 8.3, 19.5, 37.0, 120.0, 700.0, 1e3) for s in (-1, 1)]


@pytest.mark.parametrize("row", STEADY, ids=lambda row: row.name)
def test_slopes_do_not_cancel_where_a_function_saturates(row: ScalarFunction) -> None:
    """Against 1,500 digits: the stated error, and a relative one where the row is steady."""
    good = [(-math.inf, math.inf)] if row.name == "sinc" else kinks.good_intervals(row.expression)
    points = [x for x in GRID if any(a < x < b for a, b in good) and not (x > 709 and row.name == "expm1")]
    at = torch.tensor(points, dtype=torch.float64)
    found, errors = row.derivative(at), row.slope_error(at, row.derivative(at))
    with mpmath.workdps(1500):
        for x, value, error in zip(points, found.tolist(), errors.tolist(), strict=True):
            expected = reference(row, x)
            assert abs(mpmath.mpf(value) - expected) <= error, (row.name, x, value, expected)
            if row.steady and abs(expected) > 1e-290:
                assert abs(value / expected - 1) <= 64 * 2.0**-53


def reference(row: ScalarFunction, x: float) -> mpmath.mpf:
    """phi'(x) of sympy's derivative, in as many digits as mpmath is set to."""
    if row.name == "sinc" and x == 0:
        return mpmath.mpf(0)
    phi = row.expression
    if phi.has(sympy.Piecewise):
        phi = next(piece for piece, where in phi.args if where == sympy.true or bool(where.subs(T, sympy.Rational(x))))
    return sympy.lambdify(T, sympy.diff(phi, T), "mpmath")(mpmath.mpf(x))


@pytest.mark.parametrize("way", [{}, {"exact": True}, {"fill": True}])
def test_a_certificate_counts_pruned_units(way: dict[str, bool]) -> None:
    """Units whose pre-activation is exactly 0 react with slope 1 to what reads them."""
    net = Net(COMPOSED["symmetric log"]).double()
    with torch.no_grad():
        net.a.weight.zero_()
        net.a.weight[0, 0] = 2
        net.b.weight[0, 1:] = 40
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)).double()
    found = cg.analyze(net, [(x, (x[:, 0] > 0).long())], **way).measurements
    slopes = torch.cat([1 / (1 + net.a(x[:1]).abs())])
    true = float(torch.linalg.matrix_norm(net.b.weight * slopes, 2))
    assert true > 60 and found.pairs["b", "a"].upper >= true * (1 - 1e-12)


def test_a_large_weight_behind_a_saturated_function_is_seen() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.fill_(0)
        net[2].weight.fill_(1e20)
        net[2].weight[0] *= -1
    x = 20 + torch.arange(4.0)[:, None].double() / 8
    for way in ({}, {"exact": True}, {"fill": True}):
        found = cg.analyze(net, [(x, torch.ones(4))], **way).measurements.pairs["2", "0"]
        true = math.sqrt(2) * 1e20 / math.cosh(20) ** 2
        assert true > 2000 and true * (1 - 1e-12) <= found.upper <= true * (1 + 1e-9)


@pytest.mark.parametrize(("name", "status"), [("symmetric log", "not checkable"), ("tanh", "true")])
def test_a_run_says_where_autograd_errs(name: str, status: str) -> None:
    net = Net(COMPOSED.get(name, torch.tanh)).double()
    net.a.bias = nn.Parameter(torch.zeros(4).double())
    sgd = torch.optim.SGD(net.parameters(), lr=0.01)
    with cg.TrajectoryRecorder(net, sgd) as recorder:
        for x in torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(1)).double():
            sgd.zero_grad()
            net(x)[:, 0].square().sum().backward()
            sgd.step()
    (found,) = [a for a in theorem1(recorder.trajectory).ledger if a.name == "autograd's gradient is that of f"]
    assert found.status == status and ("sign" in found.evidence or "function" in found.evidence) == (status != "true")


NEAR: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "a kink close by": (lambda h: F.relu(h - 9) - F.relu(9 - h) + 1000 * F.relu(h - 9.000004), 9.000008, 1001.0),
    "a kink beside 0": (lambda h: F.relu(h) - F.relu(-h) + 100 * F.relu(h - 1e-7), 5e-7, 101.0),
    "a kink far away": (lambda h: F.relu(h - 1e8) - F.relu(1e8 - h) + 50 * F.relu(h - 1e8 - 20), 1e8 + 50, 51.0),
    "a steep power": (lambda h: F.relu(h) - F.relu(-h) + 1e24 * h.abs() ** 4, 5e-7, 1 + 4e24 * 5e-7**3),
    "a short scale": (lambda h: torch.sign(h) * torch.log(1 + h.abs() / 1e-8), 9e-7, 1e8 / 91),
}


@pytest.mark.parametrize("name", NEAR)
def test_the_neighborhood_of_a_joint_ends_before_anything_else_begins(name: str) -> None:
    function, at, slope = NEAR[name]
    row, x = fused(function), torch.tensor([at], dtype=torch.float64)
    found = row.derivative(x)
    assert float(found) == pytest.approx(slope, rel=1e-6)
    assert abs(float(found) - slope) <= float(row.slope_error(x, found)) + 1e-6 * slope


class Written(nn.Module):
    """A function that a row is given for."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) - F.relu(-x) + torch.log(2 + torch.sin(x))


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return COMPOSED["symmetric log"](x)


ODD = ScalarFunction("odd", sympy.Max(T, 0) - sympy.Max(-T, 0) + sympy.log(2 + sympy.sin(T)), Written())
HIDDEN: dict[str, tuple[nn.Module, dict[str, Any], float]] = {
    "singular points are not known": (Written(), {"functions": {Written: ODD}}, 1.5),
    "within a block": (nn.Sequential(nn.Tanh(), Log()), {"blocks": ["1"]}, 1.0),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("way", [{}, {"exact": True}, {"fill": True}], ids=str)
def test_no_joint_is_hidden(name: str, way: dict[str, bool]) -> None:
    """Seven units of slope phi'(0), each with weight 40 to the output."""
    function, options, slope = HIDDEN[name]
    net = nn.Sequential(nn.Linear(3, 8, bias=False), function, nn.Linear(8, 2)).double()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            assert isinstance(layer, nn.Linear)
            layer.weight.zero_()
        net[0].weight[0, 0], net[2].weight[0, 1:] = 2, 40
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(1)).double()
    bound = cg.derive(cg.augment(cg.trace(net, x[:2], **options)))
    found = cg.measure(bound, net, [(x, (x[:, 0] > 0).long())], **way).pairs["2", "0"]
    assert found.upper >= 40 * math.sqrt(7) * slope * (1 - 1e-12)


@pytest.mark.parametrize("way", [{}, {"exact": True}, {"fill": True}], ids=str)
def test_saturation_within_a_block_is_seen(way: dict[str, bool]) -> None:
    """sigma(tanh(t)) at t = 20: sech^2(20) is 0 for autograd."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Tanh(), nn.Sigmoid()), nn.Linear(1, 2)).double()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            assert isinstance(layer, nn.Linear)
            layer.weight.fill_(1), layer.bias.zero_()
        net[2].weight.mul_(1e20)
    x = 20 + torch.arange(4.0)[:, None].double() / 8
    bound = cg.derive(cg.augment(cg.trace(net, x[:2], blocks=["1"])))
    found = cg.measure(bound, net, [(x, torch.ones(4))], **way).pairs["2", "0"]
    gate = 1 / (1 + math.exp(-math.tanh(20)))
    true = math.sqrt(2) * 1e20 / math.cosh(20) ** 2 * gate * (1 - gate)
    assert true * (1 - 1e-12) <= found.upper <= true * (1 + 1e-9)


def test_steps_that_cancel_leave_their_sum() -> None:
    """(t + 2^-60 t) - t has the slope 2^-60, of which nothing is left step by step."""
    row = fused(lambda h: (h + h * 2.0**-60) - h)
    assert row.is_affine and float(row.derivative(torch.zeros(1).double())) == 2.0**-60
    row = fused(lambda h: (F.relu(h) + h * 2.0**-60) - F.relu(h) + F.relu(h + 1))
    at = torch.full((1,), -2.0).double()
    found = row.derivative(at)
    assert float((found - 2.0**-60).abs()) <= float(row.slope_error(at, found))
