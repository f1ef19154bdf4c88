"""Random networks as graphs with weights and inputs, for hypothesis; and a builder for graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import sympy
import torch
from hypothesis import assume, settings
from moves import LARGEST, MOVES, PLAIN, grow
from torch import Tensor

from covergraph.graph import functions
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.passes.prune import prune

OFFSET_SINE = functions.ScalarFunction(
    "offset_sine",
    sympy.sin(functions.T) / 2 + sympy.Rational(3, 2),
    lambda x: torch.sin(x) / 2 + 1.5,
)
"""A function of a user's own, far from 0 at 0."""


def examples(count: int) -> settings:
    """`count` examples in `make test`, proportionally more in `make fuzz`."""
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


@dataclass(frozen=True)
class Case:
    """A graph, its weights and constants by name, and one tensor (batch, *shape) per input, all in float64."""

    graph: ComputationGraph
    state: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]


@dataclass
class Builder:
    """Grows a graph node by node; every method returns the name of the new node."""

    seed: int = 0
    scale: float = 1.0
    nodes: list[Node] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def shape(self, name: str) -> tuple[int, ...]:
        return next(node.shape for node in self.nodes if node.name == name)

    def input(self, *shape: int, name: str = "") -> str:
        name = name or f"x{len(self.nodes)}"
        self.nodes.append(Node(name, op.Input(), (), shape))
        return name

    def add(
        self,
        operation: op.Operation,
        *inputs: str,
        name: str = "",
        shape: tuple[int, ...] = (),
        parameters: tuple[tuple[str, str], ...] = (),
        constants: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """Any operation; `shape` is needed for Reshape and Parameter only, the others' is computed."""
        name = name or self.name(operation.label)
        node = Node(name, operation, inputs, shape, parameters, "", constants)
        slots = [torch.zeros(1, *self.shape(u), dtype=torch.float64) for u in inputs]
        made = _shape(node, slots, self.state | self.constants)
        self.nodes.append(Node(name, operation, inputs, made, parameters, "", constants))
        return name

    def name(self, label: str) -> str:
        return f"{label.split('(')[0]}_{len(self.nodes)}"

    def learned(self, name: str, **values: Tensor) -> tuple[tuple[str, str], ...]:
        """Parameters of a node by role, put into the state."""
        self.state |= {f"{name}.{role}": value for role, value in values.items()}
        return tuple((role, f"{name}.{role}") for role in values)

    def fixed(self, name: str, **values: Tensor) -> tuple[tuple[str, str], ...]:
        """Constants of a node by role."""
        self.constants |= {f"{name}.{role}": value for role, value in values.items()}
        return tuple((role, f"{name}.{role}") for role in values)

    def smooth(self, function: functions.ScalarFunction, u: str, name: str = "") -> str:
        return self.add(op.Elementwise(function), u, name=name)

    def linear(self, u: str, width: int, bias: bool = False, name: str = "", of: str = "") -> str:
        """`of` names an earlier linear node whose parameters the new one shares."""
        name = name or f"linear_{len(self.nodes)}"
        shared = next((node.parameters for node in self.nodes if node.name == of), None)
        parameters = shared or self._weights(name, (width, self.shape(u)[-1]), bias)
        return self.add(op.Linear(len(parameters) > 1), u, name=name, parameters=parameters)

    def convolution(
        self, u: str, channels: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = False
    ) -> str:
        name, axes = f"conv_{len(self.nodes)}", len(self.shape(u)) - 1
        parameters = self._weights(name, (channels, self.shape(u)[0], *(kernel,) * axes), bias)
        sides = [(n,) * axes for n in (stride, padding, 1)]
        return self.add(op.Convolution(*sides, 1, (kernel,) * axes, bias), u, name=name, parameters=parameters)

    def flat(self, u: str) -> str:
        size = self.size(u)
        return u if self.shape(u) == (size,) else self.add(op.Reshape(), u, shape=(size,))

    def pruned(self, output: str) -> ComputationGraph:
        shapes = {name: tuple(value.shape) for name, value in self.state.items()}
        return prune(ComputationGraph(self.nodes, output, "", Weights(constants=self.constants, shapes=shapes)))

    def graph(self, output: str) -> ComputationGraph:
        base = self.pruned(output)
        return ComputationGraph(base.nodes, output, fingerprint(base.nodes, self.state, base.weights), base.weights)

    def size(self, u: str) -> int:
        return next(node.size for node in self.nodes if node.name == u)

    def _weights(self, name: str, shape: tuple[int, ...], bias: bool) -> tuple[tuple[str, str], ...]:
        fan_in = torch.Size(shape[1:]).numel()
        weight = self.scale * self.normal(*shape) / fan_in**0.5
        shift = {"bias": self.normal(shape[0])} if bias else {}
        return self.learned(name, weight=weight, **shift)


def _shape(node: Node, slots: list[Tensor], state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape of the node's value, by its rule where the rule does not read it off the node."""
    match node.operation:
        case op.Reshape() | op.Parameter() | op.Constant():
            return node.shape
        case op.Sum(axes) | op.Maximum(axes) | op.VectorNorm(axes):
            return tuple(n for i, n in enumerate(slots[0].shape[1:]) if i not in axes)
        case _:
            return tuple(apply(node.operation, node, slots, Context(state)).shape[1:])


Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def cases(draw: Draw, largest: int = 7, batch: int = 3) -> Case:
    """A random DAG with one to three inputs of diverse scales; its output is a vector and depends on weights.

    A third of the graphs has only operations that are smooth on the whole line, or linear. No value is beyond 1e8.
    """
    moves = draw(st.sampled_from([MOVES, MOVES, PLAIN]))
    builder = Builder(draw(st.integers(0, 2**16)), draw(st.sampled_from([1.0, 0.3, 2.0])))
    shapes = st.sampled_from([(2,), (1,), (3,), (4,), (2, 3), (1, 2, 2), (2, 2), (2, 4)])
    for _ in range(draw(st.integers(1, 3))):
        builder.input(*draw(shapes))
    if draw(st.integers(0, 4)):
        builder.linear(builder.nodes[-1].name, draw(st.integers(1, 2)), draw(st.booleans()))
    for _ in range(draw(st.integers(min(4, largest), largest))):
        grow(draw, builder, draw(st.sampled_from(moves)))
    output = _close(draw, builder)
    scale = draw(st.sampled_from([1.0, 0.1, 10.0]))
    inputs = tuple(
        scale ** (1 - 2 * (i % 2)) * builder.normal(batch, *node.shape)
        for i, node in enumerate(builder.nodes)
        if isinstance(node.operation, op.Input)
    )
    case = Case(builder.graph(output), builder.state | builder.constants, inputs)
    values = case.graph.run(case.state, *inputs).values()
    assume(all(value.isfinite().all() and value.abs().max() < 1e8 for value in values))
    return case


def _close(draw: Draw, builder: Builder) -> str:
    """Join loose ends into one vector; end with a linear node if there is no weight or one is drawn."""
    used = {u for node in builder.nodes for u in node.inputs}
    loose = [node for node in builder.nodes if node.name not in used and node.inputs]
    output = builder.flat(builder.nodes[-1].name)
    if draw(st.integers(0, 3)) and len(loose) > 1 and sum(node.size for node in loose) <= LARGEST:
        output = builder.add(op.Concatenate(0), *(builder.flat(node.name) for node in loose))
    if draw(st.booleans()) or not builder.pruned(output).covered:
        output = builder.linear(output, draw(st.integers(1, 3)), draw(st.booleans()))
    return output
