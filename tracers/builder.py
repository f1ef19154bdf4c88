"""The graph under construction: nodes, effective parameters and constants so far."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Expand, RearrangeStep, View
from covergraph.graph.weights import Program, Source, Weights
from covergraph.tracers.values import Data, State, kind_of, sample_shape


class Builder:
    """Collects nodes under provisional names; `rename` gives the final ones. `reserved`: names in the state."""

    def __init__(self, reserved: Container[str] = ()) -> None:
        self.reserved = reserved
        self.nodes: list[Node] = []
        self.effective: dict[str, Program] = {}
        self.constants: dict[str, Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._names: dict[object, str] = {}

    @property
    def weights(self) -> Weights:
        """What was registered so far."""
        return Weights(self.effective, self.constants, shapes=self.shapes)

    def add(
        self,
        operation: op.Operation,
        inputs: Sequence[Data],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        path: str,
        weights: Mapping[str, State | Tensor] | None = None,
        node_shape: tuple[int, ...] | None = None,
    ) -> Data:
        """Append a node whose value has `shape` for a batch of one sample; `weights` by role.

        `node_shape` is the shape in which the operation yields it, if that is another one than `sample_shape`.
        """
        given = weights or {}
        parameters = tuple((role, self.parameter(v, role, path)) for role, v in given.items() if isinstance(v, State))
        self.shapes |= {name: tuple(given[role].shape) for role, name in parameters}
        constants = tuple((role, self.constant(v)) for role, v in given.items() if isinstance(v, Tensor))
        name = f"%{len(self.nodes)}"
        made = sample_shape(shape) if node_shape is None else node_shape
        sources = tuple(value.node for value in inputs)
        self.nodes.append(Node(name, operation, sources, made, parameters, path, constants, kind_of(dtype)))
        data = Data(name, tuple(shape), dtype)
        return data if made == sample_shape(shape) else self.add(op.Reshape(), [data], shape, dtype, path)

    def held(self, value: Data) -> tuple[int, ...]:
        """The shape of the node that holds a value."""
        return self.nodes[int(value.node[1:])].shape

    def shaped(self, value: Data, shape: tuple[int, ...], path: str) -> Data:
        """The value in a node of exactly `shape`; a Reshape is added if it has another one."""
        if self.held(value) == tuple(shape):
            return value
        name = f"%{len(self.nodes)}"
        kind = kind_of(value.dtype)
        self.nodes.append(Node(name, op.Reshape(), (value.node,), tuple(shape), (), path, (), kind))
        return Data(name, value.shape, value.dtype)

    def rearranged(self, value: Data, steps: Sequence[RearrangeStep], shape: tuple[int, ...], path: str) -> Data:
        """A linear index map of a value: `steps` act on the shape for a batch of one, without its batch axis."""
        chain: list[RearrangeStep] = [*steps]
        if self.held(value) != tuple(value.shape):
            chain.insert(0, View(tuple(value.shape)))
        if sample_shape(shape) != tuple(shape):
            chain.append(View(sample_shape(shape)))
        return self.add(op.Rearrange(tuple(chain)), [value], shape, value.dtype, path)

    def broadcast(self, value: Data, shape: tuple[int, ...], path: str) -> Data:
        """The value repeated to `shape` by torch's rules of broadcasting."""
        if tuple(value.shape) == tuple(shape):
            return value
        aligned = (1,) * (len(shape) - len(value.shape)) + tuple(value.shape)
        steps: list[RearrangeStep] = [] if aligned == tuple(value.shape) else [View(aligned)]
        if aligned != tuple(shape):
            steps.append(Expand(tuple(shape)))
        return self.rearranged(value, steps, shape, path)

    def parameter(self, state: State, role: str, path: str) -> str:
        """The name of a state's entry, or of the effective parameter that is registered for it."""
        if isinstance(state.term, Source):
            return state.term.name
        program = state.program(self.constant)
        if program not in self._names:
            self._names[program] = self._unique(_effective_name(program, role, path))
            self.effective[self._names[program]] = program
        return self._names[program]

    def constant(self, value: Tensor) -> str:
        """The name under which a constant is held; equal tensors have one name."""
        held = value.detach().clone().contiguous()
        bits = held.reshape(-1).view(torch.uint8) if held.numel() else held
        key = (held.dtype, tuple(held.shape), bytes(bits.numpy().tobytes()))
        if key not in self._names:
            self._names[key] = self._unique(f"constant_{len(self.constants)}")
            self.constants[self._names[key]] = held
        return self._names[key]

    def materialized(self, value: State | Tensor, path: str) -> Data:
        """A parameter or constant as a node, to be used as a value."""
        shape, dtype = tuple(value.shape), value.dtype
        operation: op.Operation = op.Parameter() if isinstance(value, State) else op.Constant()
        return self.add(operation, [], shape, dtype, path, {"value": value})

    def _unique(self, base: str) -> str:
        """A name that neither the model's state, nor another effective parameter, nor a constant has."""
        name, count = base, 1
        while name in self.effective or name in self.constants or name in self.reserved:
            count += 1
            name = f"{base}_{count}"
        return name


def _effective_name(program: Program, role: str, path: str) -> str:
    """bn1.scale; pos.view for one operation on one entry of the state."""
    if len(program.instructions) == 1 and len(program.sources) == 1:
        return f"{program.sources[0]}.{program.instructions[0].target.split('.')[1]}"
    return f"{path}.{role}" if path else role
