"""Theorem L2 on networks small enough to write out all Π n_l rows: against a dense LP, and as an inequality."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn
from trajectory.relu_networks import Case, dense, graph_of, network, random_case, slopes, two_neurons

import covergraph
from covergraph.errors import TrajectoryError
from covergraph.trajectory.empty_regions import factor, fewest, least_costs, theorem2, theorem2_sum
from covergraph.trajectory.ledger import Statement
from covergraph.trajectory.patterns import Patterns, patterns


def test_the_graphs_are_those_of_tracing() -> None:
    model = network((3, 4, 2, 1), sigmoid=True)
    assert covergraph.trace(model, torch.zeros(1, 3, dtype=torch.float64)).nodes == graph_of(model).nodes


def dense_minimum(S: np.ndarray, s: np.ndarray, costs: np.ndarray) -> float:
    """min ‖a ⊙ costs‖_1 with S a = s over all rows and all points, NaN if infeasible."""
    solved = linprog(np.tile(costs, 2), A_eq=np.hstack([S, -S]), b_eq=s, method="highs")
    return float(solved.fun) if solved.status == 0 else np.nan


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [random_case(seed) for seed in range(56)]


def regions(case: Case) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """One x of each region that the x meet, with S and s(x) written out."""
    S, found = dense(patterns(case.graph, case.model, case.points)), patterns(case.graph, case.model, case.x)
    columns = dense(found)
    for k in found.distinct()[0]:
        yield k, S, columns[:, k]


def test_more_than_500_regions_with_a_statement_and_none_is_violated(
    cases: list[Case], record_property: Callable[[str, object], None]
) -> None:
    """Bound >= true slope, optimum and feasibility as by the dense LP, over random networks of up to 36 rows."""
    feasible, fresh, infeasible, worst = 0, 0, 0, np.inf
    for case in cases:
        statement = theorem2(case.graph, case.model, case.x, case.points, case.costs, beta=case.beta, gamma=0.0)
        assert statement.violations == 0
        true, upper = slopes(case.model, case.x, "x"), statement.steps["upper"]
        np.testing.assert_allclose(statement.steps["value"], true, rtol=1e-9, atol=1e-13)
        phi = factor(patterns(case.graph, case.model, case.points))
        for k, S, s in regions(case):
            expected = dense_minimum(S, s, case.costs) * case.beta * phi
            assert np.isnan(expected) == np.isnan(upper[k])
            if np.isnan(expected):
                infeasible += 1
                continue
            feasible += 1
            fresh += not (s[:, None] == S).all(axis=0).any()  # no point has this pattern itself
            assert upper[k] >= true[k] * (1 - 1e-12)
            np.testing.assert_allclose(upper[k], expected, rtol=1e-6, atol=1e-9)
            if true[k] > 0:
                worst = min(worst, upper[k] / true[k])
    record_property("feasible regions", feasible)
    record_property("empty regions among them", fresh)
    record_property("infeasible share", infeasible / (feasible + infeasible))
    print(f"{feasible} feasible, {fresh} of them empty, {infeasible} infeasible, least bound/slope {worst:.4g}")
    assert feasible >= 500 and fresh >= 100 and infeasible >= 100 and 1 <= worst < 1.5


def test_too_small_costs_are_caught(cases: list[Case]) -> None:
    """The inequality is no empty one: with costs cut to a third, or with β too small, it fails."""
    for costs, beta in ((1 / 3, 1.0), (1.0, 1 / 3)):
        broken = sum(
            theorem2(c.graph, c.model, c.x, c.points, costs * c.costs, beta=beta * c.beta, gamma=0.0).violations
            for c in cases[::2]  # without sigmoid, where φ = 1
        )
        assert broken > 20


def test_dropped_rows_prove_nothing(cases: list[Case]) -> None:
    """The same minimum with the rows of half the paths left out is below the true slope somewhere."""
    broken = 0
    for case in cases[::2]:
        true = slopes(case.model, case.x, "x")
        for k, S, s in regions(case):
            broken += case.beta * dense_minimum(S[::2], s[::2], case.costs) < true[k] * (1 - 1e-6)
    assert broken > 20


@pytest.mark.parametrize(
    ("points", "x", "bound", "summed"),
    [
        ([[1.0, -1.0], [-1.0, 1.0]], [1.0, 1.0], 7.0, 8.0),  # 11 = 10 + 01: 3 + 4, and 2 max(3, 4)
        ([[1.0, -1.0], [1.0, 1.0]], [-1.0, 1.0], 8.0, None),  # 01 = 11 - 10: 5 + 3, no sum
        ([[1.0, 1.0], [-1.0, 1.0]], [2.0, 3.0], 5.0, 5.0),  # a pattern of the sample itself
        ([[1.0, -1.0], [2.0, -1.0]], [1.0, 1.0], None, None),  # the second neuron was never active
        ([[1.0, -1.0]], [-1.0, -1.0], 0.0, 0.0),  # the empty combination: f is constant there
    ],
)
def test_combinations_by_hand(
    points: list[list[float]], x: list[float], bound: float | None, summed: float | None
) -> None:
    model = two_neurons()
    X, at = torch.tensor(points, dtype=torch.float64), torch.tensor([x], dtype=torch.float64)
    graph, costs = covergraph.trace(model, at), slopes(model, X, "b")
    arguments = (graph, model, at, X, costs)
    for statement, expected in (
        (theorem2(*arguments, beta=1.0, gamma=0.0), bound), (theorem2_sum(*arguments, beta=1.0, gamma=0.0), summed),
    ):
        assert (statement.upper is None) == (expected is None) and statement.violations == 0
        assert statement.lower is None and statement.value == pytest.approx(slopes(model, at, "x")[0])
        if expected is not None:
            assert statement.upper == pytest.approx(expected, rel=1e-9) and statement.upper >= expected


def test_the_lp_prefers_the_cheap_combination() -> None:
    """11 is sampled at cost 100, 10 and 01 at 1 each; a point without gradient (NaN) counts as not sampled."""
    model = two_neurons()
    X = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    graph, at = covergraph.trace(model, X[:1]), X[:1]
    nan = np.nan
    for costs, expected in (([100.0, 1.0, 1.0, nan], 2.0), ([100.0, 1.0, 1.0, 0.5], 0.5), ([9.0, 1.0, nan, 9.0], 9.0)):
        found = theorem2(graph, model, at, X, np.array(costs), beta=1.0, gamma=0.0)
        assert found.upper == pytest.approx(expected, rel=1e-9)
    with pytest.raises(TrajectoryError, match="finite cost"):
        theorem2(graph, model, at, X, np.full(4, np.nan), beta=1.0, gamma=0.0)
    with pytest.raises(TrajectoryError, match="expected one norm"):
        theorem2(graph, model, at, X, np.ones(3), beta=1.0, gamma=0.0)


@pytest.mark.parametrize("theorem", [theorem2, theorem2_sum])
def test_numbers_that_make_no_sense_are_refused(theorem: Callable[..., Statement]) -> None:
    model = two_neurons()
    X = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    graph, costs = covergraph.trace(model, X), np.ones(2)
    for beta, gamma in ((-1.0, 0.0), (np.nan, 0.0), (np.inf, 0.0), (1.0, -0.5), (1.0, np.nan)):
        with pytest.raises(TrajectoryError, match="both at least 0, beta finite"):
            theorem(graph, model, X, X, costs, beta=beta, gamma=gamma)
    for x, message in ((X[:0], "at least one"), (X.float(), "float64"), (X * np.nan, "not finite")):
        with pytest.raises(TrajectoryError, match=message):
            theorem(graph, model, x, X, costs, beta=1.0, gamma=0.0)
    assert theorem(graph, model, X, X, [3.0, 4.0], beta=1.0, gamma=0.0).upper is not None  # a list of numbers


def test_a_saturated_sigmoid_leaves_no_statement_and_says_so() -> None:
    model = nn.Sequential(*two_neurons(), nn.Sigmoid())
    X = torch.tensor([[1.0, -1.0], [-300.0, 300.0]], dtype=torch.float64)
    with torch.no_grad():
        model[2].weight.mul_(-1)
    found = theorem2(covergraph.trace(model, X), model, X, X, np.ones(2), beta=1.0, gamma=0.0)
    assert found.upper is None and [a.name for a in found.ledger.with_status("false")] == ["0 < f < 1 at the points"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_costs_of_saturated_sigmoids_are_rounded(dtype: torch.dtype) -> None:
    """f' = f(1-f) of autograd loses the digits of 1 - f as f nears 1; where it is 0, so is the cost."""
    model = nn.Sequential(*two_neurons(), nn.Sigmoid()).to(dtype)
    X = torch.stack([torch.linspace(0.1, 15, 150), -torch.ones(150)], 1).to(dtype)
    graph, costs = covergraph.trace(model, X), slopes(model, X, "b")
    at = torch.tensor([[1e-9, -1.0]], dtype=dtype)  # f = 1/2: the slope is the largest that φ allows for
    assert costs[-1] == 0
    stated, tight = 0, 0
    for i in range(len(X)):
        try:
            found = theorem2(graph, model, at, X[i : i + 1], costs[i : i + 1], beta=1.0, gamma=0.0)
        except TrajectoryError as error:
            assert "1 up to rounding" in str(error)
            continue
        assert found.violations == 0 and found.upper is not None and found.value is not None
        stated, tight = stated + 1, tight + (found.upper < found.value * (1 - 1e-3))
    assert 10 < stated < 140 and tight > 0  # the plain bound is too small here and there, by more than 1e-3


