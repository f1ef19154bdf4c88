"""Branch and bound for sup |f| over an interval or the whole line, f = phi^(order).

A region is an interval or a ray. On an interval, f is enclosed by its natural interval extension, by the
mean value form f(c) + f'(X)(X - c), and by its end values where f' keeps its sign; on a ray by a form
(tails.py). The region with the largest bound is split until this bound is within the tolerance of a value
that |f| takes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, pairwise

import sympy

from covergraph.rules.enclosure import intervals
from covergraph.rules.enclosure.intervals import Interval, UndefinedError
from covergraph.rules.enclosure.tails import Form, Ray
from covergraph.rules.enclosure.tape import Boxes, Tape

TOLERANCE = 1e-7
_FLOOR = 1e-13
_GROWTH = 2.0
_REACH = 2.0**26
_SPLITS = 3_000
_UNBOUNDED_SPLITS = 300
_BOXES = Boxes()


@dataclass(frozen=True)
class Region:
    """[lower, upper]; a ray (the part |t| >= start of it, to the end) if `is_ray`."""

    lower: float
    upper: float
    is_ray: bool = False

    @property
    def towards(self) -> int:
        """The sign of t on a ray."""
        return 1 if self.lower > 0 else -1

    @property
    def start(self) -> float:
        """The end next to 0, without its sign."""
        return min(abs(self.lower), abs(self.upper))

    @property
    def sample(self) -> float:
        """The start of a ray, the middle of an interval."""
        return self.towards * self.start if self.is_ray else self.lower + (self.upper - self.lower) / 2

    def split(self) -> tuple[Region, ...]:
        """Two halves of an interval; the near interval and the far ray of a ray."""
        if not self.is_ray:
            return Region(self.lower, self.sample), Region(self.sample, self.upper)
        cut = self.towards * _GROWTH * self.start
        if self.lower < cut < self.upper:
            near, far = Region(self.lower, cut), Region(cut, self.upper)
            near, far = (near, far) if self.towards > 0 else (far, near)
            return near, Region(far.lower, far.upper, is_ray=True)
        return (Region(self.lower, self.upper),)


class Curve:
    """f = phi^(order) on a piece where phi is one expression; all enclosures demand that phi is analytic."""

    def __init__(self, phi: sympy.Expr, order: int, symbol: sympy.Symbol) -> None:
        self.symbol = symbol
        self.function = sympy.diff(phi, symbol, order)
        self.slope = _cancelled(sympy.diff(self.function, symbol))
        self.rays: list[tuple[float, int]] = []
        self._signs: dict[tuple[float, int], int] = {}
        self._function_tape: Tape[Interval] = Tape([self.function, phi], symbol)
        self._both_tape: Tape[Interval] = Tape([self.function, self.slope, phi], symbol)
        self._ray_tape: Tape[Form] = Tape([self.function, phi], symbol)
        self._ray_slope_tape: Tape[Form] = Tape([self.slope], symbol)

    def on_box(self, region: Region) -> Interval:
        """An interval of all values of f on [lower, upper]."""
        x = (region.lower, region.upper)
        if x[0] == x[1]:
            return self._function_tape.run(_BOXES, x)[0]
        natural, slope, _ = self._both_tape.run(_BOXES, x)
        if slope[0] >= 0.0 or slope[1] <= 0.0 or self._is_monotone_on(region):
            ends = [self._function_tape.run(_BOXES, intervals.point(end))[0] for end in x]
            return intervals.intersect(natural, intervals.hull(*ends))
        middle = intervals.point(region.sample)
        centre = self._function_tape.run(_BOXES, middle)[0]
        offset = intervals.add(x, intervals.negate(middle))
        return intervals.intersect(natural, intervals.add(centre, intervals.multiply(slope, offset)))

    def _is_monotone_on(self, region: Region) -> bool:
        """True if f' keeps its sign on a ray around the region; not worth asking for wide regions."""
        if region.lower * region.upper <= 0.0 or region.upper - region.lower > 0.25 * region.start:
            return False
        for start, towards in self.rays:
            if towards == region.towards and start <= region.start and self.slope_sign(start, towards):
                return True
        return False

    def slope_sign(self, start: float, towards: int) -> int:
        """The sign of f' on the ray, 0 if it is not known; computed once."""
        if (start, towards) not in self._signs:
            ray = Ray(start, towards)
            try:
                self._signs[start, towards] = ray.sign(self._ray_slope_tape.run(ray, ray.variable)[0])
            except UndefinedError:
                self._signs[start, towards] = 0
        return self._signs[start, towards]

    def on_ray(self, region: Region) -> Interval:
        """An interval of all values of f beyond the start of the region."""
        ray = Ray(region.start, region.towards)
        values = ray.range(self._ray_tape.run(ray, ray.variable)[0])
        if values is None:
            raise UndefinedError("f may grow without bound")
        return values

    def limit(self, start: float, towards: int) -> tuple[int, sympy.Expr] | None:
        """The sign of f on the ray and the exact limit of |f| at its end, if both are known."""
        ray = Ray(start, towards)
        try:
            function = self._ray_tape.run(ray, ray.variable)[0]
            sign, limit = ray.sign(function), ray.limit(function)
        except UndefinedError:
            return None
        return None if sign == 0 or limit is None else (sign, sign * limit)

    def bounds(self, region: Region) -> Interval:
        """An interval of sup |f| over the region, [0, oo] if the enclosure fails."""
        upper = math.inf
        if not region.is_ray:
            with suppress(UndefinedError):
                upper = intervals.magnitude(self.on_box(region))[1]
        if region.is_ray:
            self.rays.append((region.start, region.towards))
        if region.is_ray or (upper == math.inf and region.lower * region.upper > 0.0):
            with suppress(UndefinedError):
                upper = min(upper, intervals.magnitude(self.on_ray(region))[1])
        return self._value_within(region), upper

    def _value_within(self, region: Region) -> float:
        """A lower bound of |f| at one point of the region."""
        try:
            return intervals.magnitude(self._function_tape.run(_BOXES, intervals.point(region.sample))[0])[0]
        except UndefinedError:
            return 0.0


