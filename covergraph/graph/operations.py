"""The one vocabulary of operations: frozen records without behavior.

What an operation computes is answered in `interpreter.py`, what it satisfies in `covergraph.rules`; each
question is one `functools.singledispatch` function over these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from covergraph.graph.functions import ScalarFunction
from covergraph.graph.rearrange import Steps

if TYPE_CHECKING:
    from covergraph.graph.node import Node


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


@dataclass(frozen=True)
class Parameter(Operation):
    """A parameter used as a value (class token, positional embedding), the same for every sample. Role: value."""


@dataclass(frozen=True)
class Constant(Operation):
    """A constant tensor used as a value, the same for every sample. Role: value."""


@dataclass(frozen=True)
class TransposedConvolution(Operation):
    """The adjoint of a convolution. Parameters: weight (c_in, c_out/groups, *kernel), bias (c_out,)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel: tuple[int, ...]
    bias: bool

    @property
    def label(self) -> str:
        return f"conv_transpose{len(self.kernel)}d"


@dataclass(frozen=True)
class Affine(Operation):
    """h -> w * h + beta, entry by entry, w and beta broadcast over a sample. Roles: scale, shift.

    BatchNorm in eval mode, the affine part of a norm, LayerScale, an added positional embedding, a constant mask.
    """

    scale: bool
    shift: bool

    @property
    def label(self) -> str:
        return {(True, False): "scale", (False, True): "shift"}.get((self.scale, self.shift), "scale_shift")


@dataclass(frozen=True)
class ParametricReLU(Operation):
    """h -> max(h, 0) + a min(h, 0), a broadcast over a sample. Role: slope."""

    @property
    def label(self) -> str:
        return "prelu"


@dataclass(frozen=True)
class Embedding(Operation):
    """Rows of a table at integer positions. Role: weight (rows, d)."""


@dataclass(frozen=True)
class Divide(Operation):
    """First slot over second slot, entry by entry, of one shape."""


@dataclass(frozen=True)
class MatrixProduct(Operation):
    """(..., m, d) times (..., d, n) -> (..., m, n), the axes before the last two equal."""

    @property
    def label(self) -> str:
        return "matmul"


@dataclass(frozen=True)
class Rearrange(Operation):
    """A linear index map, see `covergraph.graph.rearrange`: permute, expand, slice, pad with zeros, and chains."""

    steps: Steps

    @property
    def label(self) -> str:
        names = dict.fromkeys(type(step).__name__.lower() for step in self.steps)
        named = [name for name in names if name != "view"] or ["view"]
        return named[0] if len(named) == 1 else "rearrange"


@dataclass(frozen=True)
class Sum(Operation):
    """Sum, or mean, over axes of a sample."""

    axes: tuple[int, ...]
    mean: bool

    @property
    def label(self) -> str:
        return "mean" if self.mean else "sum"


@dataclass(frozen=True)
class MaxPool(Operation):
    """Maximum over windows of the last len(kernel) axes; padding never wins."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    @property
    def label(self) -> str:
        return f"maxpool{len(self.kernel)}d"


@dataclass(frozen=True)
class Maximum(Operation):
    """Maximum over axes of a sample."""

    axes: tuple[int, ...]

    @property
    def label(self) -> str:
        return "max"


@dataclass(frozen=True)
class AxisMap(Operation):
    """h -> W h along one axis (up-sampling, uneven average pools), W (m, d) fixed. Role: weight."""

    axis: int
    name: str

    @property
    def label(self) -> str:
        return self.name


@dataclass(frozen=True)
class Softmax(Operation):
    """exp(h) / sum exp(h) along one axis; its logarithm if `log`."""

    axis: int
    log: bool = False

    @property
    def label(self) -> str:
        return "log_softmax" if self.log else "softmax"


@dataclass(frozen=True)
class Normalize(Operation):
    """(h - mean) / sqrt(var + eps) on consecutive groups of `group` entries; not centered, h / sqrt(mean h^2 + eps).

    The core of LayerNorm, GroupNorm, InstanceNorm, RMSNorm, without their affine part.
    """

    group: int
    eps: float
    center: bool = True

    @property
    def label(self) -> str:
        return "normalize" if self.center else "rms_normalize"


@dataclass(frozen=True)
class Attention(Operation):
    """softmax(scale q k^T + mask) v for slots q (..., L, e), k (..., S, e), v (..., S, d).

    The mask is added to the scores: a fourth slot, or a constant of role mask; `causal` masks what lies above the
    diagonal.
    """

    scale: float
    causal: bool = False


@dataclass(frozen=True)
class Recurrent(Operation):
    """A recurrent layer in one direction: x (..., T, d) -> h_1..h_T (..., T, H). Further slots: h_0 and, for lstm, c_0.

    `cell` is lstm, gru, rnn_tanh or rnn_relu, as in torch.nn; `reverse` runs from T to 1; `cells` yields c_t instead
    of h_t. Parameters: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr of an lstm with projection.
    """

    cell: str
    reverse: bool = False
    bias: bool = True
    cells: bool = False

    @property
    def label(self) -> str:
        return self.cell


@dataclass(frozen=True)
class Call(Operation):
    """A torch operation without a record of its own; it is computed and drawn, and has no rule.

    `target` is its full name. `arguments` and `keywords` hold `Slot(i)` where slot i enters, in the shape
    `shapes[i]` that it has for a batch of one sample. `output` picks one of several results.
    """

    target: str
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    shapes: tuple[tuple[int, ...], ...]
    output: int | None = None

    @property
    def label(self) -> str:
        return self.target.removeprefix("aten.").split(".")[0].strip("_")


@dataclass(frozen=True)
class Slot:
    """The place of a slot among the arguments of a `Call`."""

    position: int


@dataclass(frozen=True)
class Composite(Operation):
    """Several nodes in one: slot i is the inner node `inputs[i]`, the result the inner node `output`.

    Made by coarsening; `name` is the module path, or the operations in a row. The inner nodes keep their parameters.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    output: str

    @property
    def label(self) -> str:
        return self.name


FIXED_LINEAR: tuple[type[Operation], ...] = (
    *(Add, Subtract, Concatenate, Reshape, AveragePool),
    *(Rearrange, Sum, AxisMap),
)
"""Operations that are one fixed linear map: no parameters, constant Jacobian (Lemma 7)."""
