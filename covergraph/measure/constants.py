"""Constants that the model holds: which of them does the graph use, and are those of two models the same?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.held import held_arrays, held_numbers, held_tensors, numbers_within

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes under which wrappers (DataParallel, DDP, AveragedModel, torch.compile, FSDP) hold a model."""


def unwrapped(name: str) -> str:
    """A dotted name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def assumed_constants(graph: ComputationGraph) -> tuple[str, ...]:
    """What a certificate supposes of the constants that the model holds and computes with; warns where it does."""
    tensors, numbers, words = graph.weights.factors, graph.weights.numbers, []
    if tensors:
        words.append(
            f"the tensors {listed(tensors)}, which the model holds outside of its learned state, were not chosen by "
            "training"
        )
        warnings.warn(
            f"measure: the certificate supposes that {words[0]}; if they were, register them as parameters or buffers "
            "of floating numbers",
            stacklevel=4,
        )
    if numbers:
        words.append(f"the numbers {listed(numbers)}, which modules hold, were not chosen by training")
    return tuple(words)


def listed(names: Sequence[str]) -> str:
    """The first six names."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def differing_constants(graph: ComputationGraph, model: Any, other: Any) -> list[str]:
    """Words for every constant that the graph reads, or number that a module holds, with another value in `other`."""
    mine, others = _constants(graph, model), _constants(graph, other)
    return [
        f"{name} is {_words(value)} in the trained model and {_words(others[name])} in init_model"
        for name, value in mine.items()
        if name in others and not _same(value, others[name])
    ]


def _constants(graph: ComputationGraph, model: Any) -> dict[str, Any]:
    """Held tensors that the graph reads, and the plain numbers of all modules, without the wrappers' parts."""
    if not isinstance(model, torch.nn.Module):
        tensors: Mapping[str, Any] = model if isinstance(model, Mapping) else {}
        numbers: Mapping[str, float] = {}
    else:
        tensors, within = held_arrays(model) | held_tensors(model), numbers_within(model)
        numbers = held_numbers(model) | {name: within[name] for name in graph.weights.numbers if name in within}
    read = {unwrapped(name) for name in graph.weights.held if name not in graph.state_names}
    kept = {unwrapped(name): value for name, value in tensors.items()}
    return {name: value for name, value in kept.items() if name in read} | {unwrapped(k): v for k, v in numbers.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape:
            return False
        return bool(torch.equal(one.detach().cpu().to(other.dtype), other.detach().cpu()))
    return bool(one == other)


def _words(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{value:.6g}"
    plain = value.detach().double().flatten()
    shown = ", ".join(f"{float(v):.4g}" for v in plain[:3])
    return f"[{shown}{', …' if len(plain) > 3 else ''}]"
