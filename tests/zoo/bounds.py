"""Derive the bound of a traced model, and evaluate it on the example: augment, derive, measure, choose, evaluate."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from zoo.entry import Case
from zoo.result import Derivation

from covergraph import augment, choose, derive, measure
from covergraph.bound.certificate import Certificate
from covergraph.bound.derive import Bound
from covergraph.errors import CovergraphError, UnsupportedOperationError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, state_of, stream
from covergraph.graph.losses import LipschitzLoss, Loss, MarginLoss
from covergraph.tracers.arguments import Arguments
from covergraph.values import Measurements, Parameters


@dataclass(frozen=True)
class Sample:
    """The example as a labeled sample in double precision: one tensor per input of the graph, the weights, the loss."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    state: Mapping[str, Tensor]
    loss: Loss


@dataclass(frozen=True)
class Derived:
    """A bound with its numbers."""

    sample: Sample
    bound: Bound
    measurements: Measurements
    parameters: Parameters
    certificate: Certificate


def derivation(graph: ComputationGraph, case: Case) -> tuple[Derivation, Derived | None]:
    """What came out, and the bound if there is one; raises nothing. An error that is not covergraph's own is a bug."""
    try:
        found, derived = _derivation(graph, case)
    except CovergraphError as error:
        return _refusal(error, graph), None
    except Exception as error:
        traceback.print_exc()
        return Derivation(crashed=True, reason=type(error).__name__, message=_line(error)), None
    return found, derived


def _derivation(graph: ComputationGraph, case: Case) -> tuple[Derivation, Derived | None]:
    start = time.perf_counter()
    sample = sample_of(graph, case)
    bound = derive(augment(graph, sample.loss))
    augmented = bound.augmented
    found = Derivation(
        loss=sample.loss.name,
        nodes=len(bound.graph),
        hidden=len(augmented.hidden),
        pairs=int(augmented.pairs.sum()),
        conditions=len(augmented.conditions),
        groups=len(bound.groups),
        derive_seconds=time.perf_counter() - start,
    )
    start = time.perf_counter()
    try:
        derived = evaluated(bound, sample, case.model)
    except CovergraphError as error:
        told = _refusal(error, graph)
        return replace(found, reason=told.reason, message=told.message, without_rule=told.without_rule), None
    C, failing = derived.certificate.C, derived.measurements.failing
    return replace(
        found,
        derived=math.isfinite(C),
        log10=derived.certificate.log10 if math.isfinite(C) and C > 0 else 0.0,
        failing=sum(count == derived.measurements.n for count in failing.values()),
        measure_seconds=time.perf_counter() - start,
    ), derived


def sample_of(graph: ComputationGraph, case: Case) -> Sample:
    """Labels are the model's own answers if it has logits with positive margins; else there is a loss of our own."""
    tensors = Arguments.of(case.model, case.inputs, case.kwargs).tensors.values()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in tensors)
    state = {k: v.detach().double() if v.is_floating_point() else v for k, v in state_of(case.model).items()}
    labels, loss = torch.zeros(len(inputs[0]), dtype=torch.int64), LipschitzLoss(_wave, 0.5, "wave")
    output = graph[graph.output]
    if len(output.shape) != 1 or output.size < 2 or output.kind != "float":
        return Sample(inputs, labels, state, loss)
    with torch.no_grad():
        context = Context.of(state, graph)
        logits = next(v for name, v in stream(graph, context, graph.named_inputs(inputs)) if name == graph.output)
    guesses = logits.argmax(1)
    if bool((MarginLoss().margins(logits, guesses) > 0).all()):
        return Sample(inputs, guesses, state, MarginLoss())
    return Sample(inputs, labels, state, loss)


def _wave(output: Tensor, labels: Tensor) -> Tensor:
    """A loss in [0, 1] for outputs of any shape, 1/2-Lipschitz."""
    return (1 + torch.sin(output.flatten(1)[:, 0])) / 2


def evaluated(bound: Bound, sample: Sample, model: torch.nn.Module, fill: bool = True) -> Derived:
    """Measure the model on the sample, choose parameters and evaluate the bound."""
    loader = [(sample.inputs, sample.labels)]
    measurements = measure(bound, model, loader, fill=fill, progress=False)
    parameters = choose(bound, measurements)
    return Derived(sample, bound, measurements, parameters, bound.evaluate(measurements, parameters))


def _refusal(error: CovergraphError, graph: ComputationGraph) -> Derivation:
    labels = without_rule(error, graph) if isinstance(error, UnsupportedOperationError) else ()
    return Derivation(reason=type(error).__name__, message=_line(error), without_rule=labels)


def without_rule(error: UnsupportedOperationError, graph: ComputationGraph) -> tuple[str, ...]:
    """The labels of the operations that a refusal names."""
    _, found, several = str(error).partition("without rule are ")
    if found:
        return tuple(re.findall(r"([^,;]+?) \(\d+\)(?:, )?", several))
    named = re.match(r"node '([^']+)'", str(error))
    if named is None:
        return ()
    return (graph[named[1]].operation.label if named[1] in graph.by_name else named[1],)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
