"""From a model to its computational graph."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from covergraph.errors import BatchMixingError, TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.functions import ScalarFunction
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.convert import convert
from covergraph.tracers.export import trace_by_export
from covergraph.tracers.naming import rename
from covergraph.tracers.outputs import choose_output
from covergraph.tracers.quiet import first_line, quiet
from covergraph.tracers.symbolic import trace_by_fx
from covergraph.tracers.traced import Traced
from covergraph.tracers.user_functions import UserFunctions, collapse
from covergraph.tracers.verify import run_model, verify_faithful

Way = Callable[[nn.Module, Arguments], Traced]
WAYS: tuple[Way, ...] = (trace_by_export, trace_by_fx)

logger = logging.getLogger(__name__)


def trace(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: int | str | None = None,
    functions: Mapping[Any, ScalarFunction] | None = None,
) -> ComputationGraph:
    """The computational graph (Definition 1) of a model in eval mode, without batch dimension.

    Args: `example_inputs`, a tensor or a tuple, and `kwargs` as in torch.export; dim 0 of every tensor is the
    batch, of any size. `output` picks one of several outputs by index, key or dotted path of these.
    `functions` gives rows to element-wise operations of the user's own, by torch operation
    (torch.ops.aten.mish.default), function (F.mish) or module class (nn.Mish).

    The model and its mode stay as they are. The graph is checked against the model on two inputs at two batch
    sizes. Raises `UnsupportedOperationError`, `BatchMixingError` or `TracingError`, each with module path.
    """
    return trace_by(WAYS, model, example_inputs, kwargs, output=output, functions=functions)


def trace_by(
    ways: Sequence[Way],
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: int | str | None = None,
    functions: Mapping[Any, ScalarFunction] | None = None,
) -> ComputationGraph:
    """`trace` by the first of the given ways that succeeds."""
    rows = UserFunctions.of(functions)
    given = Arguments.of(model, example_inputs, kwargs)
    with quiet(), torch.no_grad(), torch.random.fork_rng(), evaluation_copy(model) as work:
        arguments, leaf = _prepare(work, given, output)
        traced = _first_success(ways, work, arguments)
        collapse(traced.graph, rows)
        graph = _graph(traced, leaf, rows, model)
        verify_faithful(graph, work, arguments, leaf)
    logger.info("traced %s by %s: %d nodes", type(model).__name__, traced.way, len(graph))
    return graph


@contextmanager
def evaluation_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model in eval mode; where that fails, the model itself, its modes restored at the end."""
    try:
        work = copy.deepcopy(model)
    except Exception:  # deepcopy calls arbitrary code
        work = model
    modes = [(module, module.training) for module in work.modules()]
    work.eval()
    try:
        yield work
    finally:
        for module, training in modes:
            module.training = training


def _prepare(model: nn.Module, given: Arguments, output: int | str | None) -> tuple[Arguments, int]:
    """The example at a batch size that is no other size of the model, and the leaf of the chosen output."""
    sizes = {size for tensor in given.tensors.values() for size in tensor.shape[1:]}
    sizes |= {size for parameter in model.parameters() for size in parameter.shape}
    arguments = given.at(next(batch for batch in range(5, len(sizes) + 6) if batch not in sizes))
    try:
        result = run_model(model, given)
    except Exception as error:
        raise TracingError(
            f"{type(model).__name__}: the model fails on the example ({first_line(error)}); pass the "
            "arguments that forward expects"
        ) from error
    leaf = choose_output(result, output)
    try:
        run_model(model, arguments)
    except Exception as error:
        raise BatchMixingError(
            f"{type(model).__name__}: the model runs with batch size {given.batch} but not with "
            f"{arguments.batch} ({first_line(error)}); keep the batch in dim 0, of any size"
        ) from error
    return arguments, leaf


def _first_success(ways: Sequence[Way], model: nn.Module, arguments: Arguments) -> Traced:
    reasons = []
    for way in ways:
        try:
            return way(model, arguments)
        except Exception as error:  # torch raises many types here
            reasons.append(f"{way.__name__}: {first_line(error)}")
    raise TracingError(
        f"{type(model).__name__}: no way of tracing succeeded; remove control flow that depends on values\n  "
        + "\n  ".join(reasons)
    )


def _graph(traced: Traced, leaf: int, rows: UserFunctions, model: nn.Module) -> ComputationGraph:
    output = traced.outputs[leaf]
    if not isinstance(output, fx.Node):
        raise TracingError(f"output {leaf}: {output!r} does not depend on the inputs; choose another output")
    nodes, last = convert(traced, output, rows)
    renamed = rename(nodes, traced.inputs)
    return ComputationGraph(renamed.values(), renamed[last].name, fingerprint(renamed.values(), model))
