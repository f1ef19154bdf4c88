"""Trace one entry and derive its bound in a process of its own: memory, crashes and endless loops stay there."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from zoo.bounds import derivation
from zoo.catalog import SPOTTED
from zoo.entry import Case, Entry
from zoo.result import FAILED, LATE, NOT_INSTALLED, REFUSED, TRACED, Derivation, Result, SpotCheck
from zoo.spot import spot_check

from covergraph.errors import CovergraphError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.operations import Call, Composite
from covergraph.tracers import trace_report
from covergraph.tracers.tracing import TraceReport

# Forked workers inherit the imported packages, which take longer to import than most models to trace.
CONTEXT = multiprocessing.get_context("fork")


def measure(entry: Entry) -> Iterator[Result]:
    """Build the model, trace it, derive its bound and check that, telling after each stage; raises nothing."""
    blank = Result(entry.name, entry.family, FAILED)
    start = time.perf_counter()
    for result in _stages(entry, blank):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield replace(result, total_seconds=time.perf_counter() - start, memory=peak)


def _stages(entry: Entry, blank: Result) -> Iterator[Result]:
    try:
        case = entry.case()
        blank = replace(blank, parameters=sum(p.numel() for p in case.model.parameters()))
        report = trace_report(case.model, case.inputs, dict(case.kwargs), output=case.output)
    except ImportError as error:
        yield _ended(blank, NOT_INSTALLED, error)
    except CovergraphError as error:
        yield _ended(blank, REFUSED, error)
    except Exception as error:
        traceback.print_exc()
        yield _ended(blank, FAILED, error)
    else:
        traced = _traced(report, blank)
        yield traced
        if not entry.refused:
            yield from _bounded(report.graph, case, entry, traced)


def _bounded(graph: ComputationGraph, case: Case, entry: Entry, traced: Result) -> Iterator[Result]:
    found, derived = derivation(graph, case)
    yield replace(traced, bound=found)
    if derived is not None and entry.key in SPOTTED:
        yield replace(traced, bound=found, spot=spot_check(derived, case.model))


def _traced(report: TraceReport, blank: Result) -> Result:
    return replace(
        blank,
        status=TRACED,
        way=report.way,
        failures=tuple(failure[:300] for failure in report.failures),
        export_seconds=report.export_seconds,
        own_seconds=report.own_seconds,
        nodes_before=report.traced_nodes,
        nodes_after=len(report.graph),
        opaque=_opaque(report.graph.nodes),
        error=float(report.error),
    )


def _opaque(nodes: tuple[object, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for node in nodes:
        operation = getattr(node, "operation", None)
        if isinstance(operation, Call):
            found.append(operation.label)
        elif isinstance(operation, Composite):
            found += _opaque(operation.nodes)
    return tuple(found)


def _ended(blank: Result, status: str, error: Exception) -> Result:
    message = " ".join(str(error).partition("Caused by:")[0].split())  # torch goes on with paths of this machine
    return replace(blank, status=status, reason=type(error).__name__, message=message[:300])


@dataclass
class Worker:
    """A running process for one entry; what it prints goes to a log file."""

    entry: Entry
    log: Path
    limit: float
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.last: Result | None = None
        self.receiver, sender = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_work, args=(self.entry, self.log, sender), daemon=True)
        self.process.start()
        sender.close()

    def result(self) -> Result | None:
        """The result if there is one by now; what a process did before it died, or ran past its limit, counts."""
        while self.receiver.poll():
            try:
                told = self.receiver.recv()
            except EOFError:
                return self._end(self._failure("Crash", f"the worker ended with exit code {self._exit_code()}"))
            if told is None:
                assert self.last is not None
                return self._end(self.last)
            self.last = told
        late = time.monotonic() - self.started > self.limit
        return self._end(self._failure(LATE, f"more than {self.limit:g} s")) if late else None

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.receiver.close()

    def _end(self, result: Result) -> Result:
        self.stop()
        return result

    def _exit_code(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def _failure(self, reason: str, message: str) -> Result:
        """The failure of the stage that was under way."""
        seconds = time.monotonic() - self.started
        entry = self.entry
        if self.last is None:
            return Result(entry.name, entry.family, FAILED, total_seconds=seconds, reason=reason, message=message)
        last = replace(self.last, total_seconds=seconds)
        if last.bound.derived:
            return replace(last, spot=SpotCheck(reason=reason))
        return replace(last, bound=Derivation(crashed=True, reason=reason, message=message))


def _work(entry: Entry, log: Path, sender: Connection) -> None:
    """Send a result after each stage, then None."""
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        torch.set_num_threads(1)
        for result in measure(entry):
            sender.send(result)
        sender.send(None)
        sys.stdout.flush()
    os._exit(0)  # no clean-up of what the parent owns
