"""What a theorem says of one training run: both sides, the slack, and a ledger of its assumptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from covergraph.values import Floats, same

Status = Literal["true", "false", "not checkable"]
Side = Literal["lower", "upper"]
BOTH: tuple[Side, ...] = ("lower", "upper")


@dataclass(frozen=True)
class Assumption:
    """One assumption: its status on this run, what that means for the statement, what was seen, the sides it carries.

    A side that rests on a false assumption is not stated. One that rests on what cannot be checked is stated, and the
    assumption is printed with it.
    """

    name: str
    status: Status
    consequence: str
    evidence: str = ""
    sides: tuple[Side, ...] = BOTH


@dataclass(frozen=True)
class Ledger:
    """The assumptions of a theorem, in the order in which they are printed."""

    assumptions: tuple[Assumption, ...] = ()

    def states(self, side: Side) -> bool:
        """Whether no assumption of this side is false."""
        return all(a.status != "false" for a in self.assumptions if side in a.sides)

    def with_status(self, status: Status) -> tuple[Assumption, ...]:
        """The assumptions that are true, false, or not checkable."""
        return tuple(a for a in self.assumptions if a.status == status)

    def __iter__(self) -> Iterator[Assumption]:
        return iter(self.assumptions)

    def text(self) -> str:
        """One line an assumption."""
        lines = []
        for a in self.assumptions:
            seen = f" ({a.evidence})" if a.evidence else ""
            lines.append(f"  {a.status:13} {a.name}{seen}: {a.consequence}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Statement:
    """lower <= value <= upper, as one theorem says it of one run.

    A side is None where the ledger, or what was measured, lets nothing be said. `rounding`: by how much the rounding of
    the recorded numbers alone may break either side. `steps`: lower, value, upper and rounding by iteration where the
    theorem holds step by step, NaN where a side says nothing. `details`: further numbers by name (beta, phi, ...).
    """

    theorem: str
    formula: str
    value: float | None
    lower: float | None
    upper: float | None
    ledger: Ledger
    rounding: float = 0.0
    steps: Mapping[str, Floats] = field(default_factory=dict, repr=False)
    details: Mapping[str, float] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return same(vars(self), vars(other)) if isinstance(other, Statement) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def slack_lower(self) -> float | None:
        """value - lower."""
        return None if self.value is None or self.lower is None else self.value - self.lower

    @property
    def slack_upper(self) -> float | None:
        """upper - value."""
        return None if self.value is None or self.upper is None else self.upper - self.value

    @property
    def violations(self) -> int:
        """How many of the stated inequalities fail by more than rounding: those of `steps`, or else the two sides."""
        if self.steps:
            low, value, high = (self.steps[name] for name in ("lower", "value", "upper"))
            room = self.steps.get("rounding", np.zeros_like(value))
            return int(np.sum(low > value + room) + np.sum(value > high + room))  # NaN compares false
        slacks = [slack for slack in (self.slack_lower, self.slack_upper) if slack is not None]
        return sum(slack < -self.rounding for slack in slacks)

    @property
    def instances(self) -> int:
        """How many inequalities are stated: those of `steps`, or else the sides."""
        if self.steps:
            low, value, high = (self.steps[name] for name in ("lower", "value", "upper"))
            return int(np.sum(~np.isnan(low + value)) + np.sum(~np.isnan(high + value)))
        return sum(slack is not None for slack in (self.slack_lower, self.slack_upper))

    def text(self) -> str:
        """The statement, its slack and its ledger."""
        return "\n".join([self._sides(), self.ledger.text()])

    def __repr__(self) -> str:
        """The statement, its slack, and the assumptions that are not known to be true."""
        open_ = Ledger(tuple(a for a in self.ledger if a.status != "true"))
        count = len(self.ledger.assumptions) - len(open_.assumptions)
        return "\n".join([self._sides(), *[open_.text()] * bool(open_.assumptions), f"  {count} assumptions are true"])

    def _sides(self) -> str:
        def number(x: float | None) -> str:
            return "no statement" if x is None else f"{x:.6g}"

        slacks = f"slack {number(self.slack_lower)} below, {number(self.slack_upper)} above"
        return f"{self.theorem}: {number(self.lower)} <= {number(self.value)} <= {number(self.upper)} ({slacks})"
