"""The first way: torch.export, not strict, for a batch of one sample; and what all ways share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

from covergraph.errors import TracingError
from covergraph.graph.held import held_arrays, held_tensors
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.forms import canonical_name
from covergraph.tracers.outputs import Chosen
from covergraph.tracers.traced import Traced


def trace_by_export(model: Chosen, arguments: Arguments, kept: Collection[str]) -> Traced:
    """Export for a batch of one; operations that are not `kept` are decomposed, and nothing is changed in place."""
    return read(exported(model, arguments, kept), model.traced_model, arguments, "export")


def exported(model: nn.Module, arguments: Arguments, kept: Collection[str]) -> ExportedProgram:
    """The functional program: what `kept` names stays one operation."""
    args, kwargs = arguments.call()
    program = torch.export.export(model, args, kwargs, strict=False)
    if all(_is_settled(node, kept) for node in program.graph.nodes):
        return program  # decomposing takes torch several times as long as exporting
    return decomposed(program, kept)


SETTLED = {
    *("linear.default", "conv1d.default", "conv2d.default", "add.Tensor", "sub.Tensor", "mul.Tensor", "neg.default"),
    *("tanh.default", "sigmoid.default", "relu.default", "gelu.default", "silu.default", "softplus.default"),
    *("elu.default", "leaky_relu.default", "sin.default", "cos.default", "exp.default", "abs.default"),
}
"""Operations of aten that decomposing leaves as they are (a test compares)."""


def _is_settled(node: fx.Node, kept: Collection[str]) -> bool:
    if node.op != "call_function":
        return node.op != "get_attr"
    name = str(node.target).removeprefix("aten.")
    return name in SETTLED and canonical_name(node.target) in kept


def decomposed(program: ExportedProgram, kept: Collection[str]) -> ExportedProgram:
    """The program without in-place operations, and with all but the `kept` operations decomposed."""
    return program.run_decompositions(dict(_table(frozenset(kept))))


@cache
def _table(kept: frozenset[str]) -> Mapping[Any, Callable[..., Any]]:
    """torch's decompositions of all other operations."""
    table = torch.export.default_decompositions()
    return {op: table[op] for op in list(table) if canonical_name(op) not in kept}


def read(program: ExportedProgram, model: nn.Module, arguments: Arguments, way: str) -> Traced:
    """What the placeholders of a program stand for; state is known by identity, so that any way may be read."""
    signature = program.graph_signature
    inputs: dict[str, str] = {}
    state: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    paths = iter(arguments.paths)
    held: dict[str, str] = {}
    names, others = _names(model), _first_names(held_tensors(model).items())
    arrays = held_arrays(model)
    kept = model.state_dict().keys()  # other buffers are made by code: constants
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            path = next(paths)
            if isinstance(spec.arg, TensorArgument):
                inputs[spec.arg.name] = path
        elif isinstance(spec.arg, (TensorArgument, ConstantArgument)) and spec.target is not None:
            value = _value(program, spec.target)
            name = names.get(_identity(value)) if isinstance(value, Tensor) else None
            if name is not None and name in kept and (value.is_floating_point() or value.is_complex()):
                state[spec.arg.name] = name
            elif isinstance(value, Tensor):
                _refuse_hidden(value, spec.target)
                constants[spec.arg.name] = value.detach()
                known = name or others.get(_identity(value)) or _made(value, arrays)
                held |= {} if known is None else {spec.arg.name: known}
    return Traced(way, model, program.graph, inputs, state, constants, held)


def _made(value: Tensor, arrays: Mapping[str, Tensor]) -> str | None:
    """What forward makes a constant of: an array that the model holds, or numbers in the code; None for one number."""
    plain = value.detach().cpu()
    for name, array in arrays.items():
        if array.shape == plain.shape and torch.equal(array.to(plain.dtype), plain):
            return name
    return f"of shape {tuple(plain.shape)} in forward's code" if plain.numel() > 1 else None


def _refuse_hidden(value: Tensor, target: str) -> None:
    """Raise `TracingError` for a tensor that may be trained and is not in the model's state."""
    if value.requires_grad or (isinstance(value, nn.Parameter) and (value.is_floating_point() or value.is_complex())):
        raise TracingError(
            f"the model computes with a tensor of shape {tuple(value.shape)} that requires gradients and is not in its "
            f"state ({target}); register it as a parameter (nn.Parameter as an attribute, or nn.ParameterList)"
        )


def _value(program: ExportedProgram, target: str) -> Any:
    return program.state_dict.get(target, program.constants.get(target))


def _names(model: nn.Module) -> Mapping[Any, str]:
    """First dotted name of every parameter and buffer, by identity."""
    return _first_names([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _first_names(named: Iterable[tuple[str, Tensor]]) -> Mapping[Any, str]:
    """The first name of every tensor, by identity."""
    found: dict[Any, str] = {}
    for name, value in named:
        found.setdefault(_identity(value), name)
    return found


def _identity(value: Tensor) -> Any:
    """What two tensors share that are one: storage, offset, shape and strides."""
    return value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape), value.stride()
