"""Statements name every condition, every group and every constant; failing samples are printed."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from formulas import formulas_in, has_katex, katex_errors
from rich.console import Console
from rough import DEAD, conditioned, tied

from covergraph.bound.certificate import Certificate
from covergraph.report.console import Row, comparison_table
from covergraph.report.document import document
from covergraph.report.drawing import draw
from covergraph.report.explain import explain
from covergraph.report.frames import certificate_html, contributions_frame, failing_samples, measurements_frame
from covergraph.report.latex import statement
from covergraph.report.plots import plot_certificate
from covergraph.report.terminal import release_lipschitz_text
from covergraph.report.tex import code, escape
from covergraph.report.write import write_report


def section(text: str, start: str, end: str) -> str:
    return text[text.index(start) : text.index(end)]


def test_every_condition_is_named_with_its_constants() -> None:
    bound = conditioned().bound
    text = section(statement(bound), r"\paragraph{Augmented loss", r"\paragraph{Rules")
    assert list(bound.augmented.conditions) == ["relu_f", "norm", "quotient"]
    for name, condition in bound.augmented.conditions.items():
        assert f"${bound.symbols.place(name)}$ & {code(name)} & " in text
        assert escape(condition.text) in text
    # relu reads node 1, the quotient's divisor is node 6; Lip 1/sqrt(4) of the norm on groups of 4, which reads node 3
    assert r"\min_i |h_{1,i}|" in text and r"\min_i |h_{6,i}|" in text
    assert r"$h_{3}$: $\frac{1}{2}$" in text
    assert r"\prod_{c \in \mathcal{C}} \mathbf{1}_{\geq \rho_c}(q_c)" in text


def test_constants_that_depend_on_levels_are_formulas() -> None:
    text = section(statement(conditioned().bound), r"\paragraph{Rules", r"\paragraph{Release")
    assert r"\bar\tau_{0,1} = \bar\tau_{1,0} = \frac{4}{\rho_{x}^{2}}" in text
    assert r"\bar\tau_{1,1} = \frac{16 \bar s_{0}}{\rho_{x}^{3}}" in text
    for lemma in ("Lemma 12", "Lemma 15", "Lemma 16"):
        assert lemma in text
    assert r"\|\Delta \theta\|_1" in text and "Lemma 18" in text


def test_the_sum_over_conditions_is_explained() -> None:
    text = section(statement(conditioned().bound), r"\paragraph{Release", r"\paragraph{Covering")
    assert r"$\vartheta_w = " in text and r"\vartheta_{w}" in text and "Theorem 2'" in text
    assert "ϑ[w]" in release_lipschitz_text(conditioned().bound)


@pytest.mark.parametrize("name", ["mlp", "dag", "user_loss"])
def test_other_statements_do_not_speak_of_conditions(name: str, request: pytest.FixtureRequest) -> None:
    certificate: Certificate = request.getfixturevalue(name)
    text = document(certificate)
    assert r"\mathcal{C}" not in text and r"\vartheta" not in text and "Theorem 1'" not in text
    assert "condition" not in explain(certificate) + certificate_html(certificate)


def test_every_group_is_named() -> None:
    bound = tied().bound
    text = statement(bound)
    (group,) = bound.groups
    assert group.nodes == ("step_0", "step_1")
    assert r"\texttt{step\_\allowbreak{}0}, \texttt{step\_\allowbreak{}1} & $2$, $4$ & \texttt{W}, \texttt{b}" in text
    assert "& $t_{2}^{2}$ & $40$ " in text  # 2 (16 + 4)
    weight = text[text.index(r"\tilde\kappa_{g_{2}} = ") :].split(r"\end{align*}")[0]
    for symbol in (r"\tilde\kappa_{h_{2}}", r"\tilde\kappa_{J_{2}}", r"\tilde\kappa_{h_{4}}", r"\tilde\kappa_{J_{4}}"):
        assert symbol in weight
    assert r"\min\left(U_{2}, \left(" in text and "U_{2} = " in text


def test_failing_samples_are_printed() -> None:
    certificate = conditioned()
    assert failing_samples(certificate.measurements) == DEAD
    text = explain(certificate)
    assert f"On {DEAD} of 50 samples a condition cannot hold (largest: node 'relu_f', {DEAD} samples)" in text
    assert len(re.findall(r"[.!?](?:\s|$)", text)) == 5  # one of them on copies
    assert f"{DEAD} samples on which a condition fails" in certificate_html(certificate)
    assert rf"On ${DEAD}$ of them a condition fails" in document(certificate)


def test_samples_that_fail_several_conditions_count_once() -> None:
    data = replace(
        conditioned().measurements,
        n=4,
        condition_values={"a": np.array([0.0, 0.0, 1.0, 2.0]), "b": np.array([0.0, 3.0, 0.0, np.inf])},
    )
    assert failing_samples(data) == 3
    assert failing_samples(replace(data, condition_values={})) == 0


def test_measured_conditions_have_rows() -> None:
    frame = measurements_frame(conditioned())
    rows = frame[frame["quantity"] == "condition"].set_index("node")
    values = conditioned().measurements.condition_values
    assert [*rows.index] == [*values]
    for name, q in values.items():
        assert rows.loc[name, "lower"] == min(v for v in q if v > 0)
        assert q[rows.loc[name, "sample"]] == rows.loc[name, "lower"]
    assert rows.loc["relu_f", "norm"] == f"lower end; {DEAD} of 50 samples fail"


def test_a_condition_that_no_sample_fulfills() -> None:
    values = dict(conditioned().measurements.condition_values) | {"norm": np.zeros(50)}
    data = replace(conditioned().measurements, condition_values=values)
    certificate = replace(conditioned(), measurements=data)
    assert "$q_c = 0$ on all samples" in document(certificate)
    assert "On 50 of 50 samples" in explain(certificate)


@pytest.mark.parametrize("make", [conditioned, tied])
def test_every_parameter_is_listed_with_its_cost(make: Callable[[], Certificate]) -> None:
    certificate = make()
    text, p = document(certificate), certificate.parameters
    rows = re.findall(r"\$-?\d+\$ & \$([\d.]+)\$ \\\\", section(text, "How the parameters", "Other bounds"))
    assert len(rows) == 1 + sum(len(t) for t in (p.s, p.kappa, p.a, p.b, p.rho, p.shared))
    assert sum(map(float, rows)) == pytest.approx(p.union_cost, rel=1e-3)


@pytest.mark.skipif(not has_katex(), reason="needs node with katex")
@pytest.mark.parametrize("make", [conditioned, tied])
def test_katex_reads_every_formula(make: Callable[[], Certificate]) -> None:
    certificate = make()
    notebooks = [certificate._repr_latex_().strip("$"), certificate.bound._repr_latex_().strip("$")]
    assert katex_errors([*formulas_in(document(certificate)), *notebooks]) == []


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs TeX")
@pytest.mark.parametrize("make", [conditioned, tied])
def test_tex_compiles_without_overfull_lines(make: Callable[[], Certificate], tmp_path: Path) -> None:
    report = write_report(make(), tmp_path)
    assert report.note == "" and report.pdf is not None
    log = (tmp_path / "report.log").read_text(errors="replace")
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0.0) < 5, log


def test_groups_have_rows_and_bars_of_their_own() -> None:
    certificate = tied()
    frame = contributions_frame(certificate)
    row = frame[frame["class"] == "shared"].iloc[0]
    assert (row["node"], row["count"]) == ("step_0", 40)
    assert not {"step_0", "step_1"} & set(frame[frame["class"] != "shared"]["node"])
    labels = [text.get_text() for text in plot_certificate(certificate).axes[0].get_legend().get_texts()]
    assert labels == ["values", "derivatives", "shared parameters"]
    (share,) = (share for share in certificate.shares if share.contribution.kind == "shared")
    alone = explain(replace(certificate, shares=(replace(share, share=1.0),)))
    assert "the parameters that 'step_0' (linear) shares with 1 more node." in alone


def test_the_html_of_groups_is_well_formed() -> None:
    assert "step_0, shared" in "".join(ElementTree.fromstring(certificate_html(tied())).itertext())


def test_the_console_counts_failing_samples() -> None:
    def shown(*certificates: Certificate) -> str:
        console = Console(width=120, file=io.StringIO(), record=True)
        console.print(comparison_table([Row(f"n{i}", c, None, None, 1.0) for i, c in enumerate(certificates)]))
        return console.export_text()

    (line,) = (line for line in shown(conditioned(), tied()).splitlines() if "fail a condition" in line)
    assert line.split()[-2:] == [str(DEAD), "—"]
    assert "fail a condition" not in shown(tied())


def test_conditions_are_drawn() -> None:
    graph = conditioned().bound.augmented
    drawn = [text.get_text() for text in draw(graph, limit=10**4).axes[0].texts]
    assert [text for text in drawn if "q_" in text] == [rf"$\mathbf{{1}}(q_{{{v}}} \geq \rho)$" for v in (2, 4, 7)]
    title = [text.get_text() for text in draw(graph, limit=1).axes[0].texts][-1]
    assert "and 3 conditions (not drawn)" in title
