"""The model as it is traced: a module in eval mode and in float64, with the caller's own left as it is."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from covergraph.errors import TracingError
from covergraph.tracers.precision import doubled


def as_module(model: Any) -> nn.Module:
    """The module itself; that of an ExportedProgram, whose names of parameters and buffers are the traced module's."""
    if isinstance(model, torch.export.ExportedProgram):
        _refuse_fixed_batch(model)
        return model.module(check_guards=False)
    if not isinstance(model, nn.Module):
        raise TracingError(f"trace: the model is {type(model).__name__}, expected an nn.Module or an ExportedProgram")
    return model


def _refuse_fixed_batch(program: torch.export.ExportedProgram) -> None:
    """Raise `TracingError` for a program that runs at one batch size alone, unless that is 1."""
    values = {n.name: n.meta["val"] for n in program.graph.nodes if n.name in program.graph_signature.user_inputs}
    sizes = {name: v.shape[0] for name, v in values.items() if isinstance(v, Tensor) and v.dim()}
    fixed = {name: size for name, size in sizes.items() if isinstance(size, int) and size != 1}
    if fixed:
        raise TracingError(
            f"trace: the ExportedProgram has fixed batch sizes {fixed}, expected a dynamic batch; export it with "
            "dynamic_shapes={'" + next(iter(fixed)) + "': {0: torch.export.Dim('batch')}}"
        )


@contextmanager
def evaluation_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A float64 copy of the model in eval mode; where copying fails, the model itself, all restored at the end."""
    try:
        work = copy.deepcopy(model)
    except Exception:  # deepcopy calls arbitrary code
        work = model
    modes = [(module, module.training) for module in work.modules()]
    for module, _ in modes:
        module.training = False
    try:
        if work is not model:
            yield _doubled(work, {name for name, _ in model.named_buffers()})
        else:
            with _doubled_in_place(model):
                yield model
    finally:
        for module, training in modes:
            module.training = training


def _doubled(copied: nn.Module, buffers: Collection[str]) -> nn.Module:
    """The copy in float64, tensors that are plain attributes too; integers stay.

    Copying a torch.fx.GraphModule turns plain tensors into buffers, which the model's state does not have.
    """
    for path, module in copied.named_modules():
        for key in [k for k in module._buffers if (f"{path}.{k}" if path else k) not in buffers]:
            vars(module)[key] = module._buffers.pop(key)
        vars(module).update(_doubled_attributes(module))
    return copied.double()


def _doubled_attributes(module: nn.Module) -> dict[str, Tensor]:
    return {key: doubled(value) for key, value in vars(module).items() if isinstance(value, Tensor)}


@contextmanager
def _doubled_in_place(model: nn.Module) -> Iterator[None]:
    """Inside, parameters, buffers and tensor attributes are in float64; afterwards they are as they were."""
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    places = [place for module in model.modules() for place in (vars(module), module._buffers)]
    tensors = [(place, {k: v for k, v in place.items() if isinstance(v, Tensor)}) for place in places]
    for parameter, value in parameters:
        parameter.data = doubled(value).clone()  # the check changes them
    for place, values in tensors:
        place.update({key: doubled(value.detach()).clone() for key, value in values.items()})
    try:
        yield
    finally:
        for parameter, value in parameters:
            parameter.data = value
        for place, values in tensors:
            place.update(values)
