"""What a certificate trusts: every allowance for rounding that is a number, with what it rests on.

*Proved* means: for IEEE double precision with sums in any order, by the lemma of docs/mathematics.md that is named.
*Assumed* is what no lemma proves; docs/mathematics.md lists these among the assumptions, and tests compare them with
many digits. Besides these: ends of elementary functions are arb's (`covergraph.rules.enclosure`, proved there),
eigenvalues and singular values of a library have their usual backward error (`covergraph.measure.norms.rounding`,
assumed; upper ends of Jacobians are proved by a Cholesky factorization, Lemma 23), and sympy evaluates a constant to
the 30 digits that it is asked for (assumed).
"""

from __future__ import annotations

UNIT = 2.0**-53
"""Half the distance from 1 to the next number: the relative error of one operation. By definition."""

CONSTANT = 1 + 2.0**-50
"""Above a constant of sympy with 30 digits as a double, and two products with it: eight units. Proved."""

BOUND = 1 + 2.0**-40
"""Above a bound that some 2^12 additions, products and roots of positive numbers have made. Proved (Lemma 23)."""

SIZE = 1 + 2.0**-30
"""Above a sum of up to 2^22 squares, and its root: the size of an operation's factors. Proved for as many terms."""

PATHS = 1e-12
"""Of a logarithm, for each node whose constants were multiplied and added. Proved: 2^12 operations in each."""

SLOPE = (64.0, 64.0, 2.0**100)
"""Of a computed phi', in units: relative to it, and absolute where its form cancels.

The latter up to |t| = 2^100: what saturates is there closer to its limit than the numbers can tell. Assumed; tests
compare every row with 1,500 digits. Of composed functions what roundings of their steps make comes on top
(`covergraph.passes.functions`), with the assumption that a slope moves within a step's error at most twice as far as at
its ends."""

UNDERFLOW = 2.0**-1000
"""Above what is lost where a slope underflows. Assumed with it."""

EXPANSION = 2.0**-40
"""Of phi' around a joint, relative to 1 + |phi'(b)|: each of the terms of its series up to the sixth derivative.

Assumed (Lemma 12, joints): that further terms do not exceed these."""

VALUES = 1e-9
"""Of a network's values on a sample, relative to their size: norms are raised by it, conditions and margins lowered.

Assumed (assumption 6): a network that subtracts nearly equal large numbers can exceed it."""

PRODUCT = 2.0**-40
"""Of a product with a Jacobian that is not formed, relative to its norm and the length of the vector.

Assumed (Lemma 22); asymmetries above five times of it are seen, and the row is measured in another way."""

LENGTHS = 1e-6
"""Of the logarithm of a length in Lanczos' recurrence: pivots, lengths, and 10^4 logarithms. Proved (Lemma 21)."""
