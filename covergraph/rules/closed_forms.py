"""Closed forms of sup |f|, proposed by sympy and proved by enclosures (Lemma 5).

Candidates are ends of the piece, 0, zeros of linear arguments, roots of f' where it is algebraic in t or in
y = e^(ct), extrema of sin and cos, and limits at infinity. They may be incomplete: a value M = |f(t_i)| is
accepted only if |f| <= M is proved near each t_i (where f'(t_i) = 0 and |f| is concave, or t_i is an end or
infinity and |f| rises towards it) and |f| < M is proved by branch and bound everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import sympy

from covergraph.rules.enclosure import intervals
from covergraph.rules.enclosure.intervals import Interval, UndefinedError
from covergraph.rules.enclosure.search import Curve, Enclosure, Region, maximize, ray_from
from covergraph.rules.enclosure.tape import Boxes, Tape
from covergraph.rules.pieces import Piece

Y, Z = sympy.symbols("y z", positive=True)
# Beyond these numbers of operations sympy may take minutes; a certified number is as good.
_HIGHEST_DEGREE = 12
_LARGEST_SLOPE = 40
_LARGEST_VALUE = 100
_SMALLEST_NEIGHBORHOOD = 2.0**-20


@dataclass(frozen=True)
class Maximizer:
    """A place where |f| may take its supremum `value`, and a region on which |f| <= value is proved."""

    place: str
    value: sympy.Expr
    region: Region


@dataclass(frozen=True)
class ClosedForm:
    """M = sup |f|, and where it is taken in words."""

    value: sympy.Expr
    place: str


def closed_form(curve: Curve, piece: Piece, enclosure: Enclosure) -> ClosedForm | None:
    """sup |f| over the piece as an exact number with a proof, or None."""
    try:
        return _proved(curve, piece, enclosure)
    except UndefinedError:  # a candidate whose number no interval can hold
        return None


def _proved(curve: Curve, piece: Piece, enclosure: Enclosure) -> ClosedForm | None:
    found = [*_at_points(curve, piece, enclosure), *_at_infinity(curve, piece, enclosure)]
    if not found:
        return None
    value = min((m.value for m in found), key=sympy.count_ops)
    if any(sympy.expand(sympy.radsimp(m.value - value)) != 0 for m in found):
        return None
    target = math.nextafter(intervals.constant(value)[0], -math.inf)
    if maximize(curve, enclosure.regions, [m.region for m in found], target).upper > target:
        return None
    return ClosedForm(value, " and ".join(m.place for m in found))


def _at_points(curve: Curve, piece: Piece, enclosure: Enclosure) -> Iterator[Maximizer]:
    tape: Tape[Interval] = Tape([curve.function], curve.symbol)
    low, high = piece.ends()
    seen: set[float] = set()
    for point in _candidates(curve, piece):
        x = intervals.constant(point)
        if round(x[0], 9) in seen or x[1] < low or x[0] > high:
            continue
        seen.add(round(x[0], 9))
        try:
            size = intervals.magnitude(tape.run(Boxes(), x)[0])
        except UndefinedError:
            continue
        region = _neighborhood(curve, piece, point) if _may_be_largest(size, enclosure) else None
        if region is not None:
            value = _at(curve.function, curve.symbol, point)
            yield Maximizer(f"t = {point}", -value if value.is_negative else value, region)


def _at_infinity(curve: Curve, piece: Piece, enclosure: Enclosure) -> Iterator[Maximizer]:
    """The longest rays on which |f| is proved to rise to its limit."""
    for towards, end in ((-1, piece.start), (1, piece.end)):
        if not end.is_finite:
            for start in sorted({start for start, side in curve.rays if side == towards}):
                found = curve.limit(start, towards)
                if found is None or not _may_be_largest(intervals.constant(found[1]), enclosure):
                    continue
                if found[0] * curve.slope_sign(start, towards) * towards > 0:
                    yield Maximizer(f"t -> {end}", found[1], ray_from(start, towards))
                    break


def _may_be_largest(size: Interval, enclosure: Enclosure) -> bool:
    return size[1] >= enclosure.lower * (1.0 - 1e-12) and size[0] <= enclosure.upper * (1.0 + 1e-12)


def _candidates(curve: Curve, piece: Piece) -> Iterator[sympy.Expr]:
    t = curve.symbol
    yield from (end for end in (piece.start, piece.end) if end.is_finite)
    yield sympy.S.Zero
    for atom in sorted(curve.slope.atoms(sympy.Function), key=str):
        rate = sympy.diff(atom.args[0], t)
        if rate != 0 and not rate.has(t):
            center = -sympy.expand(atom.args[0] - rate * t) / rate
            quarters = range(-8, 9) if isinstance(atom, sympy.sin | sympy.cos) else (0,)
            yield from (center + k * sympy.pi / (4 * rate) for k in quarters)
    yield from _roots(curve)


def _roots(curve: Curve) -> Iterator[sympy.Expr]:
    """Real zeros of f' if it is rational in t or in Y = e^(ct), or a polynomial in t times an exponential."""
    t = curve.symbol
    slope, rate = _in_exponentials(curve.slope, t)
    bells = slope.atoms(sympy.exp)
    if (
        len(slope.atoms(sympy.Function)) > len(bells)
        or len(bells) > 1
        or sympy.count_ops(slope) > _LARGEST_SLOPE
    ):
        return
    for bell in bells:
        slope = slope.xreplace({bell: Z})
        slope = sympy.expand(slope / Z) if slope.is_polynomial(Z) else slope
    if len(slope.free_symbols) != 1:
        return
    numerator = sympy.fraction(sympy.together(slope))[0]
    (symbol,) = slope.free_symbols
    if numerator.is_polynomial(symbol) and sympy.degree(numerator, symbol) <= _HIGHEST_DEGREE:
        roots = _real_roots(sympy.Poly(numerator, symbol))
        yield from (r if symbol == t else sympy.log(r) / rate for r in roots if symbol == t or r > 0)


