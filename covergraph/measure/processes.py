"""Several processes: `torchrun` starts them, each measures its share of the blocks, and all get everything.

A single process needs none of this. What is exchanged are Python objects, always through gloo: with NCCL they would
have to go through a GPU of each process, and a process that waits ten minutes for the others would end the run.
"""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from covergraph.errors import ProcessError
from covergraph.measure.checkpoint import first_difference

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""So long a process waits for the others; one that died is noticed at once."""

OLDEST = (2, 9)
"""With torch 2.6 a group that ends can lock the interpreter for ever; 2.9.1 and 2.13 do not. Not tried between."""


def old() -> bool:
    """Whether this torch is too old for several processes."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST


def rank() -> int:
    """The number of this process, 0 without torch.distributed."""
    return dist.get_rank() if _running() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _running() else 1


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


@dataclass(frozen=True)
class _Failure:
    error: Exception


class _StoppedError(Exception):
    """Another process has failed."""


@dataclass(frozen=True)
class Team:
    """The processes that measure together; `group` is None if there is only one.

    `failed`: the key under which a process that failed tells the others.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    failed: str = ""

    def owns(self, block: int) -> bool:
        """Whether this process measures block number `block`."""
        return block % self.size == self.rank

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in each process, by rank; an error in one of them is raised in all."""
        if self.group is None:
            return [work()]
        try:
            outcome: T | _Failure = work()
        except _StoppedError as stop:
            outcome = _Failure(stop)
        except BaseException as error:
            with suppress(ProcessError):
                with _connected():
                    _store().set(self.failed, str(self.rank))
                if isinstance(error, Exception):
                    self._gathered(_Failure(_portable(error)))
            raise
        outcomes = self._gathered(outcome)
        for number, other in enumerate(outcomes):
            if isinstance(other, _Failure) and not isinstance(other.error, _StoppedError):
                other.error.add_note(f"measure: raised in process {number} of {self.size}, and therefore in all")
                raise other.error
        return [other for other in outcomes if not isinstance(other, _Failure)]

    def go_on(self) -> None:
        """To be called now and then within `together`: stops this process if another one has failed."""
        if self.group is not None:
            with _connected():
                failed = _store().check([self.failed])
            if failed:
                raise _StoppedError

    def require_same(self, own: Mapping[str, str]) -> None:
        """Raise `ProcessError` in all processes unless all have the same entries."""
        everything = self._gathered(dict(own))
        for number, other in enumerate(everything):
            if difference := first_difference(other, everything[0]):
                key, there, here = difference
                raise ProcessError(
                    f"measure: process {number} differs from process 0 in the {key}: {there}, expected {here}; give "
                    "all processes the same model and arguments, and the whole sample in the same order: "
                    "shuffle=False and no DistributedSampler, as they divide it among themselves"
                )

    def _gathered(self, own: Any) -> list[Any]:
        parts: list[Any] = [own]
        if self.group is not None:
            parts = [None] * self.size
            with _connected():
                dist.all_gather_object(parts, own, group=self.group)
        return parts


@contextmanager
def team() -> Iterator[Team]:
    """All processes of torch.distributed; every one of them has to come here."""
    if world() == 1:
        yield Team()
        return
    if old():
        raise ProcessError(
            f"measure: torch {torch.__version__} with {world()} processes, expected torch 2.9 or later, since the "
            "processes may wait for each other for ever with older ones; upgrade torch, or measure in one process"
        )
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        alone = Team(rank(), world(), group)
        yield replace(alone, failed=alone._gathered(f"covergraph-failed-{secrets.token_hex(8)}")[0])
    finally:
        dist.destroy_process_group(group)


def _store() -> Any:
    """Where processes leave messages that the others need not wait for."""
    return dist.distributed_c10d._get_default_store()


@contextmanager
def _connected() -> Iterator[None]:
    """Errors of the connection become a `ProcessError`."""
    try:
        yield
    except RuntimeError as reason:
        raise ProcessError(
            f"measure: another process has ended or cannot be reached ({str(reason).splitlines()[0].split('. ')[0]}), "
            "expected all to go on to the end; look for its own error and start all again, with checkpoint=folder from "
            "where they were"
        ) from reason


def _portable(error: Exception) -> Exception:
    """The error, or one with its name and message if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ProcessError(f"{type(error).__name__}: {error}")
    return error
