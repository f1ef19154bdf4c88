"""A time budget: ends that hold, a curve that falls, and a clock that is respected."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from dense import dense_derivative, spectral
from handmade import NETWORKS, Network, mlp, residual, two_inputs
from oracles import total_derivative
from strategies import Builder

from covergraph.bound.derive import Bound, derive
from covergraph.errors import LoaderChangedError, ParameterError
from covergraph.graph import operations as op
from covergraph.graph.function_rows import LOG
from covergraph.measure import arguments, processes
from covergraph.measure.engine import Engine, Norms
from covergraph.measure.measure import measure
from covergraph.measure.plan import STEPS, plan
from covergraph.passes.augment import augment
from covergraph.values import Measurements

N = 8
MEASURE = sys.modules["covergraph.measure.measure"]
PARTS = [sys.modules[f"covergraph.measure.{name}"] for name in ("measure", "anytime", "passes")]


@pytest.fixture
def random_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanczos for all pairs without a closed form, as in large networks; small ones would be measured densely."""
    monkeypatch.setattr(MEASURE, "plan", lambda *arguments: plan(*arguments[:4], "lanczos"))


@pytest.fixture
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs that there is time for at once: after fewer of them the bound may be less than in the end."""
    monkeypatch.setattr(sys.modules["covergraph.measure.anytime"], "PATIENCE", 1e9)


@dataclasses.dataclass
class Clock:
    """Seconds that pass only where an engine measures: one for each operation of the plan and sample."""

    now: float = 0.0
    measured: int = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    for part in PARTS:
        monkeypatch.setattr(part, "clock", lambda: made.now)
    original = Engine.block

    def block(self: Engine, *arguments: Any) -> Norms:
        norms = original(self, *arguments)
        guess = self.width > 2
        rows = sum(norms.steps.values()) / STEPS if guess else len(arguments[-1])
        made.now += sum(self.plan.cost[pair] for pair in self.plan.way) * rows
        made.measured += 0 if guess else len(self.plan.way)
        return norms

    monkeypatch.setattr(Engine, "block", block)
    yield made


def whole(net: Network) -> float:
    """What all pairs of a network cost on all samples, by the clock of these tests."""
    return plan(net.graph, net.bound().measured_pairs, N, 2**30, "lanczos").operations * N


def refined(net: Network, budget: float, **options: Any) -> tuple[Bound, Measurements]:
    bound = net.bound()
    return bound, measure(bound, net.module, net.loader(N, 3), budget=budget, **options)


def truth(net: Network, found: Measurements) -> dict[tuple[str, str], list[float]]:
    inputs, _ = net.sample(N)
    rows = [[x[i : i + 1] for x in inputs] for i in range(N)]
    return {pair: [spectral(dense_derivative(net.module, one, *pair)) for one in rows] for pair in found.pairs}


def require_valid(net: Network, found: Measurements) -> None:
    for pair, norms in truth(net, found).items():
        at = found.pairs[pair]
        assert at.lower * (1 - 1e-9) <= max(norms) <= at.upper * (1 + 1e-12)
        assert (found.pair_values[pair] >= np.array(norms) * (1 - 1e-12)).all()
        assert found.pair_values[pair].max() <= at.upper


@pytest.mark.usefixtures("random_starts")
@pytest.mark.parametrize(
    ("name", "share"), [("mlp", 0.3), ("residual", 0.2), ("residual", 0.6), ("two inputs", 0.4), ("positions", 0.6)]
)
def test_all_ends_hold_wherever_the_budget_ends(name: str, share: float, clock: Clock) -> None:
    net = NETWORKS[name]()
    bound, found = refined(net, share * whole(net))
    assert 0 < clock.now <= share * whole(net)
    assert 0 < clock.measured < len(found.pairs)
    require_valid(net, found)
    assert found.failure in (0.0, 1e-3)
    values = [point.value for point in found.curve]
    assert values == sorted(values, reverse=True)
    assert [point.seconds for point in found.curve] == sorted(point.seconds for point in found.curve)
    assert found.curve[0].refined == 0 < found.curve[-1].refined
    certificate = bound.evaluate(found)
    assert certificate.value == found.curve[-1].value
    assert certificate.normalized == found.curve[-1].normalized


@pytest.mark.usefixtures("random_starts")
def test_the_probability_of_failure_is_shared_by_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which pairs are measured is decided after seeing data; the starts of all pairs pay for that."""
    net = residual()
    seen: set[tuple[int, float]] = set()
    original = Engine.block

    def block(self: Engine, *arguments: Any) -> Norms:
        seen.add((self.plan.starts, self.failure))
        return original(self, *arguments)

    monkeypatch.setattr(Engine, "block", block)
    refined(net, 1e6, failure=1e-5)
    assert seen == {(plan(net.graph, net.bound().measured_pairs, N, 2**30, "lanczos").starts, 1e-5)}


