"""How large and how small are the singular values of W^t? Exact at times, between them by Weyl's inequality.

|σ_i(W^t) - σ_i(W^s)| <= ‖W^t - W^s‖ <= ‖W^t - W^s‖_F. A convolution with kernel E is a sum over its T taps of maps of
norm ‖E_tap‖ at most, hence ‖conv_E‖ <= Σ ‖E_tap‖_F <= √T ‖E‖_F. Drifts are taken at every measured step, on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covergraph.errors import TrajectoryError
from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context
from covergraph.measure.edges_weights import DENSE, weight_ends
from covergraph.measure.norms import rounding
from covergraph.trajectory.layer_map import Map
from covergraph.values import Floats

EXACT = 2**33
"""Up to so many multiplications, rows x columns x the smaller of both, singular values are computed."""
PER_STEP = 2**16
"""So many multiplications a step are spent on them: they are computed again after as many steps as that takes."""
PER_ROW = 2**12
"""Of the steps within a block whose weights are kept, as many get singular values of their own as this pays for."""
HISTORY = 2**19
"""Weights of a block's steps that are kept, so that their norms are taken all at once; of larger ones at each step."""
SHORT = 2**20
"""Up to so many entries, single precision suffices for the norm of a drift."""


@dataclass(frozen=True)
class Anchor:
    """Ends of σ_1 and of the smallest gain at W^s."""

    top: tuple[float, float]
    bottom: tuple[float, float]


