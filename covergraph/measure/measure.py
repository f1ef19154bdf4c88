"""Measure everything that the bound reads, on every sample of a loader."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from covergraph import kinds
from covergraph.errors import BatchMixingError, LabelError, MarginError, ParameterError
from covergraph.graph.interpreter import Context, state_of
from covergraph.graph.losses import Loss, MarginLoss, require_unit
from covergraph.measure import processes
from covergraph.measure.anytime import Evaluation, Refinement
from covergraph.measure.arguments import check_arguments, require_choice
from covergraph.measure.blocks import (
    CONDITION,
    LOSS,
    Columns,
    FirstPass,
    Kept,
    Measured,
    Order,
    Share,
    blocks,
    joined,
    same_bits,
    tops_of,
)
from covergraph.measure.checkpoint import Checkpoint, going_on, identity, opened
from covergraph.measure.collect import cast, collect
from covergraph.measure.conditions import conditioned_values, require_values, undefined, without
from covergraph.measure.constants import assumed_constants
from covergraph.measure.cost import require_affordable, warn_of_hours
from covergraph.measure.engine import Engine
from covergraph.measure.finite import require_finite, require_finite_state
from covergraph.measure.jacobians import filled_norms
from covergraph.measure.loader import Batch, Census, Reader, batches, census, digests
from covergraph.measure.model import Evaluated, own_function, require_same_function, require_same_weights
from covergraph.measure.norms import euclidean, rounding
from covergraph.measure.passes import Samples, clock
from covergraph.measure.plan import plan
from covergraph.measure.reading import BatchTo, as_batches
from covergraph.measure.reference import check_reference, require_same_constants
from covergraph.measure.repetition import Repetition
from covergraph.measure.wanted import Wanted
from covergraph.values import Measurements, Pair

if TYPE_CHECKING:
    from covergraph.bound.derive import Bound

KEPT = 2**24
"""So many norms of pairs are kept by sample; of more only the largest."""


def measure(
    bound: Bound,
    model: Any,
    loader: Iterable[Any],
    *,
    init_model: Any = None,
    trust_init: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
    fill: bool = False,
    exact: bool = False,
    width: float = 1.01,
    failure: float = 1e-3,
    seed: int = 0,
    memory: int = 2**30,
    budget: float | None = None,
    checkpoint: Path | str | None = None,
    progress: bool | None = None,
    batch_to: BatchTo | None = None,
    duplicates: Literal["refuse", "iid"] = "refuse",
) -> Measurements:
    """Hidden norms, pair norms, margins and parameter distances on all samples of `loader`; n is their number.

    The loader (or Dataset, or pair of arrays) yields (inputs, labels) or mappings with labels and is read twice: first
    to check and count, then to measure; `batch_to` turns batches of other forms into (inputs, labels), see
    docs/measuring.md. `duplicates`: samples that come again, beyond what chance explains, are refused, since n counts
    independent samples; "iid" says that they are. `init_model`:
    reference weights that do not depend on the sample (the initialization), else 0. Weights of the trained
    model, and statistics of a BatchNorm that has seen batches, are refused unless `trust_init`: then the certificate
    names them as an assumption.

    Norms of pairs: small Jacobians are formed, rounding is in their ends (Lemma 23). Of others the upper end is at most
    `width` times the lower one, and all of them hold except with probability `failure` over random starts that `seed`
    makes (Lemma 21); the certificate adds it to delta. `exact`: form all Jacobians. `fill`: measure edges only and
    fill in the pairs by Proposition 2 (cheap, valid, larger). `dtype`: in which precision Jacobians are formed; all
    else is done in float64. `memory`: bytes that one block of samples may take. `budget`: seconds; all pairs are filled
    in, then measured as long as there is time, first those that move the bound most (`Measurements.curve`).
    `checkpoint`: a folder; a run that was stopped goes on from there. `device` defaults to the model's. Under
    `torchrun` the processes share the work.
    Raises `ForeignModelError`, `EmptyLoaderError`, `LoaderChangedError`, `NonFiniteError`, `LabelError`,
    `ParameterError`, `CheckpointError`, `ProcessError`.
    """
    kinds.require(
        "measure", kinds.MEASURING, bound=bound, model=model, init_model=init_model, trust_init=trust_init, fill=fill,
        exact=exact, width=width, failure=failure, seed=seed, memory=memory, budget=budget, checkpoint=checkpoint,
        progress=progress, batch_to=batch_to,
    )
    began, wanted, graph = clock(), Wanted.of(bound), bound.graph
    with processes.team() as team:
        check_arguments(device, dtype, width, failure, budget, fill, checkpoint)
        if exact and (fill or budget is not None):
            raise ParameterError(
                "measure: exact=True forms all Jacobians, fill and budget bound them along edges, expected one of the "
                "two; leave the other out"
            )
        require_choice("duplicates", duplicates, ("refuse", "iid"))
        loader = Reader(as_batches(loader, batch_to), graph, model, wanted.loss, batch_to)
        fill = fill or budget is not None  # in the first pass
        state = graph.state(cast(state_of(model), device, torch.float64))
        require_same_weights(wanted.source, model)
        require_finite_state(state, graph.state_names)
        doubts = () if init_model is None else check_reference(graph, model, init_model, trust_init)
        assumed = (*doubts, *assumed_constants(graph))
        context = Context(state)
        where = next(iter(state.values())).device
        pairs = wanted.pairs
        if exact and not fill:
            require_affordable(graph, pairs)
        first = team.together(
            lambda: _check_pass(wanted, model, init_model, context, loader, where, duplicates)
        )[team.rank]
        chosen = plan(graph, pairs, first.census.n, memory, "exact" if exact else "auto")
        if not fill:
            warn_of_hours(chosen, first.census.n)
        engine = Engine(chosen, context, width, failure, seed, dtype, memory)
        job = Job(wanted, context, None if fill else engine, where, keep=first.census.n * len(pairs) <= KEPT)
        settings = f"width {width!r}, failure {failure!r}, seed {seed}, {dtype}, fill={fill}, memory {memory}"
        own = identity(wanted, chosen, first, settings, where)
        team.require_same({key: entry for key, entry in own.items() if key != "machine"})
        shares = team.together(
            lambda: _share(job, loader, chosen.block, first.census, opened(checkpoint, own), team, progress)
        )
        team.require_same({"order of the samples": shares[team.rank].order})
    found = joined(shares)
    weights = state if where.type == "cpu" else graph.state(cast(state_of(model), torch.device("cpu"), torch.float64))
    measured = collect(wanted, weights, init_model, found, dtype, None if fill else chosen, width, failure)
    measured = replace(measured, repeated=first.repeated, assumed=assumed)
    if budget is None:
        return measured
    with progress_bar("refining", len(pairs), progress) as advance:
        samples = Samples(job, loader, chosen.block, measured)
        return Refinement(_evaluation(bound), engine, samples, began, budget, advance).result()


def _evaluation(bound: Bound) -> Callable[[Measurements], Evaluation]:
    """What the bound is with some measurements, for a budget."""

    def evaluate(measurements: Measurements) -> Evaluation:
        try:
            certificate = bound.evaluate(measurements)
            return certificate.value, certificate.normalized, certificate.log_derivatives()
        except (MarginError, ParameterError):
            return math.inf, math.inf, None

    return evaluate


@dataclass(frozen=True)
class Job:
    """What is done to a block of samples; `engine` is None if pairs are filled in, `keep` their values by sample."""

    wanted: Wanted
    context: Context
    engine: Engine | None
    where: torch.device
    keep: bool = True

    def values(self, batch: Batch) -> tuple[dict[str, Tensor], Columns, Tensor]:
        """The nodes' values, the columns of norms, conditions and losses, and where everything is defined."""
        wanted = self.wanted
        moved = to_device(batch, self.where)
        values, conditions = conditioned_values(wanted, self.context, wanted.graph.named_inputs(moved.inputs))
        norms: dict[Any, Tensor] = {
            name: euclidean(value.reshape(len(batch), -1)) * (1 + rounding(value.dtype, 1, value[0].numel()))
            for name, value in values.items()
            if value.is_floating_point()
        }
        read, bad = wanted.read, undefined(conditions, len(batch))
        norms = {name: norm for name, norm in norms.items() if name in read or bool(torch.isfinite(norm).all())}
        norms = without(bad, norms)
        require_finite({f"the norm of {key!r}": value for key, value in norms.items()}, batch.start)
        norms |= {(CONDITION, name): q for name, q in conditions.items()}
        norms[LOSS] = losses(wanted.loss, values[wanted.graph.output], moved)
        return values, {key: value.double().cpu().numpy() for key, value in norms.items()}, ~bad.cpu()

    def measured(self, batch: Batch, levels: Mapping[Pair, float]) -> Measured:
        """Everything on one block; `levels`: lower ends of the largest norms, from an earlier block."""
        with torch.no_grad():
            values, columns, defined = self.values(batch)
            if self.engine is None:
                upper = filled_norms(self.wanted.graph, values, self.context, self.wanted.pairs)
                lower, steps = dict.fromkeys(upper, 0.0), dict[Pair, int]()
            else:
                norms = self.engine.block(values, batch.start, levels, defined)
                upper, lower, steps = norms.upper, norms.lower, norms.steps
            upper = without(~defined, upper)
        require_finite({f"the norm of {pair!r}": ends for pair, ends in upper.items()}, batch.start)
        if self.keep:
            columns |= {pair: ends.double().cpu().numpy() for pair, ends in upper.items()}
        return Measured(columns, tops_of(upper, lower, batch.start), steps)