@pytest.mark.usefixtures("one_round")
def test_samples_on_which_nothing_is_defined_do_no_harm() -> None:
    """There z = 1 and norms may be infinite; the others' norms hold."""
    torch.manual_seed(3)
    builder = Builder()
    hidden = builder.linear(builder.input(3, name="x"), 4, True, name="first")
    builder.linear(builder.add(op.Elementwise(LOG), hidden, name="log"), 2, name="last")
    builder.state["first.bias"] += 4.0
    graph = builder.graph("last")
    x = 0.1 * torch.randn(12, 3, dtype=torch.float64)
    x[5] = -1e4 * torch.sign(x[5])
    values = graph.run(builder.state, x)
    labels = values["last"].nan_to_num().argmax(1)
    bad = (values["first"] <= 0).any(1)
    assert bad[5] and int(bad.sum()) == 1
    bound = derive(augment(graph))
    found = measure(bound, builder.state, [(x, labels)], budget=1e6)
    assert found.curve[-1].refined == len(found.pairs)
    for w, a in found.pairs:
        dense = torch.linalg.matrix_norm(total_derivative(graph, builder.state, (x[~bad],), w, a), 2)
        assert dense.max() <= found.pairs[w, a].upper * (1 + 1e-12) < math.inf


def test_no_time_leaves_the_bounds_along_edges() -> None:
    net = residual()
    bound, found = refined(net, 0)
    filled = measure(bound, net.module, net.loader(N, 3), fill=True)
    assert found.pairs == filled.pairs and found.filled
    for name in ("ways", "steps", "failure", "width"):
        assert getattr(found, name) == getattr(filled, name)
    for pair in found.pairs:
        np.testing.assert_array_equal(found.pair_values[pair], filled.pair_values[pair])
    (point,) = found.curve
    assert (point.value, point.refined) == (bound.evaluate(filled).value, 0)
    assert filled.curve == ()


@pytest.mark.usefixtures("random_starts", "one_round")
@pytest.mark.parametrize("make", [residual, two_inputs])
def test_enough_time_measures_all_pairs(make: Any) -> None:
    net = make()
    bound, found = refined(net, 1e6)
    exact = measure(bound, net.module, net.loader(N, 3), width=1.01)
    assert found.ways == exact.ways and not found.filled
    assert found.failure == exact.failure == 1e-3
    assert found.curve[-1].refined == len(found.pairs)
    for pair, at in found.pairs.items():
        assert at.upper <= 1.01 * at.lower * (1 + 1e-9)
        assert at.upper <= exact.pairs[pair].upper * (1 + 1e-9)
        assert at.lower >= exact.pairs[pair].lower / 1.01
    assert bound.evaluate(found).value < found.curve[0].value
    require_valid(net, found)


@pytest.mark.usefixtures("random_starts", "one_round")
def test_a_round_takes_no_more_pairs_than_there_is_time_for(clock: Clock) -> None:
    """The first round believes that there is time for all pairs, and is stopped; nothing is begun after it."""
    net = residual()
    _, found = refined(net, 0.5 * whole(net))
    assert 0 < clock.measured < len(found.pairs)
    assert clock.now <= 0.5 * whole(net) + max(plan(net.graph, found.pairs, N, 2**30, "lanczos").cost.values()) * N


