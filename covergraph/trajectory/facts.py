"""What can be seen of a run besides its numbers: the optimizer, what the graph computes, who mixes samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import Tensor, nn

from covergraph.errors import CovergraphError, TrajectoryError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import T
from covergraph.graph.interpreter import Context, stream
from covergraph.graph.joints import misread
from covergraph.graph.kinks import good_parts
from covergraph.graph.node import Node
from covergraph.trajectory.layer import Watched
from covergraph.trajectory.trajectory import Setting

SHOWN = ("lr", "momentum", "betas", "weight_decay", "dampening", "nesterov", "alpha", "rho", "maximize")
_PIECEWISE = (
    *(op.Input, op.Linear, op.Convolution, op.TransposedConvolution, op.Affine, op.ParametricReLU, op.MaxPool),
    *(op.Maximum, op.Embedding, op.Parameter, op.Constant, *op.FIXED_LINEAR),
)
_MIXING = (nn.modules.batchnorm._BatchNorm,)


def group_of(optimizer: torch.optim.Optimizer, bias: nn.Parameter, name: str) -> int:
    """The optimizer's group that holds the bias. Raises `TrajectoryError` if none does, or if the bias is frozen."""
    if not bias.requires_grad:
        raise TrajectoryError(
            f"trajectory: {name!r} is frozen (requires_grad = False), expected a bias that is trained; set "
            "requires_grad_(True) before the optimizer is made, or name another layer with layer='...'"
        )
    for i, group in enumerate(optimizer.param_groups):
        if any(p is bias for p in group["params"]):
            return i
    raise TrajectoryError(
        f"trajectory: {name!r} is in no parameter group of the {type(optimizer).__name__}, expected the optimizer that "
        "trains it; pass that one, or name another layer with layer='...'"
    )


def parameter_of(model: nn.Module, name: str) -> Tensor | None:
    """What the model has by this name, None if it has nothing."""
    owner: nn.Module | None = model
    *path, leaf = name.split(".")
    for part in path:
        owner = None if owner is None else owner._modules.get(part)
    return None if owner is None else owner._parameters.get(leaf)


def require_same(model: nn.Module, bias: nn.Parameter, name: str) -> None:
    """Raise `TrajectoryError` if the model has another parameter of this name by now."""
    if parameter_of(model, name) is not bias:
        raise TrajectoryError(
            f"trajectory: the model's {name!r} is another parameter than when recording began, expected the layer to "
            "stay; begin a new recorder after layers are replaced"
        )


def first_setting(
    model: nn.Module, optimizer: torch.optim.Optimizer, group: int, graph: ComputationGraph | None, watched: Watched,
    bias: nn.Parameter,
) -> Setting:
    """What is known before the first step."""
    settings, mixing = optimizer.param_groups[group], mixes(model)
    reason = not_plain(optimizer, settings)
    return Setting(
        optimizer=described(optimizer, settings),
        plain=not reason,
        reason=reason,
        last="" if graph is None else last_node(graph).operation.label,
        isometric=watched.isometric,
        piecewise=None if graph is None else is_piecewise_linear(graph) and not mixing,
        once=graph is None or readers(graph, watched.bias) <= 1,
        mixing=mixing or (None if graph is None else False),
        joints=None if graph is None else ", ".join(map(repr, _misread(graph))),
        dtype=str(bias.dtype).removeprefix("torch."),
    )


def _misread(graph: ComputationGraph) -> list[str]:
    """The nodes at whose joints autograd, with which training goes, has another slope than the function."""
    functions = ((n.name, n.operation.function) for n in graph.nodes if isinstance(n.operation, op.Elementwise))
    return [name for name, function in functions if misread(function)]


def readers(graph: ComputationGraph, parameter: str) -> int:
    """How many nodes read a parameter, by whatever name."""
    name = graph.weights.ties.get(parameter, parameter)
    return sum(name in graph.weights.sources(other) for node in graph.nodes for other in node.parameter.values())


def learned(setting: Setting, reason: str, mixing: bool, identity: float | None) -> Setting:
    """The setting after a further block; what was once seen stays."""
    reason, mixed = reason or setting.reason, mixing or setting.mixing
    piecewise = False if mixed and setting.piecewise else setting.piecewise
    seen = setting.identity if identity is None else max(identity, setting.identity or 0.0)
    return replace(setting, plain=not reason, reason=reason, mixing=mixed, piecewise=piecewise, identity=seen)


def described(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> str:
    """The optimizer and those of its settings that are not 0: SGD(lr=0.1, momentum=0.9)."""
    known = [(name, group[name]) for name in SHOWN if name in group]
    shown = [f"{name}={_number(value)}" for name, value in known if isinstance(value, torch.Tensor) or value]
    return f"{type(optimizer).__name__}({', '.join(shown)})"


def _number(value: Any) -> str:
    return "a tensor" if isinstance(value, torch.Tensor) else f"{value:g}" if isinstance(value, float) else str(value)


def not_plain(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> str:
    """Why a step is not b - α ∂ℓ/∂b; empty for plain SGD."""
    if type(optimizer) is not torch.optim.SGD:
        return f"{type(optimizer).__name__} is not torch.optim.SGD"
    names = [name for name in ("momentum", "weight_decay", "maximize") if group.get(name)]
    return ", ".join(f"{name} = {_number(group[name])}" for name in names)


def mixes(model: nn.Module) -> bool:
    """Whether a module makes statistics over the samples of a batch."""
    return any(isinstance(m, _MIXING) and (m.training or m.running_mean is None) for m in model.modules())


def changes_in_training(model: nn.Module) -> str | None:
    """The first module in train mode that does something else than its node on the graph, which is of eval mode."""
    kinds = (nn.modules.dropout._DropoutNd, *_MIXING)
    return next((path for path, m in model.named_modules() if isinstance(m, kinds) and m.training), None)


@torch.no_grad()
def computes(graph: ComputationGraph, model: nn.Module, given: list[Tensor], output: Tensor) -> bool:
    """Whether the model's output is the graph's, up to half precision; True if that cannot be asked.

    Nothing is asked of graphs with several inputs, nor where modules are known to do something else in train mode.
    """
    if len(given) != 1 or len(graph.inputs) != 1 or changes_in_training(model):
        return True
    try:
        *_, (_, value) = stream(graph, Context.of(model, graph), {graph.inputs[0].name: given[0]})
    except (CovergraphError, RuntimeError):
        return True
    if value.numel() != output.numel():
        return True
    return bool((value.reshape(-1) - output.reshape(-1)).norm() <= 0.02 * output.norm())


def last_node(graph: ComputationGraph) -> Node:
    """The node that gives the output its values; what reorders entries is passed over."""
    node = graph[graph.output]
    while isinstance(node.operation, (op.Reshape, op.Rearrange)) and node.inputs:
        node = graph[node.inputs[0]]
    return node


def is_piecewise_linear(graph: ComputationGraph) -> bool:
    """Whether the graph is piecewise linear up to one last sigmoid, by its operations."""
    last = last_node(graph)
    return all(_bends(node) for node in graph.nodes if not (node is last and node.operation.label == "sigmoid"))


def _bends(node: Node) -> bool:
    if isinstance(node.operation, op.Elementwise):
        try:
            groups = good_parts(node.operation.function.expression)
        except UnsupportedOperationError:
            return False
        return all(sympy.diff(part.phi, T, 2) == 0 for group in groups for part in group)
    return isinstance(node.operation, _PIECEWISE)
