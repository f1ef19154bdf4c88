"""What the zoo records of one entry, one JSON line each, and how these lines are read again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

TOLERANCE = 1e-9
"""The largest relative difference between graph and model that counts as faithful."""

NOT_INSTALLED, TRACED, REFUSED, FAILED = "not installed", "traced", "refused", "failed"
"""Values of `Result.status`: refused is an error of covergraph's own, failed is any other end."""


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

    @property
    def key(self) -> str:
        """The entry's key: family/name."""
        return f"{self.family}/{self.name}"

    @property
    def faithful(self) -> bool:
        """True if it was traced and the graph computes what the model computes."""
        return self.status == TRACED and self.error <= TOLERANCE

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self) | {"faithful": self.faithful})


def parse(line: str) -> Result:
    """The result that a line holds; raises ValueError if the line was cut off."""
    known = json.loads(line)
    values = {field.name: known[field.name] for field in fields(Result) if field.name in known}
    return Result(**values | {name: tuple(values.get(name, ())) for name in ("failures", "opaque")})


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
