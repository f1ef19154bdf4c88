"""One call of a torch operation, as the rules see it: values in, the record of a node out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from covergraph.errors import BatchMixingError, UnsupportedOperationError
from covergraph.graph.operations import Operation

SUPPORTED = (
    "linear, convolution, average pool, add, sub, product, arithmetic with a number, concat, reshape, tanh, "
    "sigmoid, softplus, gelu, silu, elu, sin, cos"
)


@dataclass(frozen=True)
class Data:
    """A value that depends on an input: the node that holds it, its shape per sample, its dtype."""

    node: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class State:
    """A tensor that no input reaches: a parameter or its transpose, a buffer, a constant, or made of them."""

    kind: str
    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def description(self) -> str:
        """Words for messages."""
        return f"tensor computed by {self.name}" if self.kind == "computed" else f"{self.kind} {self.name!r}"


@dataclass(frozen=True)
class Unknown:
    """A number that is known only when the model runs, such as the batch size."""

    name: str


@dataclass(frozen=True)
class Step:
    """What a rule makes of a call: the operation, its ordered inputs, its parameters by role."""

    operation: Operation
    inputs: tuple[Data, ...]
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Call:
    """A call: canonical name, torch's own name of the target, module path, arguments by name, result.

    `shape` is the result's shape per sample. Tensors among the arguments are `Data` or `State`.
    """

    name: str
    target: str
    path: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def where(self) -> str:
        """Module path and operation, the beginning of every message."""
        place = f"module {self.path!r}" if self.path else "the model's top level"
        return f"{place}: operation {self.name!r} ({self.target})"

    def refuse(self, reason: str, remedy: str) -> UnsupportedOperationError:
        """The error that refuses this call by name."""
        return UnsupportedOperationError(f"{self.where} {reason}; {remedy}")

    def mixes(self, reason: str, remedy: str) -> BatchMixingError:
        """The error for a call that looks across the samples of a batch."""
        return BatchMixingError(f"{self.where} {reason}; {remedy}")

    def data(self, key: str) -> Data:
        """The argument `key` as a float value on the data path; anything else is refused."""
        return self.as_data(self.arguments.get(key))

    def as_data(self, value: Any) -> Data:
        """`value` if it is a float value on the data path; raises `UnsupportedOperationError` if not."""
        if isinstance(value, State):
            raise self.refuse(
                f"uses the {value.description} as a value", "express it by supported layers (nn.Linear, …)"
            )
        if not isinstance(value, Data):
            raise self.refuse(f"has the operand {value!r}", "expected floats computed from the inputs")
        if not value.dtype.is_floating_point:
            raise self.refuse(f"takes values of type {value.dtype}", "expected floats; convert them outside")
        return value

    def parameter(self, key: str) -> State:
        """The argument `key` as a parameter of the model; buffers and computed tensors are refused."""
        value = self.arguments.get(key)
        if isinstance(value, Data):
            raise self.refuse(f"has a {key} computed from the inputs", "expected a parameter of the model")
        if not isinstance(value, State) or value.kind != "parameter":
            found = value.description if isinstance(value, State) else repr(value)
            raise self.refuse(
                f"has as {key} the {found}", "expected a parameter; fold what computes it into one"
            )
        return value

    def roles(self, *keys: str) -> tuple[tuple[str, str], ...]:
        """(role, dotted name) of the parameters given under `keys`, absent ones left out."""
        present = [key for key in keys if self.arguments.get(key) is not None]
        return tuple((key, self.parameter(key).name) for key in present)

    def number(self, key: str, default: float) -> float:
        """The argument `key` as a finite number."""
        return self.as_number(self.arguments.get(key, default))

    def as_number(self, value: Any) -> float:
        """`value` as a finite number; raises `BatchMixingError` if it is known only when the model runs."""
        if isinstance(value, Unknown):
            raise self.mixes(f"uses {value.name!r}, a number from the batch", "write a constant")
        if not isinstance(value, Real) or not math.isfinite(value):
            raise self.refuse(f"has the operand {value!r}", "expected a finite number")
        return float(value)

    def sizes(self, key: str, count: int, default: int) -> tuple[int, ...]:
        """The argument `key` as `count` integers; one integer stands for all."""
        value = self.arguments.get(key)
        given = list(value) if isinstance(value, (list, tuple)) else [default if value is None else value]
        numbers = tuple(int(self.as_number(v)) for v in given or [default])
        return numbers * count if len(numbers) == 1 else numbers
