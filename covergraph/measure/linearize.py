"""The network linearized at a block of samples: products with its Jacobians, in both directions, without forming them.

Every node gives a `Local`: what its Jacobian makes of tangents in its slots (`push`), and what the transposed Jacobian
makes of a cotangent (`pull`). Frequent operations have rules with their derivatives computed once; the others are
differentiated by `tangent` and by reverse mode on a kept graph. All of them have rows, one for each sample, as leading
axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, apply, tangent
from covergraph.graph.node import Node

Slots = Sequence[Tensor]
Moved = Mapping[int, Tensor]
"""Tangents or cotangents by slot, each (rows, *shape of the slot)."""


@dataclass(frozen=True)
class Local:
    """The Jacobian of one operation at the rows of a block.

    push: tangents by slot to the sum of the products; pull: a cotangent and the slots that are wanted to cotangents.
    """

    push: Callable[[Moved], Tensor]
    pull: Callable[[Tensor, Sequence[int]], dict[int, Tensor]]


def unary(push: Callable[[Tensor], Tensor], pull: Callable[[Tensor], Tensor]) -> Local:
    """The Jacobian of an operation with one slot."""
    return Local(lambda moved: push(moved[0]), lambda cotangent, wanted: dict.fromkeys(wanted, pull(cotangent)))


def diagonal(factor: Tensor) -> Local:
    """The Jacobian of an operation on entries, whose derivatives are `factor`."""
    return unary(lambda t: t * factor, lambda c: c * factor)


@singledispatch
def local(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Local:
    """The Jacobian of `node` at the values in its slots, (rows, *shape); by automatic differentiation without rule."""
    kept: list[tuple[dict[int, Tensor], Tensor]] = []

    def push(moved: Moved) -> Tensor:
        tangents = [moved[i].unsqueeze(1) if i in moved else None for i in range(len(slots))]
        return tangent(operation, node, slots, tangents, context).squeeze(1)

    def pull(cotangent: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        if not kept:
            with torch.enable_grad():
                reals = {i: s.detach().requires_grad_() for i, s in enumerate(slots) if s.is_floating_point()}
                value = apply(operation, node, [reals.get(i, s) for i, s in enumerate(slots)], context)
            kept.append((reals, value))
        reals, value = kept[0]
        found = torch.autograd.grad(value, [reals[i] for i in wanted], cotangent, retain_graph=True, allow_unused=True)
        pairs = zip(wanted, found, strict=True)
        return {i: torch.zeros_like(reals[i]) if found is None else found for i, found in pairs}

    return Local(push, pull)


@local.register
def _(operation: op.Linear, node: Node, slots: Slots, context: Context) -> Local:
    weight = context.parameter(node, "weight")
    return unary(lambda t: t @ weight.mT, lambda c: c @ weight)


@local.register
def _(operation: op.Affine, node: Node, slots: Slots, context: Context) -> Local:
    if not operation.scale:
        return unary(lambda t: t, lambda c: c)
    return diagonal(context.parameter(node, "scale"))


def _broadcast(node: Node, slots: Slots) -> bool:
    """True if some slot is repeated along an axis to fit the others."""
    return any(tuple(slot.shape[1:]) != node.shape for slot in slots)


@local.register
def _(operation: op.Elementwise, node: Node, slots: Slots, context: Context) -> Local:
    return diagonal(operation.function.derivative(slots[0]))


@local.register
def _(operation: op.ParametricReLU, node: Node, slots: Slots, context: Context) -> Local:
    slope = context.parameter(node, "slope")
    return diagonal(torch.where(slots[0] > 0, torch.ones_like(slots[0]), slope))


@local.register(op.Add)
def _(operation: op.Operation, node: Node, slots: Slots, context: Context) -> Local:
    return Local(lambda moved: _sum(list(moved.values())), lambda c, wanted: dict.fromkeys(wanted, c))


@local.register
def _(operation: op.Subtract, node: Node, slots: Slots, context: Context) -> Local:
    signs = (1.0, -1.0)
    return Local(
        lambda moved: _sum([t if i == 0 else -t for i, t in moved.items()]),
        lambda c, wanted: {i: c * signs[i] for i in wanted},
    )


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@local.register
def _(operation: op.Concatenate, node: Node, slots: Slots, context: Context) -> Local:
    axis = operation.axis + 1
    sizes = [slot.shape[axis] for slot in slots]

    def push(moved: Moved) -> Tensor:
        return torch.cat([moved[i] if i in moved else torch.zeros_like(s) for i, s in enumerate(slots)], axis)

    def pull(cotangent: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        parts = torch.split(cotangent, sizes, axis)
        return {i: parts[i] for i in wanted}

    return Local(push, pull)


@local.register
def _(operation: op.Reshape, node: Node, slots: Slots, context: Context) -> Local:
    shape = slots[0].shape[1:]
    return unary(lambda t: t.reshape(len(t), *node.shape), lambda c: c.reshape(len(c), *shape))


@local.register
def _(operation: op.Product, node: Node, slots: Slots, context: Context) -> Local:
    return Local(
        lambda moved: _sum([t * slots[1 - i] for i, t in moved.items()]),
        lambda c, wanted: {i: c * slots[1 - i] for i in wanted},
    )


@local.register
def _(operation: op.MatrixProduct, node: Node, slots: Slots, context: Context) -> Local:
    left, right = slots
    if left.shape[:-2] != right.shape[:-2]:  # broadcast
        return local.dispatch(op.Operation)(operation, node, slots, context)
    return Local(
        lambda moved: _sum([t @ right if i == 0 else left @ t for i, t in moved.items()]),
        lambda c, wanted: {i: c @ right.mT if i == 0 else left.mT @ c for i in wanted},
    )


@local.register
def _(operation: op.Softmax, node: Node, slots: Slots, context: Context) -> Local:
    """p - weighted mean of it; the Jacobian is symmetric."""
    if operation.log or len(slots) > 1:
        return local.dispatch(op.Operation)(operation, node, slots, context)
    p, axis = apply(operation, node, slots, context), operation.axis + 1

    def both(t: Tensor) -> Tensor:
        weighted = p * t
        return weighted - p * weighted.sum(axis, keepdim=True)

    return unary(both, both)


@local.register
def _(operation: op.Normalize, node: Node, slots: Slots, context: Context) -> Local:
    """(I - 1 1'/d - y y'/d) / r; the Jacobian is symmetric, group by group."""
    shape = slots[0].shape
    x = slots[0].reshape(shape[0], -1, operation.group)
    x = x - x.mean(2, keepdim=True) if operation.center else x
    r = (x.square().mean(2, keepdim=True) + operation.eps).sqrt()
    y = x / r

    def both(t: Tensor) -> Tensor:
        t = t.reshape(len(t), -1, operation.group)
        moved = t - y * (t * y).mean(2, keepdim=True)
        moved = moved - t.mean(2, keepdim=True) if operation.center else moved
        return (moved / r).reshape(shape)

    return unary(both, both)


@local.register
def _(operation: op.Convolution, node: Node, slots: Slots, context: Context) -> Local:
    weight, rank = context.parameter(node, "weight"), len(operation.kernel)
    wide, narrow = slots[0].shape[-rank - 1 :], node.shape[-rank - 1 :]
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)
    extents = [d * (k - 1) - p for k, d, p in zip(operation.kernel, operation.dilation, operation.padding, strict=True)]
    mirrored = set(operation.stride) == {1} and operation.groups == 1 and min(extents) >= 0
    flipped = weight.flip(*range(2, rank + 2)).transpose(0, 1).contiguous() if mirrored else weight

    def push(t: Tensor) -> Tensor:
        images = t.reshape(-1, *wide)
        if mirrored and t.dtype == torch.float64 and t.device.type == "cpu":  # there torch is faster backwards
            made = _adjoint(images, flipped, narrow, (operation.stride, extents, operation.dilation, 1))
        else:
            made = _FORWARD[rank](images, weight, None, *sides)
        return made.reshape(len(t), *node.shape)

    def pull(c: Tensor) -> Tensor:
        return _adjoint(c.reshape(-1, *narrow), weight, wide, sides).reshape(len(c), *slots[0].shape[1:])

    return unary(push, pull)


_FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _adjoint(images: Tensor, weight: Tensor, shape: Sequence[int], sides: tuple[Sequence[int], ...]) -> Tensor:
    """What the transposed convolution makes of `images`: (count, *shape)."""
    stride, padding, dilation, groups = sides
    target = images.new_empty(1).expand(len(images), *shape)
    rank = len(shape) - 1
    found = torch.ops.aten.convolution_backward(
        images, target, weight, None, list(stride), list(padding), list(dilation), False, [0] * rank, groups,
        [True, False, False],
    )
    return found[0]


@local.register
def _(operation: op.TransposedConvolution, node: Node, slots: Slots, context: Context) -> Local:
    weight, rank = context.parameter(node, "weight"), len(operation.kernel)
    narrow, wide = slots[0].shape[-rank - 1 :], node.shape[-rank - 1 :]
    sides = (operation.stride, operation.padding, operation.dilation, operation.groups)

    def push(t: Tensor) -> Tensor:
        return _adjoint(t.reshape(-1, *narrow), weight, wide, sides).reshape(len(t), *node.shape)

    def pull(c: Tensor) -> Tensor:
        made = _FORWARD[rank](c.reshape(-1, *wide), weight, None, *sides)
        return made.reshape(len(c), *slots[0].shape[1:])

    return unary(push, pull)


class Linearization:
    """The Jacobians of all nodes at the values of some rows of a block; made when they are used."""

    def __init__(
        self, graph: ComputationGraph, values: Mapping[str, Tensor], context: Context, rows: Tensor | None = None
    ) -> None:
        self.graph, self.values, self.context, self.rows = graph, values, context, rows
        self._locals: dict[str, Local] = {}

    def narrow(self, rows: Tensor) -> Linearization:
        """The same at some of its rows."""
        return Linearization(self.graph, self.values, self.context, rows if self.rows is None else self.rows[rows])

    def at(self, name: str) -> Local:
        """The Jacobian of one node."""
        if name not in self._locals:
            node = self.graph[name]
            slots = [self.values[u] if self.rows is None else self.values[u][self.rows] for u in node.inputs]
            self._locals[name] = local(node.operation, node, slots, self.context)
        return self._locals[name]


@dataclass(frozen=True)
class Segment:
    """D_{w<-a} as a product of local Jacobians: the nodes on paths from a to w, in topological order."""

    w: str
    a: str
    nodes: tuple[Node, ...]

    @staticmethod
    def of(graph: ComputationGraph, w: str, a: str) -> Segment:
        """The segment of a pair of `graph`, a before w."""
        i, j = graph.index[a], graph.index[w]
        above, below = graph.reach[:, i], graph.reach[j]
        inner = tuple(n for k, n in enumerate(graph.nodes[i + 1 : j], i + 1) if above[k] and below[k])
        return Segment(w, a, (*(n for n in inner if n.kind == "float"), graph[w]))

    def push(self, at: Linearization, tangent: Tensor) -> Tensor:
        """D t, (rows, *shape of w)."""
        moved = {self.a: tangent}
        last = {u: node.name for node in self.nodes for u in node.inputs}
        for node in self.nodes:
            slots = {i: moved[u] for i, u in enumerate(node.inputs) if u in moved}
            if slots:
                moved[node.name] = at.at(node.name).push(slots)
            for u in {u for u in node.inputs if last[u] == node.name}:
                moved.pop(u, None)
        return moved[self.w]

    def pull(self, at: Linearization, cotangent: Tensor) -> Tensor:
        """D' c, (rows, *shape of a)."""
        inside = {self.a, *(node.name for node in self.nodes)}
        moved = {self.w: cotangent}
        for node in reversed(self.nodes):
            wanted = [i for i, u in enumerate(node.inputs) if u in inside]
            for i, c in at.at(node.name).pull(moved.pop(node.name), wanted).items():
                u = node.inputs[i]
                moved[u] = moved[u] + c if u in moved else c
        return moved[self.a]
