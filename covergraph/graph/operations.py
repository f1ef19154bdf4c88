"""The one vocabulary of operations: frozen records without behavior.

What an operation computes is answered in the files `*_rules.py`, what it satisfies in `covergraph.rules`; each
question is one `functools.singledispatch` function over these classes. Whole layers have their records in
`layer_operations.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from covergraph.graph.functions import ScalarFunction
from covergraph.graph.layer_operations import Attention as Attention
from covergraph.graph.layer_operations import Call as Call
from covergraph.graph.layer_operations import Composite as Composite
from covergraph.graph.layer_operations import Normalize as Normalize
from covergraph.graph.layer_operations import Recurrent as Recurrent
from covergraph.graph.layer_operations import Slot as Slot
from covergraph.graph.layer_operations import Softmax as Softmax
from covergraph.graph.operation import Operation as Operation
from covergraph.graph.rearrange import Steps


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
    With `select`, an entry whose scale is 0 is dropped whatever it is, infinite or NaN (torch.where).
    """

    scale: bool
    shift: bool
    select: bool = False

    @property
    def label(self) -> str:
        if self.select:
            return "mask"
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
    """Maximum over windows of the last len(kernel) axes; padding never wins. With `rectify`, ReLU of it."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False
    rectify: bool = False

    @property
    def label(self) -> str:
        return f"{'relu_' if self.rectify else ''}maxpool{len(self.kernel)}d"


@dataclass(frozen=True)
class Maximum(Operation):
    """Maximum over axes of a sample."""

    axes: tuple[int, ...]

    @property
    def label(self) -> str:
        return "max"


@dataclass(frozen=True)
class VectorNorm(Operation):
    """Euclidean norm over axes of a sample."""

    axes: tuple[int, ...]

    @property
    def label(self) -> str:
        return "norm"


@dataclass(frozen=True)
class AxisMap(Operation):
    """h -> W h along one axis (up-sampling, uneven average pools), W (m, d) fixed. Role: weight."""

    axis: int
    name: str

    @property
    def label(self) -> str:
        return self.name


FIXED_LINEAR: tuple[type[Operation], ...] = (
    *(Add, Subtract, Concatenate, Reshape, AveragePool),
    *(Rearrange, Sum, AxisMap),
)
"""Operations that are one fixed linear map: no parameters, constant Jacobian (Lemma 7)."""
