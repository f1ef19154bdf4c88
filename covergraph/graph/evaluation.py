"""The model as it is traced: a module in eval mode and in float64, with the caller's own left as it is."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.dispatch import unguarded
from covergraph.graph.held import SPECIAL
from covergraph.graph.precision import doubled


def as_module(model: Any) -> nn.Module:
    """The module itself; that of an ExportedProgram, whose names of parameters and buffers are the traced module's."""
    if isinstance(model, torch.export.ExportedProgram):
        _refuse_fixed_batch(model)
        return unguarded(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TracingError(
            f"trace: the model is a {type(model).__name__} of torch.jit, whose Python code is gone; expected the "
            "nn.Module that it was made from, or torch.export.export of that"
        )
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TracingError(
            f"trace: the model is the class {model.__name__}, expected a module; make one: {model.__name__}(...)"
        )
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
            _uncompile(work)
            yield _doubled(work, {name for name, _ in model.named_buffers()}, _aliases(model))
        else:
            with _doubled_in_place(model):
                yield model
    finally:
        for module, training in modes:
            module.training = training


def _uncompile(copied: nn.Module) -> None:
    """What `torch.compile` wraps runs as it is: older versions of torch do not trace compiled functions."""
    for module in copied.modules():
        inner = module._modules.get("_orig_mod")
        if inner is not None and "forward" in vars(module):
            vars(module)["forward"] = inner.__call__


def _aliases(model: nn.Module) -> list[tuple[str, str, str]]:
    """(path, attribute, parameter) of every plain tensor attribute that is a parameter's memory."""
    own = {_place(parameter): name for name, parameter in model.named_parameters()}
    plain = ((path, k, v) for path, module in model.named_modules() for k, v in vars(module).items())
    return [(path, k, own[_place(v)]) for path, k, v in plain if isinstance(v, Tensor) and _place(v) in own]


def _doubled(copied: nn.Module, buffers: Collection[str], aliases: Sequence[tuple[str, str, str]]) -> nn.Module:
    """The copy in float64, tensors that are plain attributes too; integers stay.

    Copying a torch.fx.GraphModule turns plain tensors into buffers, which the model's state does not have.
    """
    for path, module in copied.named_modules():
        for key in [k for k in module._buffers if (f"{path}.{k}" if path else k) not in buffers]:
            vars(module)[key] = module._buffers.pop(key)
    registered = {id(tensor) for tensor in (*copied.parameters(), *copied.buffers())}
    for module in copied.modules():
        vars(module).update(_doubled_attributes(module, registered))
    for parameter in copied.parameters():
        parameter.grad = None  # it would keep its type, which torch forbids
    copied._apply(doubled)  # type: ignore[no-untyped-call]  # .double() leaves complex numbers as they are
    for path, key, name in aliases:  # a second view of a parameter's memory stays one
        vars(copied.get_submodule(path))[key] = copied.get_parameter(name).data
    return copied


def _place(value: Tensor) -> tuple[Any, ...]:
    """Where a tensor's entries lie: equal for two views of the same memory."""
    return value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape), value.stride()


def _doubled_attributes(module: nn.Module, registered: Collection[int]) -> dict[str, Any]:
    """Tensors among the attributes, also in lists, tuples and dictionaries, in float64."""
    kinds = (Tensor, list, tuple, dict)
    plain = {k: v for k, v in vars(module).items() if isinstance(v, kinds) and k not in SPECIAL}

    def double(value: Tensor) -> Tensor:
        """The tensor in float64, if it is not in the state; one that may be trained still says so."""
        return value if id(value) in registered else doubled(value.detach()).requires_grad_(value.requires_grad)

    return {key: pytree.tree_map_only(Tensor, double, value) for key, value in plain.items()}


@contextmanager
def _doubled_in_place(model: nn.Module) -> Iterator[None]:
    """Inside, parameters, buffers and tensor attributes are in float64; afterwards they are as they were."""
    parameters = [(parameter, parameter.data, parameter.grad) for parameter in model.parameters()]
    places = [place for module in model.modules() for place in (vars(module), module._buffers)]
    tensors = [(place, {k: v for k, v in place.items() if isinstance(v, Tensor)}) for place in places]
    for parameter, value, _ in parameters:
        parameter.grad = None
        parameter.data = doubled(value).clone()  # the check changes them
    for place, values in tensors:
        place.update({key: doubled(value.detach()).clone() for key, value in values.items()})
    try:
        yield
    finally:
        for parameter, value, gradient in parameters:
            parameter.data, parameter.grad = value, None
            parameter.grad = gradient
        for place, values in tensors:
            place.update(values)
