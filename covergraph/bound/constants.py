"""Theorem 2 in numbers: the release-Lipschitz constants in closed matrix form (Corollary 2.1).

With K[w, a] = kappabar_{w<-a} (unit diagonal), R[w, a] = 1/kappa_{w<-a} on P and M = K^T R K^T,
    kappatilde_J(x, u) = M[x, u],
    kappatilde_h(v)    = tau K[k, v] + sum_{w in S} K[w, v] / s_w + sum_c (2/rho_c) sum_u Lip_u(q_c) K[u, v]
                         + sum_{u'} t[u'] K[u', v],
    t[u'] = sum_x sum_u M[x, u] taubar_{x;u,u'}.
An entry of K whose pair is reachable but not in P is unknown; whatever would read it raises `MissingPairError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covergraph.errors import MissingPairError, ParameterError
from covergraph.graph.augmented import AugmentedGraph
from covergraph.rounding import CONSTANT
from covergraph.values import Floats, Pair

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ReleaseLipschitz:
    """kappatilde_h and kappatilde_J of every node and edge, with what could not be read.

    `h[v]` and `J[x, u]` by position; `h_missing`, `J_missing` mark values that need a pair outside P. They were made
    of the matrices K, R and the row c: h = c K, J = K^T R K^T.
    """

    augmented: AugmentedGraph
    h: Floats
    J: Floats
    h_missing: Bools
    J_missing: Bools
    K: Floats
    R: Floats
    c: Floats

    def hidden(self, node: str) -> float:
        """kappatilde_{h_v}. Raises `MissingPairError` if a pair that it needs is not in P."""
        v = self.augmented.base.index[node]
        if self.h_missing[v]:
            raise MissingPairError(_message(f"kappa~ of h[{node}]", self.augmented.mode))
        return float(self.h[v])

    def jacobian(self, x: str, u: str) -> float:
        """kappatilde_{J_{x,u}}. Raises `MissingPairError` if a pair that it needs is not in P."""
        i, j = self.augmented.base.index[x], self.augmented.base.index[u]
        if self.J_missing[i, j]:
            raise MissingPairError(_message(f"kappa~ of J[{x},{u}]", self.augmented.mode))
        return float(self.J[i, j])


def _message(what: str, mode: str) -> str:
    return (
        f"bound: {what} needs a Jacobian norm whose pair is not in P (mode {mode!r}); without an indicator it is "
        'unbounded, never 0. Augment with mode="minimal" or "paper", or ask for a covered node'
    )


def release_lipschitz(
    augmented: AugmentedGraph,
    tau: float,
    s: Mapping[str, float],
    kappa: Mapping[Pair, float],
    taubar: Mapping[tuple[int, int, int], float],
    rho: Mapping[str, float] | None = None,
) -> ReleaseLipschitz:
    """All constants of Theorem 2; `taubar[x, u, u']` by position in the base graph, `rho` by conditioned node.

    Raises `ParameterError` if a value is missing or not positive and finite.
    """
    base, pairs = augmented.base, augmented.pairs
    bound = _matrix(augmented, kappa)
    known = pairs | np.eye(len(base), dtype=bool)
    K = np.where(pairs, 2 * bound, 0.0) + np.eye(len(base))
    R = np.divide(1.0, bound, out=np.zeros_like(bound), where=pairs)
    M = K.T @ R @ K.T
    reach = base.reach | np.eye(len(base), dtype=bool)
    missing = reach & ~known
    M_missing = _any_path(missing, pairs, reach) | _any_path(reach, pairs, missing)
    inverse_s = _inverse_s(augmented, s) + _inverse_rho(augmented, rho or {})
    t, t_missing = _curvature(M, M_missing, taubar)
    k = base.index[base.output]
    h = tau * K[k] + inverse_s @ K + t @ K
    weights = (inverse_s > 0) | (t > 0)
    weights[k] |= tau > 0
    h_missing = np.any(missing & weights[:, None], axis=0) | np.any(reach & t_missing[:, None], axis=0)
    if not (np.isfinite(h).all() and np.isfinite(M).all()):
        raise ParameterError("bound: the constants overflow double precision; rescale s and kappa")
    c = inverse_s + t
    c[k] += tau
    return ReleaseLipschitz(augmented, h, M, h_missing, M_missing, K, R, c)


def _matrix(augmented: AugmentedGraph, kappa: Mapping[Pair, float]) -> Floats:
    """kappa as a matrix, 0 outside P."""
    index = augmented.base.index
    bound = np.zeros(augmented.pairs.shape)
    for w, a in augmented.pair_names:
        bound[index[w], index[a]] = _positive(kappa, (w, a), "kappa")
    return bound


def _inverse_s(augmented: AugmentedGraph, s: Mapping[str, float]) -> Floats:
    inverse = np.zeros(len(augmented.base))
    for name in augmented.hidden:
        inverse[augmented.base.index[name]] = 1 / _positive(s, name, "s")
    return inverse


def _inverse_rho(augmented: AugmentedGraph, rho: Mapping[str, float]) -> Floats:
    """By node u: the sum of 2 Lip_u(q_c) / rho_c over the conditions c that read it."""
    inverse = np.zeros(len(augmented.base))
    for name, condition in augmented.conditions.items():
        level = _positive(rho, name, "rho")
        for slot, slope in condition.slopes.items():
            u = augmented.base[name].inputs[slot]
            inverse[augmented.base.index[u]] += 2 / level * float(slope) * CONSTANT
    return inverse


def _curvature(M: Floats, M_missing: Bools, taubar: Mapping[tuple[int, int, int], float]) -> tuple[Floats, Bools]:
    """t[u'] and where it needs an unknown entry of M."""
    t, missing = np.zeros(len(M)), np.zeros(len(M), dtype=bool)
    for (x, u, v), value in taubar.items():
        if value == 0:
            continue
        t[v] += M[x, u] * value
        missing[v] |= M_missing[x, u]
    return t, missing


def _any_path(left: Bools, middle: Bools, right: Bools) -> Bools:
    """(left^T middle right^T) as a boolean product."""
    f = np.float64
    product: Bools = (left.T.astype(f) @ middle.astype(f) @ right.T.astype(f)) > 0
    return product


def _positive(values: Mapping[str, float] | Mapping[Pair, float], key: str | Pair, symbol: str) -> float:
    value = values.get(key)  # type: ignore[arg-type]
    if value is None or not 0 < value < np.inf:
        raise ParameterError(f"bound: {symbol} of {key!r} is {value}, expected a positive number; use choose(...)")
    return float(value)
