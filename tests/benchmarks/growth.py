"""How do our time and memory grow with the samples and the pairs of case (a)? Each size in a process of its own.

`python tests/benchmarks/growth.py SAMPLES DEPTH THREADS` measures one size and prints a line of JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
from machine import timed
from methods import Found, ours
from networks import mlp

BLOCK = 256
SAMPLES = (64, 256, 1024, 4096)
DEPTHS = (1, 2, 3, 4, 5)
FIXED_SAMPLES = 512


def peak() -> float:
    """The largest memory of this process so far, in MiB; what a parent process had does not count where Linux says."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    marks = [float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return marks[0] if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_one(samples: int, depth: int) -> dict[str, float]:
    """Seconds, and the memory before and after, of one size."""
    case = mlp(depth=depth, samples=samples)
    traced = case.traced()
    ours(mlp(depth=depth, samples=8), traced, 1.05, BLOCK)
    with suppress(OSError):  # elsewhere the peak may be that of tracing
        Path("/proc/self/clear_refs").write_text("5")
    before, found = peak(), Found()

    def run() -> None:
        nonlocal found
        found = ours(case, traced, 1.01, BLOCK)

    seconds = timed(run, "cpu")
    inputs = case.inputs.numel() * case.inputs.element_size() / 2**20
    return {
        "samples": samples, "pairs": len(case.pairs), "seconds": seconds, "before": before, "peak": peak(),
        "inputs": inputs, "products": sum(found.products.values()) / samples / len(case.pairs),
    }  # fmt: skip


def growth(quick: bool = False) -> list[dict[str, float]]:
    """All sizes, one process after the other."""
    sizes = [(n, 5) for n in SAMPLES] + [(FIXED_SAMPLES, depth) for depth in DEPTHS]
    rows = []
    for samples, depth in sizes[:2] if quick else sizes:
        words = [sys.executable, __file__, str(samples), str(depth), str(torch.get_num_threads())]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(measure_one(int(sys.argv[1]), int(sys.argv[2]))))
