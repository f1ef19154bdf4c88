"""Break the mathematics in one place at a time: the tests must notice each break.

    python tests/mutation.py [part of a name ...]

Each mutation (tests/mutations.py, tests/mutations_rules.py) is a replacement of text that must occur exactly once in
the package. The package and the tests are copied to a folder of their own, the replacement is made there, and the
tests named by the row run on the copy. A row is "killed" if a test fails, "SURVIVED" if all pass, "BROKEN" if they
could not run. "Both" rows change the matrix form and the expressions alike, so that no comparison of the two can
notice: for them only the inequalities of Theorem 2 and the sums written by hand run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Loaded once here: every mutation runs in a fork of this process, which must not know covergraph yet.
import hypothesis
import matplotlib.pyplot
import pandas
import pytest
import scipy.optimize
import sklearn.datasets
import sympy
import torch
from mutation_rows import Mutation
from mutations import MUTATIONS
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
LOADED = (hypothesis, matplotlib.pyplot, pandas, scipy.optimize, sklearn.datasets, sympy, torch)
WORKERS = 2
SECONDS = 300
OPTIONS = ("-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-profile=mutation")
CONSOLE = Console(width=150)


@dataclass(frozen=True)
class Run:
    """A mutation that is being tested in a process of its own, in a folder of its own."""

    mutation: Mutation
    folder: Path

    def outcome(self, status: int) -> Outcome:
        output = (self.folder / "log").read_text()
        shutil.rmtree(self.folder)
        failed = tuple(re.findall(r"^FAILED (.+?)(?: - .*)?$", output, re.MULTILINE))
        code = os.waitstatus_to_exitcode(status)
        if code == 1 and failed:
            return Outcome(self.mutation, "killed", failed)
        if code == 0:
            return Outcome(self.mutation, "SURVIVED", ())
        return Outcome(self.mutation, "BROKEN", (f"exit {code}: {output.strip()[-300:]}",))


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation: killed, SURVIVED or BROKEN; the failed tests."""

    mutation: Mutation
    verdict: str
    tests: tuple[str, ...]


def check(mutation: Mutation) -> None:
    """Raise SystemExit unless each text to replace occurs exactly once."""
    for edit in mutation.edits:
        count = (ROOT / "covergraph" / edit.file).read_text().count(edit.old)
        if count != 1:
            raise SystemExit(f"{mutation.name}: {edit.old!r} occurs {count} times in {edit.file}, expected once")


def prepare(mutation: Mutation) -> Path:
    """A mutated copy of package and tests."""
    folder = Path(tempfile.mkdtemp(prefix="mutation-")).resolve()
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "covergraph", folder / "covergraph", ignore=skipped)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for edit in mutation.edits:
        path = folder / "covergraph" / edit.file
        path.write_text(path.read_text().replace(edit.old, edit.new))
    return folder


def start(mutation: Mutation) -> tuple[int, Run]:
    """Fork a process that runs the mutation's tests."""
    folder = prepare(mutation)
    pid = os.fork()
    if pid:
        return pid, Run(mutation, folder)
    try:
        code = run_tests(folder, [*([] if mutation.both else ["-x"]), *mutation.tests])
    finally:
        sys.stdout.flush()  # os._exit would leave the summary behind
        os._exit(code)


def run_tests(folder: Path, arguments: Sequence[str]) -> int:
    """In the forked process: pytest on the copy, its output in the file `log`."""
    signal.alarm(SECONDS)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "tests")]
    import covergraph

    if not str(covergraph.__file__).startswith(str(folder)):
        return 99
    torch.set_num_threads(1)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # a counterexample need not be small
    settings = hypothesis.settings
    settings.register_profile("mutation", derandomize=True, deadline=None, database=None, phases=phases)
    return int(pytest.main([*OPTIONS, *arguments]))


def outcomes(mutations: Sequence[Mutation]) -> Iterator[Outcome]:
    """Outcomes as they come, `WORKERS` at a time."""
    waiting, running = list(mutations), dict[int, Run]()
    while waiting or running:
        while waiting and len(running) < WORKERS:
            pid, run = start(waiting.pop(0))
            running[pid] = run
        pid, status = os.wait()
        yield running.pop(pid).outcome(status)


def killers(outcome: Outcome) -> str:
    """The first failed test of each file, and how many more failed there."""
    by_file: dict[str, list[str]] = {}
    for test in outcome.tests:
        file, _, name = test.removeprefix("tests/").partition("::")
        by_file.setdefault(file, []).append(name)
    more = {file: f" (+{len(names) - 1})" if names[1:] else "" for file, names in by_file.items()}
    return "\n".join(f"{file}::{names[0]}{more[file]}".removesuffix("::") for file, names in by_file.items())


def show(found: Sequence[Outcome]) -> None:
    result = Table("mutation", "verdict", "killed by", title="One break at a time")
    for o in found:
        color = "green" if o.verdict == "killed" else "red"
        result.add_row(o.mutation.name, f"[{color}]{o.verdict}[/]", killers(o).replace("[", "\\["))
    CONSOLE.print(result)


def main(wanted: Sequence[str]) -> int:
    begin = time.perf_counter()
    chosen = [m for m in MUTATIONS if not wanted or any(part in m.name for part in wanted)]
    for mutation in chosen:
        check(mutation)
    unbroken = Mutation("no mutation", (), tuple(dict.fromkeys(test for m in chosen for test in m.tests)))
    found: list[Outcome] = []
    for outcome in outcomes([unbroken, *chosen]):
        found.append(outcome)
        CONSOLE.print(f"{len(found)}/{len(chosen) + 1} {outcome.mutation.name}: {outcome.verdict}", style="dim")
    baseline = next(o for o in found if o.mutation is unbroken)
    order = {m.name: i for i, m in enumerate(chosen)}
    found = sorted((o for o in found if o is not baseline), key=lambda o: order[o.mutation.name])
    killed = sum(o.verdict == "killed" for o in found)
    show(found)
    CONSOLE.print(f"{killed} of {len(found)} killed in {time.perf_counter() - begin:.0f} s")
    if baseline.verdict != "SURVIVED":
        CONSOLE.print(f"[red]the tests fail without any mutation: {killers(baseline)}")
    return int(killed < len(found) or baseline.verdict != "SURVIVED")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
