"""The check of every trace: the graph, run by covergraph's own interpreter, against the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.tracers.arguments import Arguments

BATCHES = (2, 3)


def verify_faithful(graph: ComputationGraph, model: nn.Module, arguments: Arguments, leaf: int) -> None:
    """Compare on two inputs at two batch sizes, in float64 to 1e-9 relative; where the model cannot run in
    float64, in its own dtype to 1e-4. Raises `TracingError` where they differ, or where the model is random.
    """
    try:
        double = copy.deepcopy(model).double()
        run_model(double, _double(arguments.at(2)))
    except Exception:  # a model that casts by itself, or that cannot be copied
        _compare(graph, model, list(_cases(arguments, lambda a: a)), leaf, 1e-4)
    else:
        _compare(graph, double, list(_cases(arguments, _double)), leaf, 1e-9)


def run_model(model: nn.Module, arguments: Arguments) -> Any:
    """The model's result on fresh memory, so that a model that changes its arguments changes no caller's."""
    args, kwargs = arguments.at(arguments.batch).call()
    return model(*args, **kwargs)


def _double(arguments: Arguments) -> Arguments:
    tensors = arguments.tensors.values()
    return arguments.with_tensors(t.double() if t.is_floating_point() else t for t in tensors)


def _cases(arguments: Arguments, cast: Callable[[Arguments], Arguments]) -> Iterator[Arguments]:
    """The example and a random input of the same scale, each at two batch sizes."""
    generator = torch.Generator().manual_seed(0)
    for random, batch in product((False, True), BATCHES):
        example = arguments.at(batch)
        if random:
            example = example.with_tensors(_shaken(t, generator) for t in example.tensors.values())
        yield cast(example)


def _shaken(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor plus noise of its own scale, if it holds floats."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    scale = tensor.abs().max()
    return tensor + noise * torch.where(scale > 0, scale, torch.ones_like(scale))


def _compare(
    graph: ComputationGraph, model: nn.Module, cases: list[Arguments], leaf: int, tolerance: float
) -> None:
    for case in cases:
        expected, again = (pytree.tree_leaves(run_model(model, case))[leaf] for _ in range(2))
        if not torch.equal(expected, again) and not torch.isnan(expected).any():
            raise TracingError(
                "the model gives different results on equal inputs; remove what is random in it"
            )
        values = graph.run(model, *case.tensors.values())
        found = values[graph.output]
        size = max(float(value.abs().max()) for value in values.values())
        allowed = tolerance * (float(expected.abs().max()) + 1e-3 * size)
        if found.shape != expected.shape or not float((found - expected).abs().max()) <= allowed:
            raise TracingError(_difference(graph, found, expected, case, tolerance))


def _difference(
    graph: ComputationGraph, found: Tensor, expected: Tensor, case: Arguments, tolerance: float
) -> str:
    size = f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.shape == expected.shape:
        size = f"off by {float((found - expected).abs().max()):.3g}, allowed {tolerance:g} relative"
    return (
        f"output {graph.output!r}: the graph does not compute what the model computes at batch size "
        f"{case.batch} ({size}); look for code that depends on values, on the batch size or on other "
        "samples, and for tensors changed in place through a view"
    )
