"""Plots show the numbers that they are about."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from matplotlib.patches import Rectangle

from covergraph.bound.certificate import Certificate
from covergraph.report.plots import plot_certificate, plot_comparison, plot_jacobian_norms


def test_bars_are_the_shares_and_the_terms_stand_against_one(each: Certificate) -> None:
    figure = each.plot()
    left, right = figure.axes
    bars = [patch.get_width() for patch in left.patches if isinstance(patch, Rectangle)]
    assert sum(bars) == pytest.approx(100)
    names = [label.get_text() for label in left.get_yticklabels()]
    assert [name[-12:] for name in names] == [name[-12:] for name in each.bound.graph.covered]
    assert right.get_xscale() == "log"
    points = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"]
    assert points == pytest.approx([each.training, each.complexity_term, each.deviation_term, each.value])
    assert [1, 1] in [list(line.get_xdata()) for line in right.lines]
    assert any("vacuous" in text.get_text() for text in right.texts)


def test_a_training_value_of_zero_can_be_drawn(mlp: Certificate) -> None:
    figure = plot_certificate(replace(mlp, training=0.0))
    figure.savefig(io.BytesIO())
    assert figure.axes[1].get_xlim()[0] > 0


def test_many_nodes_are_summed_up(mlp: Certificate) -> None:
    share = mlp.shares[0]
    many = tuple(
        replace(share, share=1 / 40, contribution=replace(share.contribution, node=f"layer{i}")) for i in range(40)
    )
    left = plot_certificate(replace(mlp, shares=many)).axes[0]
    assert left.get_yticklabels()[-1].get_text() == "17 others"
    assert sum(patch.get_width() for patch in left.patches if isinstance(patch, Rectangle)) == pytest.approx(100)


def test_comparison_marks_what_exists_and_explains_what_does_not(mlp: Certificate, dag: Certificate) -> None:
    (ax,) = plot_comparison({"first": mlp, "second": dag}).axes
    series = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    assert series["ours: $C/\\sqrt{n}$, explicit"] == pytest.approx([mlp.log10, dag.log10])
    theorem = next(v.value for v in mlp.paper if v.expression.name == "Theorem 5.1")
    assert theorem is not None
    assert series["Theorem 5.1 of Wei and Ma, hidden constants 1"] == pytest.approx([math.log10(theorem)])
    assert any("not sequential" in text.get_text() for text in ax.texts)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]


def test_heat_map_has_a_cell_per_pair(each: Certificate) -> None:
    ax = plot_jacobian_norms(each).axes[0]
    shown = ax.images[0].get_array()
    assert shown is not None and shown.count() == len(each.bound.augmented.pair_names)
    assert shown.max() == max(each.measurements.pairs[p].upper for p in each.bound.augmented.pair_names)


def test_pictures_can_be_written(each: Certificate) -> None:
    for figure in (plot_certificate(each), plot_comparison({"a": each}), plot_jacobian_norms(each)):
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=40)
        assert target.getvalue().startswith(b"\x89PNG")
