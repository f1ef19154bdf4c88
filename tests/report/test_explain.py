"""Three sentences, each of which says what the numbers say."""

from __future__ import annotations

import re
from dataclasses import replace

from covergraph.bound.certificate import Certificate
from covergraph.report.explain import explain


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)


def test_exactly_three_sentences(each: Certificate) -> None:
    text = explain(each)
    assert len(sentences(text)) == 3
    assert len(re.findall(r"[.!?](?:\s|$)", text)) == 3
    assert text == each.explain()


def test_a_vacuous_certificate_is_called_so_with_its_number(mlp: Certificate) -> None:
    assert mlp.vacuous
    first = sentences(explain(mlp))[0]
    assert "vacuous" in first and "not vacuous" not in first
    assert "95 %" in first and f"{mlp.n} training samples" in first
    assert 0 <= float(re.search(r"at most (\S+),", first)[1]) - mlp.value <= 0.1  # type: ignore[index]


def test_a_small_certificate_is_not_vacuous(mlp: Certificate) -> None:
    small = replace(mlp, training=0.1, complexity_term=0.2, deviation_term=0.05)
    first, _, last = sentences(explain(small))
    assert "at most 0.3501, which is not vacuous" in first
    assert "complexity term, 0.2, is the largest" in last
    assert "more samples" in last


def test_the_node_with_the_largest_share_is_named(each: Certificate) -> None:
    shares: dict[str, float] = {}
    for share in each.shares:
        shares[share.contribution.node] = shares.get(share.contribution.node, 0) + share.share
    node = max(shares, key=lambda name: shares[name])
    assert f"node {node!r}" in sentences(explain(each))[1]


def test_what_would_help_depends_on_the_largest_term(mlp: Certificate) -> None:
    bad = replace(mlp, training=0.9, complexity_term=0.5, deviation_term=0.1, samples_needed=None)
    assert "training term" in explain(bad) and "fewer training errors" in explain(bad)
    never = replace(mlp, samples_needed=None)
    assert "no number of samples" in explain(never)
    close = replace(mlp, training=0.25, complexity_term=4.0, deviation_term=0.25, samples_needed=1e6)
    assert "1e6 samples" in explain(close)
    assert "if C were 64 times smaller" in explain(close)  # the complexity term grows with the square root of C


def test_a_user_s_loss_is_no_error_rate(user_loss: Certificate) -> None:
    assert "expected loss" in explain(user_loss) and "error rate" not in explain(user_loss)
