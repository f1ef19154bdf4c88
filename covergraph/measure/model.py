"""Is the model that is measured the one that was traced, and may its reference weights be used?"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from covergraph.errors import ForeignModelError, ParameterError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.interpreter import state_of
from covergraph.measure.loader import Batch


def require_same_weights(graph: ComputationGraph, model: Any) -> None:
    """Raise `ForeignModelError` unless the model has the weights of the traced one."""
    if fingerprint(graph.nodes, model, graph.weights) != graph.fingerprint:
        raise ForeignModelError(
            "measure: the model's weights or shapes differ from those of the traced model; trace this model, derive "
            "its bound, and measure with it"
        )


def require_same_function(graph: ComputationGraph, model: torch.nn.Module, batch: Batch) -> None:
    """The model itself, in eval mode, must give the graph's output on a batch, both in the model's own dtype.

    A model that cannot be called with the loader's tensors alone (it was traced with other arguments, too) is known
    by its weights only.
    """
    parameter = next(model.parameters())
    inputs = [x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype) for x in batch.inputs]
    output = _call(graph, model, inputs)
    if output is None:
        return
    with torch.no_grad():
        values = graph.run(model, *inputs)
    expected = values[graph.output]
    # What cancels on the way leaves errors of the size of the largest value, not of the output.
    size = max(_size(value.detach()) for value in values.values())
    allowed = torch.finfo(parameter.dtype).eps * (1e3 * _size(expected) + size)
    for tensor in _tensors(output):
        if tensor.shape == expected.shape and _gap(tensor, expected) <= allowed:
            return
    raise ForeignModelError(
        f"measure: the model has the traced weights but computes another function on the batch that starts at sample "
        f"{batch.start}; trace this model and measure with its own bound"
    )


def _gap(one: Tensor, other: Tensor) -> float:
    """The largest difference; where neither is finite, as beyond a pole, there is none."""
    both = torch.isfinite(one) | torch.isfinite(other)
    return float((one - other)[both].abs().max()) if bool(both.any()) else 0.0


def _size(value: Tensor) -> float:
    """The largest finite entry of real values; masks hold infinite ones."""
    entries = value[torch.isfinite(value)] if value.is_floating_point() else value.new_zeros(0)
    return float(entries.abs().max()) if entries.numel() else 0.0


def _call(graph: ComputationGraph, model: torch.nn.Module, inputs: list[Tensor]) -> Any:
    """The model's result in eval mode, its modes restored; None if it needs arguments that are not known here."""
    named = dict(zip((node.name for node in graph.inputs), inputs, strict=True))
    signature = inspect.signature(model.forward)
    by_name, by_place = _fits(signature, (), named), _fits(signature, tuple(inputs), {})
    by_name = by_name and not isinstance(model, torch.fx.GraphModule)  # which keeps to the places of its export
    if not (by_name or by_place):
        return None
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            return model(**named) if by_name else model(*inputs)
    except Exception as error:  # the user's code
        raise ForeignModelError(
            f"measure: the model fails on a batch of {len(inputs[0])} samples ({type(error).__name__}: {error}); it "
            "must run on the loader's batches as it did on the example"
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def _fits(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
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


def check_reference(graph: ComputationGraph, model: Any, init_model: Any) -> None:
    """Raise `ParameterError` if the reference weights are the trained ones, and warn if they have equal values.

    Reference weights must not depend on the sample; trained weights do.
    """
    trained, start = state_of(model), state_of(init_model)
    names = [name for name in graph.state_names if name in trained and name in start]
    shared = [n for n in names if trained[n].data_ptr() == start[n].data_ptr()]
    if init_model is model or any(trained[n].requires_grad for n in shared):
        raise ParameterError(
            "measure: init_model shares its weights with the trained model, expected weights from before training, "
            "which do not depend on the sample; take init_model = copy.deepcopy(model) before training"
        )
    if names and all(trained[n].shape == start[n].shape and torch.equal(trained[n], start[n]) for n in names):
        warnings.warn(
            "measure: init_model has the same weights as the model; unless the model was never trained, they depend "
            "on the sample, and the certificate is void",
            stacklevel=4,
        )
