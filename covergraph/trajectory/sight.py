"""W and b as the passes see them: whether they are at a step what they were in its passes, and W that stands in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covergraph.errors import TrajectoryError
from covergraph.trajectory.hooks import transformed

LOOKED_AT = 2**12
"""So many entries of W, evenly spread, are compared; of b all."""


@dataclass
class Sight:
    """The versions of W and b at a moment, and copies of the entries that are compared."""

    versions: tuple[int, int]
    entries: tuple[Tensor, ...]

    def differs(self, other: Sight) -> Tensor | bool:
        """Whether an entry has changed, on the device: `.data` changes it, and no version."""
        pairs = list(zip(self.entries, other.entries, strict=True))
        if self.entries[0].device.type == "cpu" and all(torch.equal(a, b) for a, b in pairs):
            return False
        moved = [((a != b) & ((a == a) | (b == b))).any() for a, b in pairs]  # NaN is as it was
        return moved[0] if len(moved) == 1 else moved[0] | moved[1]


class Sights:
    """Looks at W (None: there is none) and b, whose type, device and shape are to stay."""

    def __init__(self, bias: nn.Parameter, weight: nn.Parameter | None, name: str) -> None:
        self.bias, self.weight, self.name = bias, weight, name
        self.watched = (bias,) if weight is None else (bias, weight)
        self.forms = [_form(p) for p in self.watched]
        self.stride = 1 if weight is None else -(-weight.numel() // LOOKED_AT)

    @property
    def versions(self) -> tuple[int, int]:
        """Counts the changes of W and b."""
        return -1 if self.weight is None else self.weight._version, self.bias._version

    def look(self) -> Sight:
        """W and b now."""
        bias = self.bias.detach().clone()
        if self.weight is None:
            return Sight(self.versions, (bias,))
        seen = self.weight.detach()
        if self.stride > 1:
            seen = seen.reshape(-1)[:: self.stride]
        return Sight(self.versions, (bias, seen.clone()))

    def require_form(self) -> None:
        """Raise `TrajectoryError` if W or b is of another type, device or shape by now, in a pass with gradients."""
        if not torch.is_grad_enabled() or transformed():
            return
        for parameter, form in zip(self.watched, self.forms, strict=True):
            if (parameter.dtype, parameter.device, parameter.shape) != form:
                raise TrajectoryError(
                    f"trajectory: the layer of {self.name!r} is {_said(_form(parameter))} by now, expected "
                    f"{_said(form)}, as when recording began; convert and move the model (double(), half(), to(...)) "
                    "before the recorder's `with`, or begin a new recorder afterwards"
                )


class StandIn:
    """In the layer's forward pass, an alias of W in its place, which no step changes in the eyes of autograd.

    Where h gets its gradient for the recorder alone, autograd would keep W for it, and refuse a backward pass through
    a graph that is older than the last step.
    """

    def __init__(self, owner: nn.Module, leaf: str, weight: nn.Parameter) -> None:
        self.owner, self.leaf, self.weight = owner, leaf, weight
        self.alias: Tensor | None = None

    def enter(self) -> None:
        """Put it in the place of W, if W is there; its gradient is that of W."""
        if self.owner._parameters.get(self.leaf) is self.weight:
            self.alias = torch.ops.aten._unsafe_view(self.weight, self.weight.shape)
            _ENTERED.append(self)
            self.owner._parameters[self.leaf] = self.alias  # type: ignore[assignment]

    def remove(self, *args: object) -> None:
        """Put W back, if the alias is there."""
        if self.alias is not None and self.owner._parameters.get(self.leaf) is self.alias:
            self.owner._parameters[self.leaf] = self.weight
        self.alias = None
        if self in _ENTERED:
            _ENTERED.remove(self)


_ENTERED: list[StandIn] = []


def put_back() -> None:
    """Every W, also of other recorders: what looks at the model finds its parameters."""
    for stand_in in tuple(_ENTERED):
        stand_in.remove()


def _form(parameter: Tensor) -> tuple[torch.dtype, torch.device, torch.Size]:
    return parameter.dtype, parameter.device, parameter.shape


def _said(form: tuple[torch.dtype, torch.device, torch.Size]) -> str:
    dtype, device, shape = form
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)} on {device}"
