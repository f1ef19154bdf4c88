"""Graphs written node by node, and whether a rewritten one has the same value."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.node import Node
from covergraph.graph.rearrange import RearrangeStep, Shape, result_shape
from covergraph.graph.weights import Weights


@dataclass
class Rows:
    """Nodes so far, and the shape of every parameter; the methods return the new node's name."""

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        return next(node.shape for node in reversed(self.nodes) if node.name == name)

    def input(self, name: str, *shape: int) -> str:
        self.nodes.append(Node(name, op.Input(), (), shape))
        return name

    def add(self, name: str, operation: op.Operation, *inputs: str, shape: Shape | None = None, **roles: Shape) -> str:
        """A node, by default of its first input's shape; `roles`: the shapes of its learned parameters."""
        parameters = tuple((role, f"{name}.{role}") for role in roles)
        self.shapes |= {f"{name}.{role}": given for role, given in roles.items()}
        made = self.shape(inputs[0]) if shape is None else shape
        self.nodes.append(Node(name, operation, inputs, made, parameters))
        return name

    def map(self, name: str, source: str, *steps: RearrangeStep) -> str:
        shape = result_shape(steps, self.shape(source))
        return self.add(name, op.Rearrange(steps), source, shape=shape)

    def row(self, name: str, function: ScalarFunction, source: str) -> str:
        return self.add(name, op.Elementwise(function), source)

    def graph(self, output: str) -> ComputationGraph:
        return ComputationGraph(self.nodes, output, "", Weights(constants=self.fixed, shapes=self.shapes))

    def state(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {k: torch.randn(*s, generator=generator, dtype=torch.float64) for k, s in self.shapes.items()}

    def assert_same(self, after: ComputationGraph, output: str, batch: int = 3) -> None:
        """The output of `after` is that of the nodes, on random inputs and weights, to 1e-12 of its size."""
        before = self.graph(output)
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(batch, *n.shape, generator=generator, dtype=torch.float64) for n in before.inputs]
        expected = before.run(self.state(), *inputs)[output]
        values = after.run(self.state(), *inputs)
        assert {name: tuple(v.shape[1:]) for name, v in values.items()} == {n.name: n.shape for n in after.nodes}
        torch.testing.assert_close(values[after.output], expected, rtol=1e-12, atol=1e-12)