def _real_roots(polynomial: sympy.Poly) -> list[sympy.Expr]:
    """The real roots of factors of degree at most 2, or of degree 4 and even: square roots express them."""
    monic = polynomial.monic()
    factors = [f for f, _ in monic.factor_list()[1]] if monic.domain in (sympy.ZZ, sympy.QQ) else [monic]
    solvable = (
        f
        for f in factors
        if f.degree() <= 2 or (f.degree() == 4 and f.compose(sympy.Poly(-f.gen, f.gen)) == f)
    )
    return sorted((r for f in solvable for r in sympy.roots(f) if r.is_real), key=float)


def _in_exponentials(expression: sympy.Expr, t: sympy.Symbol) -> tuple[sympy.Expr, sympy.Expr]:
    """The expression with Y for e^(ct), where c is the greatest common divisor of the rates; and c."""
    u = sympy.Wild("u")
    exponential = expression.replace(sympy.tanh(u), lambda u: 1 - 2 / (sympy.exp(2 * u) + 1))
    rates = {a: sympy.diff(a.exp, t) for a in exponential.atoms(sympy.exp)}
    rates = {a: r for a, r in rates.items() if not r.has(t)}
    rate = reduce(sympy.gcd, rates.values(), sympy.S.Zero) or sympy.S.One
    known = {a: sympy.exp(sympy.expand(a.exp - r * t)) * Y ** (r / rate) for a, r in rates.items()}
    return exponential.xreplace(known), rate


def _at(expression: sympy.Expr, t: sympy.Symbol, point: sympy.Expr) -> sympy.Expr:
    """The value at an algebraic or logarithmic point, in the shorter of two forms."""
    function, rate = _in_exponentials(expression, t)
    place = {Y: sympy.exp(rate * point), t: point}
    value = function.subs(place)
    if sympy.count_ops(value) > _LARGEST_VALUE:
        return value
    numerator, denominator = sympy.fraction(sympy.together(function))
    quotient = sympy.expand(numerator.subs(place)) / sympy.expand(denominator.subs(place))
    return min((value, sympy.radsimp(quotient)), key=sympy.count_ops)


def _neighborhood(curve: Curve, piece: Piece, point: sympy.Expr) -> Region | None:
    """An interval around the point on which |f| <= |f(point)| is proved."""
    at = intervals.constant(point)
    tape: Tape[Interval] = Tape([curve.function], curve.symbol)
    sign = 1 if tape.run(Boxes(), at)[0][0] > 0.0 else -1
    if point in (piece.start, piece.end):
        inwards = 1 if point == piece.start else -1
        return _shrink(curve, at, sign, -inwards * curve.slope)
    if _at(curve.slope, curve.symbol, point) != 0:
        return None
    return _shrink(curve, at, sign, -sympy.diff(curve.slope, curve.symbol))


def _shrink(curve: Curve, at: Interval, sign: int, g: sympy.Expr) -> Region | None:
    """The largest interval of radius 1/2, 1/4, ... about a point on which sign * g > 0 and sign * f > 0."""
    tape: Tape[Interval] = Tape([sign * g, sign * curve.function], curve.symbol)
    radius = 0.5
    while radius > _SMALLEST_NEIGHBORHOOD:
        region = Region(at[0] - radius, at[1] + radius)
        try:
            if all(value[0] > 0.0 for value in tape.run(Boxes(), (region.lower, region.upper))):
                return region
        except UndefinedError:
            pass
        radius /= 2
    return None
