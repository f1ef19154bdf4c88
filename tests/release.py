"""Hold one cut node of an augmented graph to its release-Lipschitz constant: gradients, and differences of z.

The topological order is that of the theorem: block by block, first the edge Jacobians into a node, then the node.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.losses import LipschitzLoss, Loss
from covergraph.values import Parameters

SLACK = 1 + 1e-9


@dataclass(frozen=True)
class Place:
    """A node of the augmented graph that may be cut: h_head, or J_{head,tail}."""

    head: str
    tail: str | None = None

    @property
    def name(self) -> str:
        return self.head if self.tail is None else f"J[{self.head},{self.tail}]"


def places(augmented: AugmentedGraph) -> list[Place]:
    """All nodes h and J in the theorem's order."""
    order = []
    for node in augmented.base.nodes:
        edges = [Place(node.name, u) for u in node.predecessors]
        order += [place for place in edges if place.name in augmented.graph.by_name]
        order.append(Place(node.name))
    return order


def slope(loss: Loss, outputs: int, gamma: float | None) -> float:
    """tau_l: sqrt(2)/gamma, 1/gamma for one logit, or the user's own."""
    if isinstance(loss, LipschitzLoss):
        return loss.lipschitz
    assert gamma is not None
    return (1.0 if outputs == 1 else math.sqrt(2)) / gamma


@dataclass
class Tally:
    """Gradients seen, those that are not 0, the largest ratio to its constant by dominant term, trials left out."""

    gradients: int = 0
    active: int = 0
    overflows: int = 0
    largest: dict[str, float] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, key: str, ratios: Tensor) -> None:
        self.gradients += len(ratios)
        self.active += int((ratios > 1e-12).sum())
        self.seen[key] += 1
        self.largest[key] = max(self.largest.get(key, 0.0), float(ratios.max()))

    @property
    def share(self) -> float:
        return self.active / max(self.gradients, 1)

    def summary(self) -> dict[str, Any]:
        """Plain values for reports."""
        numbers = {"gradients": self.gradients, "active": self.active, "share": self.share}
        return {**numbers, "largest": dict(self.largest), "seen": dict(self.seen)}


@dataclass(frozen=True)
class Trial:
    """One cut node with its values (MEMBERS many), the values before it, labels, levels, norms of data-only nodes."""

    augmented: AugmentedGraph
    state: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]
    place: Place
    earlier: Mapping[str, Tensor]
    own: Tensor
    labels: Tensor
    parameters: Parameters
    norms: Mapping[str, float] = field(default_factory=dict)

    @property
    def slope(self) -> float:
        base = self.augmented.base
        return slope(self.augmented.loss, base[base.output].size, self.parameters.gamma)

    @cached_property
    def z(self) -> tuple[Tensor, Tensor]:
        """The values of z, and its gradients in the cut node."""
        own = self.own.clone().requires_grad_()
        count = len(own)
        cut = {name: value.expand(count, *value.shape[1:]) for name, value in self.earlier.items()}
        inputs = [x.expand(count, *x.shape[1:]) for x in self.inputs]
        cut[self.place.name] = own
        z = self.augmented.run(self.state, inputs, self.labels.expand(count), self.parameters, cut)
        if not z.requires_grad:
            return z, torch.zeros_like(own)
        (gradient,) = torch.autograd.grad(z.sum(), own)
        undefined = ~gradient.isfinite().flatten(1).all(1) & (z == 1)  # 0 times a pole, where z is constant
        return z.detach(), torch.where(undefined.reshape(-1, *[1] * (gradient.dim() - 1)), 0.0, gradient)

    def gradient_norms(self, gradients: Tensor) -> Tensor:
        """Dual norms: Euclidean for hidden values, nuclear for Jacobians."""
        if self.place.tail is None:
            return gradients.flatten(1).norm(dim=1)
        return torch.linalg.matrix_norm(gradients, ord="nuc")

    def distances(self) -> Tensor:
        """Norms of the differences of all pairs of values: Euclidean, or spectral for Jacobians."""
        gaps = self.own[:, None] - self.own[None]
        if self.place.tail is None:
            return gaps.flatten(2).norm(dim=2)
        return torch.linalg.matrix_norm(gaps, ord=2)


def check(trial: Trial, constant: float) -> Tensor:
    """Assert that z is constant-Lipschitz at and between the trial's values; the ratios of its gradients."""
    z, gradients = trial.z
    assert gradients.isfinite().all()
    norms = trial.gradient_norms(gradients)
    assert (norms <= constant * SLACK + 1e-13).all(), _message(trial, float(norms.max()), constant)
    rises = (z[:, None] - z[None]).abs()
    assert (rises <= constant * trial.distances() * SLACK + 1e-12).all(), _message(trial, float(rises.max()), constant)
    return norms / constant if constant > 0 else torch.zeros(0)


def _message(trial: Trial, found: float, constant: float) -> str:
    return (
        f"{trial.place.name} in {trial.augmented.mode} mode: {found:.6g} against kappa~ = {constant:.6g}\n"
        f"{trial.augmented.base}\n{trial.parameters}"
    )
