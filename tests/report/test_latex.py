"""LaTeX that TeX, KaTeX and mathtext can read, and that says what the certificate says."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sympy
from formulas import formulas_in, has_katex, katex_errors, lines_of, mathtext_error

from covergraph.bound.certificate import Certificate
from covergraph.graph.functions import ELU
from covergraph.report.document import document
from covergraph.report.formulas import covering_terms, latex, release_lipschitz_expressions, summands
from covergraph.report.latex import certificate_fragment, rademacher, statement
from covergraph.report.tex import aligned, code, escape, packed, table, tokens
from covergraph.report.write import FILES, write_report

SECTIONS = (
    "In short",
    "The network",
    "The augmented loss",
    "The rule of each node",
    "Release-Lipschitz constants",
    "The covering sum",
    "The theorem",
    "How the parameters were chosen",
    "Other bounds of the same network",
    "What was measured",
)


def test_mathtext_reads_every_formula(each: Certificate) -> None:
    lines = [line for formula in formulas_in(document(each)) for line in lines_of(formula)]
    assert len(lines) > 100
    assert [error for error in map(mathtext_error, lines) if error] == []


def test_mathtext_reads_what_notebooks_show(each: Certificate) -> None:
    for shown in (each._repr_latex_(), each.bound._repr_latex_()):
        lines = lines_of(shown.replace("$", ""))
        assert [error for error in map(mathtext_error, lines) if error] == []


@pytest.mark.skipif(not has_katex(), reason="needs node with katex")
def test_katex_reads_every_formula(each: Certificate) -> None:
    notebooks = [each._repr_latex_().strip("$"), each.bound._repr_latex_().strip("$")]
    formulas = [*formulas_in(document(each)), *notebooks, latex(ELU.expression)]
    assert katex_errors(formulas) == []


def test_the_reader_of_formulas_sees_all_forms() -> None:
    text = "a $x$ b \\[\ny\n\\] \\$ 5 \\begin{align*}\nz = {}& 1 \\\\\n&+ 2\n\\end{align*}"
    assert formulas_in(text) == ["x", "y", "\\begin{align*}\nz = {}& 1 \\\\\n&+ 2\n\\end{align*}"]
    assert lines_of(formulas_in(text)[2]) == ["z = {} 1", "+ 2"]
    assert mathtext_error(r"\nonsense")


def test_the_document_is_complete(each: Certificate) -> None:
    text = document(each)
    assert re.findall(r"\\section\{(.*?)\}", text) == list(SECTIONS)
    assert re.findall(r"\\usepackage\{(.*?)\}", text) == ["amsmath", "graphicx", "longtable"]
    for node in each.bound.graph.nodes:
        assert code(node.name) in text
    for left, _ in release_lipschitz_expressions(each.bound):
        assert f"{latex(left)} = " in text
    assert text.count(r"\item") == 6 + (not each.bound.augmented.loss.has_margin)
    for value in each.paper:
        assert escape(value.expression.name) in text and escape(value.note) in text
    assert text.count("---") == sum(value.value is None for value in each.paper)


def test_a_drawing_that_nobody_could_read_is_left_out(mlp: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert r"]{graph}" in document(mlp)
    monkeypatch.setattr("covergraph.report.document.size_of", lambda graph, limit: (4.0, 80.0))
    text = document(mlp)
    assert r"]{graph}" not in text and "it is in graph.pdf" in text


def test_environments_and_braces_are_balanced(each: Certificate) -> None:
    text = document(each)
    opened = re.findall(r"\\(begin|end)\{(.*?)\}", text)
    stack: list[str] = []
    for word, name in opened:
        if word == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.isascii()


def test_every_parameter_is_listed_with_its_cost(mlp: Certificate) -> None:
    text = document(mlp)
    section = text[text.index("How the parameters") : text.index("Other bounds")]
    rows = re.findall(r"\$-?\d+\$ & \$([\d.]+)\$ \\\\", section)
    p = mlp.parameters
    assert len(rows) == 1 + len(p.s) + len(p.kappa) + len(p.a) + len(p.b)
    assert sum(map(float, rows)) == pytest.approx(p.union_cost, rel=1e-3)
    assert r"\beta = 1.05" in section and r"quantile" in section


def test_parameters_fixed_in_advance_cost_nothing(mlp: Certificate) -> None:
    fixed = replace(mlp.parameters, grid=None, quantile=None, union_cost=0.0)
    text = document(replace(mlp, parameters=fixed, union_cost=0.0))
    assert "fixed before the sample was seen" in text


def test_the_statement_needs_no_numbers(each: Certificate) -> None:
    text = statement(each.bound)
    assert text == each.bound.to_latex()
    assert "Theorem 3" in text and r"\tilde\kappa_{h_{1}}" in text and "includegraphics" not in text


def test_the_fragment_ends_with_the_certificate(mlp: Certificate) -> None:
    text = certificate_fragment(mlp)
    last = float(text.splitlines()[-2].split("&")[1])
    assert mlp.value <= last <= mlp.value * 1.001
    assert r"\ell_{01}" in text


def test_both_routes_are_written(mlp: Certificate, user_loss: Certificate) -> None:
    assert rademacher(mlp).startswith(r"2 \cdot 2^{3/4} \sqrt{")
    assert r"1 - \ln(12 \cdot" in rademacher(replace(mlp, route="Dudley"))
    assert r"\ell_{01}" not in certificate_fragment(user_loss)


def test_the_supremum_s_source_is_printed(dag: Certificate) -> None:
    text = statement(dag.bound)
    assert "Lemma 5: taken at t = 0" in text  # GELU's second derivative
    assert "both filled by one node: Lemma 8" in text


def test_a_vacuous_certificate_says_so_and_another_does_not(mlp: Certificate) -> None:
    assert "The certificate is vacuous" in document(mlp)
    small = replace(mlp, training=0.1, complexity_term=0.1, deviation_term=0.1)
    assert "The certificate is not vacuous" in document(small)


def test_terms_of_a_formula_come_simple_ones_first() -> None:
    x, y = sympy.symbols("x y")
    assert summands(y + x) == [x, y]


def test_covering_terms_name_each_class(mlp: Certificate) -> None:
    terms = covering_terms(mlp.bound)
    assert len(terms) == 3
    assert all(term.count("^{2/3}") == 2 for term in terms)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b.c", r"a\_b.c"),
        ("50 % of {x}", r"50 \% of \{x\}"),
        ("|t| <= 4", r"\textbar{}t\textbar{} \textless{}= 4"),
        ("\\x^~#&$", r"\textbackslash{}x\textasciicircum{}\textasciitilde{}\#\&\$"),
        ("näme", "n?me"),
    ],
)
def test_escaping(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_long_formulas_break_before_a_plus() -> None:
    assert packed(["a" * 30, "b" * 30, "c" * 30], 70) == ["a" * 30 + " + " + "b" * 30, "c" * 30]
    assert aligned(("x", ["a" * 60, "b" * 60])).count(r"\\") == 1
    assert tokens(r"\left(\frac{a_{1}}{\sqrt{b}}\right)") == len("(a1xxb)")


def test_tables_repeat_their_header() -> None:
    text = table("ll", ("one", "two"), [("1", "2")])
    assert text.index("one") < text.index(r"\endhead") < text.index("1 & 2")


def test_a_report_without_tex_says_so(mlp: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = write_report(mlp, tmp_path / "new" / "folder")
    assert report.pdf is None and "TeX is not installed" in report.note
    assert [path.name for path in report.files] == list(FILES)
    assert all(path.stat().st_size > 0 for path in report.files)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs TeX")
def test_tex_compiles_the_report_without_overfull_lines(each: Certificate, tmp_path: Path) -> None:
    report = write_report(each, tmp_path, title="50 % of {names} & such_like")
    assert report.note == "" and report.pdf is not None
    assert report.pdf.read_bytes().startswith(b"%PDF")
    log = (tmp_path / "report.log").read_text(errors="replace")
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0.0) < 5, log


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs TeX")
def test_an_error_of_tex_is_reported(mlp: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covergraph.report.write.document", lambda *args: "\\documentclass{article}\\oops")
    report = write_report(mlp, tmp_path)
    assert report.pdf is None
    assert "pdflatex failed: ! Undefined control sequence" in report.note
