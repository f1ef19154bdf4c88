"""Records of operations that keep the meaning of a whole layer, of a call, or of several nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from covergraph.graph.operation import Operation

if TYPE_CHECKING:
    from covergraph.graph.node import Node


@dataclass(frozen=True)
class Softmax(Operation):
    """exp(h + m) / sum exp(h + m) along one axis; its logarithm if `log`.

    The mask m is a second slot, or a constant of role mask, or 0; `causal` masks what lies above the diagonal of the
    last two axes.
    """

    axis: int
    log: bool = False
    causal: bool = False

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
    `shapes` are those of the slots.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    output: str
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def label(self) -> str:
        return self.name
