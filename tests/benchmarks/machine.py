"""Facts of the machine that a timing needs beside it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch


def processor() -> str:
    """The name of the processor."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def clock(device: str) -> float:
    """Seconds of the clock, with the device's work done; with one thread, of the processor: other jobs do not count."""
    if device != "cpu":
        torch.cuda.synchronize()
    return perf_counter() if device != "cpu" or torch.get_num_threads() > 1 else process_time()


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one run."""
    start = clock(device)
    run()
    return clock(device) - start


def matmul_speed(dtype: torch.dtype, device: str, size: int = 2048, runs: int = 7) -> float:
    """Operations a second in a product of two square matrices, the median of some runs."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timed(lambda: a @ b, device)
    return 2 * size**3 / median(timed(lambda: a @ b, device) for _ in range(runs))


def facts(device: str) -> dict[str, str | float]:
    """Names and sizes, by what they are."""
    return {
        "processor": processor(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
