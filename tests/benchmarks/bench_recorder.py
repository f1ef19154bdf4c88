"""What does recording a trajectory cost a step?

Run `python tests/benchmarks/bench_recorder.py`; --quick (shorter turns), --threads, --device cuda. Two copies of a
network train side by side, one plainly, one within a recorder that writes a file: a turn is as many steps as hold all
that is done once in a while, and the copies alternate within it. The figures are medians over turns, the cost that of
the differences. Finding the layer, once, is not timed. Goals: at most 200 us a step, or 5 % where it takes 20 ms.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import torch
from machine import clock, facts
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import covergraph as cg

OUT = Path(__file__).parents[2] / "build" / "bench"
MICROSECONDS, PERCENT, LONG = 200.0, 5.0, 0.02
SLICES = 20
"""The copies alternate so often within a turn."""


@dataclass(frozen=True)
class Case:
    """A network, the shape of its batches, the entries of its output, and how many steps a turn has."""

    title: str
    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    outputs: int
    steps: int
    every: int | None = None


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Sequential:
    """Three convolutions on images of 32 x 32."""
    first = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4096, 10)]
    return nn.Sequential(*first, *second)


CASES = (
    Case("MLP 10-10-100-100-100-1, batch 1", lambda: mlp(10, 10, 100, 100, 100, 1), (1, 10), 1, 100),
    Case("digits, MLP 784-256-256-10, batch 1", lambda: mlp(784, 256, 256, 10), (1, 784), 10, 800),
    Case("3 convolutions, batch 32", convolutional, (32, 3, 32, 32), 10, 100),
    Case("the same, every=1", convolutional, (32, 3, 32, 32), 10, 40, every=1),
)


def trainer(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> Callable[[int], float]:
    """Seconds a step, of so many steps of a plain loop."""
    data = [(torch.randn(case.inputs, device=device), torch.randn(case.inputs[0], case.outputs, device=device))] * 2

    def run(steps: int) -> float:
        start = clock(device)
        for t in range(steps):
            x, y = data[t % 2]
            optimizer.zero_grad()
            loss: Tensor = (model(x) - y).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (clock(device) - start) / steps

    return run


def compare(case: Case, turns: int, steps: int, device: str, place: Path) -> dict[str, float | str]:
    """Seconds a step with and without a recorder."""
    runs, models = [], []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(case.make().to(device))
        optimizer = torch.optim.SGD(models[-1].parameters(), 1e-3)
        runs.append((trainer(case, models[-1], optimizer, device), optimizer))
    (plain, _), (watched, optimizer) = runs
    with cg.TrajectoryRecorder(models[1], optimizer, place, every=case.every, overwrite=True):
        watched(2), plain(2)
        part = max(1, steps // SLICES)
        pairs = []
        for _ in range(turns):
            slices = [(plain(part), watched(part)) for _ in range(steps // part)]
            pairs.append((mean(a for a, _ in slices), mean(b for _, b in slices)))
    without, within = (median(pair[i] for pair in pairs) for i in (0, 1))
    cost = median(b - a for a, b in pairs)
    return {"case": case.title, "without": without, "within": within, "cost": cost, "steps": steps * turns}


def main() -> None:
    """Time all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    made = Table(title="the cost of a recorder", title_justify="left", title_style="bold")
    for head in ("case", "ms a step", "with a recorder", "us", "%", "goal"):
        made.add_column(head, justify="left" if head == "case" else "right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            long = len(case.inputs) == 4
            turns, steps = 3 if long else 15, case.steps // (4 if asked.quick else 1)
            row = compare(case, turns, steps, asked.device, Path(folder) / "run")
            rows.append(row)
            without, within, cost = (float(row[name]) for name in ("without", "within", "cost"))
            met = 100 * cost / without <= PERCENT if without >= LONG else 1e6 * cost <= MICROSECONDS
            said = "" if case.every else "met" if met else "MISSED"
            words = [f"{1e3 * without:.3f}", f"{1e3 * within:.3f}", f"{1e6 * cost:.0f}", f"{100 * cost / without:.1f}"]
            made.add_row(case.title, *words, said)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "recorder.json").write_text(json.dumps({"machine": facts(asked.device), "rows": rows}, indent=1))
    shown = Console(record=True, width=120)
    shown.print(", ".join(f"{what} {value}" for what, value in facts(asked.device).items()), highlight=False)
    shown.print(made)
    (OUT / "recorder.txt").write_text(shown.export_text())


if __name__ == "__main__":
    main()
