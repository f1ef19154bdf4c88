"""A network at one sample, with one value shifted: what becomes of the later values, and of total derivatives.

The value h_v is replaced by R_v(h_pr(v)) + d. That is what cutting up to v allows: the values and Jacobians of v and
of the nodes before it stay, those after it follow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.interpreter import Context, apply
from covergraph.values import Pair

DENSE = 24
"""Up to this smaller side a derivative is computed row by row or column by column."""
Shift = Mapping[str, Tensor]


@dataclass(frozen=True)
class Norm:
    """sigma with its error, and unit vectors u, v with u' D v = sigma (flat)."""

    value: float
    error: float
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Network:
    """A graph with its values at one sample, (1, *shape) each; `deadline` by `time.perf_counter`."""

    graph: ComputationGraph
    context: Context
    values: Mapping[str, Tensor]
    deadline: float = math.inf
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def moved(self, shift: Shift, until: str | None = None) -> dict[str, Tensor]:
        """The values that a shift of some nodes changes, up to a node `until`, by name."""
        if time.perf_counter() > self.deadline:
            raise NotSettledError
        found: dict[str, Tensor] = {}
        index, reach = self.graph.index, self.graph.reach
        last = len(self.graph) - 1 if until is None else index[until]
        first = min(index[name] for name in shift)
        for i, node in enumerate(self.graph.nodes[first : last + 1], first):
            if until is not None and i != last and not reach[last, i]:
                continue
            value = self.values[node.name]
            if any(u in found for u in node.inputs):
                slots = [found.get(u, self.values[u]) for u in node.inputs]
                value = apply(node.operation, node, slots, self.context)
            elif node.name not in shift:
                continue
            found[node.name] = value + shift[node.name] if node.name in shift else value
        return found

    def quantity(self, name: str, moved: Mapping[str, Tensor]) -> float:
        """q_c of the condition of a node."""
        node = self.graph[name]
        slots = [moved.get(u, self.values[u]) for u in node.inputs]
        return float(condition_value(node.operation, node, slots, self.context))

    def derivative(self, pair: Pair, shift: Shift) -> Derivative:
        """D_{w<-a} of the shifted network."""
        return Derivative(self, pair, shift)


@dataclass(frozen=True)
class Derivative:
    """D_{w<-a} of a shifted network, as a linear map of flat vectors."""

    network: Network
    pair: Pair
    shift: Shift

    def value(self, epsilon: Tensor, shift: Shift | None = None) -> Tensor:
        """h_w where h_a is changed by epsilon."""
        w, a = self.pair
        shift = self.shift if shift is None else shift
        both = dict(shift) | {a: epsilon + shift[a] if a in shift else epsilon}
        return self.network.moved(both, w)[w]

    @property
    def zero(self) -> Tensor:
        return torch.zeros_like(self.network.values[self.pair[1]])

    @property
    def shape(self) -> tuple[int, int]:
        w, a = self.pair
        return self.network.values[w].numel(), self.network.values[a].numel()

    def push(self, vector: Tensor) -> Tensor:
        """D v."""
        return torch.func.jvp(self.value, (self.zero,), (vector.reshape(self.zero.shape),))[1].reshape(-1)

    def pull(self) -> Callable[[Tensor], Tensor]:
        """The map u -> D' u."""
        value, back, *_ = torch.func.vjp(self.value, self.zero)
        return lambda vector: back(vector.reshape(value.shape))[0].reshape(-1)

    def norm(self, start: Tensor | None = None) -> Norm:
        """||D||_op by Lanczos on the smaller side, or from all rows or columns."""
        m, d = self.shape
        pull, wide = self.pull(), m <= d
        side = min(m, d)

        def square(vector: Tensor) -> Tensor:
            return self.push(pull(vector)) if wide else pull(self.push(vector))

        if side <= DENSE:
            gram = torch.stack([square(row) for row in torch.eye(side, dtype=torch.float64)])
            top = torch.linalg.eigh((gram + gram.T) / 2).eigenvectors[:, -1]
        else:
            top = self._lanczos(square, side, start)
        image = pull(top) if wide else self.push(top)
        sigma = float(image.norm())
        residual = float((square(top) - sigma**2 * top).norm()) / max(sigma, 1e-300)
        unit = image / max(sigma, 1e-300)
        return Norm(sigma, residual + 1e-14 * sigma, *((top, unit) if wide else (unit, top)))

    def _lanczos(self, square: Callable[[Tensor], Tensor], side: int, start: Tensor | None) -> Tensor:
        def matvec(vector: np.ndarray) -> np.ndarray:
            return square(torch.from_numpy(np.ascontiguousarray(vector)).reshape(-1)).detach().numpy()

        first = torch.randn(side, generator=self.network.generator, dtype=torch.float64) if start is None else start
        operator = LinearOperator((side, side), matvec=matvec, dtype=np.float64)
        try:
            _, vectors = eigsh(operator, k=1, v0=first.numpy(), tol=1e-13, maxiter=8)
        except ArpackNoConvergence as error:
            if not error.eigenvectors.size:
                raise NotSettledError from error
            vectors = error.eigenvectors
        except ArpackError as error:  # a start vector that the matrix maps to zero: it is zero
            raise NotSettledError from error
        return torch.from_numpy(vectors[:, 0].copy())

    def change(self, other: Derivative, steps: int = 6) -> float:
        """A lower bound of ||D - D'||_op, by power iteration."""
        one, two = self.pull(), other.pull()
        vector = torch.randn(self.shape[1], generator=self.network.generator, dtype=torch.float64)
        size = 0.0
        for _ in range(steps):
            vector = vector / vector.norm().clamp_min(1e-300)
            image = self.push(vector) - other.push(vector)
            size = max(size, float(image.norm()))
            vector = one(image) - two(image)
        return size

    def slope(self, node: str, at: Norm) -> Tensor:
        """The gradient of u' D v in the shift of a node, u and v those of the norm."""
        right = at.right.reshape(self.zero.shape)

        def form(d: Tensor) -> Tensor:
            shift = dict(self.shift) | {node: d}
            image = torch.func.jvp(lambda e: self.value(e, shift), (self.zero,), (right,))[1]
            return (image.reshape(-1) * at.left).sum()

        return torch.func.grad(form)(torch.zeros_like(self.network.values[node]))


class NotSettledError(Exception):
    """The iteration for a norm did not settle, or there is no time left for it; the norm is not used."""
