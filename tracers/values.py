"""What the tracer knows of a tensor: computed from the inputs, from the state, or known already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from covergraph.graph.node import Kind
from covergraph.graph.weights import Instruction, Program, Result, Source


@dataclass(frozen=True)
class Data:
    """A value that depends on an input: the node that holds it, its shape for a batch of one sample, its dtype."""

    node: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def floating(self) -> bool:
        """True for floating and complex numbers, False for integers and booleans."""
        return kind_of(self.dtype) != "integer"


@dataclass(frozen=True)
class Apply:
    """A torch operation on state: full name and arguments, tuples of leaves; a `State` stands for its term."""

    target: str
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class State:
    """A tensor made of the model's state alone: an entry of it, or operations on entries.

    `transposed` is the state that this one is the transpose of, if it is one. `known`: of integers, and of buffers, the
    present value, for what only selects by them; `compared`: it says how buffers of real numbers compare.
    """

    term: Source | Apply
    shape: tuple[int, ...]
    dtype: torch.dtype
    transposed: State | None = field(default=None, repr=False)
    known: Tensor | None = field(default=None, repr=False)
    compared: bool = field(default=False, repr=False)

    def program(self, constant: Callable[[Tensor], str]) -> Program:
        """The straight-line program of the term, shared parts once; `constant` names the tensors in it."""
        instructions: list[Instruction] = []
        seen: dict[int, Result] = {}

        def leaf(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(leaf(item) for item in value)
            if isinstance(value, Tensor):
                return Source(constant(value))
            return visit(value) if isinstance(value, State) else value

        def visit(state: State) -> Source | Result:
            if isinstance(state.term, Source):
                return state.term
            if id(state) not in seen:
                term = state.term
                step = Instruction(term.target, leaf(term.arguments), tuple((k, leaf(v)) for k, v in term.keywords))
                instructions.append(step)
                seen[id(state)] = Result(len(instructions) - 1)
            return seen[id(state)]

        visit(self)
        return Program(tuple(instructions))


Known: TypeAlias = Tensor
"""A tensor that depends on neither inputs nor state; its value is known while tracing."""

Value: TypeAlias = Data | State | Known


def sample_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape per sample of what has `shape` for a batch of one sample."""
    return tuple(shape[1:]) if shape and shape[0] == 1 else tuple(shape)


def kind_of(dtype: torch.dtype) -> Kind:
    """What the entries of a dtype are."""
    if dtype.is_complex:
        return "complex"
    return "float" if dtype.is_floating_point else "integer"
