"""May these reference weights be used? They must be of the same network, and must not depend on the sample."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from covergraph.errors import ForeignModelError, ParameterError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.evaluation import as_module, evaluation_copy
from covergraph.graph.interpreter import Context, state_of
from covergraph.graph.shaking import shake_weights
from covergraph.measure.constants import differing_constants, listed, unwrapped
from covergraph.measure.loader import Batch, first_samples
from covergraph.measure.model import Evaluated, distance_beyond_rounding, function_of

STATISTICS = ("running_mean", "running_var")
SAMPLES = 4
"""So many samples show whether the constants of two models are the same."""


def reference_state(graph: ComputationGraph, init_model: Any) -> dict[str, Tensor]:
    """The state of the reference under the names that the graph has for the trained model's.

    Entries with other names are known by their path without the wrappers' parts (module., _orig_mod.), or without one
    prefix that all of them have, or lack. Raises `ForeignModelError` if an entry is missing, or if two could be meant.
    """
    state = dict(state_of(init_model))
    if not all(name in state for _, name in _needed(graph)):
        state |= _inside(state, {name for _, name in _needed(graph)})
    by_path: dict[str, list[str]] = {}
    for name in state:
        by_path.setdefault(unwrapped(name), []).append(name)
    for node, name in _needed(graph):
        if name in state:
            continue
        found = by_path.get(unwrapped(name), [])
        if len(found) != 1:
            raise _missing(node, name, found, init_model, [*state])
        state[name] = state[found[0]]
    return state


def _inside(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The entries by these names, if one module more is around either network; empty if not."""
    longer = {name.partition(".")[0] for name in state}
    for prefix in longer:
        if all(f"{prefix}.{name}" in state for name in names):
            return {name: state[f"{prefix}.{name}"] for name in names}
    if len({name.partition(".")[0] for name in names}) == 1:
        short = {name: name.partition(".")[2] for name in names}
        if all(name in state for name in short.values()):
            return {name: state[inner] for name, inner in short.items()}
    return {}


def _needed(graph: ComputationGraph) -> Iterator[tuple[str, str]]:
    """(node, entry of the trained model's state) for everything that the nodes are made of."""
    for node in graph.nodes:
        for _, name in node.parameters:
            entries = (*graph.weights.read(name), *graph.weights.sources(name))
            yield from ((node.name, entry) for entry in dict.fromkeys(entries))


def _missing(node: str, name: str, found: Sequence[str], init_model: Any, names: Sequence[str]) -> ForeignModelError:
    kind = type(init_model).__name__
    if found:
        reason = f"has {', '.join(map(repr, found))}, and any of them could be meant"
    else:
        last = name.rpartition(".")[2]
        close = [other for other in names if other.rpartition(".")[2] == last][:3] or list(names)[:3]
        reason = f"has no such entry (it has {', '.join(map(repr, close)) or 'no entries at all'} …)"
    return ForeignModelError(
        f"measure: the trained model's node {node!r} is made of {name!r}, and init_model ({kind}) {reason}; expected "
        "the weights before training of the same architecture; wrap, adapt and parametrize init_model as the trained "
        "model was, or make it by copy.deepcopy(model) right before training"
    )


def check_reference(graph: ComputationGraph, model: Any, init_model: Any, trust: bool) -> tuple[str, ...]:
    """What is assumed of the reference: what speaks for it that it depends on the sample, if the user vouches that it
    does not, and entries that are the trained ones, or all if they nearly are; warns of these but for frozen ones,
    and biases, which a norm behind them keeps from moving.

    Raises `ParameterError` for weights of the trained model, or for statistics that a BatchNorm took of batches, unless
    `trust`; `ForeignModelError` for another architecture.
    """
    state, trained = reference_state(graph, init_model), state_of(model)
    for node, name in _needed(graph):
        if name in trained and trained[name].shape != state[name].shape:
            raise ForeignModelError(
                f"measure: node {node!r}: the entry {name!r} of init_model has shape {tuple(state[name].shape)}, "
                f"expected {tuple(trained[name].shape)}; pass a model of the same architecture as init_model"
            )
    found = [*_trained(graph, model, init_model, state), *_statistics(graph, state)]
    if found and not trust:
        raise ParameterError(f"measure: {found[0][0]}; {found[0][1]}")
    doubts = tuple(f"the reference does not depend on the sample, although {words}" for words, _ in found)
    return doubts if found else _near(graph, trained, state)


NEAR = 0.02
"""A reference at this distance, relative to all weights, may be made of the trained one (of eight bits, say)."""


