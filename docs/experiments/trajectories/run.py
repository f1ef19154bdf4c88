"""The experiments on trajectories: trains what is not yet trained, then writes docs/trajectories.md and its figures.

    python docs/experiments/trajectories/run.py [--full [--cifar DIR]] [--workers 2] [--out build/trajectories]

Each group of runs is one file in --out, written as soon as the group ends; a later call goes on with the others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import maps
import numpy as np
import ordinary
import page
import stacked
import torch
from epochs import Arrays
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tasks import MAPS, Plan, source, tasks

ROOT = Path(__file__).resolve().parents[3]
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "batch 4": {"both": {"batch": 4, "rate": 4.0}},
    "batch 16": {"both": {"batch": 16, "rate": 16.0}},
    "narrow": {"sinusoid": {"options": (("width", 50),)}, "images": {"options": (("channels", (8, 16)),)}},
    "wide": {"sinusoid": {"options": (("width", 200),)}, "images": {"options": (("channels", (32, 64)),)}},
    "deep": {"sinusoid": {"options": (("hidden", 5),)}, "images": {"options": (("channels", (16, 16, 32)),)}},
    "parameters": {"both": {"watch_all": True}},
    "dropout": {"images": {"options": (("dropout", 0.5),)}},
    "momentum": {"both": {"optimizer": "momentum", "rate": 0.1}},
    "adam": {"sinusoid": {"optimizer": "adam", "rate": 0.1}, "images": {"optimizer": "adam", "rate": 0.04}},
    "layer norm": {"both": {"options": (("norm", True),)}},
}
EPOCHS = {"sinusoid": (3000, 1000), "images": (150, 50)}  # of the main runs and of the variants
SEEDS = {"sinusoid": 10, "images": 8}


def plans(full: bool = False) -> list[Plan]:
    """All groups, the longest ones first; `full` gives the variants as many epochs as the main runs."""
    found = []
    for task, (epochs, fewer) in EPOCHS.items():
        found.append(Plan(task, "main", tuple(range(SEEDS[task])), epochs))
        for variant, settings in VARIANTS.items():
            setting = settings.get(task, settings.get("both"))
            if setting is not None:
                found.append(Plan(task, variant, (0, 1, 2), epochs if full else fewer, **setting))
        found.append(Plan(task, "agreement", (0,), 10 if task == "sinusoid" else 1))
    small = (("width", 10), ("hidden", 0))
    found += [Plan("sinusoid", name, (0,), 600, options=small if name == "small map" else ()) for name in MAPS]
    return sorted(found, key=lambda plan: (not plan.by_epoch, plan.variant != "main"))


def load(out: Path, plan: Plan) -> Arrays | None:
    """What an earlier call left of this very plan."""
    file = out / f"{plan.name}.npz"
    if not file.exists():
        return None
    with np.load(file) as kept:
        return dict(kept) if str(kept["plan"]) == repr(plan) else None


shares: Any = None  # of each group's epochs, how much is done; shared by the processes


def start(shared: Any) -> None:
    global shares
    shares = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # momenta of idle units fade into numbers that take ten times as long


def train(index: int, plan: Plan, out: Path, full: bool, folder: Path | None) -> float:
    """Trains one group and writes its file; the seconds it took."""
    began, task = time.perf_counter(), tasks(full, folder)[plan.task]

    def report(share: float) -> None:
        shares[index] = share

    if plan.variant == "agreement":
        found = ordinary.compare(task, plan)
    else:
        found = (maps.compute if plan.variant in MAPS else stacked.train)(task, plan, report)
    seconds = time.perf_counter() - began
    file = out / f"{plan.name}.npz"
    np.savez(file.with_suffix(".part.npz"), **found, plan=np.array(repr(plan)), seconds=np.array(seconds))
    file.with_suffix(".part.npz").rename(file)
    return seconds


@contextmanager
def processes(workers: int, groups: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """The pool, and what it shares; an error or Ctrl-C ends the groups that are under way, not only the waiting."""
    context = multiprocessing.get_context("spawn")
    shared = context.Array("d", max(groups, 1))
    with ProcessPoolExecutor(workers, context, start, (shared,)) as pool:
        try:
            yield pool, shared
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def run(todo: Sequence[Plan], out: Path, workers: int, full: bool = False, folder: Path | None = None) -> None:
    """All groups that are not in `out` yet, `workers` at a time, one thread each."""
    todo = [plan for plan in todo if load(out, plan) is None]
    out.mkdir(parents=True, exist_ok=True)
    bars = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn())
    with processes(workers, len(todo)) as (pool, shared), Progress(*bars) as progress:
        rows = {plan: progress.add_task(plan.name, total=1.0, visible=False) for plan in todo}
        running = {pool.submit(train, i, plan, out, full, folder): plan for i, plan in enumerate(todo)}
        while running:
            for i, plan in enumerate(todo):
                progress.update(rows[plan], completed=shared[i], visible=0 < shared[i] < 1)
            for future in [future for future in running if future.done()]:
                plan = running.pop(future)
                progress.update(rows[plan], visible=False)
                progress.console.print(f"{plan.name}: {future.result():.0f} s, {len(running)} groups left")
            time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's number of images, the variants at full length")
    parser.add_argument("--cifar", type=Path, help="with --full: the folder with CIFAR-10's binary version")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "trajectories")
    options = parser.parse_args(arguments)
    out = options.out / "full" if options.full else options.out
    groups = plans(options.full)
    run(groups, out, options.workers, options.full, options.cifar)
    docs = out if options.full else ROOT / "docs"
    made = tasks(options.full, options.cifar)
    print(page.write({plan: load(out, plan) for plan in groups}, made, docs, source(options.full, options.cifar)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; the groups that had ended are kept, and the same command goes on") from None
