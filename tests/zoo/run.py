"""Trace the zoo, derive its bounds, and write the page about it.

`python tests/zoo/run.py --out FOLDER` does what FOLDER does not hold yet, `--report` writes docs/coverage.md.
One line of JSON per entry goes to FOLDER/results-*.jsonl, what a model prints to FOLDER/logs. It may be interrupted.
"""

from __future__ import annotations

# ruff: noqa: E402 (imports after the lines that they depend on)
import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers share the cores
sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: its files are no top-level modules

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from zoo import shim
from zoo.catalog import ENTRIES, FAMILIES, REFUSED
from zoo.coverage import write
from zoo.entry import Entry
from zoo.result import NOT_INSTALLED, Result, append, read
from zoo.worker import Worker

PACKAGES = ("torchvision", "timm", "transformers", "torch_geometric")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and do what it says; the exit status is 1 if a run was interrupted."""
    options = parser().parse_args(arguments)
    entries = selected(options)
    if options.list:
        print(*(entry.key for entry in entries), sep="\n")
        return 0
    if options.report:
        print(write(read(options.out.glob("results-*.jsonl"))))
        return 0
    return run(entries, options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=Path("build/zoo"), help="folder of the results (build/zoo)")
    made.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="every N-th entry from the I-th on")
    made.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="in family/name")
    made.add_argument("--family", choices=FAMILIES)
    made.add_argument("--limit", type=float, default=300.0, metavar="SECONDS", help="per entry (300)")
    made.add_argument("--workers", type=int, default=1, help="entries at a time (1)")
    made.add_argument("--again", action="store_true", help="also what the folder already holds")
    made.add_argument("--list", action="store_true", help="print the entries and stop")
    made.add_argument("--report", action="store_true", help="write docs/coverage.md from the folder")
    return made


def shard(text: str) -> tuple[int, int]:
    """I/N as two numbers."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with 0 <= I < N, such as 0/2")
    return int(found[1]), int(found[2])


def selected(options: argparse.Namespace) -> list[Entry]:
    """The entries that the command line asks for."""
    first, step = options.shard
    entries = [e for e in ENTRIES + REFUSED if options.only.search(e.key) and options.family in (None, e.family)]
    return entries[first::step]


def run(entries: Sequence[Entry], options: argparse.Namespace) -> int:
    """Trace the entries, some at a time, and append a line for each as soon as it is known."""
    (options.out / "logs").mkdir(parents=True, exist_ok=True)
    known = {} if options.again else read(options.out.glob("results-*.jsonl"))
    done = {key for key, result in known.items() if result.complete and result.status != NOT_INSTALLED}
    todo = [entry for entry in entries if entry.key not in done]
    preload({entry.family for entry in todo})
    # Without a thread that refreshes: a forked worker would inherit its locks.
    bar = Progress(
        *(TextColumn("{task.description:48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        console=Console(stderr=True),
        auto_refresh=False,
    )
    with bar:
        try:
            trace(todo, options, bar)
        except KeyboardInterrupt:
            bar.console.print("interrupted; the same command goes on where this one stopped")
            return 1
    return 0


def trace(todo: Sequence[Entry], options: argparse.Namespace, bar: Progress) -> None:
    """Keep `workers` processes busy until all entries are done; an interruption ends them."""
    file = options.out / f"results-{options.shard[0]}-of-{options.shard[1]}.jsonl"
    task = bar.add_task("", total=len(todo))
    waiting, running = list(todo), list[Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < options.workers:
                entry = waiting.pop(0)
                log = options.out / "logs" / f"{entry.key.replace('/', '-')}.txt"
                running.append(Worker(entry, log, options.limit))
            bar.update(task, description=", ".join(worker.entry.key for worker in running), refresh=True)
            wait([worker.receiver for worker in running], timeout=1.0)
            for worker in tuple(running):
                if result := worker.result():
                    running.remove(worker)
                    append(file, result)
                    style = "green" if result.faithful and result.bound.derived else "yellow"
                    bar.console.print(told(result), style=style, highlight=False, soft_wrap=True)
                    bar.advance(task)
    finally:
        for worker in running:
            worker.stop()


def told(result: Result) -> str:
    """One line about a result for the terminal."""
    if result.status != "traced":
        return f"{result.key:40} {result.status}: {result.reason}: {result.message[:120]}"
    bound, spot = result.bound, result.spot
    refusal = f"{'CRASH' if bound.crashed else 'no bound'}: {bound.reason}: {bound.message[:100]}"
    checked = f", ratio {spot.largest:.2g} ({spot.checks + spot.exact})" if spot.checks + spot.exact else ""
    return (
        f"{result.key:40} {result.way}, error {result.error:.1e}, {result.nodes_before} -> {result.nodes_after} nodes, "
        f"{result.export_seconds:.1f} + {result.own_seconds:.1f} s, {result.memory:.0f} MiB; "
        + (f"log10 C/sqrt(n) {bound.log10:.1f}{checked}" if bound.derived else refusal)
        + f"; {bound.derive_seconds:.1f} + {bound.measure_seconds:.1f} + {spot.seconds:.1f} s"
    )


def preload(families: set[str]) -> None:
    """Load once what workers inherit; a package that is not installed is reported entry by entry."""
    line = torch.nn.Linear(1, 1).eval()
    torch.export.export(line, (torch.zeros(1, 1),), strict=False).run_decompositions()
    for package in PACKAGES:
        if package in families and importlib.util.find_spec(package):
            shim.load(package)


if __name__ == "__main__":
    sys.exit(main())
