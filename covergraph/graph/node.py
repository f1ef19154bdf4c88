"""The record that every node of a graph carries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from covergraph.graph.operations import Operation

Kind = Literal["float", "integer", "complex"]
LISTED = 6
"""A node with more parameters, a composite one, shows their number."""


@dataclass(frozen=True)
class Node:
    """One value of the graph: name, operation, ordered inputs, shape per sample, parameters, origin.

    `inputs` may name a node twice (x*x). `shape` has no batch dimension. `parameters` are pairs (role, dotted
    name in the model's state, or of an effective parameter); `constants`, pairs (role, name of a fixed tensor).
    `origin` is the module path that the node was traced from. `kind` says what the entries are; integers include
    booleans.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    constants: tuple[tuple[str, str], ...] = ()
    kind: Kind = "float"

    @property
    def learned(self) -> bool:
        """True if training chooses the node's rule: it has parameters (it is covered)."""
        return bool(self.parameters)

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
        """Parameters and constants by role, e.g. {"weight": "fc1.weight"}."""
        return dict(self.parameters + self.constants)

    def text(self) -> str:
        """One line: name = operation(inputs; settings) : shape {parameters} [constants] @ module path."""
        from covergraph.graph.description import settings

        shape = "x".join(map(str, self.shape)) or "scalar"
        inside = "; ".join(part for part in (", ".join(self.inputs), settings(self.operation)) if part)
        line = f"{self.name} = {self.operation.label}({inside}) : {shape}"
        if self.kind != "float":
            line += f" {self.kind}"
        if len(self.parameters) > LISTED:
            line += f" {{{len(self.parameters)} parameters}}"
        elif self.parameters:
            line += " {" + ", ".join(f"{role}={name}" for role, name in self.parameters) + "}"
        if self.constants:
            line += " [" + ", ".join(f"{role}={name}" for role, name in self.constants) + "]"
        return line + (f" @ {self.origin}" if self.origin else "")