def _share(
    job: Job, loader: Iterable[Any], size: int, expected: Census, store: Checkpoint | None, team: processes.Team,
    progress: bool | None,
) -> Share:
    """This process's share of all blocks, in order. The first block, which all measure, sets the levels for others."""
    own: dict[int, Measured] = {}
    levels: dict[Pair, float] = {}
    seen, order, kept = Census(0, 0), Order(), Kept(expected.n)
    with going_on(store), same_bits(), progress_bar("measuring", expected.n, progress) as advance:
        for number, batch in enumerate(blocks(loader, job.wanted.graph, size)):
            seen, mine = census(seen, batch), team.owns(number)
            if seen.n > expected.n:
                expected.require_same(seen)
            order.add(batch)
            if mine or number == 0:
                team.go_on()
                digest = Order().add(batch).digest()
                done = None if store is None else store.load(number, digest)
                if done is None:
                    done = job.measured(batch, levels)
                    if store is not None and mine:
                        store.save(number, digest, done)
                if number == 0:
                    levels = {pair: top.lower for pair, top in done.tops.items()}
                if mine:
                    own[number] = kept.block(done, batch.start)
            advance(len(batch))
    expected.require_same(seen)
    return Share(own, order.digest())


def _check_pass(
    wanted: Wanted, model: Any, init_model: Any, context: Context, loader: Iterable[Any], where: torch.device,
    duplicates: str,
) -> FirstPass:
    """The first pass: finite values, labels in range, samples that come once, the model's own output, and on few
    samples the reference model's.
    """
    graph, seen, order, size, again = wanted.graph, Census(0, 0), Order(), 0.0, Repetition()
    with own_function(graph, model) as own:
        for batch in batches(loader, graph):
            known = digests(batch)
            seen, moved = census(seen, batch, known), to_device(batch, where)
            order.add(batch)
            again.add(batch, known)
            with torch.no_grad():
                values, conditions = conditioned_values(wanted, context, graph.named_inputs(moved.inputs))
                require_values(wanted, values, batch.start)
                found = losses(wanted.loss, values[graph.output], moved)
                _require_separate(moved, found, wanted.loss, values[graph.output])
                size += float(found.abs().sum())
            result = own(batch)
            if result is not None:
                done = Evaluated(moved.inputs, values[graph.output], undefined(conditions, len(batch)))
                require_same_function(graph, context, done, result, batch.start)
            if init_model is not None and batch.start == 0:
                require_same_constants(graph, model, init_model, batch, where)
    if duplicates == "refuse":
        again.require_chance()
    return FirstPass(seen, order.digest(), size / seen.n, again.count())


