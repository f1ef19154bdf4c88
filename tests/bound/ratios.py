"""Print the largest release-Lipschitz ratios: `python tests/bound/ratios.py [examples per mode]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prober import probe
from release import Tally, check
from report_ratios import lines
from strategies import Case, cases
from tight import TIGHT

from covergraph.graph.augmented import Mode
from covergraph.passes.augment import augment

MODES: tuple[Mode, ...] = ("minimal", "paper")


def random_graphs(mode: Mode, count: int) -> dict[str, object]:
    tally = Tally()

    @settings(max_examples=count, derandomize=True, deadline=None, database=None)
    @given(cases(), st.integers(0, 2**16))
    def holds(case: Case, seed: int) -> None:
        probe(case, augment(case.graph, mode=mode), seed, tally)

    holds()
    return {"mode": mode, **tally.summary()}


def named_graphs(mode: Mode) -> list[dict[str, object]]:
    rows = []
    for row in TIGHT:
        trial, constants = row.trial(mode)
        head, tail = row.place.head, row.place.tail
        constant = constants.hidden(head) if tail is None else constants.jacobian(head, tail)
        rows.append({"mode": mode, "named": row.name, "ratio": float(check(trial, constant).max())})
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    found = [random_graphs(mode, examples) for mode in MODES]
    found += [row for mode in MODES for row in named_graphs(mode)]
    print("\n".join(lines(found)))
