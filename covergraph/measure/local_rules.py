"""The Jacobian of one operation at the rows of a block: what it makes of tangents, and its transpose of cotangents.

`local` has a rule for each frequent operation, with the derivatives computed once. Operations without a rule are
differentiated by `tangent` and in reverse on a kept graph. Fixed linear maps of one slot are applied themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply, tangent
from covergraph.graph.node import Node

Slots = Sequence[Tensor]
Shape = tuple[int, ...]
Moved = Mapping[int, Tensor]
"""Tangents or cotangents by slot, each (rows, *shape of the slot)."""
Map = Callable[[Tensor], Tensor]
Pull = Callable[[Tensor, Sequence[int]], dict[int, Tensor]]


@dataclass(frozen=True)
class Local:
    """The Jacobian of one operation at the rows of a block.

    push: tangents by slot to the sum of the products; pull: a cotangent and the slots that are wanted to cotangents.
    narrow: the same at some of the rows; if there is none, the Jacobian has to be made again from their values.
    """

    push: Callable[[Moved], Tensor]
    pull: Pull
    narrow: Callable[[Tensor], Local] | None = None


def fixed(push: Callable[[Moved], Tensor], pull: Pull) -> Local:
    """A Jacobian that is the same for all rows, and for any number of them."""
    made: Local = Local(push, pull, lambda rows: made)
    return made


def stored(make: Callable[..., Local], *tensors: Tensor | float) -> Local:
    """A Jacobian that is made from numbers and from tensors (rows, ...)."""

    def narrow(rows: Tensor) -> Local:
        return stored(make, *(t[rows] if isinstance(t, Tensor) else t for t in tensors))

    return dataclasses.replace(make(*tensors), narrow=narrow)


def unary(push: Map, pull: Map) -> Local:
    """The Jacobian of an operation with one slot."""
    return fixed(lambda moved: push(moved[0]), lambda cotangent, wanted: dict.fromkeys(wanted, pull(cotangent)))


def local_at(node: Node, slots: Slots, context: Context) -> Local:
    """The Jacobian of `node` at the values in its slots; without rules of their own where numbers are complex."""
    if node.kind == "complex" or any(slot.is_complex() for slot in slots):
        return generic(node.operation, node, slots, context)
    return local(node.operation, node, slots, context)


@singledispatch
def local(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Local:
    """The Jacobian of `node` at the values in its slots, (rows, *shape); by automatic differentiation without rule."""
    return generic(operation, node, slots, context)


def generic(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Local:
    """The Jacobian by `tangent` and in reverse; an integer slot gets the cotangent 0."""

    def push(moved: Moved) -> Tensor:
        tangents = [moved[i].unsqueeze(1) if i in moved else None for i in range(len(slots))]
        return tangent(operation, node, slots, tangents, context).squeeze(1)

    return Local(push, reverse(lambda values: apply(operation, node, values, _usable(context)), slots))


def reverse(function: Callable[[Slots], Tensor], slots: Slots) -> Pull:
    """The transposed Jacobian on a graph of autograd that is made when it is first needed, in any mode, and kept."""
    kept: list[tuple[dict[int, Tensor], Tensor]] = []

    def pull(cotangent: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            if not kept:
                values = [slot.clone() if slot.is_inference() else slot.detach() for slot in slots]
                moving = [i for i, v in enumerate(values) if v.is_floating_point() or v.is_complex()]
                leaves = {i: values[i].requires_grad_() for i in moving}
                kept.append((leaves, function(values)))
            leaves, value = kept[0]
            real = [i for i in wanted if i in leaves] if value.requires_grad else []
            ends = [leaves[i] for i in real]
            given = torch.autograd.grad(value, ends, cotangent, retain_graph=True, allow_unused=True) if ends else ()
        found = {i: c for i, c in zip(real, given, strict=True) if c is not None}
        nothing = {i: slots[i] if i in leaves else cotangent.real for i in wanted if i not in found}
        return found | {i: like.new_zeros(slots[i].shape) for i, like in nothing.items()}

    return pull


def _usable(context: Context) -> Context:
    """The same with parameters that autograd takes: those made in inference mode are copied."""
    if not any(value.is_inference() for value in context.state.values()):
        return context
    state = {name: v.clone() if v.is_inference() else v for name, v in context.state.items()}
    return dataclasses.replace(context, state=state)


def entrywise(node: Node, shapes: Sequence[Shape], *factors: Tensor | float) -> Local:
    """sum over slots of factor x tangent; slots that are repeated to fit the others get sums of cotangents."""

    def push(moved: Moved) -> Tensor:
        (first, t), *others = moved.items()
        total = _scaled(t, factors[first])
        for i, t in others:
            f = factors[i]
            total = torch.addcmul(total, t, f) if isinstance(f, Tensor) else torch.add(total, t, alpha=f)
        return total.expand(len(total), *node.shape)

    def pull(c: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        return {i: _scaled(c, factors[i]).sum_to_size(len(c), *shapes[i]) for i in wanted}

    return fixed(push, pull)


def _scaled(t: Tensor, factor: Tensor | float) -> Tensor:
    return t if isinstance(factor, float) and factor == 1 else t * factor


def at_entries(node: Node, slots: Slots, *factors: Tensor | float) -> Local:
    """`entrywise` with factors that are different for every row."""
    shapes = shapes_of(slots)
    return stored(lambda *parts: entrywise(node, shapes, *parts), *factors)


def shapes_of(slots: Slots) -> list[Shape]:
    return [tuple(slot.shape[1:]) for slot in slots]


def reals(slots: Slots) -> list[Tensor]:
    """The values, integers as reals."""
    dtype = next((slot.dtype for slot in slots if slot.is_floating_point()), torch.float64)
    return [slot if slot.is_floating_point() else slot.to(dtype) for slot in slots]


@local.register
def _(operation: op.Elementwise, node: Node, slots: Slots, context: Context) -> Local:
    function = operation.function
    if function.is_affine:
        return entrywise(node, shapes_of(slots), function.derivative(slots[0].new_zeros(())))
    return at_entries(node, slots, function.derivative(slots[0]))


@local.register
def _(operation: op.ParametricReLU, node: Node, slots: Slots, context: Context) -> Local:
    slope = context.parameter(node, "slope")
    return at_entries(node, slots, torch.where(slots[0] > 0, slope.new_ones(()), slope))


@local.register
def _(operation: op.Affine, node: Node, slots: Slots, context: Context) -> Local:
    """An entry that is dropped has no derivative, whatever its tangent is."""
    if not operation.scale:
        return entrywise(node, shapes_of(slots), 1.0)
    scale = context.parameter(node, "scale")
    made = entrywise(node, shapes_of(slots), scale)
    if not operation.select:
        return made
    dropped = scale == 0
    return fixed(lambda moved: made.push(moved).masked_fill(dropped, 0.0), made.pull)


@local.register(op.Add)
def _(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Local:
    return entrywise(node, shapes_of(slots), *[1.0] * len(slots))


@local.register
def _(operation: op.Subtract, node: Node, slots: Slots, context: Context) -> Local:
    return entrywise(node, shapes_of(slots), 1.0, -1.0)


@local.register
def _(operation: op.Product, node: Node, slots: Slots, context: Context) -> Local:
    return at_entries(node, slots, *reversed(reals(slots)))


@local.register
def _(operation: op.Divide, node: Node, slots: Slots, context: Context) -> Local:
    p, q = reals(slots)
    return at_entries(node, slots, 1 / q, -p / q / q)
