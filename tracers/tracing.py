"""From a model to its computational graph."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from covergraph.errors import CovergraphError, TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.evaluation import as_module, evaluation_copy
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.precision import doubled, real_numbers
from covergraph.graph.weights import Weights
from covergraph.kinds import NAMES, require
from covergraph.passes.coarsen import coarsen
from covergraph.passes.pipeline import canonicalize
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.convert import convert
from covergraph.tracers.export import trace_by_export
from covergraph.tracers.failures import innermost_call, log_dump, no_way
from covergraph.tracers.memory import changes, contents, require_memoryless
from covergraph.tracers.naming import rename
from covergraph.tracers.outputs import Chosen, choose_output
from covergraph.tracers.proxy import trace_by_make_fx
from covergraph.tracers.quiet import first_line, quiet
from covergraph.tracers.refused import refuse_modules
from covergraph.tracers.sizes import settle_sizes
from covergraph.tracers.symbolic import trace_by_fx
from covergraph.tracers.targets import RULES
from covergraph.tracers.ties import shared_storage
from covergraph.tracers.traced import Traced
from covergraph.tracers.user_functions import UserFunctions, collapse
from covergraph.tracers.verify import run_model, verify_faithful

Way = Callable[[Chosen, Arguments, Collection[str]], Traced]
WAYS: tuple[Way, ...] = (trace_by_export, trace_by_fx, trace_by_make_fx)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TraceReport:
    """A graph and how it was made.

    `way` succeeded, `failures` say why earlier ways did not; `export_seconds` are torch's, `own_seconds` ours, the
    check included; `traced_nodes` counts the calls in torch's graph, `error` is the largest difference from the
    model that the check found, relative to the output.
    """

    graph: ComputationGraph
    way: str
    failures: tuple[str, ...]
    export_seconds: float
    own_seconds: float
    traced_nodes: int
    error: float

    def __str__(self) -> str:
        lines = [
            f"traced by {self.way}: {self.traced_nodes} torch calls -> {len(self.graph)} nodes, "
            f"{self.export_seconds:.1f} s in torch, {self.own_seconds:.1f} s here, "
            f"largest relative difference {self.error:.1e}"
        ]
        return "\n".join(lines + [f"  failed before: {failure}" for failure in self.failures])


def trace(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: int | str | None = None,
    functions: Mapping[Any, ScalarFunction] | None = None,
    blocks: str | Iterable[str] | None = None,
) -> ComputationGraph:
    """The computational graph (Definition 1) of a model in eval mode, without batch dimension.

    Args: `model`, a module or an `ExportedProgram` with a dynamic batch; `example_inputs`, a tensor or a tuple, and
    `kwargs` as in torch.export; dim 0 of every tensor is the batch, of any size. `output` picks one of several
    outputs by index, key or dotted path of these. `functions` gives rows to element-wise operations of the user's
    own, by torch operation (torch.ops.aten.mish.default), function (F.mish) or module class (nn.Mish). `blocks` names
    module paths that become one node each (`coarsen`), to read a large graph; bounds are derived on the finer one.

    The model and its mode stay as they are. The graph is checked against the model on two inputs at two batch
    sizes, in float64. Raises `UnsupportedOperationError`, `BatchMixingError` or `TracingError`, with module path.
    """
    require("trace", {"blocks": NAMES.or_none()}, blocks=blocks)
    graph = trace_report(model, example_inputs, kwargs, output=output, functions=functions).graph
    return graph if blocks is None else coarsen(graph, blocks)


def trace_report(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: int | str | None = None,
    functions: Mapping[Any, ScalarFunction] | None = None,
    ways: Sequence[Way] = WAYS,
) -> TraceReport:
    """`trace`, with an account of how the graph was made."""
    try:
        return _report(model, example_inputs, kwargs, output, functions, ways)
    except CovergraphError:
        raise
    except Exception as error:  # the model's code, and torch's
        raise TracingError(
            f"{type(model).__name__}: the model cannot be traced ({first_line(error)}); expected an nn.Module of plain "
            "torch operations with initialized weights, and tensors with a batch in dim 0"
        ) from error


def _report(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    output: int | str | None,
    functions: Mapping[Any, ScalarFunction] | None,
    ways: Sequence[Way],
) -> TraceReport:
    rows = UserFunctions.of(functions)
    model = as_module(model)
    refuse_modules(model)
    given = Arguments.of(model, example_inputs, kwargs)
    _warn_of_train_mode(model)
    started = time.perf_counter()
    with _undisturbed(), evaluation_copy(model) as work:
        held = contents(work)
        arguments, leaf = _prepare(work, given, output)
        require_memoryless(model, work, arguments, leaf, changes(held, contents(work)))
        before = time.perf_counter()
        traced, failures = _first_success(ways, work, arguments, leaf, {*RULES, *rows.by_name})
        exported = time.perf_counter() - before
        settle_sizes(traced, dict(zip(traced.inputs, arguments.at(1).tensors.values(), strict=True)))
        collapse(traced, rows)
        graph = _graph(traced, rows, model)
        error = verify_faithful(graph, work, arguments, leaf)
    graph = ComputationGraph(graph.nodes, graph.output, fingerprint(graph.nodes, model, graph.weights), graph.weights)
    calls = sum(node.op == "call_function" for node in traced.graph.nodes)
    own = time.perf_counter() - started - exported
    report = TraceReport(graph, traced.way, tuple(failures), exported, own, calls, error)
    logger.info("%s: %s", type(model).__name__, report)
    return report


def _warn_of_train_mode(model: nn.Module) -> None:
    """Say that a model whose BatchNorm would mix samples is traced in eval mode all the same."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    found = [path for path, m in model.named_modules() if isinstance(m, norms) and m.training and m.track_running_stats]
    if found:
        warnings.warn(
            f"trace: module {found[0]!r} is in train mode, where it mixes the samples of a batch; the graph is that of "
            "eval mode; call model.eval() first",
            stacklevel=4,
        )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No output, no gradients, the generator's state restored, attention by its formula."""
    with quiet(), torch.no_grad(), torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
        yield


