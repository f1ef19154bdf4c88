"""What training revealed: the trajectory of one layer's bias, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from covergraph.errors import TrajectoryError
from covergraph.kinds import TRAJECTORIES, require
from covergraph.values import Floats, same

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS: Mapping[str, str] = {
    "step": "t, counted from 0 by the optimizer's steps",
    "loss": "the loss that backward() was called on, without a gradient scaler's scale",
    "alpha": "the learning rate α_t of the bias",
    "samples": "number of samples between two steps",
    "epsilon": "Σ_i ‖∂ℓ/∂ŷ_i‖ over the samples; ε_t for a batch of one",
    "pull": "‖Σ_i ∂ℓ/∂h_i‖, h_i the layer's input; ε_t λ_t for a batch of one and a scalar output",
    "pulls": "Σ_i ‖∂ℓ/∂h_i‖",
    "gradient": "‖∂ℓ/∂b‖",
    "move": "‖b^{t+1} - b^t‖",
    "residual": "‖b^{t+1} - b^t + α_t ∂ℓ/∂b‖: rounding alone under plain SGD",
    "distance": "‖b^{t+1} - b^0‖",
    "bias": "‖b^{t+1}‖",
    "input": "‖h‖ of a batch of one",
    "frobenius": "‖W^t‖_F",
    "top_lower": "lower end of σ_1(W^t)",
    "top_upper": "upper end of σ_1(W^t)",
    "bottom_lower": "lower end of min ‖Wᵀg‖/‖g‖ over the g that ∂ℓ/∂b may be; 0 if it may vanish",
    "bottom_upper": "upper end of the same",
    "log_product": "log Π‖W_l‖ over the graph's paths, an upper bound of log λ; where it was asked for",
}
"""The columns of a trajectory. Row t is iteration t, from b^t to b^{t+1}; norms are Euclidean. NaN: not measured."""

Kind = Literal["linear", "convolution", "identity", "scale", "parameter"]


@dataclass(frozen=True)
class Layer:
    """The layer whose bias is watched: z = W h + B b, with h its input.

    `weight` and `bias` are names in the model's state (`weight` None: W = I); `inputs` and `outputs` count the entries
    of h and z per sample; `shared` is the number of entries of z that one entry of b is added to (1: not shared).
    `kind` "parameter": the trajectory of some parameter that is no such bias; no theorem applies.
    `gain`: the subspace over which `bottom_*` is the minimum: all of R^{n_1}, or its active rows, or the user's basis.
    """

    name: str
    kind: Kind
    weight: str | None
    bias: str
    inputs: int
    outputs: int
    shared: int = 1
    gain: str = "all rows"

    @property
    def wide(self) -> bool:
        """More outputs than inputs: W cannot have full row rank."""
        return self.outputs > self.inputs


@dataclass(frozen=True)
class Setting:
    """What the recorder could see of the run; None: it could not be seen.

    `plain`: plain SGD by the optimizer's settings; `reason`: what it is otherwise. `outputs`: entries of the model's
    output per sample; `last`: the last operation of the graph, which says what f is (sigmoid: probabilities).
    `isometric`: the layer's input is the model's input up to the order of entries, and nothing else reads it, so that
    ∂ℓ/∂h is ∂ℓ/∂x. `piecewise`: the graph is piecewise linear up to a last sigmoid. `once`: between two steps the layer
    ran once for each sample, at the weights that the step began with, and nothing else reads the bias. `mixing`:
    samples of a batch influence each other (BatchNorm in train mode); like `piecewise`, None if the model in train mode
    is another one than on its graph.
    `joints`: the nodes at whose joints autograd has another slope than the function (Lemma 12); "" if there are none.
    `identity`: largest ‖Wᵀ ∂ℓ/∂b - Σ ∂ℓ/∂h_i‖ of the measured steps, relative to the larger of ‖W‖ ‖∂ℓ/∂b‖ and
    Σ ‖∂ℓ/∂h_i‖, and at least the rounding of W under autocast; of a shared bias no more than that is known.
    `dtype`: of the bias. `scaled`: a gradient scaler scaled losses, and loss, epsilon, pull, pulls and gradient were
    divided by its scale. `closures`: the closure of a step has run several times; all but the moves is of its first
    run, at b^t. `stopped`: why recording ended before the training did, empty if it did not.
    """

    optimizer: str
    plain: bool
    reason: str = ""
    outputs: int = 1
    last: str = ""
    isometric: bool | None = None
    piecewise: bool | None = None
    joints: str | None = None
    once: bool = True
    mixing: bool | None = None
    identity: float | None = None
    dtype: str = "float32"
    scaled: bool = False
    closures: bool = False
    stopped: str = ""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of consecutive stretches of iterates: rows [stops[k-1], stops[k]) hold b^{t+1} with this mean and scatter.

    stops (K,), means (K, n_1), scatters (K,) = Σ ‖b - mean‖².
    """

    stops: Floats
    means: Floats
    scatters: Floats

    def __eq__(self, other: object) -> bool:
        return same(vars(self), vars(other)) if isinstance(other, Moments) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The trajectory of one layer's bias: columns of T numbers (`COLUMNS`), and what was seen of the run."""

    layer: Layer
    setting: Setting
    columns: Mapping[str, Floats] = field(repr=False)
    moments: Moments = field(repr=False)

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()}
        if set(lengths) != set(COLUMNS) or len(set(lengths.values())) != 1:
            raise TrajectoryError(f"trajectory: columns {lengths}, expected {sorted(COLUMNS)} of one length")

    def __eq__(self, other: object) -> bool:
        """The same run, to the last bit."""
        if not isinstance(other, Trajectory):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.columns["step"])

    def __getitem__(self, name: str) -> Floats:
        try:
            return self.columns[name]
        except (KeyError, TypeError):
            raise TrajectoryError(f"trajectory: no column {name!r}, expected one of {', '.join(COLUMNS)}") from None

    def __repr__(self) -> str:
        length = np.nansum(self["move"])
        return f"Trajectory of {self.layer.bias} ({len(self)} steps, length {length:.4g}, {self.setting.optimizer})"

    @cached_property
    def lam(self) -> Floats:
        """λ_t = Σ‖∂ℓ/∂h_i‖ / Σ‖∂ℓ/∂ŷ_i‖ (T,): ‖∇_h f(x^t)‖ for a batch of one and a scalar output.

        Otherwise a mean of the norms along the gradients of the loss, each at most the Jacobian's. NaN where ε_t = 0.
        """
        return _divided(self["pulls"], self["epsilon"])

    @cached_property
    def normalized(self) -> Floats:
        """a_t = ‖b^{t+1} - b^t‖ / (α_t ε_t) (T,), NaN where ε_t or α_t is 0."""
        return _divided(self["move"], self["alpha"] * self["epsilon"])

    @cached_property
    def normalized_gradient(self) -> Floats:
        """‖∂ℓ/∂b‖ / ε_t (T,): what a_t is under plain SGD, under any optimizer."""
        return _divided(self["gradient"], self["epsilon"])

    @cached_property
    def length(self) -> Floats:
        """Cumulative length Σ_{s<=t} ‖b^{s+1} - b^s‖ (T,)."""
        return np.cumsum(self["move"])

    @cached_property
    def normalized_length(self) -> Floats:
        """Cumulative Σ_{s<=t} a_s (T,), steps without gradient counted as 0."""
        return np.cumsum(np.nan_to_num(self.normalized))

    @cached_property
    def phi(self) -> Floats:
        """φ(τ) = max_{t>=τ} a_t (T,): the run is (τ, φ(τ))-steady (section 6); NaN after the last gradient."""
        return np.fmax.accumulate(self.normalized[::-1])[::-1]

    def variance(self, start: int = 0, stop: int | None = None) -> float:
        """mean ‖b - mean b‖² over the iterates b^{t+1} of rows [start, stop), which must be borders of `moments`."""
        require("Trajectory.variance", TRAJECTORIES, start=start, stop=stop)
        stop = len(self) if stop is None else stop
        borders = np.concatenate([[0.0], self.moments.stops])
        if start not in borders or stop not in borders or stop <= start:
            raise TrajectoryError(
                f"trajectory: rows [{start}, {stop}) are not between borders of the stored moments; choose two of "
                f"{[int(b) for b in borders[:8]]} …, or record with a flush at the rows that you want"
            )
        inside = (self.moments.stops > start) & (self.moments.stops <= stop)
        counts = np.diff(borders)[inside]
        means, scatters = self.moments.means[inside], self.moments.scatters[inside]
        center = counts @ means / counts.sum()
        return float((scatters.sum() + counts @ np.sum((means - center) ** 2, axis=1)) / counts.sum())

    def running_variance(self) -> Floats:
        """The variance of all iterates up to each border of `moments` (K,)."""
        return np.array([self.variance(0, int(stop)) for stop in self.moments.stops])

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """A trajectory from the file that a recorder wrote; raises `TrajectoryError` if it is none, or damaged."""
        from covergraph.trajectory.file import load

        return load(path)

    def explain(self) -> str:
        """What was watched, how far the bias went, what λ_t was; and why recording stopped, if it did."""
        from covergraph.report.trajectories import explain_trajectory

        return explain_trajectory(self)

    def plot(self) -> Figure:
        """λ_t, a_t between Theorem L1's sides, lengths, loss and variance, as a matplotlib figure."""
        from covergraph.report.trajectories import plot_trajectory

        return plot_trajectory(self)

    def to_frame(self) -> pd.DataFrame:
        """One row a step: the columns, and lambda, normalized, length, normalized_length, phi."""
        import pandas as pd

        more = {
            "lambda": self.lam, "normalized": self.normalized, "length": self.length,
            "normalized_length": self.normalized_length, "phi": self.phi,
        }
        return pd.DataFrame({**self.columns, **more})


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)
