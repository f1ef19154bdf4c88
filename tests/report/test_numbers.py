"""Printed numbers never claim more than what is known."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covergraph.report.numbers import interval, percent, plain, tex

POSITIVE = st.floats(1e-300, 1e300)


@given(POSITIVE, st.integers(1, 8))
def test_up_and_down_enclose_the_value(value: float, digits: int) -> None:
    low, high = float(plain(value, digits, "down")), float(plain(value, digits, "up"))
    assert low <= value * (1 + 1e-15) and high >= value * (1 - 1e-15)
    assert high - low <= 1.000001 * 10 ** (1 - digits) * value


@given(POSITIVE)
def test_latex_and_plain_say_the_same(value: float) -> None:
    written = re.sub(r" \\cdot 10\^\{(-?\d+)\}", r"e\1", tex(value, 5))
    assert written == plain(value, 5)


@pytest.mark.parametrize(
    ("value", "direction", "expected"),
    [
        (242.2536, "up", "242.3"),
        (242.2536, "down", "242.2"),
        (0.0525, "nearest", "0.0525"),
        (6066393898187, "up", "6.067e12"),
        (99999.0, "up", "1e5"),
        (1.0, "up", "1"),
        (0.0, "up", "0"),
        (1.5e-7, "down", "1.5e-7"),
        (float("inf"), "up", "inf"),
        (None, "up", "—"),
    ],
)
def test_examples(value: float | None, direction: str, expected: str) -> None:
    assert plain(value, 4, direction) == expected  # type: ignore[arg-type]


def test_infinity_and_absence_in_latex() -> None:
    assert tex(float("inf")) == r"\infty"
    assert tex(None) == r"\text{---}"


def test_intervals_are_rounded_outwards_and_shares_are_per_cent() -> None:
    assert interval(1.23456, 1.23456, 3) == r"[1.23,\ 1.24]"
    assert percent(0.125) == "12.5 %"
