"""Measuring in other processes: killed ones that go on, and several together.

As a script: `elsewhere.py kills FOLDER`, or `elsewhere.py together FOLDER [RANK SIZE]`, where torchrun gives the rank.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from handmade import NETWORKS, Network, mlp
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from covergraph.errors import NonFiniteError
from covergraph.measure import plan
from covergraph.measure.measure import Job, measure
from covergraph.values import Measurements

N = 40


def bits(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All numbers of measurements, by name; arrays as bytes."""
    if isinstance(value, Measurements):
        for field in fields(value):
            yield from bits(getattr(value, field.name), field.name)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from bits(entry, f"{name}[{key}]")
    else:
        yield name, (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)


@contextmanager
def small_blocks(rows: int = 3, dense: bool = False) -> Iterator[None]:
    """Blocks of so many samples, and random starts for all norms that need more than a closed form."""
    with mock.patch.object(plan, "ROWS", rows), mock.patch.object(plan, "DENSE_BYTES", 2**30 if dense else 0):
        yield


def measured(net: Network, folder: Path | None = None, rows: int = 3, dense: bool = False, **options: Any) -> Any:
    """All numbers of a small network."""
    loader = options.pop("loader", None) or net.loader(N, 7)
    with small_blocks(rows, dense):
        return dict(bits(measure(net.bound(), net.module, loader, checkpoint=folder, **options)))


@contextmanager
def watched(before: Callable[[int], None] = lambda start: None) -> Iterator[list[int]]:
    """The first samples of the blocks that are really measured; `before` each of them is called."""
    starts: list[int] = []
    plain = Job.measured

    def instead(self: Job, batch: Any, levels: Any) -> Any:
        before(batch.start)
        starts.append(batch.start)
        return plain(self, batch, levels)

    with mock.patch.object(Job, "measured", instead):
        yield starts


def kills(folder: Path) -> None:
    """Kill children, some of them while they write, the others at random moments; prints what is left and equal."""
    net, rng = NETWORKS["residual"](), random.Random(0)
    expected = measured(net, rows=1)
    left = 0
    for round_ in range(12):
        done = finished(folder)
        child = started(net, folder)
        while finished(folder) <= done and not ended(child):
            pass
        while round_ % 4 == 1 and not ended(child) and not stopped_while_writing(folder, child):
            pass
        time.sleep(0 if round_ % 4 == 1 else rng.uniform(0, 0.003))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left += len(list(folder.glob("*.part")))
    with watched() as starts:
        found = measured(net, folder, rows=1)
    print("equal" if found == expected else "different", "partly done" if 0 < len(starts) < N else len(starts))
    print("half-written files" if left else "never in a file", len(list(folder.glob("*.part"))))
    children = [started(net, folder / "both") for _ in range(2)]
    print("two at once", [os.waitpid(child, 0)[1] for child in children])
    with watched() as starts:
        print("equal" if measured(net, folder / "both", rows=1) == expected else "different", len(starts))


def started(net: Network, folder: Path) -> int:
    """A child process that measures."""
    child = os.fork()
    if child == 0:
        try:
            measured(net, folder, rows=1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def finished(folder: Path) -> int:
    """How many whole files there are."""
    return sum(path.suffix != ".part" for path in folder.glob("*"))


def stopped_while_writing(folder: Path, child: int) -> bool:
    """Stop the child after a moment; if no file is half written then, let it go on."""
    time.sleep(0.002)
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if any(folder.glob("*.part")):
        return True
    os.kill(child, signal.SIGCONT)
    return False


def ended(child: int) -> bool:
    """Whether it has finished by itself."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class LocalError(Exception):
    """An error that cannot be sent."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Turned:
    """Gives the samples in another order in each pass, from its own seed."""

    def __init__(self, net: Network, seed: int, passes: int) -> None:
        self.net, self.generator, self.passes = net, torch.Generator().manual_seed(seed), passes

    def __iter__(self) -> Iterator[Any]:
        self.passes -= 1
        (x,), y = self.net.sample(N)
        order = torch.arange(N) if self.passes >= 0 else torch.randperm(N, generator=self.generator)
        yield x[order], y[order]


def _raising(rank: int, error: Exception, token: str) -> Callable[[int], None]:
    """The second process fails on its first block; the others wait there until it has told them so."""
    store = dist.distributed_c10d._get_default_store()

    def before(start: int) -> None:
        if rank == 1 and start > 0:
            raise error
        while start > 0 and not store.check([f"covergraph-failed-{token}"]):
            time.sleep(0.01)

    return before


def scenarios(rank: int, size: int, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is tried in all processes together, by name."""
    net = mlp()
    if (folder / "die").exists():
        yield "few blocks", lambda: measured(net, rows=N)
        with watched(lambda start: os._exit(9) if rank == 1 and start > 0 else None):
            yield "death", lambda: measured(net)
        return
    if torch.cuda.is_available():
        yield "cuda", lambda: measured(net, device=f"cuda:{rank % torch.cuda.device_count()}")
    (x,), y = net.sample(N)
    dataset = TensorDataset(x, y)
    for name in NETWORKS:
        yield f"random starts: {name}", lambda name=name: measured(NETWORKS[name]())
    yield "dense", lambda: measured(net, dense=True)
    yield "filled", lambda: measured(net, fill=True)
    yield "checkpoint", lambda: measured(net, folder / "new")
    yield "resumed", lambda: measured(net, folder / "half")
    yield "few blocks", lambda: measured(net, rows=N)
    yield "shards", lambda: measured(
        net, loader=DataLoader(dataset, 5, sampler=DistributedSampler(dataset, size, rank, shuffle=False))
    )
    yield "shuffled", lambda: measured(net, loader=Turned(net, rank, 0))
    yield "shuffled later", lambda: measured(net, loader=Turned(net, rank, 1))
    yield "shuffled in the same way", lambda: measured(net, loader=Turned(net, 0, 0))
    yield "arguments", lambda: measured(net, width=1.01 + 0.1 * rank)
    yield "folder", lambda: measured(net, folder / "new", seed=1)
    yield "device", lambda: measured(net, device="cuda:99" if rank == 1 else "cpu")
    for name, error in (("error", NonFiniteError("measure: too large")), ("foreign error", LocalError(1, 2))):
        named = mock.patch("covergraph.measure.processes.secrets.token_hex", return_value=name)
        with named, watched(_raising(rank, error, name)) as starts:
            yield name, lambda: measured(net, rows=1)
            yield f"{name}: blocks", lambda starts=starts: len(starts)
    yield "after errors", lambda: measured(net)


def together(folder: Path, rank: int, size: int) -> None:
    """Run all scenarios; write results, or errors with their notes, to a file for each process."""
    results: dict[str, Any] = {}
    for name, run in scenarios(rank, size, folder):
        try:
            results[name] = run()
        except Exception as error:
            results[name] = (type(error).__name__, str(error), getattr(error, "__notes__", []))
    (folder / f"results-{rank}").write_bytes(pickle.dumps(results))


def half_done(folder: Path) -> None:
    """A checkpoint from which some blocks are missing."""
    measured(mlp(), folder)
    for file in sorted(folder.glob("block-*"))[::3]:
        file.unlink()


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, where = sys.argv[1], Path(sys.argv[2])
    if command == "kills":
        kills(where)
    elif len(sys.argv) > 3:
        here, count = int(sys.argv[3]), int(sys.argv[4])
        dist.init_process_group("gloo", init_method=f"file://{where}/meeting", rank=here, world_size=count)
        together(where, here, count)
    else:
        dist.init_process_group("nccl" if (where / "nccl").exists() else "gloo")
        together(where, dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()
