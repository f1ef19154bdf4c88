"""Small architectures of the zoo (`make zoo` has all of them), their bounds, and what must be refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from zoo import coverage, spot
from zoo.bounds import derivation, without_rule
from zoo.catalog import ENTRIES, REFUSED, SMALL, find
from zoo.entry import Case, Entry
from zoo.result import TRACED, Derivation, Result, SpotCheck, parse

from covergraph import trace_report
from covergraph.bound.derive import Bound
from covergraph.errors import TracingError, UnsupportedOperationError

REFUSED_WITHOUT_PACKAGES = [entry for entry in REFUSED if entry.name != "nystromformer"]


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_a_small_one_is_traced_faithfully(entry: Entry) -> None:
    case = entry.case()
    report = trace_report(case.model, case.inputs, case.kwargs, output=case.output)
    assert report.way == "export"
    assert report.error <= 1e-9
    assert report.graph.covered


DERIVED = ("bidirectional_lstm", "dense_concatenation", "dict_output", "norm_layers", "weight_norm")


@pytest.mark.parametrize("name", DERIVED)
def test_a_small_one_has_a_bound(name: str) -> None:
    case = find(f"own/{name}").case()
    graph = trace_report(case.model, case.inputs, case.kwargs, output=case.output).graph
    found, derived = derivation(graph, case)
    assert found.derived and derived is not None and not found.reason
    assert found.log10 == pytest.approx(math.log10(derived.certificate.C / 2))  # of four samples
    assert found.nodes == len(derived.bound.graph)
    assert found.pairs == len(derived.bound.augmented.pair_names)


def test_an_operation_without_rule_is_named() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.line(x).sort(dim=1).values.cumprod(dim=1)

    case = Case(Sorted().eval(), (torch.randn(4, 4),))
    found, derived = derivation(trace_report(case.model, case.inputs).graph, case)
    assert derived is None and found.reason == "UnsupportedOperationError" and not found.crashed
    assert set(found.without_rule) == {"sort", "cumprod"}


def test_a_single_operation_without_rule_is_found_in_the_graph() -> None:
    case = find("own/dict_output").case()
    graph = trace_report(case.model, case.inputs, output=case.output).graph
    node = graph.nodes[-1]
    assert without_rule(UnsupportedOperationError(f"node {node.name!r} (top level): no rule"), graph) == (
        node.operation.label,
    )


def tanh_network() -> Case:
    return Case(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), (SAMPLES,))


SAMPLES = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))


def test_the_spot_check_finds_ratios_below_one() -> None:
    torch.manual_seed(0)
    case = tanh_network()
    _, derived = derivation(trace_report(case.model, case.inputs).graph, case)
    assert derived is not None
    found = spot.spot_check(derived, case.model, spot.ROUNDS)
    assert found.reason == "" and found.checks >= 10 and found.exact >= 10
    assert 0.3 < found.largest <= 1
    assert found.part >= found.ratio > 0 and found.jacobians > 0.1 and found.exact_ratio > 0.01


@pytest.mark.parametrize("entry", REFUSED_WITHOUT_PACKAGES, ids=lambda entry: entry.name)
def test_what_has_no_graph_per_sample_is_refused_in_a_few_lines(entry: Entry) -> None:
    case = entry.case()
    with pytest.raises((TracingError, UnsupportedOperationError)) as caught:
        trace_report(case.model, case.inputs, case.kwargs, output=case.output)
    assert str(caught.value).startswith(("module ", "the model's top level", "the graph"))
    assert len(str(caught.value).splitlines()) <= 6


def test_the_catalog_has_what_it_promises() -> None:
    """At least 120 architectures, 25 of them our own, with unique names."""
    assert len({entry.key for entry in ENTRIES}) == len(ENTRIES) >= 120
    assert sum(entry.family == "own" for entry in ENTRIES) >= 25
    assert len(SMALL) == 10


def test_the_spot_check_notices_a_bound_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    case = tanh_network()
    _, derived = derivation(trace_report(case.model, case.inputs).graph, case)
    assert derived is not None
    exact = Bound.taubar
    monkeypatch.setattr(Bound, "taubar", lambda *given: {key: value / 30 for key, value in exact(*given).items()})
    assert spot.spot_check(derived, case.model, spot.ROUNDS).jacobians > 1


def test_results_are_read_as_they_were_written() -> None:
    bound = Derivation(derived=True, log10=3.5, without_rule=("a", "b"))
    result = Result("n", "own", TRACED, opaque=("x",), bound=bound, spot=SpotCheck(checks=3, part=0.5, worst="w"))
    assert parse(result.line()) == result
    old = json.loads(result.line())
    del old["bound"], old["spot"]
    assert not parse(json.dumps(old)).complete


def test_the_page_shows_bounds_and_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "_rules", list)  # which take long
    bound = Derivation(derived=True, log10=3.46, conditions=5, failing=2)
    refusal = Derivation(reason="UnsupportedOperationError", message="no rule", without_rule=("sort",))
    results = {
        "own/unet": Result(
            "unet", "own", TRACED, nodes_before=2, bound=bound, spot=SpotCheck(checks=3, ratio=0.25, jacobians=0.75)
        ),
        "own/maxout": Result("maxout", "own", TRACED, bound=refusal),
    }
    page = coverage.text(results)
    assert "| yes | 3.5 | 5 (2) | 0.750 |" in page
    assert "| sort | 1 | own/maxout |" in page
    assert f"| {coverage._count('own', ENTRIES[:60], results)[8]} | 50.0 | 1 | 0.750 |" in page
