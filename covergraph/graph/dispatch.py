"""The two questions to every operation: what is its value, and what does its derivative make of tangents?

The answers are in `linear_rules`, `curved_rules`, `recurrent_rules` and `composed_rules`. `apply` gives h_v from the
values in the slots; `tangent` applies the operation's Jacobian to tangents in the slots. Both treat the leading axis
as the batch and never look across it. A batch of T tangents has the shape (batch, T, *shape); a slot without tangent
holds None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from covergraph.errors import ForeignModelError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.forward import pushed
from covergraph.graph.node import Node

if TYPE_CHECKING:
    from covergraph.graph.computation_graph import ComputationGraph

Tangents = Sequence[Tensor | None]


@dataclass(frozen=True)
class Context:
    """What nodes need beside their slots: the model's state; for augmented graphs labels and parameters."""

    state: Mapping[str, Tensor]
    labels: Tensor | None = None
    parameters: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(state: Any, graph: ComputationGraph | None = None) -> Context:
        """Context of a module or of a mapping from dotted names to tensors, for the nodes of `graph`."""
        return Context(state_of(state) if graph is None else graph.state(state))

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the weights; float64 if there are none."""
        return next((v.dtype for v in self.state.values() if v.is_floating_point()), torch.float64)

    def parameter(self, node: Node, role: str) -> Tensor:
        """The tensor that plays `role` at `node`; raises `ForeignModelError` if the state lacks it."""
        name = node.parameter[role]
        if name not in self.state:
            raise ForeignModelError(
                f"node {node.name!r}: the model has no parameter {name!r}; pass the model that was traced"
            )
        return self.state[name]


def unguarded(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program's module, which takes any batch; older versions of torch make no other."""
    known = inspect.signature(program.module).parameters
    return program.module(check_guards=False) if "check_guards" in known else program.module()


def state_of(model: Any) -> Mapping[str, Tensor]:
    """Parameters and buffers by dotted name, tied names included; of a module, an exported program or a mapping."""
    if isinstance(model, torch.export.ExportedProgram):
        model = unguarded(model)
    if isinstance(model, torch.nn.Module):
        named = dict(model.named_parameters(remove_duplicate=False))
        return named | dict(model.named_buffers(remove_duplicate=False))
    return dict(model)


@singledispatch
def apply(operation: op.Operation, node: Node, slots: Sequence[Tensor], context: Context) -> Tensor:
    """The value of `node`, shape (batch, *node.shape), from the values in its slots."""
    raise UnsupportedOperationError(
        f"node {node.name!r} ({node.origin or 'top level'}): the interpreter has no rule for {operation.label!r}"
    )


@singledispatch
def tangent(
    operation: op.Operation, node: Node, slots: Sequence[Tensor], tangents: Tangents, context: Context
) -> Tensor:
    """Sum over slots of (Jacobian of the slot) x (tangent of the slot), shape (batch, T, *node.shape).

    Without a rule of its own, an operation is differentiated in forward mode.
    """
    given = {i: t for i, t in enumerate(tangents) if t is not None}
    moving = list(given)
    values = tuple(slots[i].contiguous() for i in moving)  # forward mode refuses expanded tensors

    def value(*moved: Tensor) -> Tensor:
        filled = dict(zip(moving, moved, strict=True))
        return apply(operation, node, [filled.get(i, slot) for i, slot in enumerate(slots)], context)

    def push(*directions: Tensor) -> Tensor:
        return pushed(value, values, directions)

    try:
        return torch.vmap(push, in_dims=1, out_dims=1)(*given.values())
    except NotImplementedError as error:
        raise UnsupportedOperationError(
            f"node {node.name!r} ({node.origin or 'top level'}): torch has no forward mode for {operation.label!r}, "
            f"so its Jacobian cannot be measured; write the operation in terms of others ({error!s:.100})"
        ) from error


def edge_jacobian(node: Node, tail: str, slots: Sequence[Tensor], context: Context) -> Tensor:
    """J_{x,u} summed over the slots that u fills, dense: (batch, size of x, size of u)."""
    source = slots[node.inputs.index(tail)]
    basis = identity_tangents(source)
    tangents = [basis if name == tail else None for name in node.inputs]
    columns = tangent(node.operation, node, slots, tangents, context)
    return columns.reshape(*columns.shape[:2], -1).transpose(1, 2)


def identity_tangents(value: Tensor) -> Tensor:
    """One tangent per entry of a sample: (batch, size, *shape)."""
    shape = value.shape[1:]
    size = shape.numel()
    basis = torch.eye(size, dtype=value.dtype, device=value.device).reshape(size, *shape)
    return basis.expand(value.shape[0], size, *shape)


def fold(function: Callable[[Tensor], Tensor], tangents: Tensor) -> Tensor:
    """Apply a linear function of a batch to (batch, T, *shape)."""
    folded = function(tangents.reshape(-1, *tangents.shape[2:]))
    return folded.reshape(*tangents.shape[:2], *folded.shape[1:])


def only(tangents: Tangents) -> Tensor:
    """The tangent of the single slot of a unary operation."""
    (value,) = tangents
    assert value is not None
    return value


def with_positions(function: Callable[[Tensor], Tensor], x: Tensor, rank: int) -> Tensor:
    """Apply a function of (batch, *last `rank` axes) to a tensor with further axes before those: positions."""
    extra = x.shape[1 : x.dim() - rank]
    if not extra:
        return function(x)
    result = function(x.reshape(-1, *x.shape[x.dim() - rank :]))
    return result.reshape(x.shape[0], *extra, *result.shape[1:])
