"""How numbers are written: few digits, rounded away from the claim, never silently better than what is proved."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Literal

Direction = Literal["up", "down", "nearest"]
_MODES = {"up": ROUND_CEILING, "down": ROUND_FLOOR, "nearest": ROUND_HALF_EVEN}
DASH = "—"


def plain(value: float | None, digits: int = 4, direction: Direction = "nearest") -> str:
    """A number for terminals and tables, like 0.0525, 242.4, 6.067e12; a dash for None.

    "up" never prints less than the value, so an upper bound stays one.
    """
    if value is None:
        return DASH
    parts = _parts(value, digits, direction)
    return parts if isinstance(parts, str) else f"{parts[0]}e{parts[1]}"


def tex(value: float | None, digits: int = 4, direction: Direction = "nearest") -> str:
    r"""The same in LaTeX's math mode, like 6.067 \cdot 10^{12}."""
    if value is None:
        return r"\text{---}"
    parts = _parts(value, digits, direction)
    if isinstance(parts, str):
        return parts.replace("inf", r"\infty")
    return rf"{parts[0]} \cdot 10^{{{parts[1]}}}"


def interval(lower: float, upper: float, digits: int = 6) -> str:
    r"""[lower, upper] in LaTeX's math mode, rounded outwards."""
    return f"[{tex(lower, digits, 'down')},\\ {tex(upper, digits, 'up')}]"


def percent(share: float, digits: int = 3) -> str:
    """A share as "12.5 %"."""
    return f"{plain(100 * share, digits)} %"


def confidence(delta: float, numeric: float = 0.0) -> str:
    """1 - delta - numeric in percent, never above it; both count as the decimal numbers that they print."""
    fails = Context(rounding=ROUND_CEILING).add(Decimal(repr(float(delta))), Decimal(repr(float(numeric))))
    holds = Context(prec=4, rounding=ROUND_FLOOR).subtract(Decimal(1), fails)
    return f"{plain(float(100 * holds), 4, 'down')} %"


def samples(needed: float | None) -> str:
    """The n at which a certificate would reach 1."""
    if needed is None:
        return f"{DASH} (never)"
    return plain(needed, 3, "up") if math.isfinite(needed) else "more than 1e260"


def _parts(value: float, digits: int, direction: Direction) -> str | tuple[str, int]:
    """A positional string, or mantissa and exponent; a float counts as the decimal number that it prints."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    rounded = Context(prec=digits, rounding=_MODES[direction]).create_decimal(Decimal(repr(float(value)))).normalize()
    exponent = rounded.adjusted()
    if -4 <= exponent < 5:
        return f"{rounded:f}"
    return f"{rounded.scaleb(-exponent).normalize():f}", exponent
