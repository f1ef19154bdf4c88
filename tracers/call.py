"""One call of a torch operation, as the rules see it: values in, nodes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from covergraph.errors import BatchMixingError, UnsupportedOperationError
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.operations import Elementwise, Operation
from covergraph.graph.rearrange import RearrangeStep
from covergraph.tracers.builder import Builder
from covergraph.tracers.values import Data, State, Value

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A call: canonical name, torch's full name of the target, module path, arguments by name, results.

    `results` are (shape, dtype) of every tensor that the call yields, for a batch of one sample.
    """

    name: str
    target: str
    path: str
    arguments: Mapping[str, Any]
    results: Sequence[tuple[Shape, torch.dtype]]
    builder: Builder

    @property
    def shape(self) -> Shape:
        """The shape of the first result."""
        return self.results[0][0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first result."""
        return self.results[0][1]

    @property
    def where(self) -> str:
        """Module path and operation, the beginning of every message."""
        place = f"module {self.path!r}" if self.path else "the model's top level"
        return f"{place}: operation {self.name!r} (torch.ops.{self.target})"

    def refuse(self, reason: str, remedy: str) -> UnsupportedOperationError:
        """The error that refuses this call by name."""
        return UnsupportedOperationError(f"{self.where} {reason}; {remedy}")

    def mixes(self, reason: str, remedy: str) -> BatchMixingError:
        """The error for a call that looks across the samples of a batch, or is random."""
        return BatchMixingError(f"{self.where} {reason}; {remedy}")

    def given(self, key: str, default: Any = None) -> Any:
        """An argument; `default` where it is absent or None."""
        value = self.arguments.get(key)
        return default if value is None else value

    def data(self, key: str) -> Data:
        """The argument `key` as a node's value; parameters and constants become nodes."""
        return self.as_data(self.arguments[key])

    def as_data(self, value: Value) -> Data:
        """A value as a node's value."""
        return value if isinstance(value, Data) else self.builder.materialized(value, self.path)

    def number(self, key: str, default: float) -> float:
        """The argument `key` as a finite number."""
        value = self.given(key, default)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, Real) or math.isnan(value):
            raise self.refuse(f"has as {key} the operand {value!r}", "expected a number")
        return float(value)

    def sizes(self, key: str, count: int, default: int) -> Shape:
        """The argument `key` as `count` integers; one integer stands for all."""
        value = self.given(key, default)
        numbers = tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
        numbers = numbers or (default,)
        return numbers * count if len(numbers) == 1 else numbers

    def emit(
        self,
        operation: Operation,
        inputs: Sequence[Data],
        weights: Mapping[str, State | Tensor] | None = None,
        *,
        result: int = 0,
        shape: Shape | None = None,
        node_shape: Shape | None = None,
    ) -> Data:
        """Append a node for a result of this call, or for a step of it that has `shape`."""
        made, dtype = self.results[result]
        return self.builder.add(operation, inputs, shape or made, dtype, self.path, weights, node_shape)

    def row(self, function: ScalarFunction, x: Data) -> Data:
        """phi(x), entry by entry."""
        return self.builder.add(Elementwise(function), [x], x.shape, self.dtype, self.path)

    def rearranged(self, x: Data, steps: Sequence[RearrangeStep], shape: Shape | None = None) -> Data:
        """A linear index map of x, to the shape of the first result or to `shape`."""
        return self.builder.rearranged(x, steps, self.shape if shape is None else shape, self.path)

    def broadcast(self, x: Data, shape: Shape | None = None) -> Data:
        """x repeated to the shape of the first result, or to `shape`."""
        return self.builder.broadcast(x, self.shape if shape is None else shape, self.path)

    def shaped(self, x: Data, shape: Shape) -> Data:
        """x in a node of exactly this shape."""
        return self.builder.shaped(x, shape, self.path)

    def full(self, x: Data) -> Data:
        """x in a node that keeps all axes of the traced shape, the first one too."""
        return self.shaped(x, x.shape)

    def axis(self, key: str = "dim", default: int = -1, rank: int | None = None) -> int:
        """The argument `key` as a non-negative axis of the first argument's traced shape."""
        size = len(self.arguments["input"].shape) if rank is None else rank
        return int(self.given(key, default)) % max(size, 1)

    def computed(self, target: str, *arguments: Any, **keywords: Any) -> Value:
        """Torch's operation `target` on state or constants: a constant if all of them are, else a state."""
        from covergraph.tracers.folding import fold

        return fold(target, arguments, keywords)

    def with_arguments(self, **changed: Any) -> Call:
        """The same call with some arguments changed."""
        return replace(self, arguments={**self.arguments, **changed})
