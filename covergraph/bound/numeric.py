"""How probable is it that a random start hides a norm? What the measurement adds to delta (Lemma 21)."""

from __future__ import annotations

from covergraph.bound.checks import lookup
from covergraph.bound.derive import Bound
from covergraph.errors import ParameterError
from covergraph.values import Measurements, Parameters

ONCE = ("zero", "edge", "dense", "fixed")
"""Ways to a norm without a random start, or with one for all samples."""


def delta_numeric(bound: Bound, measurements: Measurements, parameters: Parameters, delta: float) -> float:
    """The probability over the random starts that some norm that the certificate reads exceeds its upper end.

    The largest norm of a pair needs one good start, that of the sample which attains it: together they fail with
    probability `measurements.failure`. A kappa below the largest norm makes z read every sample's own norm, which
    needs a good start each: n times as much, but for pairs whose samples have no starts of their own (`ONCE`).
    Raises `ParameterError` if nothing is left of the confidence 1 - delta.
    """
    if not measurements.failure:
        return 0.0
    by_sample = [
        pair
        for pair in bound.augmented.pair_names
        if lookup(parameters.kappa, pair, "kappa") < measurements.pairs[pair].upper
        and measurements.way(pair) not in ONCE
    ]
    total = measurements.failure * (measurements.n if by_sample else 1)
    if delta + total >= 1:
        each = f" ({measurements.failure:g} for each of {measurements.n} samples, because kappa of "
        reason = f"{each}{by_sample[0]} is below the largest norm)" if by_sample else ""
        raise ParameterError(
            f"bound: delta is {delta:g} and the random starts fail with probability {total:g}{reason}, expected "
            "together less than 1; measure with a smaller failure, or with exact=True"
        )
    return total
