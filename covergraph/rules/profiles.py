"""The profile of an element-wise function: where it is smooth, and how fast its slope changes there (Lemma 12).

Let the entries of x and y lie in [-r, r] and at least rho/2 inside the same good intervals of phi. Then
||diag(phi'(x)) - diag(phi'(y))||_op <= L ||x - y||, where L = sup |phi''| over such numbers. Without kinks, and where
phi'' is bounded, L is the number of Lemma 5; rho is needed only where phi'' is unbounded next to a point, r only where
it is unbounded at infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph.kinks import Part, between, good_parts
from covergraph.rules.local import LocalSupremum, curvature_bound
from covergraph.rules.monotone import monotone_supremum
from covergraph.rules.pieces import Piece
from covergraph.rules.placeholders import RHO, radius
from covergraph.rules.suprema import Supremum, largest, on_piece, supremum

Interval = tuple[sympy.Expr, sympy.Expr]


@dataclass(frozen=True)
class Profile:
    """Where phi is good, and sup |phi''| there.

    Attributes:
        good: the largest open intervals on which phi is real and C^1 with a locally Lipschitz slope.
        points: their finite ends: kinks, jumps, poles, ends of the domain; none if phi is good on the line.
        curvature: sup |phi''(t)| over |t| <= radius(0), at least RHO/2 inside `good`. A number if phi'' is bounded.
        argument: where the curvature comes from, in words.
    """

    good: tuple[Interval, ...]
    points: tuple[sympy.Expr, ...]
    curvature: sympy.Expr
    argument: str


@lru_cache(maxsize=512)
def profile(expression: sympy.Expr) -> Profile:
    """The profile of phi, an expression in one real symbol.

    Raises:
        UnsupportedOperationError: the points are infinitely many or cannot be found, or phi'' cannot be bounded.
    """
    try:
        groups = good_parts(expression)
    except UnsupportedOperationError as error:
        return _smooth(expression, error)
    good = tuple((group[0].start, group[-1].end) for group in groups)
    points = sorted({end for ends in good for end in ends if end.is_finite}, key=float)
    found = [_on_part(part, ends, expression) for group, ends in zip(groups, good, strict=True) for part in group]
    curvature, argument = _together(expression, groups, found)
    return Profile(good, tuple(points), curvature, argument)


def _smooth(expression: sympy.Expr, error: UnsupportedOperationError) -> Profile:
    """The profile of a function that Lemma 5 proves smooth on the line though its singular points are not found."""
    try:
        found = supremum(expression, 2)
    except UnsupportedOperationError:
        raise error from None
    return Profile(((-sympy.oo, sympy.oo),), (), found.value, found.argument)


def _on_part(part: Part, ends: Interval, expression: sympy.Expr) -> Supremum | sympy.Expr | None:
    """sup |phi''| over a part: a number, a closed form in the placeholders, or None."""
    try:
        return on_piece(Piece(part.phi, part.start, part.end), 2, expression)
    except UnsupportedOperationError:
        return monotone_supremum(part, ends, radius(0), RHO / 2)


def _together(
    expression: sympy.Expr, groups: Sequence[Sequence[Part]], found: Sequence[Supremum | sympy.Expr | None]
) -> tuple[sympy.Expr, str]:
    """The largest of the parts' suprema, and the argument for it."""
    if None in found:
        return _local(expression, groups), "enclosed once the radius and the distance are numbers"
    numbers = [value for value in found if isinstance(value, Supremum)]
    if len(numbers) == len(found):
        pieces = [Piece(part.phi, part.start, part.end) for group in groups for part in group]
        top = largest(pieces, numbers)
        return top.value, top.argument
    values = [value.value if isinstance(value, Supremum) else value for value in found]
    return sympy.Max(*values), "phi''' keeps its sign between 0 and the ends, so |phi''| is largest at an end"


def _local(expression: sympy.Expr, groups: Sequence[Sequence[Part]]) -> LocalSupremum:
    """The supremum as a symbol with the placeholders that it needs; it is tried at some numbers first."""
    needs_radius = needs_distance = False
    for part in (part for group in groups for part in group):
        middle = between(part.start, part.end)
        for start, end, outer in ((part.start, middle, part.start), (middle, part.end, part.end)):
            if curvature_bound(Piece(part.phi, start, end)) == math.inf:
                needs_distance, needs_radius = needs_distance or outer.is_finite, needs_radius or not outer.is_finite
    found = LocalSupremum(
        expression, radius(0) if needs_radius else sympy.oo, RHO / 2 if needs_distance else sympy.S.Zero
    )
    if not sympy.N(found.xreplace({radius(0): _reach(groups), RHO: _depth(groups)})).is_finite:
        raise UnsupportedOperationError(
            f"phi = {expression}: no bound of |phi''| is found even away from its singular points; write it otherwise"
        )
    return found


def _ends(groups: Sequence[Sequence[Part]]) -> list[sympy.Expr]:
    return [end for group in groups for end in (group[0].start, group[-1].end) if end.is_finite]


def _reach(groups: Sequence[Sequence[Part]]) -> sympy.Expr:
    """A radius that reaches into every good interval."""
    return sympy.Max(0, *map(sympy.Abs, _ends(groups))) + 1


def _depth(groups: Sequence[Sequence[Part]]) -> sympy.Expr:
    """A level of the condition that leaves something of every good interval."""
    lengths = [group[-1].end - group[0].start for group in groups]
    return sympy.Min(1, *lengths) / 2
