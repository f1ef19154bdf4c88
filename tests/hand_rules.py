"""What the rules of operations should say, by pencil: curvatures, conditions, a-priori norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.values import Pair

CURVATURE = {
    "tanh": 4 / (3 * math.sqrt(3)),
    "softplus": 1 / 4,
    "gelu": math.sqrt(2 / math.pi),
    "silu": 1 / 2,
    "elu": 1.0,
    "sin": 1.0,
    "cos": 1.0,
    "offset_sine": 1 / 2,
    "hardswish": 1 / 3,
    "square": 2.0,
}
"""sup |phi''| as the literature and pencil have it."""

KINKED = ("relu", "leaky_relu(0.1)", "clamp(-0.5, 1)", "abs", "hardswish")
ON_POSITIVES = ("log", "sqrt", "reciprocal")
GROWING = ("exp", "pow(3)")


def local_curvature(name: str, radius: float, distance: float) -> float:
    """sup |phi''(t)| over |t| <= radius, t >= distance, for functions whose curvature has no bound on their domain."""
    match name:
        case "exp":
            return math.exp(radius)
        case "pow(3)":
            return 6 * radius
        case "log":
            return 1 / distance**2
        case "sqrt":
            return 1 / (4 * distance**1.5)
        case "reciprocal":
            return 2 / distance**3
        case _:
            return CURVATURE.get(name, 0.0)


def slot_taubar(node: Node, radius: Callable[[str], float], rho: float) -> dict[tuple[int, int], float]:
    """taubar by pairs of slots, by hand; entries stay rho/2 away from singular points."""
    match node.operation:
        case op.Elementwise(function):
            reach = radius(node.inputs[0]) if function.name in GROWING else 0.0
            return {(0, 0): local_curvature(function.name, reach, rho / 2)}
        case op.Product() | op.MatrixProduct():
            return {(0, 1): 1.0, (1, 0): 1.0}
        case op.Divide():
            reach = radius(node.inputs[0])
            return {(0, 1): (2 / rho) ** 2, (1, 0): (2 / rho) ** 2, (1, 1): 2 * reach * (2 / rho) ** 3}
        case op.Softmax(axis, log):
            constant = math.sqrt(node.shape[axis]) / 2 if log else math.sqrt(2) / (3 * math.sqrt(3))
            return {(i, j): constant for i in range(len(node.inputs)) for j in range(len(node.inputs))}
        case op.Normalize(group, eps):
            below = 2 / (math.sqrt(3 * group) * max(eps, rho**2 / 4))
            return {(0, 0): min(below, 48 / (25 * math.sqrt(5 * group) * eps)) if eps else below}
        case op.VectorNorm():
            return {(0, 0): 2 / rho}
        case _:
            return {}


def taubar(node: Node, radius: Callable[[str], float], rho: float) -> dict[Pair, float]:
    """taubar_{x;u,u'} > 0 of x = node, summed over the slots that u and u' fill."""
    found: dict[Pair, float] = {}
    for (i, j), value in slot_taubar(node, radius, rho).items():
        if value > 0:
            pair = node.inputs[i], node.inputs[j]
            found[pair] = found.get(pair, 0.0) + value
    return found


def curved_pairs(node: Node) -> list[Pair]:
    """The pairs (u, u') with taubar_{x;u,u'} > 0."""
    return list(taubar(node, lambda name: 1.0, 1.0))


def condition(node: Node) -> dict[int, float]:
    """The Lipschitz constants of q_c by slot; empty without condition."""
    match node.operation:
        case op.Elementwise(function):
            return {0: 1.0} if function.name in (*KINKED, *ON_POSITIVES) else {}
        case op.ParametricReLU() | op.VectorNorm():
            return {0: 1.0}
        case op.Divide():
            return {1: 1.0}
        case op.MaxPool() | op.Maximum():
            return {0: math.sqrt(2)}
        case op.Normalize(group):
            return {0: 1 / math.sqrt(group)}
        case _:
            return {}


def prior(node: Node) -> float | None:
    """The a-priori bound of the norm of a node's value, if there is one."""
    match node.operation:
        case op.Normalize():
            return math.sqrt(node.size)
        case op.Softmax(axis, log):
            return None if log else math.sqrt(node.size // node.shape[axis])
        case _:
            return None


def norm_readers(node: Node) -> tuple[str, ...]:
    """The predecessors whose norm the entropy of a node, or its taubar, depends on."""
    match node.operation:
        case op.Elementwise(function):
            return node.inputs if function.name in GROWING else ()
        case op.Divide():
            return node.inputs[:1]
        case _:
            return node.inputs if learned_multiplier(node) else ()


def learned_multiplier(node: Node) -> bool:
    """True if a learned parameter multiplies the node's input, so that its Jacobian is learned, too."""
    return bool(node.inputs) and any(role in ("weight", "scale", "slope") for role, _ in node.parameters)


POINTS = {"clamp(-0.5, 1)": (-0.5, 1.0), "hardswish": (-3.0, 3.0)}
"""Where functions have their kinks, if not at 0."""


def quantity(node: Node, slots: Sequence[Tensor]) -> Tensor:
    """q_c of each sample, entry by entry."""
    values = [_quantity(node, [slot[n] for slot in slots]) for n in range(len(slots[0]))]
    return torch.tensor(values, dtype=torch.float64)


def _quantity(node: Node, slots: Sequence[Tensor]) -> float:
    h = slots[0]
    match node.operation:
        case op.Elementwise(function) if function.name in ("log", "sqrt"):
            return max(0.0, float(h.min()))
        case op.Elementwise(function):
            return min(abs(t - point) for t in h.flatten().tolist() for point in POINTS.get(function.name, (0.0,)))
        case op.Divide():
            return float(slots[1].abs().min())
        case op.MaxPool(rectify=rectify):
            return min(_margin(window, rectify) for window in _windows(node, h))
        case op.Maximum(axes):
            groups = h.movedim(axes[0], -1).reshape(-1, h.shape[axes[0]])
            return min(_margin(group.tolist(), False) for group in groups)
        case op.VectorNorm(axes):
            return float(h.square().sum(axes).min()) ** 0.5
        case op.Normalize(group, eps, center):
            squares = [(g - g.mean() * center).square().mean() + eps for g in h.reshape(-1, group)]
            return float(min(squares)) ** 0.5
        case _:
            return float(h.abs().min())


def _margin(window: Sequence[float], rectify: bool) -> float:
    """How far the largest entry is from being another one, or from 0 if it is rectified."""
    first, *rest = sorted(window, reverse=True)
    gap = first - rest[0] if rest else math.inf
    return max(-first, min(first, gap)) if rectify else gap


def _windows(node: Node, h: Tensor) -> list[list[float]]:
    """The entries of each window of a max-pool without dilation; padding has none."""
    assert isinstance(node.operation, op.MaxPool)
    kernel, stride, padding = node.operation.kernel, node.operation.stride, node.operation.padding
    windows = []
    for channel, *place in product(*map(range, node.shape)):
        starts = [p * s - before for p, s, before in zip(place, stride, padding, strict=True)]
        spans = [range(max(a, 0), min(a + k, n)) for a, k, n in zip(starts, kernel, h.shape[1:], strict=True)]
        windows.append([float(h[(channel, *at)]) for at in product(*spans)])
    return windows