def _require_separate(batch: Batch, values: Tensor, loss: Loss, output: Tensor) -> None:
    """A loss must not look across samples: alone, each must have the loss that it has in its batch."""
    if isinstance(loss, MarginLoss):
        return
    for i in range(len(batch)):
        alone = losses(loss, output[i : i + 1], Batch(batch.inputs, batch.labels[i : i + 1], batch.start + i))
        if float((alone[0] - values[i]).abs()) > 1e-6 * (1 + float(values[i].abs())):
            raise BatchMixingError(
                f"measure: the loss {loss.name!r} of sample {batch.start + i} is "
                f"{float(values[i]):.6g} in its batch and {float(alone[0]):.6g} alone, expected the same; a loss must "
                "treat samples separately"
            )


def losses(loss: Loss, output: Tensor, batch: Batch) -> Tensor:
    """Margins for a margin loss, else the values of the user's loss: (batch,)."""
    try:
        if isinstance(loss, MarginLoss):
            return loss.margins(output, batch.labels)
        return require_unit(loss.name, loss.evaluate(output, batch.labels, None))
    except LabelError as error:
        raise LabelError(f"measure: in the batch that starts at sample {batch.start}: {error}") from None


def to_device(batch: Batch, where: torch.device) -> Batch:
    """The batch on a device, its reals in float64."""
    inputs = tuple(x.to(where, torch.float64 if x.is_floating_point() else x.dtype) for x in batch.inputs)
    return Batch(inputs, batch.labels.to(where), batch.start)


@contextmanager
def progress_bar(what: str, total: int, show: bool | None) -> Iterator[Any]:
    """A progress bar with the time left on standard error; None shows it on terminals only."""
    visible = (sys.stderr.isatty() if show is None else show) and processes.rank() == 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        disable=not visible,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