def _cancelled(slope: sympy.Expr) -> sympy.Expr:
    """An algebraic slope over one denominator if its terms cancel there, which enclosures cannot see."""
    if slope.atoms(sympy.Function):
        return slope
    numerator, denominator = sympy.fraction(sympy.together(slope))
    return min((slope, sympy.expand(numerator) / denominator), key=sympy.count_ops)


@dataclass(frozen=True)
class Enclosure:
    """lower <= sup |f| <= upper, with the regions that were not better bounded."""

    lower: float
    upper: float
    regions: tuple[Region, ...]
    reach: float
    boxes: int


def ray_from(start: float, towards: int) -> Region:
    """All t beyond towards * start."""
    return Region(start, math.inf, True) if towards > 0 else Region(-math.inf, -start, True)


def initial_regions(lower: float, upper: float, unit: float = 1.0) -> list[Region]:
    """[lower, upper], cut at -unit and unit, with rays outside."""
    cuts = [lower, *(c for c in (-unit, unit) if lower < c < upper), upper]
    return [Region(a, b, is_ray=(a >= unit or b <= -unit)) for a, b in pairwise(cuts)]


def natural_unit(phi: sympy.Expr, symbol: sympy.Symbol) -> float:
    """A power of two on whose scale the arguments of the functions in phi vary by about 1."""
    arguments = [a.args[0] for a in phi.atoms(sympy.Function) if a.args[0].is_polynomial(symbol)]
    rates = [
        intervals.magnitude(intervals.constant(a.coeff(symbol)))[1] for a in map(sympy.expand, arguments)
    ]
    fastest = max(rates, default=0.0)
    return 2.0 ** -round(math.log2(fastest)) if 2.0**-20 < fastest < 2.0**20 else 1.0


def maximize(
    curve: Curve, regions: Sequence[Region], settled: Sequence[Region] = (), target: float | None = None
) -> Enclosure:
    """Splits the regions until sup |f| is known to the tolerance, or lies below the target.

    Regions inside a settled one are dropped. An upper end of oo means that no bound was found.
    """
    ticket = count()
    heap: list[tuple[float, int, Region]] = []
    lower, splits, unbounded, reach = 0.0, 0, 0, 1.0
    pending = list(regions)
    while True:
        for region in pending:
            if not any(s.lower <= region.lower and region.upper <= s.upper for s in settled):
                low, high = curve.bounds(region)
                lower = max(lower, low)
                heapq.heappush(heap, (-high, next(ticket), region))
        upper = -heap[0][0] if heap else 0.0
        goal = lower * (1.0 + TOLERANCE) + _FLOOR if target is None else target
        is_spent = splits >= _SPLITS or unbounded >= _UNBOUNDED_SPLITS
        if upper <= goal or is_spent or _is_hopeless(heap[0][2], upper):
            return Enclosure(lower, upper, tuple(region for _, _, region in heap), reach, splits)
        region = heapq.heappop(heap)[2]
        reach = max(reach, region.start * _GROWTH) if region.is_ray else reach
        pending = list(region.split())
        splits += 1
        unbounded += upper == math.inf


def _is_hopeless(region: Region, upper: float) -> bool:
    """No bound far out on a ray, or on an interval too small to split."""
    if region.is_ray:
        return region.start > _REACH
    smallest = 1e-12 if upper < math.inf else 1e-6
    return region.upper - region.lower <= smallest * max(1.0, region.start)
