"""The one vocabulary of operations: frozen records without behavior.

What an operation computes is answered in `interpreter.py`, what it satisfies in `covergraph.rules`; each
question is one `functools.singledispatch` function over these classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from covergraph.graph.functions import ScalarFunction


@dataclass(frozen=True)
class Operation:
    """Base of all operations; the slots of an operation are its ordered inputs."""

    @property
    def label(self) -> str:
        """The short word that stands for the operation in text and drawings."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Input(Operation):
    """An argument of the network: no predecessor, one value per sample."""


@dataclass(frozen=True)
class Linear(Operation):
    """h -> W h (+ b) on the last axis, at every position. Parameters: weight (m, d), bias (m,)."""

    bias: bool


@dataclass(frozen=True)
class Convolution(Operation):
    """Cross-correlation with zero padding. Parameters: weight (c_out, c_in/groups, *kernel), bias (c_out,)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel: tuple[int, ...]
    bias: bool

    @property
    def label(self) -> str:
        return f"conv{len(self.kernel)}d"


@dataclass(frozen=True)
class Add(Operation):
    """Sum of all slots, which have one shape."""


@dataclass(frozen=True)
class Subtract(Operation):
    """First slot minus second slot, of one shape."""


@dataclass(frozen=True)
class Concatenate(Operation):
    """Slots joined along `axis` of the per-sample shape (the batch is not counted)."""

    axis: int

    @property
    def label(self) -> str:
        return "concat"


@dataclass(frozen=True)
class Reshape(Operation):
    """The same entries in the same order, in the node's shape."""


@dataclass(frozen=True)
class Elementwise(Operation):
    """A scalar function applied to every entry."""

    function: ScalarFunction

    @property
    def label(self) -> str:
        return self.function.name


@dataclass(frozen=True)
class AveragePool(Operation):
    """Mean over windows of the last len(kernel) axes (zero padding, which counts if `count_include_pad`)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True

    @property
    def label(self) -> str:
        return f"avgpool{len(self.kernel)}d"


@dataclass(frozen=True)
class Product(Operation):
    """Element-wise product of two slots of one shape."""


FIXED_LINEAR: tuple[type[Operation], ...] = (Add, Subtract, Concatenate, Reshape, AveragePool)
"""Operations that are one fixed linear map: no parameters, constant Jacobian (Lemma 7)."""

COVERED: tuple[type[Operation], ...] = (Linear, Convolution)
"""Operations whose class holds more than one rule, because parameters are learned."""