def test_the_fewest_patterns_of_a_product() -> None:
    """Two layers: the box {1,2} x {1,2} is the union of two boxes, not only of its four corners."""
    corners = [([1, 0], [1, 0]), ([1, 0], [0, 1]), ([0, 1], [1, 0]), ([0, 1], [0, 1])]
    halves = [([1, 1], [1, 0]), ([1, 1], [0, 1])]
    whole = [([1, 1], [1, 1])]

    def of(rows: list[tuple[list[int], list[int]]]) -> Patterns:
        layers = tuple(np.array([row[i] for row in rows], dtype=bool) for i in range(2))
        return Patterns(layers, np.ones(len(rows)), np.zeros(len(rows)), False)

    assert fewest(of(corners), of(whole))[0] == 4
    assert fewest(of(corners + halves), of(whole))[0] == 2
    assert fewest(of(corners[:3] + halves), of(whole))[0] == 2
    assert np.isnan(fewest(of(corners[:3]), of(whole))[0])
    assert fewest(of([*corners[:3], *halves[1:]]), of(whole))[0] == 3
    overlapping = of([([1, 1], [1, 0]), ([1, 0], [1, 1]), corners[0], corners[3]])  # first + second - third + fourth
    assert np.isnan(fewest(overlapping, of(whole))[0])
    assert least_costs(overlapping, np.ones((1, 4)), of(whole))[0, 0] == pytest.approx(4)


