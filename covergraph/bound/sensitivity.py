"""How does C move with each level kappa? Derivatives of Corollary 2.1, by reverse mode through its matrices.

With the shares S_g = (K_g E_g)^(2/3) / C^(2/3) of the covered classes,
    d log C / d log kappa_p = sum_g S_g d log K_g / d log kappa_p,
and every K_g is linear in h = c K and M = K^T R K^T, where c = tau e_k + 1/s + 1/rho + t and
t[v] = sum_{x,u} M[x,u] taubar_{x;u,v}.
"""

from __future__ import annotations

import numpy as np

from covergraph.bound.certificate import Certificate, _Numbers, certify
from covergraph.bound.constants import ReleaseLipschitz
from covergraph.bound.derive import Bound, Contribution
from covergraph.values import Floats, Measurements, Pair, Parameters

Weighted = tuple[Contribution, float]
"""A class of values or derivatives, and the derivative of log C in its release-Lipschitz constant."""


def log_derivatives(bound: Bound, measurements: Measurements, parameters: Parameters) -> dict[Pair, float]:
    """d log C / d log kappa of every pair of P, at the parameters.

    C has reciprocals of kappa in it too, so a derivative may be negative. Where two covers of a group are equally good
    it is that of one of them.
    """
    return derivatives(certify(bound, measurements, parameters, 0.05))


def derivatives(certificate: Certificate) -> dict[Pair, float]:
    """`log_derivatives` where a certificate was made."""
    bound, constants = certificate.bound, certificate.constants
    index = bound.graph.index
    h, J = np.zeros_like(constants.h), np.zeros_like(constants.J)
    for contribution, weight in _weighted(certificate):
        v = index[contribution.node]
        if contribution.kind == "derivative":
            (u,) = bound.graph[contribution.node].predecessors
            J[v, index[u]] += weight
        else:
            h[v] += weight
    table = _through(constants, bound.taubar(certificate.parameters, certificate.measurements), h, J)
    return {(w, a): float(table[index[w], index[a]]) for w, a in bound.augmented.pair_names}


def _weighted(certificate: Certificate) -> list[Weighted]:
    """d log C / d kappatilde of the nodes' values and derivatives, in the cover that C is made of."""
    bound = certificate.bound
    numbers = _Numbers(bound, certificate.constants, certificate.measurements, certificate.parameters)
    parts = {id(group.contribution): [c for _, c in group.parts] for group in bound.groups}
    found: list[Weighted] = []
    for share in certificate.shares:
        if share.share == 0:
            continue
        per_weight = share.share / share.weight
        tied = parts.get(id(share.contribution))
        if tied is None:
            found.append((share.contribution, per_weight))
        else:
            found += [(c, per_weight * numbers.sensitivity(c, numbers.radius(c.node))) for c in tied]
    return found


def _through(
    constants: ReleaseLipschitz, taubar: dict[tuple[int, int, int], float], h: Floats, J: Floats
) -> Floats:
    """From derivatives of log C in h and J to those in log kappa, as a matrix; h and J are not changed."""
    K, R, c = constants.K, constants.R, constants.c
    t, J = K @ h, J.copy()
    for (x, u, v), value in taubar.items():
        J[x, u] += value * t[v]
    by_K = np.outer(c, h) + R @ K.T @ J.T + J.T @ K.T @ R
    by_R = K @ J @ K
    return by_K * np.where(R > 0, K, 0.0) - by_R * R
