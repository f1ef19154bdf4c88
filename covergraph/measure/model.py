"""Is the model that is measured the one that was traced?"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from covergraph.errors import ForeignModelError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.evaluation import as_module, evaluation_copy
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.interpreter import Context
from covergraph.graph.precision import real_numbers
from covergraph.measure.loader import Batch
from covergraph.measure.reading import unnamed
from covergraph.measure.rounding import rounding_of_output
from covergraph.rounding import VALUES

ROWS = 16
"""So many samples at a time are looked at closely."""


def require_same_weights(graph: ComputationGraph, model: Any) -> None:
    """Raise `ForeignModelError` unless the model has the weights of the traced one."""
    if fingerprint(graph.nodes, model, graph.weights) != graph.fingerprint:
        raise ForeignModelError(
            "measure: the model's weights or shapes differ from those of the traced model; trace this model, derive "
            "its bound, and measure with it"
        )


@contextmanager
def own_function(graph: ComputationGraph, model: Any) -> Iterator[Callable[[Batch], Any]]:
    """The model itself, as a function of batches; one float64 copy for all of them.

    In eval mode, over the real numbers: as it was traced. It gives None for a state without a module, and for a model
    that cannot be called with the loader's tensors alone (it was traced with other arguments, too): it is known by
    its weights only.
    """
    if not isinstance(model, (torch.nn.Module, torch.export.ExportedProgram)):
        yield lambda batch: None
        return
    with evaluation_copy(as_module(model)) as copied:
        yield function_of(graph, copied)


def function_of(graph: ComputationGraph, model: torch.nn.Module) -> Callable[[Batch], Any]:
    """A module in float64 as a function of batches, called as the loader gave them; None where they do not fit."""
    names = [node.name for node in graph.inputs]
    signature = inspect.signature(model.forward)
    own = {name for name, p in signature.parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    by_name = own.issuperset(names) and _fits(signature, (), dict.fromkeys(names))
    by_name = by_name and not isinstance(model, torch.fx.GraphModule)
    by_place = _fits(signature, names, {})  # an exported GraphModule keeps to the places of its export
    where = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(where, torch.float64 if leaf.is_floating_point() else leaf.dtype).clone()

    def arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if batch.call is not None and _fits(signature, batch.call.args, batch.call.kwargs):
            return batch.call.args, batch.call.kwargs
        if by_name:
            return (), dict(zip(names, batch.inputs, strict=True))
        return (batch.inputs, {}) if by_place else None

    def call(batch: Batch) -> Any:
        given = arguments(batch)
        if given is None:
            return None
        args, kwargs = pytree.tree_map(move, given)
        try:
            with torch.no_grad(), real_numbers(), sdpa_kernel(SDPBackend.MATH):
                return model(*args, **kwargs)
        except Exception as error:  # the user's code
            raise ForeignModelError(
                f"measure: the model fails on the batch of {len(batch)} samples that starts at sample {batch.start} "
                f"({type(error).__name__}: {error}){unnamed(*given, model)}; it must run on the "
                "loader's batches as it did on the example"
            ) from error

    return call


@dataclass(frozen=True)
class Evaluated:
    """The graph's output on a batch; `undefined` says on which samples it may have no value, and is 0 there."""

    inputs: Sequence[Tensor]
    output: Tensor
    undefined: Tensor


def require_same_function(
    graph: ComputationGraph, context: Context, batch: Evaluated, result: Any, start: int
) -> None:
    """Raise `ForeignModelError` unless one of the model's results is the graph's output, both in float64.

    Entries may differ by a relative 1e-9, and by what rounding on the way to this output explains.
    """
    closest = distance_beyond_rounding(graph, context, batch, result)
    if closest > 0:
        found = f", off by {closest:.3g} beyond rounding" if math.isfinite(closest) else ""
        raise ForeignModelError(
            f"measure: the model has the traced weights but computes another function on the batch that starts at "
            f"sample {start}{found}; it depends on other samples, on the size of the batch or on something that is "
            "not in its state: make it a function of one sample, trace it again and measure with its own bound"
        )


def distance_beyond_rounding(graph: ComputationGraph, context: Context, batch: Evaluated, result: Any) -> float:
    """By how much the closest one of a model's results differs from the graph's output; infinite if none fits it."""
    closest, output = math.inf, batch.output
    for tensor in _tensors(result):
        if tensor.numel() == output.numel() and tensor.is_floating_point():
            closest = min(closest, _excess(graph, context, batch, tensor.detach().to(output).reshape(output.shape)))
    return closest


def _excess(graph: ComputationGraph, context: Context, batch: Evaluated, found: Tensor) -> float:
    """By how much the largest difference exceeds what is allowed; 0 if none does."""
    inputs, expected = batch.inputs, batch.output
    finite = torch.isfinite(found), torch.isfinite(expected)
    without = batch.undefined.to(expected.device).reshape(-1, *[1] * (expected.dim() - 1)) & (expected == 0)
    same = ~(finite[0] | finite[1]) | (without & ~finite[0])
    gap = torch.where(finite[0] & finite[1], (found - expected).abs(), torch.where(same, 0.0, torch.inf))
    gap = (gap - VALUES * expected.abs().nan_to_num(0.0, 0.0, 0.0)).clamp_min(0)
    rows = gap.reshape(len(gap), -1).amax(1).nonzero().flatten()
    worst = 0.0
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        named = graph.named_inputs([x[part.to(x.device)] for x in inputs])
        with torch.no_grad():
            worst = max(worst, float((gap[part] - rounding_of_output(graph, context, named)).max()))
        if worst > 0:
            return worst
    return 0.0


def _fits(signature: inspect.Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
