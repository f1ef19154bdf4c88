"""What the zoo records of one entry, one JSON line each, and how these lines are read again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

TOLERANCE = 1e-9
"""The largest relative difference between graph and model that counts as faithful."""

NOT_INSTALLED, TRACED, REFUSED, FAILED = "not installed", "traced", "refused", "failed"
"""Values of `Result.status`: refused is an error of covergraph's own, failed is any other end."""


LATE = "TimeLimit"
"""The reason of what did not end in time."""


@dataclass(frozen=True)
class Derivation:
    """The bound of one entry; what does not apply is 0 or empty.

    `log10` is that of C/sqrt n; `nodes` are those of the lowered graph, `hidden` = |S|, `pairs` = |P|; `failing`
    conditions fail on every sample. `reason` and `message` tell why there is no bound, `without_rule` lists the labels
    of the operations to blame; `crashed`: by an error that is not covergraph's own, or by the limit of time.
    """

    derived: bool = False
    loss: str = ""
    log10: float = 0.0
    nodes: int = 0
    hidden: int = 0
    pairs: int = 0
    conditions: int = 0
    failing: int = 0
    groups: int = 0
    derive_seconds: float = 0.0
    measure_seconds: float = 0.0
    reason: str = ""
    message: str = ""
    without_rule: tuple[str, ...] = ()
    crashed: bool = False


@dataclass(frozen=True)
class SpotCheck:
    """The largest ratios of what was found to what Theorem 2 allows, over `checks` changes of one value each.

    `ratio`: |dz| / (kappatilde |d|); `part`: the same where only those terms of kappatilde count whose factors move;
    `values`: |dh_w| / (kappabar_{w<-v} |d|); `jacobians`: |dD_{w<-a}| / (its share of kappatilde |d|). `exact` checks
    run the whole augmented graph. `reason` tells why there are none.
    """

    checks: int = 0
    ratio: float = 0.0
    part: float = 0.0
    values: float = 0.0
    jacobians: float = 0.0
    exact: int = 0
    exact_ratio: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    worst: str = ""

    @property
    def largest(self) -> float:
        """The largest of all ratios."""
        return max(self.ratio, self.part, self.values, self.jacobians, self.exact_ratio)


@dataclass(frozen=True)
class Result:
    """The outcome of one entry; what does not apply is 0 or empty.

    `error` is relative; memory is the worker's peak in MiB, with Python and torch; `opaque` are the labels of nodes
    that have no record of their own; `reason` is the class of an error and `message` its beginning.
    """

    name: str
    family: str
    status: str
    parameters: int = 0
    way: str = ""
    failures: tuple[str, ...] = ()
    export_seconds: float = 0.0
    own_seconds: float = 0.0
    total_seconds: float = 0.0
    nodes_before: int = 0
    nodes_after: int = 0
    opaque: tuple[str, ...] = ()
    error: float = 0.0
    memory: float = 0.0
    reason: str = ""
    message: str = ""
    bound: Derivation = field(default_factory=Derivation)
    spot: SpotCheck = field(default_factory=SpotCheck)

    @property
    def key(self) -> str:
        """The entry's key: family/name."""
        return f"{self.family}/{self.name}"

    @property
    def faithful(self) -> bool:
        """True if it was traced and the graph computes what the model computes."""
        return self.status == TRACED and self.error <= TOLERANCE

    @property
    def complete(self) -> bool:
        """True unless it was traced and nobody has tried to derive its bound."""
        return self.status != TRACED or self.bound.derived or bool(self.bound.reason)

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self) | {"faithful": self.faithful})


Record = TypeVar("Record", Result, Derivation, SpotCheck)


def parse(line: str) -> Result:
    """The result that a line holds; raises ValueError if the line was cut off."""
    known = json.loads(line)
    bound, spot = _record(Derivation, known.pop("bound", {})), _record(SpotCheck, known.pop("spot", {}))
    return replace(_record(Result, known), bound=bound, spot=spot)


def _record(kind: type[Record], known: dict[str, Any]) -> Record:
    given = {field.name: known[field.name] for field in fields(kind) if field.name in known}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return kind(**values)


def read(files: Iterable[Path]) -> dict[str, Result]:
    """The last result of each entry; a line that an interruption cut off is as if it were not there."""
    found: dict[str, Result] = {}
    for file in sorted(files):
        for line in file.read_text().splitlines():
            try:
                result = parse(line)
            except (ValueError, TypeError):
                continue
            found[result.key] = result
    return found


def append(file: Path, result: Result) -> None:
    """Add a line to a file. The line before may have been cut off, so each starts with a line break."""
    with file.open("a") as stream:
        stream.write(f"\n{result.line()}")
