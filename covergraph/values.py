"""What a measured number is: its ends, its kind, its norm; and the parameters chosen from such numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from covergraph.rounding import VALUES

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["exact", "certified"]
"""exact: a closed form, up to a few roundings in double precision; certified: [lower, upper] encloses the value.

The ends hold at the sample's values as double precision gave them, and enclose the rounding of derivatives, products
and norms (Lemma 23). For that of the values themselves the certificate allows a relative error of 1e-9 of each sample's
norms (`covergraph.rounding.VALUES`)."""

Pair = tuple[str, str]
"""(w, a): the total derivative D_{w<-a} of node w with respect to node a."""

Floats = NDArray[np.float64]


class CurvePoint(NamedTuple):
    """Within a time budget: after so many seconds the least bound so far, its C/sqrt(n), and how many pairs were
    measured by then.
    """

    seconds: float
    value: float
    normalized: float
    refined: int


@dataclass(frozen=True)
class Measurement:
    """A number in [lower, upper], with its kind, its norm, and the sample that attains it (if any)."""

    lower: float
    upper: float
    kind: Kind
    norm: str
    sample: int | None = None

    def __post_init__(self) -> None:
        assert self.lower <= self.upper, f"a measurement needs {self.lower} <= {self.upper}"


@dataclass(frozen=True)
class LayerSize:
    """Sizes of a covered node's parameters W (with bias b): what the entropies and comparisons need.

    a = ||[W b]^T - [A b_A]^T||_{2,1} and b = ||W - B||_{1,1}, distances to the reference weights;
    a_zero, b_zero: the same to 0, without bias; operator: ||.||_op of the layer's true linear map;
    bias: ||b||, or None without bias.
    """

    a: Measurement
    b: Measurement
    a_zero: Measurement
    b_zero: Measurement
    operator: Measurement
    bias: Measurement | None


@dataclass(frozen=True, eq=False)
class Measurements:
    """Everything that was measured on one model and one sample; all n samples were measured.

    hidden[v]: max ||h_v||; pairs[w, a]: max ||D_{w<-a}||_op; root_mean_square[v]: (mean ||h_v||^2)^(1/2) of
    data-only nodes; shared[g]: ||theta - theta_0||_1 of the parameters that the nodes of a group share; loss: the loss
    of the bound. The per-sample arrays (n,) hold upper ends of norms, and lower ends of the q_c of conditions;
    `margins` is None for a user's own loss, whose values are then in `losses`. `filled`: pair norms are bounded by
    products along edges (Proposition 2). `failure`: the largest norms hold except with this probability over the random
    starts (Lemma 21; 0 if there were none); `width`: what upper/lower was aimed at. `ways`: how each pair was measured;
    `steps`: of Lanczos, all samples together. `curve`: with a time budget, the bound against the seconds spent. Of
    very many samples and pairs `pair_values` is empty: then only the largest norms are known. `repeated`: samples that
    are exact copies of earlier ones, and count as independent all the same. `assumed`: what the certificate supposes
    of the reference and of constants, beyond what holds for every model.
    """

    n: int
    loss: Any
    fingerprint: str
    dtype: str
    reference: Literal["initial weights", "zero"]
    hidden: Mapping[str, Measurement]
    pairs: Mapping[Pair, Measurement]
    root_mean_square: Mapping[str, Measurement]
    layers: Mapping[str, LayerSize]
    margins: Floats | None
    losses: Floats | None
    hidden_values: Mapping[str, Floats] = field(repr=False)
    pair_values: Mapping[Pair, Floats] = field(repr=False)
    condition_values: Mapping[str, Floats] = field(repr=False, default_factory=dict)
    shared: Mapping[str, Measurement] = field(repr=False, default_factory=dict)
    filled: bool = False
    failure: float = 0.0
    width: float = 1.0
    ways: Mapping[Pair, str] = field(repr=False, default_factory=dict)
    steps: Mapping[Pair, int] = field(repr=False, default_factory=dict)
    curve: tuple[CurvePoint, ...] = field(repr=False, default=())
    assumed: tuple[str, ...] = field(repr=False, default=())
    repeated: int = 0

    def __eq__(self, other: object) -> bool:
        """All that was measured is the same, to the last bit."""
        if not isinstance(other, Measurements):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        random = f" (width {self.width:g}, failure {self.failure:g})"
        how = " (bounds along edges)" if self.filled else random if self.failure else ""
        return (
            f"Measurements(n = {self.n}, {self.dtype}, {len(self.hidden)} hidden norms, {len(self.pairs)} pair norms"
            f"{how}, {len(self.layers)} layers, reference: {self.reference})"
        )

    def way(self, pair: Pair) -> str:
        """How the norms of a pair were measured: filled (along edges), zero, edge, dense, lanczos or fixed."""
        return "filled" if self.filled else self.ways.get(pair, "")

    def to_frame(self) -> pd.DataFrame:
        """One row a pair: node, ancestor, lower and upper end of its largest norm, way, steps of Lanczos, sample."""
        import pandas as pd

        columns = ("node", "ancestor", "lower", "upper", "way", "steps", "sample")
        rows = [(*p, m.lower, m.upper, self.way(p), self.steps.get(p, 0), m.sample) for p, m in self.pairs.items()]
        return pd.DataFrame(rows, columns=columns).astype({"sample": "Int64"})

    @property
    def failing(self) -> dict[str, int]:
        """By condition, on how many samples it cannot hold (q_c = 0): there z = 1."""
        counts = {name: int(np.sum(values <= 0)) for name, values in self.condition_values.items()}
        return {name: count for name, count in counts.items() if count}

    @property
    def margin(self) -> Measurement | None:
        """The smallest margin over the sample; None for a user's own loss."""
        if self.margins is None:
            return None
        sample, slack = int(self.margins.argmin()), VALUES * float(np.abs(self.margins).max())
        smallest = float(self.margins[sample])
        return Measurement(smallest - slack, smallest + slack, "exact", "margin", sample)

    @property
    def training_error(self) -> float | None:
        """Share of samples with margin <= 0 (a tie counts as an error); None for a user's own loss."""
        return None if self.margins is None else float(np.mean(self.margins <= 0))


@dataclass(frozen=True)
class Parameters:
    """The numbers that make z and its class: gamma, s_v, kappa_{w<-a}, rho_c, and the class radii a_v, b_v, t_g.

    `union_cost` is what their choice after seeing the data adds to ln(1/delta) (Proposition 6): 0 if they were
    fixed in advance. `grid` is beta; `quantile` says which quantile of the margins gave gamma,
    `condition_quantile` which part of the samples rho may give up.
    """

    gamma: float | None
    s: Mapping[str, float]
    kappa: Mapping[Pair, float]
    a: Mapping[str, float]
    b: Mapping[str, float]
    union_cost: float = 0.0
    grid: float | None = None
    quantile: float | None = None
    floor: float = 0.0
    rho: Mapping[str, float] = field(default_factory=dict)
    shared: Mapping[str, float] = field(default_factory=dict)
    condition_quantile: float | None = None


def same(one: Any, other: Any) -> bool:
    """Equality of values that may hold arrays."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    return bool(one == other)