def _near(graph: ComputationGraph, trained: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What is assumed of entries of the reference that are the trained model's, and of all if they nearly are."""
    real = {name: trained[name] for name in graph.state_names if name in trained and trained[name].is_floating_point()}
    fixed = [n for n, v in real.items() if isinstance(v, torch.nn.Parameter) and not v.requires_grad]
    moves = {name: distances(value, start[name]) for name, value in real.items() if not is_plain(start[name])}
    moving = [distance for name, distance in moves.items() if name not in fixed]
    gone, size = (math.hypot(*(pair[i] for pair in moving)) for i in range(2))
    equal = [name for name, (distance, _) in moves.items() if distance == 0]
    others = [n for n in moves if n not in fixed] if gone <= NEAR * size else [n for n in equal if n not in fixed]
    words = tuple(
        f"{listed(some)} of init_model, {kind} the model's, {'do' if len(some) > 1 else 'does'} not depend on the "
        "sample"
        for some, kind in (
            (others, f"within {NEAR:.0%} of" if set(others) - set(equal) else "equal to"),
            ([n for n in equal if n in fixed], "frozen and equal to"),
        )
        if some
    )
    if any(not isinstance(trained[name], torch.nn.Parameter) or trained[name].ndim > 1 for name in others):
        warnings.warn(
            f"measure: the certificate supposes that {words[0]}; if init_model was made of the trained model (rounded, "
            f"scaled, pruned by its masks, loaded in part), it holds what training chose: {BEFORE}",
            stacklevel=4,
        )
    return words


def distances(trained: Tensor, start: Tensor) -> tuple[float, float]:
    """The distance of two entries, and the norm of the first."""
    one, other = (value.detach().double().cpu() for value in (trained, start))
    return float((one - other).norm()), float(one.norm())


def is_plain(start: Tensor) -> bool:
    """True for nothing but 0, or 1, as before training."""
    return any(bool((start == plain).all()) for plain in (0.0, 1.0))


BEFORE = "take init_model = copy.deepcopy(model) before training starts"


def _trained(
    graph: ComputationGraph, model: Any, init_model: Any, start: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    """A reference that shares its memory with the trained model, or has all weights that it may have trained."""
    state = state_of(model)
    names = [name for name in graph.state_names if name in state and state[name].numel()]
    names = [name for name in names if name.rpartition(".")[2] not in STATISTICS] or names
    shared = [n for n in names if state[n].data_ptr() == start[n].data_ptr() and state[n].requires_grad]
    if init_model is model or shared:
        yield (
            "init_model shares its weights with the trained model",
            f"expected weights from before training, for the trained ones depend on the sample: {BEFORE}; if this "
            "model was never trained on the sample, pass trust_init=True",
        )
        return
    frozen = [n for n in names if isinstance(state[n], torch.nn.Parameter) and not state[n].requires_grad]
    learned = [name for name in names if name not in frozen] or names
    if learned and all(_equal(state[name], start[name]) for name in learned):
        yield (
            "init_model has the same weights as the model",
            "expected weights from before training, for a copy that is made after it holds what training chose from "
            f"the sample: {BEFORE}, or leave it out (then the reference is 0); if this model was never trained on the "
            "sample, its weights do not depend on it: pass trust_init=True",
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Equal, also if one of them was rounded to a narrower type, and perhaps back."""
    if one.shape != other.shape:
        return False
    one, other = one.detach(), other.detach().to(one.device)
    if not (one.is_floating_point() and other.is_floating_point()):
        return bool(torch.equal(one, other))
    if torch.equal(one, other.to(one.dtype)) or torch.equal(one.to(other.dtype), other):
        return True
    return any(torch.equal(one.to(kind).double(), other.double()) for kind in NARROW)


NARROW = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def _statistics(graph: ComputationGraph, start: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Running statistics in the graph that are no longer those of a new BatchNorm."""
    counts = {unwrapped(name): value for name, value in start.items() if name.endswith("num_batches_tracked")}
    for name in graph.state_names:
        path, _, last = name.rpartition(".")
        if last not in STATISTICS:
            continue
        batches = counts.get(unwrapped(f"{path}.num_batches_tracked" if path else "num_batches_tracked"))
        count = 0 if batches is None else int(batches)
        fresh = torch.full_like(start[name], float(last == "running_var"))
        if count or not torch.equal(start[name], fresh):
            of = f"{count} batch{'es' * (count > 1)}" if count else "batches that it did not count"
            yield (
                f"the BatchNorm {path!r} of init_model has statistics of {of}, which may be of the sample",
                "expected those of a new one, mean 0 and variance 1: copy the model before its first forward pass in "
                "train mode, or call reset_running_stats() on its BatchNorms; statistics of other data, as of a "
                "pretrained network, do not depend on the sample: pass trust_init=True",
            )
            return


def require_same_constants(
    graph: ComputationGraph, model: Any, init_model: Any, batch: Batch, where: torch.device
) -> None:
    """Raise `ParameterError` if the reference network has other constants than the trained one.

    A formula of the graph reads the trained model's constants (numbers, plain tensors, masks); a reference that is
    made with them must not depend on training. So the graph must compute what init_model computes, with its weights,
    and again with others, for a new network often has weights of 0 that hide the rest.
    """
    words = differing_constants(graph, model, init_model)
    named = f" ({'; '.join(words[:3])})" if words else ""
    error = ParameterError(
        f"measure: init_model has other constants than the trained model{named}: with its weights the trained model's "
        "graph computes another function, so the reference would be made with constants that training may have chosen; "
        "take init_model = copy.deepcopy(model) before training, or register what training changes as parameters"
    )
    if not isinstance(init_model, (torch.nn.Module, torch.export.ExportedProgram)):
        if words:
            raise error
        return
    few = first_samples(batch, SAMPLES)
    with evaluation_copy(as_module(init_model)) as copied:
        call = function_of(graph, copied)
        if call(few) is None:
            if words:
                raise error
            return
        for shaken in (False, True):
            if shaken:
                with torch.no_grad(), torch.random.fork_rng():
                    shake_weights(copied)
            if _differs(graph, copied, call(few), [x.to(where) for x in few.inputs], where):
                raise error


def _differs(graph: ComputationGraph, copied: Any, result: Any, inputs: Sequence[Tensor], where: torch.device) -> bool:
    """True if a network is not the graph with its weights."""
    state = {name: value.detach().to(where) for name, value in reference_state(graph, copied).items()}
    context = Context(graph.state(state))
    with torch.no_grad():
        output = graph.run(state, *inputs)[graph.output]
    batch = Evaluated(inputs, output, torch.zeros(len(output), dtype=torch.bool))
    return distance_beyond_rounding(graph, context, batch, result) > 0
