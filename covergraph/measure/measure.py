"""Measure everything that the bound reads, on every sample of a loader."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from covergraph.errors import BatchMixingError, LabelError, ParameterError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, state_of
from covergraph.graph.losses import MarginLoss
from covergraph.measure.conditions import conditioned_values, norms_read, require_values, undefined, without
from covergraph.measure.cost import require_affordable, warn_of_hours
from covergraph.measure.jacobians import filled_norms, pair_norms
from covergraph.measure.layers import layer_sizes, unmasked
from covergraph.measure.loader import Batch, Census, batches, census, require_finite
from covergraph.measure.model import check_reference, require_same_function, require_same_weights
from covergraph.measure.norms import euclidean, exact, largest, rounding
from covergraph.values import Floats, Kind, Measurement, Measurements, Pair

if TYPE_CHECKING:
    from covergraph.bound.derive import Bound

Columns = dict[Any, list[Floats]]
_LOSS = ("loss",)
"""The column of margins or losses; no name of a node and no pair."""
_CONDITION = ("condition",)
"""With a node's name, the column of its condition."""


def measure(
    bound: Bound,
    model: Any,
    loader: Iterable[Any],
    *,
    init_model: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
    fill: bool = False,
    progress: bool | None = None,
) -> Measurements:
    """Hidden norms, pair norms, margins and parameter distances on all samples of `loader`; n is their number.

    The loader yields (inputs, labels) and is read twice: first to check and count, then to measure. `init_model`:
    reference weights that do not depend on the sample (the initialization), else 0. `fill`: measure edges only
    and fill in the pairs by Proposition 2 (cheap, valid, larger). Dense, exact singular values: for layers up to
    a few hundred units. `device` defaults to the model's. In another `dtype` than float64 the norms are estimates:
    good for a look, refused by a certificate.
    Raises `ForeignModelError`, `EmptyLoaderError`, `LoaderChangedError`, `NonFiniteError`, `LabelError`.
    """
    graph = bound.graph
    _check_target(device, dtype)
    state = graph.state(_cast(state_of(model), device, dtype))
    require_same_weights(bound.augmented.source, model)
    if init_model is not None:
        check_reference(graph, model, init_model)
    context = Context(state)
    where = next(iter(state.values())).device
    if not fill:
        require_affordable(graph, bound.measured_pairs)
    first = _check_pass(graph, bound, model, context, loader, where, dtype)
    if not fill:
        warn_of_hours(graph, bound.measured_pairs, first.n)
    columns: Columns = {}
    seen = Census(0, 0)
    with _bar("measuring", first.n, progress) as advance:
        for batch in batches(loader, graph):
            seen = census(seen, batch)
            _measure_batch(bound, graph, context, _to(batch, where, dtype), columns, fill)
            advance(len(batch))
    first.require_same(seen)
    # Weights in double whatever dtype is: a cast would be large beside a small distance to the reference.
    exact_state = dtype == torch.float64 and where.type == "cpu"
    weights = state if exact_state else graph.state(_cast(state_of(model), torch.device("cpu"), torch.float64))
    return _collect(bound, weights, init_model, columns, dtype, seen.n, fill)


def _check_pass(
    graph: ComputationGraph,
    bound: Bound,
    model: Any,
    context: Context,
    loader: Iterable[Any],
    where: torch.device,
    dtype: torch.dtype,
) -> Census:
    """The first pass: finite values, labels in range, the model's own output."""
    seen = Census(0, 0)
    for batch in batches(loader, graph):
        seen = census(seen, batch)
        moved = _to(batch, where, dtype)
        with torch.no_grad():
            values, _ = conditioned_values(bound, context, graph.named_inputs(moved.inputs))
            require_values(bound, values, batch.start)
            _require_separate(moved, _losses(bound, values[graph.output], moved), bound, values[graph.output])
        if isinstance(model, torch.nn.Module):
            require_same_function(graph, model, batch)
    return seen


def _check_target(device: torch.device | str | None, dtype: torch.dtype) -> None:
    """Raise `ParameterError` for a dtype or a device on which nothing can be measured."""
    if dtype not in (torch.float64, torch.float32):
        raise ParameterError(f"measure: the dtype is {dtype}, expected torch.float64 (or torch.float32 for estimates)")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"measure: the device {device!r} cannot be used ({reason}); try device='cpu'") from None


def _require_separate(batch: Batch, losses: Tensor, bound: Bound, output: Tensor) -> None:
    """A loss must not look across samples: alone, each must have the loss that it has in its batch."""
    if isinstance(bound.augmented.loss, MarginLoss):
        return
    for i in range(len(batch)):
        alone = _losses(bound, output[i : i + 1], Batch(batch.inputs, batch.labels[i : i + 1], batch.start + i))
        if float((alone[0] - losses[i]).abs()) > 1e-6 * (1 + float(losses[i].abs())):
            raise BatchMixingError(
                f"measure: the loss {bound.augmented.loss.name!r} of sample {batch.start + i} is "
                f"{float(losses[i]):.6g} in its batch and {float(alone[0]):.6g} alone, expected the same; a loss must "
                "treat samples separately"
            )