class Spectrum:
    """Ends of the largest and of the least gain of W^t.

    The least gain, min ‖Wᵀg‖/‖g‖, is taken over all g, or (`active`) over those on the support of ∂ℓ/∂b, or over the
    span of `basis` (n_1, k). Raises `TrajectoryError` where these make no sense for the layer.
    """

    def __init__(
        self, map_: Map, weight: Tensor | None, shared: int, active: bool, basis: Tensor | None, rows: int
    ) -> None:
        self.map, self.weight, self.active = map_, weight, active
        self.basis = None if basis is None else _orthonormal(basis, map_.outputs)
        self.anchor, self.at, self.stale = Anchor((1.0, 1.0), (1.0, 1.0)), 0, weight is not None
        self.taken, self.rows = list[int](), rows
        if weight is None:
            return
        self.history: Tensor | None = None
        if rows * weight.numel() <= HISTORY:
            self.history = weight.new_empty(rows, *weight.shape, requires_grad=False)
        rows, columns = map_.sides(weight)
        convolves = isinstance(getattr(map_.node, "operation", None), op.Convolution)
        self.cost = rows * columns * min(rows, columns)
        self.exact = self.cost <= EXACT and (not convolves or columns * max(rows, columns) <= DENSE)
        if convolves and not self.exact:  # the norms of a symbol on a grid of frequencies
            self.cost = 300 * weight.numel() * min(weight.shape[:2])
        if (active or basis is not None) and (shared > 1 or rows != map_.outputs or not self.exact):
            raise TrajectoryError(
                f"trajectory: active_rows and subspace need W itself, {map_.outputs} x {map_.inputs}, and an unshared "
                f"bias; this layer's bias is shared by {shared} entries, or its W is too large: leave them out"
            )
        self.base = weight.detach().clone()
        self.difference = torch.empty_like(self.base)
        half = weight.dtype in (torch.float16, torch.bfloat16)
        self.dtype = torch.float32 if half else weight.dtype
        if weight.numel() > SHORT:
            self.dtype = torch.float64

    @property
    def gain(self) -> str:
        """What the least gain is taken over."""
        if self.weight is not None and self.basis is not None:
            return f"a subspace of dimension {self.basis.shape[1]}"
        return "active rows" if self.weight is not None and self.active else "all rows"

    def measure(self, step: int, row: int, drift: Tensor, frobenius: Tensor) -> None:
        """Take W^t for ‖W^t - W^s‖_F and ‖W^t‖_F, two numbers on the device.

        There is no synchronization unless W is looked at anew.
        """
        if self.weight is None:
            return
        weight = self.weight.detach()
        if self.stale:
            self._look(weight, step)
        if self.history is not None:
            self.history[row].copy_(weight)
            self.taken.append(row)
            return
        frobenius.copy_(torch.linalg.vector_norm(weight, dtype=self.dtype))
        difference = torch.sub(weight, self.base, out=self.difference)
        drift.copy_(torch.linalg.vector_norm(difference, dtype=self.dtype))

    def moved(self, rows: int, drift: Floats, frobenius: Floats) -> dict[str, Floats]:
        """Drift and Frobenius norm (rows,), NaN where they were not measured."""
        if self.weight is None or self.history is None:
            return {"drift": drift, "frobenius": frobenius}
        at = [row for row in self.taken if row < rows]
        weights = self.history[at].flatten(1).double()
        differences = weights - self.base.reshape(1, -1).double()
        drift[at], frobenius[at] = torch.linalg.vector_norm(torch.stack([differences, weights]), dim=2).cpu().numpy()
        return {"drift": drift, "frobenius": frobenius}

    def finish_block(self, step: int, drift: float) -> None:
        """Say that a block is over: if W has moved, and enough steps were made, the next one looks at it anew."""
        self.taken = []
        self.stale = self.weight is not None and drift > 0 and (step - self.at) * PER_STEP >= self.cost

    def ends(self, drift: Floats, frobenius: Floats, gradients: Tensor) -> dict[str, Floats]:
        """The columns top_* and bottom_* (rows,), NaN where there is no drift; `gradients` (rows, n_1)."""
        if self.weight is None:
            return {f"{end}_{side}": np.ones_like(drift) for end in ("top", "bottom") for side in ("lower", "upper")}
        far = self._rounded_up(drift)
        top = _widened(_where_measured(far, self.anchor.top[0]), _where_measured(far, self.anchor.top[1]), far)
        if not self.exact:
            ceiling = math.sqrt(self.map.taps) * self._rounded_up(frobenius, plain=True)
            top = (top[0], np.minimum(top[1], ceiling))
        low, high = self._least(far, top[1], gradients)
        found = {"top_lower": top[0], "top_upper": top[1], "bottom_lower": low, "bottom_upper": high}
        return self._closer(found, gradients) if self.history is not None and self.weight.dim() == 2 else found

    def _closer(self, ends: dict[str, Floats], gradients: Tensor) -> dict[str, Floats]:
        """The ends, where the steps' own weights give closer ones: from singular values at every k-th of them."""
        assert self.history is not None
        at = np.array([row for row in self.taken if row < len(gradients)], dtype=np.intp)
        weights = self.history[at].double()
        if not len(at) or not bool(torch.isfinite(weights).all()):
            return ends
        stride = -(-self.cost // PER_ROW)
        near = np.arange(len(at)) // stride
        values = torch.linalg.svdvals(weights[::stride]).cpu().numpy()
        apart = torch.linalg.vector_norm((weights - weights[::stride][near]).flatten(1), dim=1).cpu().numpy()
        room = self._rounded_up(apart) * (apart > 0) + rounding(torch.float64, *weights.shape[1:]) * values[near, 0]
        own = {"top": _widened(values[near, 0], values[near, 0], room)}
        if self.gain == "all rows" and self.map.outputs <= self.map.inputs:
            own["bottom"] = _widened(values[near, -1], values[near, -1], room)
        for end, (low, high) in own.items():
            ends[f"{end}_lower"][at] = np.maximum(ends[f"{end}_lower"][at], low)
            ends[f"{end}_upper"][at] = np.minimum(ends[f"{end}_upper"][at], high)
        return ends

    def transposed(self, gradient: Tensor) -> Tensor:
        """Wᵀ g, flat."""
        return self.map.transposed(gradient if self.weight is None else self.weight, gradient)

    def state(self, rows: int) -> dict[str, Any]:
        """What `load` needs to go on with the same bits, `rows` rows after the start of a block."""
        if self.weight is None:
            return {}
        ends, kept = [*self.anchor.top, *self.anchor.bottom], {}
        if self.history is not None:
            kept = {"history": self.history[:rows].clone(), "taken": list(self.taken)}
        return {"base": self.base.clone(), "ends": ends, "at": self.at, "stale": self.stale, **kept}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if self.weight is not None:
            self.base.copy_(state["base"])
            self._load_history(state)
            a, b, c, d = state["ends"]
            self.anchor, self.at, self.stale = Anchor((a, b), (c, d)), state["at"], state["stale"]

    def _load_history(self, state: dict[str, Any]) -> None:
        """Weights are kept if they were, whatever the length of a block is now."""
        kept = state.get("history")
        if kept is None:
            self.history = None
        elif self.history is None:
            self.history = self.base.new_empty(self.rows, *self.base.shape)
        if self.history is not None:
            self.history[: len(state["history"])] = state["history"]
            self.taken = list(state["taken"])

    def _look(self, weight: Tensor, step: int) -> None:
        self.base.copy_(weight)
        self.at, self.stale = step, False
        finite = bool(torch.isfinite(weight).all())
        cheap = self.cost <= EXACT and finite
        if self.exact and finite:
            values, slack = self._values(self.map.matrix(self.base))
            top = (max(values[0] - slack, 0.0), values[0] + slack)
            wide = self.map.outputs > self.map.inputs
            bottom = (0.0, 0.0) if wide else (max(values[-1] - slack, 0.0), values[-1] + slack)
            self.anchor = Anchor(top, bottom)
        elif self.map.node is not None and isinstance(self.map.node.operation, op.Convolution) and cheap:
            ends = weight_ends(self.map.node, self.map.slot, Context({"weight": self.base}))
            self.anchor = Anchor((ends.lower, ends.upper), (0.0, math.nan))
        else:
            self.anchor = Anchor((0.0, math.inf), (0.0, math.nan))

    def _values(self, matrix: Tensor) -> tuple[list[float], float]:
        """Singular values, largest first, and by how much rounding may have moved them."""
        values = matrix.abs().sort(descending=True).values if matrix.dim() == 1 else torch.linalg.svdvals(matrix)
        found = [float(v) for v in values[[0, -1]].cpu()]
        return found, rounding(torch.float64, *matrix.shape) * found[0]

    def _rounded_up(self, norms: Floats, plain: bool = False) -> Floats:
        """At least the norm, whatever rounding did to the sum and to the differences; of the map, unless `plain`."""
        assert self.weight is not None
        count, eps = self.weight.numel(), torch.finfo(self.dtype).eps
        lost = math.sqrt(count * torch.finfo(self.dtype).tiny)  # squares that underflowed
        up = norms * (1 + count * eps + 4 * torch.finfo(self.weight.dtype).eps) + lost
        return up if plain else math.sqrt(self.map.taps) * up

    def _least(self, far: Floats, top: Floats, gradients: Tensor) -> tuple[Floats, Floats]:
        if self.basis is not None:
            return self._within_basis(far, top, gradients)
        if self.active:
            return self._on_support(far, gradients)
        low, high = self.anchor.bottom
        if high == 0 or math.isnan(high):  # W is wide, or its least gain is not known
            return _where_measured(far, 0.0), _where_measured(far, high)
        return _widened(_where_measured(far, low), _where_measured(far, high), far)

    def _within_basis(self, far: Floats, top: Floats, gradients: Tensor) -> tuple[Floats, Floats]:
        """Of g = cos u + sin v, u in the span, ‖Wᵀg‖ >= cos σ_min(WᵀU) - sin σ_1: no g is taken to lie in it."""
        assert self.basis is not None
        if not math.isfinite(self.anchor.top[1]):  # W diverged
            return far * np.nan, far * np.nan
        matrix, basis = self.map.matrix(self.base), self.basis.to(gradients.device)
        image = matrix[:, None] * basis if matrix.dim() == 1 else matrix.T @ basis
        values, slack = self._values(image)
        slack = max(slack, rounding(torch.float64, *matrix.shape) * self.anchor.top[1])
        least = 0.0 if image.shape[1] > image.shape[0] else values[-1]
        sizes = torch.linalg.vector_norm(gradients, dim=1)
        beside = torch.linalg.vector_norm(gradients - gradients @ basis @ basis.T, dim=1)
        sine = np.where((sizes > 0).cpu().numpy(), (beside / sizes).cpu().numpy(), 0.0).clip(0, 1)
        low = (least - slack - far).clip(0) * np.sqrt(1 - sine**2) - sine * top
        return low.clip(0), least + slack + far

    def _on_support(self, far: Floats, gradients: Tensor) -> tuple[Floats, Floats]:
        """By distinct supports of the measured rows."""
        low, high = np.full_like(far, np.nan), np.full_like(far, np.nan)
        if not math.isfinite(self.anchor.top[1]):  # W diverged
            return low, high
        matrix = self.map.matrix(self.base)
        known = np.flatnonzero(~np.isnan(far))
        supports, kinds = torch.unique((gradients[known] != 0), dim=0, return_inverse=True)
        which: NDArray[np.int64] = kinds.cpu().numpy()
        for i, support in enumerate(supports):
            at, count = known[which == i], int(support.sum())
            if not count:
                continue  # there is no gradient, and nothing to say
            fits = matrix.dim() == 1 or count <= matrix.shape[1]
            values, slack = self._values(matrix[support]) if fits else ([0.0], 0.0)
            low[at], high[at] = (values[-1] - slack - far[at]).clip(0), (values[-1] + slack + far[at]) * fits
            if fits and self.history is not None and matrix.dim() == 2 and self.cost <= 4 * PER_ROW:
                for row in at[np.isfinite(far[at])]:  # of the weights of its own step
                    values, slack = self._values(self.history[row][support].double())
                    low[row], high[row] = max(values[-1] - slack, 0.0), values[-1] + slack
        return low, high


def _where_measured(drift: Floats, value: float) -> Floats:
    return np.where(np.isnan(drift), np.nan, value)


def _widened(low: Floats, high: Floats, by: Floats) -> tuple[Floats, Floats]:
    return (low - by).clip(0), high + by


def _orthonormal(basis: Tensor, rows: int) -> Tensor:
    """An orthonormal basis of the span of the columns; raises `TrajectoryError` for a wrong shape or rank."""
    wide = torch.as_tensor(basis).detach().double()
    if wide.dim() != 2 or wide.shape[0] != rows or not 0 < wide.shape[1] <= rows:
        raise TrajectoryError(
            f"trajectory: the subspace has shape {tuple(wide.shape)}, expected (n_1, k) = ({rows}, 1..{rows}); its "
            "columns span what contains ∂ℓ/∂b"
        )
    q, r = torch.linalg.qr(wide)
    if float(r.diagonal().abs().min()) <= 1e-10 * float(r.abs().max()):
        raise TrajectoryError("trajectory: the subspace's columns depend on each other, expected a basis; drop some")
    return q
