"""Both Rademacher routes and the certificate as expressions (Propositions 4 and 5, Theorem 3)."""

from __future__ import annotations

from collections.abc import Mapping

import sympy

from covergraph.bound.symbols import DELTA, N

C = sympy.Symbol("C", positive=True)
TRAINING = sympy.Symbol(r"\hat{E}_S[\tilde{z}]", nonnegative=True)
UNION_COST = sympy.Symbol("U", nonnegative=True)

_ratio = C / sympy.sqrt(N)

RADEMACHER: Mapping[str, sympy.Expr] = {
    "Dudley": sympy.Piecewise((12 * _ratio * (1 + sympy.log(1 / (12 * _ratio))), 12 * _ratio < 1), (sympy.oo, True)),
    "one step": 2 ** sympy.Rational(3, 4) * sympy.sqrt(_ratio),
}
"""Upper bounds of Rad_S from ln N(eps) <= C^2/eps^2, for losses in [0, 1]; the smaller one holds."""

CERTIFICATE: sympy.Expr = (
    TRAINING + 2 * sympy.Min(*RADEMACHER.values()) + 3 * sympy.sqrt((sympy.log(2 / DELTA) + UNION_COST) / (2 * N))
)
"""E[l_01] <= E[z] <= this, with probability >= 1 - delta (Theorem 3); U is the union cost (Proposition 6).

If norms of C and z were measured from random starts, the probability is that minus delta_numeric (Lemma 21)."""
