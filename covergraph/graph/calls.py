"""What bounds know of torch operations that stay calls: one registry of rules by full name (Lemma 20).

A rule numbers the tensors of its operation as the operation takes them, lists flattened and numbers not counted: in
scatter_add(self, dim, index, src) they are 0, 1, 2. One node may fill several of them; `tensors` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sympy
import torch
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph.operations import Call, Slot
from covergraph.graph.weights import operator

Table = Mapping[int, sympy.Expr]


@dataclass(frozen=True)
class CallRule:
    """Lipschitz constants of a torch operation f and of its derivative; a proof stands in `source`.

    varying: the tensors that may hold learned values; the others must be functions of the sample alone.
    taubar: of tensor i's Jacobian in tensor j's value, with the placeholders of `covergraph.rules.placeholders`; empty
        if f is affine in the varying tensors together.
    quantity: q_c >= 0 of one sample from all tensors of f, in the shapes that f takes at batch size 1; f must be
        smooth where q_c > 0. slopes: the Lipschitz constants of q_c; text and latex: what q_c is.
    lipschitz: worst-case constants of f by tensor; without them there is no product-of-constants comparison.
    increasing: no entry of f falls when an entry of a varying tensor grows, so row and column sums bound its Jacobian.
    """

    varying: tuple[int, ...]
    taubar: Mapping[tuple[int, int], sympy.Expr] = field(default_factory=dict)
    slopes: Table = field(default_factory=dict)
    quantity: Callable[..., Tensor] | None = None
    text: str = ""
    latex: str = ""
    lipschitz: Table = field(default_factory=dict)
    increasing: bool = False
    source: str = ""


Rule: TypeAlias = CallRule | Callable[[Call], CallRule]
"""A rule, or a function that reads the arguments of a call and gives one or raises `UnsupportedOperationError`."""

CALLS: dict[str, Rule] = {}
"""Rules by the full name of the operation, such as aten.scatter_add.default."""


def call_rule(operation: Call) -> CallRule:
    """The rule of a call; raises `UnsupportedOperationError` if there is none, or none for these arguments."""
    known = CALLS.get(operation.target)
    if known is None:
        raise UnsupportedOperationError(
            f"rules: no derivative-Lipschitz rule for the call of {operation.target}; register one with "
            "covergraph.register, as docs/adding_an_op.md says, or write the operation in terms of others"
        )
    rule = known if isinstance(known, CallRule) else known(operation)
    given = len(tensors(operation))
    if max(rule.varying) >= given or (operation.output is not None and known is rule):
        raise UnsupportedOperationError(
            f"rules: the call of {operation.target} with {given} tensors"
            f"{'' if operation.output is None else f', result {operation.output}'} does not fit its rule, which reads "
            f"the tensors {list(rule.varying)} and one result; register a function of the call instead"
        )
    return rule


def tensors(operation: Call) -> tuple[int, ...]:
    """The slot of every tensor of the call, in the order of its arguments."""
    return tuple(_slots((operation.arguments, tuple(value for _, value in operation.keywords))))


def _slots(value: Any) -> list[int]:
    if isinstance(value, Slot):
        return [value.position]
    return [slot for item in value for slot in _slots(item)] if isinstance(value, tuple) else []


def argument(operation: Call, name: str, default: Any = None) -> Any:
    """An argument of the call by its name in torch's schema."""
    names = [entry.name for entry in operator(operation.target)._schema.arguments]
    return (dict(zip(names, operation.arguments, strict=False)) | dict(operation.keywords)).get(name, default)


def shape(operation: Call, tensor: int) -> tuple[int, ...]:
    """The shape of a tensor of the call, at batch size 1."""
    return operation.shapes[tensors(operation)[tensor]]


def call_quantity(operation: Call, slots: Sequence[Tensor]) -> Tensor:
    """q_c of every sample: (batch,)."""
    quantity, at = call_rule(operation).quantity, tensors(operation)
    assert quantity is not None

    def sample(*values: Tensor) -> Tensor:
        shaped = [value.reshape(side) for value, side in zip(values, operation.shapes, strict=True)]
        return quantity(*(shaped[slot] for slot in at)).reshape(())

    try:
        return torch.vmap(sample)(*slots)
    except RuntimeError:  # no batching rule, or code that depends on values
        return torch.stack([sample(*values) for values in zip(*slots, strict=True)])
