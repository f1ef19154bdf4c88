"""Check Theorem 2 on a model: one value is shifted, and z must not change more than its constant allows.

In a whole network, levels that the measured norms fill in leave most indicators at 1. A few are put on their ramps:
those of a pair (w, a) whose D_{w<-a} varies with the shifted value, of a norm, of a condition, and the loss.
"""

from __future__ import annotations

import math
import time
import traceback
from dataclasses import replace

import numpy as np
from torch import nn
from zoo.bounds import Derived
from zoo.exact import exact_ratio
from zoo.place import picks, places
from zoo.result import SpotCheck
from zoo.trial import Trial

SECONDS, LAST = 6.0, 20.0
"""Within so many seconds new checks of a model begin, and end."""
ROUNDS = 40
"""At most so many values are shifted."""
FAR = 0.05
"""Every third pair is taken from this share of all, the nearest first."""


def spot_check(derived: Derived, model: nn.Module, rounds: int | None = None) -> SpotCheck:
    """The largest ratios that were found, in so many rounds or, if None, in `SECONDS`; raises nothing."""
    start = time.perf_counter()
    try:
        exact = exact_ratio(derived, model)
        found = _checks(derived, start, rounds)
    except Exception as error:
        traceback.print_exc()
        exact, found = (0, 0.0), SpotCheck(reason=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return replace(found, exact=exact[0], exact_ratio=exact[1], seconds=time.perf_counter() - start)


def _checks(derived: Derived, start: float, rounds: int | None) -> SpotCheck:
    place = next(places(derived, math.inf if rounds else start + LAST), None)
    if place is None:
        return SpotCheck(reason="on every sample a condition fails")
    generator = np.random.default_rng(0)
    covered = [v for v in derived.bound.graph.covered if derived.bound.graph[v].size]
    found = SpotCheck(reason="no time")
    for turn in range(rounds or ROUNDS):
        if rounds is None and time.perf_counter() - start > (SECONDS if found.checks else LAST):
            break
        v = covered[generator.integers(len(covered))]
        trial = Trial(place, v, picks(place, v, generator, share=(0, 0, FAR)[turn % 3], pair=turn > 0))
        for check in trial.checks():
            found = merged(found, check)
    return found


def merged(one: SpotCheck, two: SpotCheck) -> SpotCheck:
    """The larger ratios of two, and the story of the largest."""
    names = ("ratio", "part", "values", "jacobians")
    largest = {name: max(getattr(one, name), getattr(two, name)) for name in names}
    worst = two.worst if two.largest > one.largest else one.worst
    return SpotCheck(checks=one.checks + two.checks, worst=worst, **largest)
