"""Printed numbers never claim more than what is known."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covergraph.report.numbers import confidence, interval, percent, plain, tex

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


@pytest.mark.parametrize(
    ("delta", "numeric", "expected"),
    [
        (0.05, 0.0, "95 %"),
        (0.05, 0.001, "94.9 %"),
        (0.05, 1e-9, "94.99 %"),
        (0.07, 0.0, "93 %"),
        (1e-9, 0.0, "99.99 %"),
        (1e-30, 0.0, "99.99 %"),
        (0.5, 0.4996, "0.04 %"),
    ],
)
def test_confidence(delta: float, numeric: float, expected: str) -> None:
    assert confidence(delta, numeric) == expected


@given(st.floats(1e-12, 0.5), st.floats(0, 0.49))
def test_confidence_is_never_printed_too_large(delta: float, numeric: float) -> None:
    printed = float(confidence(delta, numeric).removesuffix(" %")) / 100
    exact = 1 - (Fraction(delta) + Fraction(numeric))
    assert printed <= float(exact) * (1 + 1e-14) and float(exact) <= printed * 1.0011
