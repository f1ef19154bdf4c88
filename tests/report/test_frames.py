"""Frames hold what the certificate holds; the HTML is well formed and shows names as they are."""

from __future__ import annotations

import io
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from covergraph.bound.certificate import Certificate
from covergraph.report.frames import (
    certificate_html,
    comparison_frame,
    contributions_frame,
    graph_frame,
    measurements_frame,
)


def test_contributions_give_back_the_complexity(each: Certificate) -> None:
    frame = contributions_frame(each)
    assert list(frame["node"]) == [name for name in each.bound.graph.covered for _ in range(2)]
    assert frame["share"].sum() == pytest.approx(1)
    assert ((frame["K"] * frame["E"]) ** (2 / 3)).sum() ** 1.5 == pytest.approx(each.C, rel=1e-6)
    assert frame.equals(each.to_frame())


def test_contributions_survive_a_file(mlp: Certificate) -> None:
    frame = contributions_frame(mlp)
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    pd.testing.assert_frame_equal(again, frame)


def test_graph_frame_has_a_row_per_node(dag: Certificate) -> None:
    frame = graph_frame(dag.bound.graph)
    assert list(frame["position"]) == [0, 1, 2, 3, 4, 5]
    assert frame.loc[3].to_dict() == {
        "position": 3,
        "node": "square",
        "operation": "product",
        "inputs": "block_1.gelu, block_1.gelu",
        "shape": "4",
        "size": 4,
        "parameters": "",
        "module": "",
    }


def test_measurements_frame_has_every_measured_number(dag: Certificate) -> None:
    frame, data = measurements_frame(dag), dag.measurements
    assert (frame["lower"] <= frame["upper"]).all()
    assert len(frame) == len(data.hidden) + len(data.pairs) + len(data.root_mean_square) + 6 * len(data.layers)
    pairs = frame[frame["ancestor"] != ""]
    assert {(row.node, row.ancestor): row.upper for row in pairs.itertuples()} == {
        pair: value.upper for pair, value in data.pairs.items()
    }


def test_comparison_has_a_row_per_network_and_reasons_for_gaps(mlp: Certificate, dag: Certificate) -> None:
    frame = comparison_frame({"first": mlp, "second": dag})
    assert list(frame.index) == ["first", "second"]
    assert frame.loc["first", "certificate"] == mlp.value
    assert frame.loc["first", "theorem_5_1"] > 0
    assert frame.loc["second", "theorem_5_1"] is None
    assert frame.loc["second", "theorem_5_1_note"] == "the graph is not sequential"
    assert np.isclose(10 ** float(frame.loc["first", "log10_C_over_sqrt_n"]), mlp.normalized)


def test_html_is_well_formed_and_says_vacuous(each: Certificate) -> None:
    tree = ElementTree.fromstring(certificate_html(each))
    text = "".join(tree.itertext())
    assert "(vacuous)" in text and f"n = {each.n}" in text
    small = replace(each, training=0.0, complexity_term=0.0, deviation_term=0.1)
    assert "(not vacuous)" in certificate_html(small)


def test_html_escapes_names(mlp: Certificate) -> None:
    share = mlp.shares[0]
    odd = replace(mlp, shares=(replace(share, contribution=replace(share.contribution, node="<b>&")),))
    assert "&lt;b&gt;&amp;" in odd._repr_html_()
