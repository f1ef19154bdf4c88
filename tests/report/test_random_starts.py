"""Wherever a confidence is stated, random starts count; where there were none, nothing speaks of them."""

from __future__ import annotations

import io
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from formulas import formulas_in, has_katex, katex_errors, lines_of, mathtext_error
from rich.console import Console

from covergraph.bound.certificate import Certificate
from covergraph.measure.plan import Method
from covergraph.report.console import Row, comparison_table
from covergraph.report.document import document
from covergraph.report.explain import explain
from covergraph.report.frames import certificate_html, comparison_frame, measurements_frame
from covergraph.report.latex import certificate_fragment
from covergraph.report.measuring import WAYS, ways
from covergraph.report.plots import plot_jacobian_norms
from covergraph.report.write import write_report


def shown(*certificates: Certificate) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(comparison_table([Row(f"n{i}", c, None, None, 1.0) for i, c in enumerate(certificates)]))
    return " ".join(console.export_text().split())


def section(text: str, start: str, end: str) -> str:
    return text[text.index(start) : text.index(end)]


def test_the_certificate_is_of_random_starts(started: Certificate) -> None:
    assert (started.delta, started.delta_numeric) == (0.05, 0.001)
    assert "lanczos" in started.measurements.ways.values()


def test_every_statement_of_a_confidence_counts_them(started: Certificate) -> None:
    for text in (explain(started), shown(started), certificate_html(started)):
        assert "94.9 %" in text and "random starts" in text
    assert len(re.findall(r"[.!?](?:\s|$)", explain(started))) == 3
    assert r"with probability at least } 1 - 0.05 - 0.001" in certificate_fragment(started)
    assert "random starts fail with probability 0.001" in repr(started)


def test_the_theorem_is_stated_with_them(started: Certificate) -> None:
    text = section(document(started), r"\section{The theorem}", r"\section{How the parameters")
    assert r"at least $1 - \delta - \delta_{\mathrm{num}}$ over the sample of size $n$ and the random starts" in text
    assert r"Here $\delta = 0.05$, and $\delta_{\mathrm{num}} = 0.001$" in text and "for each of" not in text
    assert text.count(r"\item") == 7 and "The random starts of the measurement are independent" in text


def test_without_them_nothing_speaks_of_them(each: Certificate) -> None:
    assert each.delta_numeric == 0
    everything = (document(each), explain(each), certificate_html(each), shown(each), repr(each), each.to_latex())
    for text in everything:
        assert "random start" not in text and "mathrm{num}" not in text and "94.9" not in text
    assert r"With probability at least $1 - \delta$ over the sample of size $n$," in document(each)
    for text in (explain(each), certificate_html(each), shown(each)):
        assert "95 %" in text


def test_a_bound_without_numbers_states_delta_alone(started: Certificate) -> None:
    assert "random start" not in started.bound.to_latex()


def test_samples_that_each_count_are_explained(started: Certificate) -> None:
    every = replace(started, delta_numeric=started.n * 0.001)
    text = document(every)
    assert r"$\delta_{\mathrm{num}} = 0.04$" in text and "it is $0.001$ for each of $n = 40$" in text
    assert "91 %" in explain(every)


def test_networks_side_by_side_are_as_sure_as_the_least_sure_one(mlp: Certificate, started: Certificate) -> None:
    assert "94.9 %, random starts included" in shown(mlp, started)
    careful = replace(started, delta=0.01)
    assert "at least 95 % network" in shown(careful, mlp)
    frame = comparison_frame({"a": mlp, "b": started})
    assert list(frame["confidence"]) == pytest.approx([0.95, 0.949])


def test_ways_are_counted(started: Certificate) -> None:
    data = started.measurements
    rows = dict(re.findall(r"^(?:\\rule\{0pt\}\{2.4ex\})?(\w+) & [^&]* & (.*) \\\\$", ways(data), flags=re.MULTILINE))
    counts = Counter(data.ways.values())
    assert set(rows) == set(counts)
    for name, row in rows.items():
        pairs, steps, ratio = row.replace("$", "").split("&")
        assert int(pairs) == counts[name]
        ends = [data.pairs[pair] for pair, way in data.ways.items() if way == name]
        assert 0 <= float(ratio) - max(m.upper / m.lower for m in ends) <= 1e-5 + 1e-12
        assert bool(steps.strip()) == (name == "lanczos")
    assert int(rows["lanczos"].split("$")[3]) == sum(data.steps.values()) > 0
    assert "except with probability $0.001$" in ways(data) and r"aimed at $1.01$" in ways(data)
    assert ways(data) in document(started)


