"""The check of every trace: the graph, run by covergraph's own interpreter, against the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, stream
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.mixing import difference
from covergraph.tracers.precision import real_numbers

BATCHES = (2, 3)
TOLERANCE = 1e-9
CANCELLED = 1e-6
"""What is allowed where values cancel: then rounding is relative to the largest value on the way."""
MASK = 1e30
"""Larger entries are masks, which cancel nothing."""


def verify_faithful(graph: ComputationGraph, model: nn.Module, arguments: Arguments, leaf: int) -> float:
    """Compare on two inputs at two batch sizes, in float64; the largest difference relative to the output.

    One input is also tried with other weights, for weights that are zero (a new head, a last scale) hide what they
    multiply, and a graph must follow its parameters, not their values; `model` is left with these weights.
    Raises `TracingError` where it exceeds 1e-9, or where the model is random; `BatchMixingError` where the cause is
    an operation that looks across samples.
    """
    errors = [_compare(graph, model, case, leaf, again=i == 0) for i, case in enumerate(_cases(arguments))]
    shake_weights(model)
    last = list(_cases(arguments))[-len(BATCHES)]
    return max(*errors, _compare(graph, model, last, leaf, again=False))


def run_model(model: nn.Module, arguments: Arguments) -> Any:
    """The model's result on fresh memory, so that a model that changes its arguments changes no caller's."""
    args, kwargs = arguments.at(arguments.batch).call()
    with real_numbers():
        return model(*args, **kwargs)


def _cases(arguments: Arguments) -> Iterator[Arguments]:
    """The example and a random input of the same scale, each at two batch sizes."""
    generator = torch.Generator().manual_seed(0)
    for random, batch in product((False, True), BATCHES):
        example = arguments.at(batch)
        yield example.with_tensors(_shaken(t, generator) for t in example.tensors.values()) if random else example


def _shaken(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Floats plus noise of their own scale; integers drawn from the example's own values."""
    if not tensor.is_floating_point():
        values: Tensor = torch.unique(tensor)
        return values[torch.randint(len(values), tensor.shape, generator=generator).to(values.device)]
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    scale = tensor.abs().max()
    return tensor + noise * torch.where(scale > 0, scale, torch.ones_like(scale))


def shake_weights(model: nn.Module) -> None:
    """Give the floating parameters other values of their own scale, for good: of a copy that is not needed after."""
    generator = torch.Generator().manual_seed(2)
    for parameter in (p for p in model.parameters() if p.is_floating_point() and p.numel()):
        value = parameter.data
        scale = float(value.std()) if value.numel() > 1 else float(value.abs())
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        value.add_(noise, alpha=0.2 * (scale if scale > 1e-6 else 0.1))


def _compare(graph: ComputationGraph, model: nn.Module, case: Arguments, leaf: int, again: bool) -> float:
    try:
        expected = pytree.tree_leaves(run_model(model, case))[leaf]
        repeated = pytree.tree_leaves(run_model(model, case))[leaf] if again else expected
    except Exception as error:
        raise difference(model, case, f"the model fails at batch size {case.batch} ({error!s:.120})") from error
    if not torch.equal(expected, repeated) and not torch.isnan(expected).any():
        raise TracingError("the model gives different results on equal inputs; remove what is random in it")
    found, largest = _run(graph, model, case)
    if found.numel() != expected.numel():
        raise difference(model, case, f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    found, expected = found.reshape(-1), expected.reshape(-1)
    finite = expected.isfinite()
    size = float(expected[finite].abs().max()) if finite.any() else 0.0
    equal = (found == expected) | (found.isnan() & expected.isnan())  # an infinite entry must be the same one
    off = float(torch.where(equal, 0.0, found - expected).abs().nan_to_num(math.inf).max()) / (size or 1.0)
    cancelled = off <= CANCELLED and off * (size or 1.0) <= TOLERANCE * 1e-3 * largest
    if off <= TOLERANCE or cancelled:
        return off
    raise difference(model, case, f"off by {off:.3g} relative, allowed {TOLERANCE:g}")


def _run(graph: ComputationGraph, model: nn.Module, case: Arguments) -> tuple[Tensor, float]:
    """The graph's output, and the largest float entry on the way: what cancels leaves errors of that size."""
    largest = 0.0
    output = torch.empty(0)
    for name, value in stream(graph, Context.of(model, graph), graph.named_inputs(list(case.tensors.values()))):
        if (value.is_floating_point() or value.is_complex()) and value.numel():
            size = value.abs()
            largest = max(largest, float(torch.where(size < MASK, size, 0.0).max()))
        if name == graph.output:
            output = value
    return output, largest
