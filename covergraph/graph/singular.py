"""Where is an expression of one real variable singular? The zeros of what stands in logarithms and in powers.

A function built from exp, log, tanh, erf, atan, sin, cos, sums, products and powers is analytic wherever the argument
of every logarithm, and of every power that is no polynomial, is not 0. Zeros are found only where all of them can be.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph.functions import T

_INCREASING = {
    sympy.exp: sympy.log,
    sympy.log: sympy.exp,
    sympy.tanh: sympy.atanh,
    sympy.erf: sympy.erfinv,
    sympy.atan: sympy.tan,
}
_ENTIRE = (sympy.exp, sympy.tanh, sympy.erf, sympy.atan, sympy.sin, sympy.cos)
_HIGHEST_DEGREE = 12
_DIGITS = 50


def normalized(expression: sympy.Expr) -> sympy.Expr:
    """phi in the symbol `T`, with rational numbers, without inverse and hyperbolic functions other than tanh, atan.

    Floats are read as the decimal numbers that they print. Raises `UnsupportedOperationError` for several symbols.
    """
    if len(expression.free_symbols) > 1:
        raise UnsupportedOperationError(f"phi = {expression} has several symbols; it must have one")
    phi = sympy.sympify(expression).subs(dict.fromkeys(expression.free_symbols, T))
    phi = phi.xreplace({x: sympy.Rational(repr(float(x))) for x in phi.atoms(sympy.Float)})
    phi = phi.rewrite([sympy.sinh, sympy.cosh, sympy.sech, sympy.csch, sympy.coth], sympy.exp)
    phi = phi.replace(sympy.acos, lambda u: sympy.pi / 2 - sympy.asin(u))
    phi = phi.replace(sympy.asin, lambda u: sympy.atan(u / sympy.sqrt(1 - u**2)))  # on |u| < 1
    phi = phi.rewrite([sympy.asinh, sympy.acosh, sympy.atanh], sympy.log)
    return phi.rewrite([sympy.tan, sympy.cot, sympy.sec, sympy.csc], sympy.cos).rewrite(sympy.erfc, sympy.erf)


def singular_points(phi: sympy.Expr) -> set[sympy.Expr]:
    """The points of the line where an expression without cases may fail to be analytic; it is analytic elsewhere.

    Raises `UnsupportedOperationError` if there are infinitely many, or if they cannot be found.
    """
    points: set[sympy.Expr] = set()
    for argument, _ in _critical_arguments(phi):
        points |= _zeros(argument)
    return points


def is_real(phi: sympy.Expr, point: sympy.Expr) -> bool:
    """True if phi is a real number at a point that is not singular."""
    values = ((u.subs(T, point).evalf(_DIGITS), positive) for u, positive in _critical_arguments(phi))
    return all(value.is_real and (value > 0 or not positive) for value, positive in values)


def _critical_arguments(phi: sympy.Expr) -> Iterator[tuple[sympy.Expr, bool]]:
    """What must not be 0, and whether it must be positive, too."""
    for node in sympy.postorder_traversal(phi):
        if not node.has(T) or node == T or isinstance(node, (sympy.Add, sympy.Mul, *_ENTIRE)):
            continue
        if isinstance(node, sympy.log):
            yield node.args[0], True
        elif isinstance(node, sympy.Pow):
            if not node.exp.is_Integer:
                yield node.base, True
            elif node.exp < 0:
                yield node.base, False
        else:
            raise _unsupported(node)


def _unsupported(node: sympy.Basic) -> UnsupportedOperationError:
    name = type(node).__name__
    if isinstance(node, (sympy.floor, sympy.ceiling)):
        return UnsupportedOperationError(
            f"{name!r} jumps at infinitely many points, whose distance no condition bounds; use a continuous function"
        )
    known = ", ".join(f.__name__ for f in (*_ENTIRE, sympy.log))
    return UnsupportedOperationError(
        f"it is not known where {name!r} is singular; {known}, sums, products, powers and what sympy rewrites into "
        "these are supported"
    )


def _zeros(u: sympy.Expr) -> set[sympy.Expr]:
    """All real zeros of u where u is defined; poles and ends of its domain are not among them."""
    if not u.has(T) or u.is_positive or u.is_negative:
        return set()
    found = _zeros_by_form(u)
    if found is None:
        raise UnsupportedOperationError(
            f"the points where {u} is 0 cannot be found, or are infinitely many; use a function whose singular points "
            "are zeros of polynomials"
        )
    return {point for point in found if _is_zero(u, point)}


def _zeros_by_form(u: sympy.Expr) -> set[sympy.Expr] | None:
    if u.is_polynomial(T):
        return _polynomial_zeros(u)
    if isinstance(u, sympy.Mul):
        return set().union(*map(_zeros, u.args))
    if isinstance(u, sympy.Pow):
        return _zeros(u.base) if u.exp.is_positive else set() if u.exp.is_number or u.base.is_positive else None
    if type(u) in (sympy.tanh, sympy.erf, sympy.atan):
        return _zeros(u.args[0])
    if isinstance(u, sympy.log):
        return _zeros(u.args[0] - 1)
    return _zeros_of_sum(u) if isinstance(u, sympy.Add) else None


def _polynomial_zeros(u: sympy.Expr) -> set[sympy.Expr] | None:
    polynomial = sympy.Poly(u, T)
    if polynomial.degree() <= 0:
        return None if polynomial.is_zero else set()
    if polynomial.degree() == 1:
        slope, shift = polynomial.all_coeffs()
        return {-shift / slope}
    if polynomial.domain not in (sympy.ZZ, sympy.QQ) or polynomial.degree() > _HIGHEST_DEGREE:
        return None
    return set(sympy.real_roots(polynomial))


def _zeros_of_sum(u: sympy.Add) -> set[sympy.Expr] | None:
    numerator, denominator = sympy.fraction(sympy.together(u))
    if denominator.has(T):
        return _zeros(numerator)
    shift, rest = u.as_independent(T, as_Add=True)
    factor, function = rest.as_independent(T, as_Add=False)
    if type(function) in _INCREASING:
        level = _INCREASING[type(function)](-shift / factor)
        return _zeros(function.args[0] - level) if level.is_real and level.is_finite else set()
    roots = [term for term in u.args if any(p.exp.is_Rational for p in term.atoms(sympy.Pow) if not p.exp.is_Integer)]
    if len(roots) == 1:  # a + b = 0 only where a^2 = b^2, which has no square roots
        squared = sympy.expand((u - roots[0]) ** 2 - roots[0] ** 2)
        return _zeros(squared) if squared.is_polynomial(T) and squared != 0 else None
    return None


def _is_zero(u: sympy.Expr, point: sympy.Expr) -> bool:
    """False only if u is not 0 at the point."""
    value = u.subs(T, point).evalf(_DIGITS)
    return bool(not value.is_number or not value.is_finite or abs(value) < sympy.Float(10) ** (-_DIGITS // 2))
