"""Joints: break points of a piecewise function at which it is continuously differentiable (Lemma 12, *joints*).

sign(h) log(|h| + 1) is C^1, but autograd gives it the slope 0 at h = 0, where |.| and sign have conventions of their
own; and where rounding puts an inner argument onto its kink, or beside it, the slope is that convention's, too. Around
a joint b phi' is therefore expanded from the symbolic pieces: phi'(t) = phi'(b) + phi''(b+-) (t - b) + O((t - b)^2).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import sympy
import torch
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph.forward import pushed
from covergraph.rounding import EXPANSION, UNIT

if TYPE_CHECKING:
    from covergraph.graph.functions import ScalarFunction
    from covergraph.graph.kinks import Part

KINKED = (
    sympy.Abs, sympy.sign, sympy.Max, sympy.Min, sympy.Piecewise, sympy.Heaviside, sympy.floor, sympy.ceiling,
)
WIDTH = 2.0**-20
"""A joint's neighborhood is at most so wide, relative to 1 + |b|: rounding moves an inner argument by less."""
ORDERS = (3, 4, 5, 6)
"""Of the derivatives that limit it."""


@dataclass(frozen=True)
class Joint:
    """phi'(b), phi''(b-), phi''(b+), and how far around b they expand phi' (Lemma 12, joints)."""

    point: float
    slope: float
    left: float
    right: float
    width: float

    @property
    def error(self) -> float:
        """Of the expansion within the width."""
        return ORDERS[-1] * EXPANSION * (1 + abs(self.slope))


@lru_cache(maxsize=512)
def joints(expression: sympy.Expr) -> tuple[Joint, ...]:
    """The joints of phi from left to right; none if its break points are not known (no bound is derived then)."""
    if not expression.has(*KINKED):
        return ()
    groups = _groups(expression)
    breaks = {float(end) for parts in groups for part in parts for end in (part.start, part.end) if end.is_finite}
    return tuple(_joint(left, right, breaks) for parts in groups for left, right in pairwise(parts))


def _groups(expression: sympy.Expr) -> Sequence[Sequence[Part]]:
    """Parts that meet at joints. Where singular points are not found, phi may still be known to have none (Lemma 5)."""
    from covergraph.graph import kinks, singular

    try:
        return kinks.good_parts(expression)
    except UnsupportedOperationError:
        pass
    try:
        phi = singular.normalized(expression)
        parts = kinks.parts(phi)
    except UnsupportedOperationError:
        return ()
    groups = [[part] for part in parts[:1]]
    for pair in pairwise(parts):
        if all(kinks.are_equal(kinks.sides(phi, *pair, order)) for order in (0, 1)):
            groups[-1].append(pair[1])
        else:
            groups.append([pair[1]])
    return groups


def misread(function: ScalarFunction) -> bool:
    """Whether autograd has another slope than phi' at some joint, where it follows the steps of `evaluate`."""
    found = joints(function.expression)
    at = torch.tensor([joint.point for joint in found], dtype=torch.float64)
    slopes = torch.tensor([joint.slope for joint in found], dtype=torch.float64)
    read = pushed(function.evaluate, (at,), (torch.ones_like(at),)) if found else at
    return not torch.allclose(read, slopes, rtol=1e-6, atol=1e-9) if found else False


def _joint(left: Part, right: Part, breaks: Collection[float]) -> Joint:
    """Its width ends before the next break point, and where a term of the expansion would count."""
    point, slope = float(left.end), _derivative(left, left.end, 1)
    widths = [WIDTH * (1 + abs(point)), *(abs(point - other) / 4 for other in breaks if other != point)]
    for order in ORDERS:
        size = max(abs(_derivative(left, left.end, order)), abs(_derivative(right, right.start, order)))
        if size:
            allowed = EXPANSION * (1 + abs(slope)) * math.factorial(order - 1)
            widths.append((allowed / size) ** (1 / (order - 1)))
    seconds = _derivative(left, left.end, 2), _derivative(right, right.start, 2)
    return Joint(point, slope, *seconds, min(widths))


def _derivative(part: Part, point: sympy.Expr, order: int) -> float:
    from covergraph.graph.functions import T

    return float(sympy.diff(part.phi, T, order).subs(T, point).evalf(30))


def smoothed(x: Tensor, slope: Tensor, found: Sequence[Joint]) -> Tensor:
    """The slopes, around joints those of the expansion."""
    for joint in found:
        offset = x - joint.point
        expanded = joint.slope + offset * torch.where(offset < 0, joint.left, joint.right)
        slope = torch.where(offset.abs() <= joint.width, expanded, slope)
    return slope


def remainder(x: Tensor, found: Sequence[Joint]) -> Tensor:
    """What the expansions leave, entry by entry: nothing at b but its rounding."""
    left = torch.zeros_like(x)
    for joint in found:
        offset = (x - joint.point).abs()
        moved = 2 * UNIT * abs(joint.point) * max(abs(joint.left), abs(joint.right))
        part = joint.error * (offset / joint.width).square() + moved
        left = torch.where(offset <= joint.width, part, left)
    return left


def beyond(x: Tensor, found: Sequence[Joint], error: Tensor) -> Tensor:
    """An error of slopes, where they are not those of expansions."""
    for joint in found:
        error = torch.where((x - joint.point).abs() <= joint.width, 0.0, error)
    return error