def _measure_batch(
    bound: Bound, graph: ComputationGraph, context: Context, batch: Batch, columns: Columns, fill: bool
) -> None:
    with torch.no_grad():
        values, conditions = conditioned_values(bound, context, graph.named_inputs(batch.inputs))
        norms: dict[Any, Tensor] = {
            name: euclidean(value.reshape(len(batch), -1)) * (1 + rounding(value.dtype, 1, value[0].numel()))
            for name, value in values.items()
            if value.is_floating_point()
        }
        read = norms_read(bound)
        norms = {name: norm for name, norm in norms.items() if name in read or bool(torch.isfinite(norm).all())}
        engine = filled_norms if fill else pair_norms
        norms |= engine(graph, values, context, bound.measured_pairs)
        norms = without(undefined(conditions, len(batch)), norms)
        require_finite({f"the norm of {key!r}": value for key, value in norms.items()}, batch.start)
        norms |= {(_CONDITION, name): q for name, q in conditions.items()}
        norms[_LOSS] = _losses(bound, values[graph.output], batch)
    for key, value in norms.items():
        columns.setdefault(key, []).append(value.double().cpu().numpy())


def _losses(bound: Bound, output: Tensor, batch: Batch) -> Tensor:
    """Margins for a margin loss, else the values of the user's loss: (batch,)."""
    loss = bound.augmented.loss
    try:
        if isinstance(loss, MarginLoss):
            return loss.margins(output, batch.labels)
        return loss.evaluate(output, batch.labels, None)
    except LabelError as error:
        raise LabelError(f"measure: in the batch that starts at sample {batch.start}: {error}") from None


def _collect(
    bound: Bound,
    weights: Mapping[str, Tensor],
    init_model: Any,
    columns: Columns,
    dtype: torch.dtype,
    n: int,
    fill: bool,
) -> Measurements:
    graph = bound.graph
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    pairs: dict[Pair, Floats] = {pair: joined[pair] for pair in bound.measured_pairs}
    hidden: dict[str, Floats] = {node.name: joined[node.name] for node in graph.nodes if node.name in joined}
    hidden = {name: values for name, values in hidden.items() if len(values) == n}
    cpu = torch.device("cpu")
    reference = None if init_model is None else graph.state(_cast(state_of(init_model), cpu, torch.float64))
    margin = bound.augmented.loss.has_margin
    kind: Kind = "exact" if dtype == torch.float64 else "estimate"  # rounding of the forward pass has no bound yet
    return Measurements(
        n=n,
        loss=bound.augmented.loss,
        fingerprint=graph.fingerprint,
        dtype=str(dtype).removeprefix("torch."),
        reference="zero" if init_model is None else "initial weights",
        hidden={
            name: largest(value, rounding(dtype, 1, graph[name].size), "Euclidean", kind)
            for name, value in hidden.items()
        },
        pairs={
            (w, a): largest(
                value,
                rounding(dtype, graph[w].size, graph[a].size),
                "operator",
                "certified" if fill and kind == "exact" else kind,
            )
            for (w, a), value in pairs.items()
        },
        root_mean_square={
            name: exact(
                _root_mean_square(hidden[name]),
                rounding(torch.float64, 1, 8) + 2 * rounding(dtype, 1, graph[name].size),
                "root mean square",
            )
            for name in graph.data_only
            if name in hidden
        },
        layers=layer_sizes(graph, weights, reference),
        shared={
            group.nodes[0]: _distance(group.parameters, graph.weights.effective, weights, reference)
            for group in bound.groups
        },
        filled=fill,
        condition_values={name: joined[_CONDITION, name] for name in bound.augmented.conditions},
        margins=joined[_LOSS] if margin else None,
        losses=None if margin else joined[_LOSS],
        hidden_values=hidden,
        pair_values=pairs,
    )


def _distance(
    names: Sequence[str], formulas: Collection[str], state: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None
) -> Measurement:
    """||theta - theta_0||_1 of the named parameters together."""
    values = {name: unmasked(state[name], name in formulas) for name in names}
    starts = {} if reference is None else {name: unmasked(reference[name], name in formulas) for name in names}
    total = sum(float((value - starts.get(name, 0)).abs().sum()) for name, value in values.items())
    slack = torch.finfo(torch.float64).eps * sum(value.numel() for value in values.values())
    return exact(total, slack, "(1,1) norm of the distance")


def _root_mean_square(values: Floats) -> float:
    """(mean of squares)^(1/2), without under- or overflow of the squares."""
    scale = float(values.max())
    return scale * float(np.sqrt(np.mean((values / scale) ** 2))) if scale > 0 else 0.0


def _cast(state: Any, device: torch.device | str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: value.detach().to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
        for name, value in state.items()
    }


def _to(batch: Batch, where: torch.device, dtype: torch.dtype) -> Batch:
    inputs = tuple(x.to(where, dtype if x.is_floating_point() else x.dtype) for x in batch.inputs)
    return Batch(inputs, batch.labels.to(where), batch.start)


@contextmanager
def _bar(what: str, total: int, show: bool | None) -> Iterator[Any]:
    """A progress bar on standard error; None shows it on terminals only."""
    visible = sys.stderr.isatty() if show is None else show
    with Progress(console=Console(stderr=True), transient=True, disable=not visible) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