def test_a_pass_that_takes_too_long_is_dropped(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks; the time is up after the first, so that its pairs are not known on the other samples."""
    monkeypatch.setattr(MEASURE, "plan", small_blocks)
    monkeypatch.setattr(sys.modules["covergraph.measure.anytime"], "PILOT_SHARE", 0.0)
    net = mlp((5, 6, 3))
    bound, found = refined(net, 1e-6)
    filled = measure(bound, net.module, net.loader(N, 3), fill=True)
    assert clock.measured > 0
    assert found.pairs == filled.pairs and found.filled
    assert [point.refined for point in found.curve] == [0]


def small_blocks(graph: Any, pairs: Any, n: int, memory: int, wanted: Any) -> Any:
    return dataclasses.replace(plan(graph, pairs, n, memory, "lanczos"), block=3)


@pytest.mark.usefixtures("one_round")
def test_several_blocks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    net = residual()
    monkeypatch.setattr(MEASURE, "plan", small_blocks)
    _, several = refined(net, 1e6)
    require_valid(net, several)
    assert max(at.upper / at.lower for at in several.pairs.values()) <= 1.01 * (1 + 1e-9)
    assert {at.sample for at in several.pairs.values()} > {0}


def test_samples_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = residual()
    monkeypatch.setattr(MEASURE, "plan", small_blocks)

    class Shuffled:
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            self.passes += 1
            batches = net.loader(N, 1)
            yield from batches if self.passes < 3 else reversed(batches)

    with pytest.raises(LoaderChangedError, match=r"from sample 0 on .* shuffle=False"):
        measure(net.bound(), net.module, Shuffled(), budget=1e6)


def test_few_numbers_are_kept_of_many_samples_and_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    net = residual()
    monkeypatch.setattr(MEASURE, "KEPT", 3)
    bound, found = refined(net, 1e6)
    assert found.pair_values == {}
    assert bound.evaluate(found).value <= found.curve[0].value
    for pair, norms in truth(net, found).items():
        assert max(norms) <= found.pairs[pair].upper * (1 + 1e-12)


@pytest.mark.usefixtures("random_starts")
def test_of_many_pairs_a_part_are_candidates_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["covergraph.measure.anytime"], "ENTRIES", 300)
    net = residual()
    _, found = refined(net, 1e6)
    assert found.curve[1].refined <= 300 // len(net.graph) ** 2 + 1
    assert found.curve[-1].refined == len(found.pairs)


def test_without_a_bound_the_pairs_are_measured_all_the_same() -> None:
    """No margin is positive: nothing to choose gamma from, nothing to evaluate."""
    net = residual()
    *inputs, labels = (torch.cat(parts) for parts in zip(*net.loader(N, 3), strict=True))
    logits = net.module(*inputs)
    found = measure(net.bound(), net.module, [(*inputs, logits.argmin(1))], budget=1e6)
    assert found.margins is not None and found.margins.max() <= 0
    assert all(point.value == math.inf for point in found.curve)
    assert found.curve[-1].refined == len(found.pairs) and len(labels) == N
    assert max(at.upper / at.lower for at in found.pairs.values()) <= 1.01


@pytest.mark.parametrize("budget", [-1.0, math.inf, math.nan])
def test_budgets_that_are_no_time_are_refused(budget: float) -> None:
    with pytest.raises(ParameterError, match=r"budget is .*expected seconds"):
        refined(mlp(), budget)


def test_what_does_not_go_with_a_budget_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match=r"checkpoint.*depends on the clock"):
        refined(mlp(), 1.0, checkpoint=tmp_path)
    with pytest.raises(ParameterError, match="fill=True measures no pairs"):
        refined(mlp(), 1.0, fill=True)
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(ParameterError, match=r"2 processes.*depends on the clock"):
        arguments._check_budget(1.0, False, None)
