"""The record that every node of a graph carries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from covergraph.graph.operations import Operation


@dataclass(frozen=True)
class Node:
    """One value of the graph: name, operation, ordered inputs, shape per sample, parameters, origin.

    `inputs` may name a node twice (x*x). `shape` has no batch dimension. `parameters` are pairs (role, dotted
    name in the model's state). `origin` is the module path that the node was traced from.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    origin: str = ""

    @property
    def size(self) -> int:
        """Number of entries per sample."""
        return math.prod(self.shape)

    @property
    def predecessors(self) -> tuple[str, ...]:
        """pr(v): the inputs without repetition, in order of first use."""
        return tuple(dict.fromkeys(self.inputs))

    @property
    def parameter(self) -> Mapping[str, str]:
        """Parameters by role, e.g. {"weight": "fc1.weight"}."""
        return dict(self.parameters)

    def text(self) -> str:
        """One line: name = operation(inputs) : shape {parameters} @ module path."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        line = f"{self.name} = {self.operation.label}({', '.join(self.inputs)}) : {shape}"
        if self.parameters:
            line += " {" + ", ".join(f"{role}={name}" for role, name in self.parameters) + "}"
        return line + (f" @ {self.origin}" if self.origin else "")