def _prepare(model: nn.Module, given: Arguments, output: int | str | None) -> tuple[Arguments, int]:
    """The example in float64, and the leaf of the chosen output."""
    arguments = given.with_tensors(doubled(t.detach()) for t in given.tensors.values())
    try:
        result = run_model(model, arguments)
    except CovergraphError:
        raise
    except Exception as error:
        program = isinstance(model, fx.GraphModule)
        shapes = {path: tuple(tensor.shape) for path, tensor in given.tensors.items()}
        raise TracingError(
            f"{type(model).__name__}: the model fails on the example {shapes} ({first_line(error)}); pass the "
            f"arguments that forward expects{', and export with a dynamic batch' if program else ''}"
        ) from error
    return arguments, choose_output(result, output)


def _first_success(
    ways: Sequence[Way], model: nn.Module, arguments: Arguments, leaf: int, kept: Collection[str]
) -> tuple[Traced, list[str]]:
    reasons: list[str] = []
    places: list[str] = []
    for way in ways:
        try:
            with real_numbers():
                return way(Chosen(model, leaf), arguments.at(1), kept), reasons
        except CovergraphError:
            raise
        except Exception as error:  # torch raises many types here
            log_dump(logger, way.__name__, error)
            reasons.append(f"{way.__name__}: {first_line(error)}")
            places.append(innermost_call(error, model))
    raise no_way(model, arguments, reasons, places)


def _graph(traced: Traced, rows: UserFunctions, model: nn.Module) -> ComputationGraph:
    output = traced.output
    if not isinstance(output, fx.Node):
        raise TracingError(f"the output {output!r} does not depend on the inputs; choose another output")
    nodes, last, weights = convert(traced, output, rows)
    weights = replace(weights, ties=shared_storage(model))
    graph = canonicalize(ComputationGraph(nodes, last, weights=weights))
    renamed = rename(graph.nodes, dict(zip((n.name for n in graph.inputs), traced.inputs.values(), strict=True)))
    kept = _used(renamed.values(), graph.weights)
    return ComputationGraph(renamed.values(), renamed[graph.output].name, weights=kept)


def _used(nodes: Collection[Any], weights: Weights) -> Weights:
    """The entries that the nodes still read."""
    names = {name for node in nodes for _, name in (*node.parameters, *node.constants)}
    effective = {k: v for k, v in weights.effective.items() if k in names}
    names |= {source for program in effective.values() for source in program.sources}
    constants = {k: v for k, v in weights.constants.items() if k in names}
    ties = {k: v for k, v in weights.ties.items() if k in names}
    shapes = {k: v for k, v in weights.shapes.items() if k in names}
    return replace(weights, effective=effective, constants=constants, ties=ties, shapes=shapes)
