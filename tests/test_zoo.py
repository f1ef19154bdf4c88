"""Ten small architectures of the zoo (`make zoo` has all of them), and what must be refused."""

from __future__ import annotations

import pytest
from zoo.catalog import ENTRIES, REFUSED, SMALL
from zoo.entry import Entry

from covergraph import trace_report
from covergraph.errors import TracingError, UnsupportedOperationError

REFUSED_WITHOUT_PACKAGES = [entry for entry in REFUSED if entry.name != "nystromformer"]


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_a_small_one_is_traced_faithfully(entry: Entry) -> None:
    case = entry.case()
    report = trace_report(case.model, case.inputs, case.kwargs, output=case.output)
    assert report.way == "export"
    assert report.error <= 1e-9
    assert report.graph.covered


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
