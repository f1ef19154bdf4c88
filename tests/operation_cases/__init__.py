"""Every operation with shapes, weights and the same computation in plain torch; one module per family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights

BATCH, TANGENTS = 3, 4
Shapes = tuple[tuple[int, ...], ...]


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, always the same for a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_positions(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function of (batch, ...) at each index of the first axis after the batch, one by one."""
    return torch.stack([function(x[:, i]) for i in range(x.shape[1])], 1)


@dataclass(frozen=True)
class Case:
    """An operation, shapes of its slots and of its value, its weights, and the same in plain torch.

    `special` holds the values (BATCH, *shape) of slots that are not to be random; integer ones have no tangents.
    """

    operation: op.Operation
    slots: Shapes
    shape: tuple[int, ...]
    plain: Callable[..., Any]
    parameters: tuple[tuple[str, Tensor], ...] = ()
    constants: tuple[tuple[str, Tensor], ...] = ()
    special: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        names = tuple(f"u{i}" for i in range(len(self.slots)))
        parameters, constants = (
            tuple((role, f"v.{role}") for role, _ in roles) for roles in (self.parameters, self.constants)
        )
        return Node("v", self.operation, names, self.shape, parameters, "", constants)

    @property
    def state(self) -> dict[str, Tensor]:
        """The model's state, which lacks the constants."""
        return {f"v.{role}": value for role, value in self.parameters}

    @property
    def context(self) -> Context:
        return Context(self.state | {f"v.{role}": value for role, value in self.constants})

    @property
    def graph(self) -> ComputationGraph:
        """The node alone; its batch is that of the first input, which it does not read."""
        inputs = [Node("x", op.Input(), (), ())]
        inputs += [Node(f"u{i}", op.Input(), (), shape) for i, shape in enumerate(self.slots)]
        weights = Weights(constants={f"v.{role}": value for role, value in self.constants})
        return ComputationGraph([*inputs, self.node], "v", weights=weights)

    def values(self, batch: int = BATCH) -> list[Tensor]:
        made = [self.special.get(i, random(BATCH, *shape, seed=i)) for i, shape in enumerate(self.slots)]
        return [value[:batch] for value in made]

    @property
    def moving(self) -> tuple[int, ...]:
        """The slots that have tangents."""
        return tuple(i for i, value in enumerate(self.values()) if value.is_floating_point())

    @property
    def is_float(self) -> bool:
        return bool(self.plain(*self.values()).is_floating_point())

    def dense(self, slot: int, sample: int) -> Tensor:
        """The Jacobian of `plain` in one slot at one sample, by plain autograd: (size, size of the slot)."""
        values = [value[sample : sample + 1] for value in self.values()]

        def rule(x: Tensor) -> Tensor:
            made: Tensor = self.plain(*values[:slot], x, *values[slot + 1 :])
            return made

        jacobian = torch.autograd.functional.jacobian(rule, values[slot])
        matrix: Tensor = jacobian.reshape(self.node.size, values[slot].numel())
        return matrix
