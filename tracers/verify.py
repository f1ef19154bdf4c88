"""The check of every trace: the graph, run by covergraph's own interpreter, against the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import CovergraphError, TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, stream
from covergraph.graph.precision import real_numbers
from covergraph.graph.shaking import shake_weights
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.mixing import difference, require_separate
from covergraph.tracers.quiet import first_line
from covergraph.tracers.shaking import louder, shaken

BATCHES = (2, 3)
LARGEST_BATCH = 8
TOLERANCE = 1e-9
CANCELLED = 1e-6
"""What is allowed where values cancel: then rounding is relative to the largest value on the way."""
MASK = 1e30
"""Larger entries are masks, which cancel nothing."""
GAP = 1e4
"""Entries this much larger than all others are masks: they are compared with each other, not with the others."""


def verify_faithful(graph: ComputationGraph, model: nn.Module, arguments: Arguments, leaf: int) -> float:
    """Compare on two inputs at two batch sizes, in float64; the largest difference relative to the output.

    One input is also tried with other weights, for weights that are zero (a new head, a last scale) hide what they
    multiply, and a graph must follow its parameters, not their values; `model` is left with these weights.
    Raises `TracingError` where it exceeds 1e-9, or where the model is random; `BatchMixingError` where the cause is
    an operation that looks across samples, also where only large inputs show it.
    """
    errors = [_compare(graph, model, case, leaf, again=i == 0) for i, case in enumerate(_cases(arguments))]
    if all(math.isnan(error) for error in errors):
        raise TracingError("every output of the model on the example is NaN or infinite; pass an example of real data")
    require_separate(model, louder(arguments), leaf)
    shake_weights(model)
    errors.append(_compare(graph, model, shaken(arguments.at(2)), leaf, again=False))
    return max(error for error in errors if not math.isnan(error))


def run_model(model: nn.Module, arguments: Arguments) -> Any:
    """The model's result on fresh memory, so that a model that changes its arguments changes no caller's."""
    args, kwargs = arguments.at(arguments.batch).call()
    with real_numbers():
        return model(*args, **kwargs)


def _cases(arguments: Arguments) -> Iterator[Arguments]:
    """The example and a random input of the same scale, each at two batch sizes; the example as it is."""
    yield from (arguments.at(batch) for batch in BATCHES)
    yield from (shaken(arguments.at(batch)) for batch in BATCHES)
    if arguments.batch not in BATCHES:
        yield arguments.at(min(arguments.batch, LARGEST_BATCH))


def _compare(graph: ComputationGraph, model: nn.Module, case: Arguments, leaf: int, again: bool) -> float:
    try:
        expected = pytree.tree_leaves(run_model(model, case))[leaf]
        repeated = pytree.tree_leaves(run_model(model, case))[leaf] if again else expected
    except Exception as error:
        words = f"the model fails at batch size {case.batch}, dim 0 of every tensor being the batch ({error!s:.120})"
        raise difference(model, case, words) from error
    if not torch.equal(expected, repeated) and not torch.isnan(expected).any():
        raise TracingError("the model gives different results on equal inputs; remove what is random in it")
    found, largest = _run(graph, model, case)
    if found.numel() != expected.numel():
        raise difference(model, case, f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    off, scale = deviation(found.reshape(-1), expected.reshape(-1))
    cancelled = off <= CANCELLED and off * scale <= TOLERANCE * 1e-3 * largest
    if off <= TOLERANCE or cancelled or math.isnan(off):
        return off
    raise difference(model, case, f"off by {off:.3g} relative, allowed {TOLERANCE:g}")


def deviation(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest difference relative to the scale of its entry, and that scale; NaN if no entry is finite.

    The scale is the largest entry of a group: groups are separated by gaps of `GAP` in size. What is not finite must
    be equal.
    """
    same = (found == expected) | (found.isnan() & expected.isnan())
    finite = expected.isfinite()
    if not bool(same[~finite].all()):
        return math.inf, 1.0
    if not bool(finite.any()):
        return math.nan, 1.0
    error = (found - expected)[finite].abs().nan_to_num(math.inf, math.inf)
    sizes, order = expected[finite].abs().sort()
    breaks = torch.nonzero((sizes[1:] > GAP * sizes[:-1]) & (sizes[:-1] > 0)).flatten() + 1
    worst, scale = 0.0, 1.0
    for part, indices in zip(sizes.tensor_split(breaks), order.tensor_split(breaks), strict=True):
        size = float(part[-1]) or 1.0
        off = float(error[indices].max()) / size
        if off > worst:
            worst, scale = off, size
    return worst, scale


def _run(graph: ComputationGraph, model: nn.Module, case: Arguments) -> tuple[Tensor, float]:
    """The graph's output, and the largest float entry on the way: what cancels leaves errors of that size."""
    largest = 0.0
    output = torch.empty(0)
    try:
        for name, value in stream(graph, Context.of(model, graph), graph.named_inputs(list(case.tensors.values()))):
            if (value.is_floating_point() or value.is_complex()) and value.numel():
                size = value.abs()
                largest = max(largest, float(torch.where(size < MASK, size, 0.0).max()))
            if name == graph.output:
                output = value
    except CovergraphError:
        raise
    except Exception as error:  # torch raises many types here
        raise TracingError(f"the graph does not run ({first_line(error)}); write the model in another way") from error
    return output, largest
