"""Random networks as graphs with weights and inputs, for hypothesis; and a builder for graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import sympy
import torch
from hypothesis import settings
from torch import Tensor

from covergraph.graph import functions
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.passes.prune import prune

LARGEST = 8
"""No value of a random graph has more entries."""

OFFSET_SINE = functions.ScalarFunction(
    "offset_sine",
    sympy.sin(functions.T) / 2 + sympy.Rational(3, 2),
    lambda x: torch.sin(x) / 2 + 1.5,
)
"""A function of a user's own, far from 0 at 0."""

MOVES = 3 * ["linear", "smooth", "two"] + ["join", "reshape", "pool", "convolution"]

FUNCTIONS = (
    functions.TANH,
    functions.SOFTPLUS,
    functions.GELU,
    functions.SILU,
    functions.ELU,
    functions.SIN,
    functions.COS,
    functions.affine(0.5, -1.25),
    OFFSET_SINE,
)


def examples(count: int) -> settings:
    """`count` examples in the default profile, proportionally more in a thorough one."""
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


@dataclass(frozen=True)
class Case:
    """A graph, its weights by dotted name, and one tensor (batch, *shape) per input, all in float64."""

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

    def add(self, operation: op.Operation, *inputs: str, name: str = "", shape: tuple[int, ...] = ()) -> str:
        """Any operation; `shape` is needed for Reshape only, the others' is computed."""
        name = name or f"{operation.label.split('(')[0]}_{len(self.nodes)}"
        roles = ["weight"] * isinstance(operation, (op.Linear, op.Convolution))
        roles += ["bias"] * getattr(operation, "bias", False)
        parameters = tuple((role, f"{name}.{role}") for role in roles)
        node = Node(name, operation, inputs, shape, parameters)
        slots = [torch.zeros(1, *self.shape(u), dtype=torch.float64) for u in inputs]
        made = apply(operation, node, slots, Context(self.state)).shape[1:]
        self.nodes.append(Node(name, operation, inputs, tuple(made), parameters))
        return name

    def smooth(self, function: functions.ScalarFunction, u: str, name: str = "") -> str:
        return self.add(op.Elementwise(function), u, name=name)

    def linear(self, u: str, width: int, bias: bool = False, name: str = "") -> str:
        name = name or f"linear_{len(self.nodes)}"
        self._weights(name, (width, self.shape(u)[-1]), bias)
        return self.add(op.Linear(bias), u, name=name)

    def convolution(
        self, u: str, channels: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = False
    ) -> str:
        name, axes = f"conv_{len(self.nodes)}", len(self.shape(u)) - 1
        self._weights(name, (channels, self.shape(u)[0], *(kernel,) * axes), bias)
        sides = [(n,) * axes for n in (stride, padding, 1)]
        return self.add(op.Convolution(*sides, 1, (kernel,) * axes, bias), u, name=name)

    def flat(self, u: str) -> str:
        size = self._size(u)
        return u if self.shape(u) == (size,) else self.add(op.Reshape(), u, shape=(size,))

    def graph(self, output: str) -> ComputationGraph:
        base = prune(ComputationGraph(self.nodes, output))
        return ComputationGraph(base.nodes, output, fingerprint(base.nodes, self.state))

    def _size(self, u: str) -> int:
        return next(node.size for node in self.nodes if node.name == u)

    def _weights(self, name: str, shape: tuple[int, ...], bias: bool) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        self.state[f"{name}.weight"] = self.scale * self.normal(*shape) / fan_in**0.5
        if bias:
            self.state[f"{name}.bias"] = self.normal(shape[0])


Draw = Callable[[st.SearchStrategy[Any]], Any]


def _grow(draw: Draw, builder: Builder) -> None:
    """Add one node: an operation that fits a node which is preferably recent."""
    u = draw(st.sampled_from([node.name for node in builder.nodes][-3:]))
    shape = builder.shape(u)
    alike = [node.name for node in builder.nodes if node.shape == shape]
    joinable = [
        node.name
        for node in builder.nodes
        if node.shape[1:] == shape[1:] and node.size + builder._size(u) <= LARGEST
    ]
    match draw(st.sampled_from(MOVES)):
        case "linear":
            width = draw(st.integers(1, 4 if len(shape) == 1 else LARGEST * shape[-1] // builder._size(u) // 2 or 1))
            builder.linear(u, width, bias=draw(st.booleans()))
        case "smooth":
            builder.smooth(draw(st.sampled_from(FUNCTIONS)), u)
        case "two":
            kind = draw(st.sampled_from([op.Add, op.Subtract, op.Product, op.Product]))
            builder.add(kind(), u, draw(st.sampled_from(alike)))
        case "join" if joinable:
            builder.add(op.Concatenate(0), u, draw(st.sampled_from(joinable)))
        case "pool" if min(shape[1:], default=1) > 1:
            axes, stride = len(shape) - 1, draw(st.integers(1, 2))
            builder.add(op.AveragePool((2,) * axes, (stride,) * axes, (0,) * axes), u)
        case "convolution" if min(shape[1:], default=1) > 1:
            builder.convolution(u, draw(st.integers(1, 2)), 2, draw(st.integers(1, 2)), 0, draw(st.booleans()))
        case _:
            size = builder._size(u)
            sides = [n for n in range(1, size + 1) if size % n == 0]
            first = draw(st.sampled_from(sides))
            builder.add(op.Reshape(), u, shape=(first, size // first))


@st.composite
def cases(draw: Draw, largest: int = 7, batch: int = 3) -> Case:
    """A random DAG with one to three inputs of diverse scales; its output is a vector and depends on weights."""
    builder = Builder(draw(st.integers(0, 2**16)), draw(st.sampled_from([1.0, 0.3, 2.0])))
    shapes = st.sampled_from([(2,), (1,), (3,), (4,), (2, 3), (1, 2, 2)])
    for _ in range(draw(st.integers(1, 3))):
        builder.input(*draw(shapes))
    if draw(st.integers(0, 4)):
        builder.linear(builder.nodes[-1].name, draw(st.integers(1, 2)), draw(st.booleans()))
    for _ in range(draw(st.integers(min(4, largest), largest))):
        _grow(draw, builder)
    output = _close(draw, builder)
    scale = draw(st.sampled_from([1.0, 0.1, 10.0]))
    inputs = tuple(
        scale ** (1 - 2 * (i % 2)) * builder.normal(batch, *node.shape)
        for i, node in enumerate(builder.nodes)
        if isinstance(node.operation, op.Input)
    )
    return Case(builder.graph(output), builder.state, inputs)


def _close(draw: Draw, builder: Builder) -> str:
    """Join loose ends into one vector; end with a linear node if there is no weight or one is drawn."""
    used = {u for node in builder.nodes for u in node.inputs}
    loose = [node for node in builder.nodes if node.name not in used and node.inputs]
    output = builder.flat(builder.nodes[-1].name)
    if draw(st.integers(0, 3)) and len(loose) > 1 and sum(node.size for node in loose) <= LARGEST:
        output = builder.add(op.Concatenate(0), *(builder.flat(node.name) for node in loose))
    if draw(st.booleans()) or not prune(ComputationGraph(builder.nodes, output)).covered:
        output = builder.linear(output, draw(st.integers(1, 3)), draw(st.booleans()))
    return output