def test_the_corollary_is_no_tighter_than_the_theorem_and_never_violated(cases: list[Case]) -> None:
    stated = 0
    for case in cases:
        arguments = (case.graph, case.model, case.x, case.points, case.costs)
        summed, least = (t(*arguments, beta=case.beta, gamma=0.0) for t in (theorem2_sum, theorem2))
        known = ~np.isnan(summed.steps["upper"])
        assert summed.violations == 0
        assert np.all(summed.steps["upper"][known] >= least.steps["upper"][known] * (1 - 1e-9))
        stated += int(known.sum())
    assert stated > 500


def test_slopes_that_grew_since_they_were_sampled_need_the_whole_of_gamma() -> None:
    """The last layer grows by half, patterns stay: λ is 1.5 times what was sampled, which is 1 + γ exactly."""
    torch.manual_seed(2)
    model = network((4, 4, 1), False)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    X = torch.randn(12, 4, dtype=torch.float64)
    costs = slopes(model, X, "b")
    with torch.no_grad():
        model[-1].weight.mul_(1.5)
    found = theorem2(graph_of(model), model, X, X, costs, beta=1.0, gamma=0.5)
    assert found.violations == 0 and found.instances == len(X)
    np.testing.assert_allclose(found.steps["upper"], found.steps["value"], rtol=1e-9)
    assert theorem2(graph_of(model), model, X, X, costs, beta=1.0, gamma=0.4).violations > 0