def test_ways_without_a_ratio(started: Certificate) -> None:
    """Norms of 0 have no ratio, lower ends of 0 an infinite one; bounds along edges have no ways."""
    data = started.measurements
    (first, *_), zero = data.pairs, replace(next(iter(data.pairs.values())), lower=0.0, upper=0.0)
    alone = replace(data, pairs={first: zero}, ways={first: "zero"}, steps={}, failure=0.0)
    assert ways(alone).count(r"the norm is $0$ & $1$ &  &  \\") == 1 and "random" not in ways(alone)
    assert r"\infty" in ways(replace(alone, pairs={first: replace(zero, upper=1.0)}))
    assert ways(replace(data, ways={}, filled=True)) == ""


def test_every_way_is_in_the_table(started: Certificate) -> None:
    data = started.measurements
    names = [*get_args(Method), "filled"]
    assert set(names) == set(WAYS)
    for name in names:
        assert f"{name} & " in ways(replace(data, ways=dict.fromkeys(data.pairs, name)))


def test_frames_name_the_way_of_each_pair(started: Certificate) -> None:
    data = started.measurements
    frame = data.to_frame()
    assert [*zip(frame["node"], frame["ancestor"], strict=True)] == [*data.pairs]
    assert dict(zip(data.pairs, frame["way"], strict=True)) == {pair: data.ways[pair] for pair in data.pairs}
    assert frame["steps"].sum() == sum(data.steps.values())
    assert (frame["upper"] <= 1.01 * frame["lower"] * (1 + 1e-9)).all()
    table = measurements_frame(started)
    pairs = table[table["ancestor"] != ""].reset_index()
    for column in ("node", "ancestor", "lower", "upper", "way", "steps"):
        assert pairs[column].tolist() == frame[column].tolist(), column
    others = table[table["ancestor"] == ""]
    assert set(others["way"]) == {""} and others["steps"].isna().all()


def test_filled_pairs_are_called_so(mlp: Certificate) -> None:
    filled = replace(mlp.measurements, filled=True, ways={})
    assert set(filled.to_frame()["way"]) == {"filled"}
    assert "pair norms (bounds along edges)" in repr(filled)


def test_measurements_print_what_they_hold_with(mlp: Certificate, started: Certificate) -> None:
    assert "pair norms (width 1.01, failure 0.001), 3 layers" in repr(started.measurements)
    assert "pair norms, 3 layers" in repr(mlp.measurements)


def test_the_heat_map_shows_upper_ends(started: Certificate, mlp: Certificate) -> None:
    assert plot_jacobian_norms(started).axes[0].get_title().startswith("upper ends of")
    assert plot_jacobian_norms(mlp).axes[0].get_title().startswith(r"$\max")


def test_the_frames_of_exact_norms_have_ways_too(mlp: Certificate) -> None:
    frame = mlp.measurements.to_frame()
    assert set(frame["way"]) == {"dense", "edge"} and not frame["steps"].any()
    assert np.isfinite(frame["upper"]).all()


def test_mathtext_and_katex_read_every_formula(started: Certificate) -> None:
    formulas = [*formulas_in(document(started)), started._repr_latex_().strip("$")]
    lines = [line for formula in formulas for line in lines_of(formula)]
    assert [error for error in map(mathtext_error, lines) if error] == []
    if has_katex():
        assert katex_errors(formulas) == []


def test_the_html_is_well_formed(started: Certificate) -> None:
    assert "at confidence 94.9 %, random starts included" in "".join(
        ElementTree.fromstring(certificate_html(started)).itertext()
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs TeX")
def test_tex_compiles_without_overfull_lines(started: Certificate, tmp_path: Path) -> None:
    report = write_report(replace(started, delta_numeric=0.04), tmp_path)
    assert report.note == "" and report.pdf is not None
    log = (tmp_path / "report.log").read_text(errors="replace")
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0.0) < 5, log
