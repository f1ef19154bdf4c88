"""Losses with values in [0, 1] whose Lipschitz constant tau_l in the output is known (Lemma 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import Tensor

from covergraph.errors import LabelError, ParameterError, UnsupportedOperationError
from covergraph.graph.node import Node
from covergraph.kinds import FUNCTION, NUMBER, require

GAMMA = sympy.Symbol("gamma", positive=True)


class Loss:
    """l(h_k, y) in [0, 1], tau-Lipschitz in h_k for every y."""

    name: str

    def tau(self, output: Node) -> sympy.Expr:
        """tau_l, a symbolic expression (in `GAMMA` for a margin loss)."""
        raise NotImplementedError

    def evaluate(self, output: Tensor, labels: Tensor, gamma: float | None) -> Tensor:
        """l on a batch, shape (batch,)."""
        raise NotImplementedError

    @property
    def has_margin(self) -> bool:
        """Whether the loss has the parameter gamma and bounds the 0-1 loss from above."""
        return False

    @property
    def measured(self) -> Any:
        """What is measured for this loss; losses with equal answers share their measurements."""
        return self


@dataclass(frozen=True)
class MarginLoss(Loss):
    """The ramp clip(1 - m/gamma, 0, 1) of the margin m; tau = sqrt(2)/gamma, and 1/gamma for one logit.

    Two or more logits: m = h_y - max_{j != y} h_j with y in {0, ..., classes-1}. One logit: m = (2y - 1) h with y
    in {0, 1}. It is at least the 0-1 loss.
    """

    name: str = "margin"

    @property
    def has_margin(self) -> bool:
        return True

    @property
    def measured(self) -> Any:
        return "margins" if type(self) is MarginLoss else self

    def tau(self, output: Node) -> sympy.Expr:
        if len(output.shape) > 1:
            raise UnsupportedOperationError(
                f"loss: the margin loss needs one vector of logits, but the output {output.name!r} has shape "
                f"{output.shape}; flatten it, pick another with output=, or pass LipschitzLoss(l, tau)"
            )
        return (sympy.Integer(1) if output.size == 1 else sympy.sqrt(2)) / GAMMA

    def margins(self, output: Tensor, labels: Tensor) -> Tensor:
        """m(h, y) per sample, shape (batch,). Raises `LabelError` on labels out of range."""
        logits = output.reshape(output.shape[0], -1)
        classes = logits.shape[1]
        labels = check_labels(labels, logits.shape[0], max(classes, 2))
        if classes == 1:
            return (2 * labels - 1) * logits[:, 0]
        chosen = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return chosen - others.amax(1)

    def evaluate(self, output: Tensor, labels: Tensor, gamma: float | None) -> Tensor:
        assert gamma is not None
        return (1 - self.margins(output, labels) / gamma).clamp(0, 1)


@dataclass(frozen=True)
class LipschitzLoss(Loss):
    """The user's own loss: `function(output, y) -> (batch,)` in [0, 1], `lipschitz`-Lipschitz in the output.

    The Lipschitz constant is the user's statement; the range is checked on every sample. Raises `ParameterError`
    for a constant that is not positive and finite.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    lipschitz: float
    name: str = field(default="user")

    def __post_init__(self) -> None:
        kinds = {"function": FUNCTION, "lipschitz": NUMBER}
        require("LipschitzLoss", kinds, function=self.function, lipschitz=self.lipschitz)
        if not 0 < self.lipschitz < float("inf"):
            raise ParameterError(
                f"loss {self.name!r}: the Lipschitz constant is {self.lipschitz}, expected a positive number"
            )

    @property
    def measured(self) -> Any:
        return self.function if type(self) is LipschitzLoss else self

    def tau(self, output: Node) -> sympy.Expr:
        return sympy.Float(self.lipschitz)

    def evaluate(self, output: Tensor, labels: Tensor, gamma: float | None) -> Tensor:
        return require_unit(self.name, self.function(output, labels), len(output))


def require_unit(name: str, values: Tensor, rows: int | None = None) -> Tensor:
    """The values of a loss, (rows,). Raises `LabelError` unless there is one in [0, 1] per sample."""
    bad = ~((values >= 0) & (values <= 1))
    if values.shape != (len(values) if rows is None else rows,) or bool(bad.any()):
        worst = f", the first outside being {float(values[bad][0]):.6g}" if bool(bad.any()) else ""
        raise LabelError(
            f"loss {name!r}: values of shape {tuple(values.shape)}{worst}, expected one value in [0, 1] per sample; "
            "rescale the loss"
        )
    return values


def check_labels(labels: Tensor, batch: int, classes: int) -> Tensor:
    """Labels as int64 of shape (batch,); raises `LabelError` naming the first sample out of range."""
    flat = labels.reshape(-1)
    if flat.shape[0] != batch:
        raise LabelError(f"labels: {flat.shape[0]} labels for {batch} samples; expected one label per sample")
    whole = flat.to(torch.int64)
    bad = ((whole < 0) | (whole >= classes) | (whole != flat)).nonzero()
    if len(bad):
        i = int(bad[0])
        raise LabelError(
            f"labels: sample {i} of the batch has label {flat[i].item()}, expected an integer in 0..{classes - 1}"
        )
    return whole
