"""Exact coordinates of one activation pattern in the span of others, over the integers.

S a = s has Π n_l rows. With the Gram matrix G = SᵀS and c = Sᵀs the same is said by one integer identity:
‖S a - s‖² = aᵀGa - 2cᵀa + ‖s‖² = 0. A basis B of the columns and G_BB^{-1} modulo a prime are found once; membership
is then a congruence, and the rational a by p-adic lifting (Dixon, Numerische Mathematik 40, 1982).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covergraph.trajectory.patterns import Patterns, inner
from covergraph.values import Floats

PRIME = 33_554_393
"""The largest prime below 2**25: sums of 2**13 products of residues fit into 63 bits."""
LIFTS = 256
"""Base-PRIME digits after which a rational solution is given up (numerators of 3200 bits)."""
GRAIN = 2**40
"""Weights outside the basis are rounded to multiples of 1/GRAIN."""

Weights = tuple[list[int], int]
"""Numerators, one a column, and their common denominator."""


class Span:
    """The span of the patterns `columns` (distinct rows): a basis of them, and coordinates in it.

    `basis`, `others`: positions of the basis and of the other columns. Modulo a prime a pattern may look dependent
    that is not, with probability about 1e-7 a pattern: it is then no member of the basis, which proves nothing false.
    """

    def __init__(self, columns: Patterns) -> None:
        self.columns = columns
        self.gram = inner(columns, columns)
        swept, chosen = _sweep((self.gram % PRIME).astype(np.int64))
        self.basis = np.flatnonzero(chosen)
        self.others = np.flatnonzero(~chosen)
        self._inverse = swept[np.ix_(self.basis, self.basis)]
        self._block = self.gram[np.ix_(self.basis, self.basis)]
        largest = int(self._block.max(initial=0))
        if largest * PRIME * max(len(self.basis), 1) >= 2**62:
            self._block = self._block.astype(object)

    @cached_property
    def relations(self) -> Floats:
        """R (basis, others) with S_others = S_basis R, in floating point: for choosing weights, not for proofs."""
        return self.approximate(self.gram[np.ix_(self.basis, self.others)])

    def approximate(self, products: NDArray[Any]) -> Floats:
        """G_BB^{-1} products (basis, k) in floating point."""
        scale = np.sqrt(np.diag(self._block).astype(np.float64))[:, None]
        solved = np.linalg.solve(self._block.astype(np.float64) / scale / scale.T, products.astype(np.float64) / scale)
        return np.asarray(solved / scale)

    def contains(self, products: NDArray[Any], squares: NDArray[Any]) -> NDArray[np.bool_]:
        """Which targets may be in the span (k,); False is final. products (columns, k) = Sᵀs, squares (k,) = ‖s‖²."""
        c = (products[self.basis] % PRIME).astype(np.int64)
        a = self._inverse @ c % PRIME
        return np.asarray((np.sum(c * a % PRIME, axis=0) - (squares % PRIME).astype(np.int64)) % PRIME == 0)

    def weights(self, products: NDArray[Any], square: int, others: Floats) -> Weights | None:
        """Rational a with S a = s, proved, whose entries outside the basis are `others` rounded; None if not found.

        products (columns,) = Sᵀs, square = ‖s‖².
        """
        z = [round(float(v) * GRAIN) for v in others]
        if not any(z):
            grain = 1
        else:
            common = math.gcd(GRAIN, *z)
            grain, z = GRAIN // common, [v // common for v in z]
        used = [j for j, v in enumerate(z) if v]
        cross = self.gram[np.ix_(self.basis, self.others[used])].astype(object)
        right = grain * products[self.basis].astype(object) - cross @ np.array([z[j] for j in used], dtype=object)
        for numerators, denominator in self._lift(right):
            a = np.zeros(len(self.columns), dtype=object)
            a[self.basis] = numerators
            a[self.others] = [denominator * v for v in z]
            if self.solves(list(a), denominator * grain, products, square):
                return list(a), denominator * grain
        return None

    def solves(self, numerators: list[int], denominator: int, products: NDArray[Any], square: int) -> bool:
        """Whether S a = s: the identity aᵀGa - 2cᵀa + ‖s‖² = 0 for a = numerators/denominator, in integers."""
        support = [i for i, v in enumerate(numerators) if v]
        a = np.array([int(numerators[i]) for i in support], dtype=object)
        linear = int(a @ products[support].astype(object)) if support else 0
        if linear != denominator * int(square):
            return False
        quadratic = int(a @ (self.gram[np.ix_(support, support)].astype(object) @ a)) if support else 0
        return quadratic - 2 * denominator * linear + denominator**2 * int(square) == 0

    def _lift(self, right: NDArray[Any]) -> Any:
        """Candidates (numerators, denominator) for G_BB^{-1} right, from 1, 2, 4, … digits of its p-adic expansion."""
        solution, modulus = np.zeros(len(self.basis), dtype=object), 1
        for digit in range(1, LIFTS + 1):
            y = self._inverse @ (right % PRIME).astype(np.int64) % PRIME
            right = (right - (self._block @ y.astype(self._block.dtype)).astype(object)) // PRIME
            solution = solution + y.astype(object) * modulus
            modulus *= PRIME
            if digit & (digit - 1) == 0:
                found = _fractions(solution, modulus)
                if found is not None:
                    yield found


def _sweep(matrix: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Gauss-Jordan in place modulo PRIME on a Gram matrix: the block of the chosen rows becomes its inverse."""
    chosen = np.zeros(len(matrix), dtype=bool)
    for k in range(len(matrix)):
        if matrix[k, k] == 0:  # the squared distance to the span of the rows chosen so far
            continue
        chosen[k] = True
        inverse = pow(int(matrix[k, k]), -1, PRIME)
        row, column = matrix[k] * inverse % PRIME, matrix[:, k].copy()
        matrix -= np.outer(column, row)
        matrix %= PRIME
        matrix[k], matrix[:, k] = row, -column * inverse % PRIME
        matrix[k, k] = inverse
    return matrix, chosen


def _fractions(residues: NDArray[Any], modulus: int) -> Weights | None:
    """Numerators and common denominator, both at most sqrt(modulus/2), that have these residues; None if none do."""
    bound, denominator = math.isqrt(modulus // 2), 1
    for residue in residues:
        r, s, t, u = modulus, residue * denominator % modulus, 0, 1
        if min(s, modulus - s) <= bound:
            continue
        while s > bound:
            q = r // s
            r, s, t, u = s, r - q * s, u, t - q * u
        denominator *= abs(u)
        if denominator > bound:
            return None
    numerators = [residue * denominator % modulus for residue in residues]
    numerators = [v - modulus if 2 * v > modulus else v for v in numerators]
    return (numerators, denominator) if all(abs(v) <= bound for v in numerators) else None
