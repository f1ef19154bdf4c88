"""How many inequalities hold, and do any fail? Counts them on random networks, losses, data, batches and precisions.

    PYTHONPATH=tests python tests/trajectory/instances.py [runs] [seed]

Runs of 12 steps through the slow reference loop, half of them in single precision. `telling`: those whose value is more
than ten times what rounding may do.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from trajectory.reference import run

from covergraph.trajectory import (
    Statement,
    Trajectory,
    corollary1,
    corollary2,
    corollary3,
    first_layer_norm,
    theorem1,
    theorem1_batches,
    theorem1_gradient,
)

STEPS = 12
FIRST = ("square", "tall", "convolution", "wide", "wide", "shared")
LOSSES = ("half squared", "MSELoss", "BCE", "BCE with logits")


def trajectory(rng: random.Random) -> Trajectory:
    """A random run."""
    first = rng.choice(FIRST)
    return run(
        rng.randrange(2**31), first, rng.randint(2, 5), rng.choice(("relu", "tanh", "leaky")), rng.choice(LOSSES),
        steps=STEPS, rate=rng.choice((1e-4, 3e-3, 0.05, 0.15)), batch=rng.choice((1, 1, 1, 3)),
        outputs=rng.choice((1, 1, 1, 2)), dtype=rng.choice((torch.float64, torch.float32)),
        gain="active rows" if first == "wide" and rng.random() < 0.7 else "all rows",
    )


def statements(found: Trajectory, rng: random.Random) -> Iterator[Statement]:
    """All that is said of it."""
    yield from (theorem1(found), theorem1_gradient(found), theorem1_batches(found))
    yield corollary1(found, rng.randrange(STEPS))
    yield from (corollary2(found, 0, STEPS), corollary2(found, STEPS // 2, STEPS), corollary3(found))
    if found.layer.kind == "linear" and found.layer.shared == 1:
        yield first_layer_norm(found)


def telling(statement: Statement) -> int:
    """How many inequalities between the steps' numbers are no matter of rounding."""
    if not statement.steps:
        return 0 if statement.value is None or statement.value <= 10 * statement.rounding else statement.instances
    low, value, high, room = (statement.steps[name] for name in ("lower", "value", "upper", "rounding"))
    return int(np.sum((value > 10 * room) * (1.0 * np.isfinite(low) + np.isfinite(high))))


def count(runs: int, seed: int) -> dict[str, Counter[str]]:
    """By theorem: instances, telling ones, violations."""
    warnings.simplefilter("ignore")
    rng, found = random.Random(seed), dict[str, Counter[str]]()
    for _ in track(range(runs), "runs", console=Console(stderr=True)):
        for statement in statements(trajectory(rng), rng):
            row = found.setdefault(statement.theorem, Counter())
            row.update(instances=statement.instances, telling=telling(statement), violated=statement.violations)
    return found


if __name__ == "__main__":
    runs, seed = (int(value) for value in (*sys.argv[1:3], *("500", "0")[len(sys.argv) - 1 :]))
    title = f"{runs} runs of {STEPS} steps, seed {seed}"
    shown = Table("statement", "inequalities", "telling", "violated", title=title)
    rows = count(runs, seed)
    rows["all"] = sum(rows.values(), Counter())
    for name, row in rows.items():
        shown.add_row(name, *(f"{row[column]:,}" for column in ("instances", "telling", "violated")))
    Console().print(shown)
