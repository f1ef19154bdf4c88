"""The whole report as one LaTeX article."""

from __future__ import annotations

import re

from covergraph.bound.certificate import Certificate
from covergraph.report import evidence, measuring, results, statement
from covergraph.report.drawing import size_of
from covergraph.report.explain import explain
from covergraph.report.tex import code, escape, paragraphs

PREAMBLE = r"""\documentclass[11pt]{article}
\usepackage{amsmath}
\usepackage{graphicx}
\usepackage{longtable}
\setlength{\textwidth}{16cm}
\setlength{\oddsidemargin}{0pt}
\setlength{\topmargin}{-1.4cm}
\setlength{\textheight}{23.6cm}
\setlength{\parindent}{0pt}
\setlength{\parskip}{5pt plus 2pt}
\setlength{\emergencystretch}{3em}
\renewcommand{\arraystretch}{1.15}
\allowdisplaybreaks
"""
TEXT_WIDTH, DRAWING_HEIGHT = 6.3, 7.0
"""Inches that a picture may take."""

SMALLEST_SCALE = 0.45
"""A drawing that would be smaller has letters that nobody can read."""

REPORT_LIMIT = 24
"""On paper, an augmented graph with more nodes is shown as its base graph."""


def document(certificate: Certificate, title: str = "A generalization certificate") -> str:
    """The report as LaTeX: article, amsmath, graphicx, longtable; it includes two pictures from its own folder."""
    bound = certificate.bound
    sections = {
        "In short": paragraphs(_prose(explain(certificate)), results.terms(certificate)),
        "The network": paragraphs(statement.notation(bound), statement.symbols_table(bound), _drawing(certificate)),
        "The augmented loss": statement.augmented_loss(bound),
        "The rule of each node": statement.rules(bound),
        "Release-Lipschitz constants": statement.constants(bound),
        "The covering sum": paragraphs(
            statement.covering_sum(bound),
            r"In numbers, with $C$ as above:",
            results.contributions(certificate),
            _picture("certificate", f"width={TEXT_WIDTH}in"),
        ),
        "The theorem": paragraphs(
            statement.theorem(bound, random=certificate.delta_numeric > 0),
            measuring.starts(certificate),
            r"\textbf{Assumptions}",
            evidence.assumptions(certificate),
        ),
        "How the parameters were chosen": results.parameters(certificate),
        "Other bounds of the same network": evidence.comparison(certificate),
        "What was measured": evidence.measurements(certificate),
    }
    body = "\n\n".join(f"\\section{{{name}}}\n\n{text}" for name, text in sections.items())
    head = f"\\title{{{escape(title)}}}\n\\author{{computed by covergraph}}\n\\date{{}}"
    note = (
        "Definitions, lemmas and theorems have the numbers of docs/mathematics.md, where they are proved. Upper bounds "
        "are rounded up."
    )
    return f"{PREAMBLE}{head}\n\\begin{{document}}\n\\maketitle\n\n{note}\n\n{body}\n\\end{{document}}\n"


def _prose(text: str) -> str:
    """Sentences with node names in typewriter type and powers of ten as such."""
    parts = re.split(r"'([^']*)'", text)
    plain = [code(part) if i % 2 else escape(part) for i, part in enumerate(parts)]
    return re.sub(r"(\d)e(\d+)", r"$\1 \\cdot 10^{\2}$", "".join(plain))


def _drawing(certificate: Certificate) -> str:
    width, height = size_of(certificate.bound.augmented, REPORT_LIMIT)
    scale = min(1.0, TEXT_WIDTH / width, DRAWING_HEIGHT / height)
    if scale < SMALLEST_SCALE:
        return "The drawing of this graph is too large for the page; it is in graph.pdf beside this document."
    return _picture("graph", f"width={scale * width:.2f}in")


def _picture(name: str, options: str) -> str:
    return f"\\begin{{center}}\n\\includegraphics[{options}]{{{name}}}\n\\end{{center}}"
