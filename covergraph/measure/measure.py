"""Measure everything that the bound reads, on every sample of a loader."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from covergraph.errors import ForeignModelError, LabelError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.interpreter import Context, evaluate, state_of
from covergraph.graph.losses import MarginLoss
from covergraph.measure.jacobians import filled_norms, pair_norms
from covergraph.measure.layers import layer_sizes
from covergraph.measure.loader import Batch, Census, batches, census, require_finite
from covergraph.measure.norms import exact, largest, rounding
from covergraph.values import Floats, Kind, Measurements, Pair

if TYPE_CHECKING:
    from covergraph.bound.derive import Bound

Columns = dict[Any, list[Floats]]
_LOSS = ("loss",)
"""The column of margins or losses; no name of a node and no pair."""


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
    state = _cast(state_of(model), device, dtype)
    if fingerprint(graph.nodes, model) != graph.fingerprint:
        raise ForeignModelError(
            "measure: the model's weights or shapes differ from those of the traced model; trace this model, derive "
            "its bound, and measure with it"
        )
    context = Context(state)
    where = next(iter(state.values())).device
    first = _check_pass(graph, bound, model, context, loader, where, dtype)
    columns: Columns = {}
    seen = Census(0, 0)
    with _bar("measuring", first.n, progress) as advance:
        for batch in batches(loader, graph):
            seen = census(seen, batch)
            _measure_batch(bound, graph, context, _to(batch, where, dtype), columns, fill)
            advance(len(batch))
    first.require_same(seen)
    return _collect(bound, model, init_model, columns, dtype, seen.n, fill)


def _check_pass(
    graph: ComputationGraph,
    bound: Bound,
    model: Any,
    context: Context,
    loader: Iterable[Any],
    where: torch.device,
    dtype: torch.dtype,
) -> Census:
    """The first pass: finite values, labels in range, the model's own output on the first batch."""
    seen = Census(0, 0)
    for batch in batches(loader, graph):
        seen = census(seen, batch)
        moved = _to(batch, where, dtype)
        with torch.no_grad():
            values = evaluate(graph, context, graph.named_inputs(moved.inputs), {})
            require_finite({f"node {name!r}": value for name, value in values.items()}, batch.start)
            _losses(bound, values[graph.output], moved)
        if batch.start == 0 and isinstance(model, torch.nn.Module):
            _require_same_function(graph, model, batch)
    return seen


def _require_same_function(graph: ComputationGraph, model: torch.nn.Module, batch: Batch) -> None:
    """The model itself, in eval mode, must give the graph's output on a batch, both in the model's own dtype."""
    parameter = next(model.parameters())
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        inputs = [x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype) for x in batch.inputs]
        with torch.no_grad():
            output = model(**dict(zip((node.name for node in graph.inputs), inputs, strict=True)))
    except TypeError:
        with torch.no_grad():
            output = model(*inputs)
    finally:
        for module, training in modes:
            module.training = training
    with torch.no_grad():
        values = graph.run(model, *inputs)
    expected = values[graph.output]
    # What cancels on the way leaves errors of the size of the largest value, not of the output.
    size = max(float(value.abs().max()) for value in values.values())
    allowed = torch.finfo(parameter.dtype).eps * (1e3 * float(expected.abs().max()) + size)
    for tensor in _tensors(output):
        if tensor.shape == expected.shape and float((tensor - expected).abs().max()) <= allowed:
            return
    raise ForeignModelError(
        "measure: the model has the traced weights but computes another function on the first batch; trace this "
        "model and measure with its own bound"
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


def _measure_batch(
    bound: Bound, graph: ComputationGraph, context: Context, batch: Batch, columns: Columns, fill: bool
) -> None:
    with torch.no_grad():
        values = evaluate(graph, context, graph.named_inputs(batch.inputs), {})
        norms: dict[Any, Tensor] = {
            name: value.reshape(len(batch), -1).norm(dim=1) * (1 + rounding(value.dtype, 1, value[0].numel()))
            for name, value in values.items()
        }
        engine = filled_norms if fill else pair_norms
        norms |= engine(graph, values, context, bound.measured_pairs)
        require_finite({f"the norm of {key!r}": value for key, value in norms.items()}, batch.start)
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
    model: Any,
    init_model: Any,
    columns: Columns,
    dtype: torch.dtype,
    n: int,
    fill: bool,
) -> Measurements:
    graph = bound.graph
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    pairs: dict[Pair, Floats] = {pair: joined[pair] for pair in bound.measured_pairs}
    hidden: dict[str, Floats] = {node.name: joined[node.name] for node in graph.nodes}
    # Weights in double whatever dtype is: a cast would be large beside a small distance to the reference.
    cpu = torch.device("cpu")
    weights = _cast(state_of(model), cpu, torch.float64)
    reference = None if init_model is None else _cast(state_of(init_model), cpu, torch.float64)
    margin = bound.augmented.loss.has_margin
    kind: Kind = "exact" if dtype == torch.float64 else "estimate"  # rounding of the forward pass has no bound yet
    return Measurements(
        n=n,
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
                float(np.sqrt(np.mean(hidden[name] ** 2))),
                rounding(torch.float64, 1, 8) + 2 * rounding(dtype, 1, graph[name].size),
                "root mean square",
            )
            for name in graph.data_only
        },
        layers=layer_sizes(graph, weights, reference),
        margins=joined[_LOSS] if margin else None,
        losses=None if margin else joined[_LOSS],
        hidden_values=hidden,
        pair_values=pairs,
    )


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
