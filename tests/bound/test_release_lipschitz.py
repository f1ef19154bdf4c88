"""Theorem 2 holds and is attained: gradients and differences of z after cutting, on random and on named graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prober import probe
from release import Tally, check
from strategies import Case, cases, examples
from tight import TIGHT, Tight

from covergraph.graph.augmented import Mode
from covergraph.passes.augment import augment

each_mode = pytest.mark.parametrize("mode", ["minimal", "paper"])


@each_mode
@pytest.mark.parametrize("row", TIGHT, ids=lambda row: row.name)
def test_each_term_is_attained(row: Tight, mode: Mode, record_property: Callable[[str, object], None]) -> None:
    trial, constants = row.trial(mode)
    head, tail = row.place.head, row.place.tail
    constant = constants.hidden(head) if tail is None else constants.jacobian(head, tail)
    ratios = check(trial, constant)
    record_property("release", {"mode": mode, "named": row.name, "ratio": float(ratios.max())})
    assert ratios.max() >= row.least


@each_mode
def test_random_graphs_are_release_lipschitz(mode: Mode, record_property: Callable[[str, object], None]) -> None:
    tally = Tally()

    @examples(70)
    @given(cases(), st.integers(0, 2**16))
    def holds(case: Case, seed: int) -> None:
        probe(case, augment(case.graph, mode=mode), seed, tally)

    holds()
    record_property("release", {"mode": mode, **tally.summary()})
    assert tally.overflows <= 0.02 * sum(tally.seen.values())
    assert tally.share >= 0.3, f"only {tally.share:.0%} of {tally.gradients} gradients are not 0: levels too far off"
