"""Element-wise functions as rows: a name, the symbolic expression, and the way to evaluate it.

The constants of a row (sup|phi'|, sup|phi''|) are never written here: they are derived from the expression by
`covergraph.rules.suprema` (Lemma 5). Here are the type and the common smooth rows; the other rows, those with
parameters, and the tables by torch's names are in `covergraph.graph.function_rows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import sympy
import torch
from torch import Tensor

from covergraph.errors import ParameterError
from covergraph.graph import slopes
from covergraph.graph.forward import pushed
from covergraph.rounding import SLOPE, UNDERFLOW, UNIT

T = sympy.Symbol("t", real=True)


@dataclass(frozen=True)
class ScalarFunction:
    """A function phi: R -> R applied to every entry of an activation.

    `expression` is phi in the symbol `T`; `evaluate` computes it on tensors (any shape, twice differentiable
    by autograd), `slope` its derivative where autograd's form of it cancels; both are not part of the value's
    identity. `steady`: the slope has a relative error of 64 units alone. `loss`: a bound of what it loses where
    that may be more than what is assumed of rows.
    """

    name: str
    expression: sympy.Expr
    evaluate: Callable[[Tensor], Tensor] = field(compare=False, repr=False)
    slope: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)
    steady: bool = field(default=False, compare=False, repr=False)
    loss: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        expression = sympy.sympify(self.expression)
        object.__setattr__(self, "expression", expression)
        if not expression.free_symbols <= {T}:
            raise ParameterError(
                f"function {self.name!r}: the expression {expression} has the symbols {expression.free_symbols}, "
                "expected covergraph.graph.functions.T alone (the real symbol t)"
            )

    def derivative(self, x: Tensor) -> Tensor:
        """phi'(x), entry by entry, same shape as x; itself differentiable.

        At break points where phi is C^1 it is that of the symbolic pieces (`joints`): autograd, which differentiates
        the steps of `evaluate` one by one, has there the convention of an inner kink.
        """
        from covergraph.graph.joints import joints, smoothed

        constant = _constant_slope(self.expression)
        if constant is not None:
            return torch.full_like(x, constant)
        x = x.contiguous()  # forward mode refuses expanded tensors
        found = self.slope(x) if self.slope else pushed(self.evaluate, (x,), (torch.ones_like(x),))
        return smoothed(x, found, joints(self.expression))

    def slope_error(self, x: Tensor, slope: Tensor) -> Tensor:
        """Bound of |slope - phi'(x)| for the computed `slope` = derivative(x), entry by entry, in double precision.

        Two roundings of a constant between straight pieces, if it is no sum; else what is assumed of rows: SLOPE, and
        of composed functions `loss`. Around joints what their expansion leaves.
        """
        from covergraph.graph.joints import beyond, joints, remainder

        single = self.slope is None and _is_straight(self.expression)
        if single or _constant_slope(self.expression) is not None:
            return 2 * UNIT * slope.abs()
        relative, absolute, far = SLOPE
        found = joints(self.expression)
        left = remainder(x, found) + UNIT * relative * slope.abs() + UNDERFLOW
        if self.loss is not None:
            left = left + beyond(x, found, self.loss(x))
        return left if self.steady else left + UNIT * torch.where(x.abs() < far, absolute, 0.0)

    @property
    def is_affine(self) -> bool:
        """True if phi is a polynomial of degree 1 at most, so that the derivative does not vary.

        A vanishing symbolic phi'' is not enough: it vanishes for kinks between straight pieces, too.
        """
        return _constant_slope(self.expression) is not None

    def check(self) -> None:
        """Raise `ParameterError` unless `expression` and `evaluate` agree at some points, with their derivatives.

        Where the expression is not a real number (log at -1), `evaluate` must not be finite. Points at which the
        expression has no derivative are left out: what is not smooth is refused elsewhere.
        """
        # Odd digits, so that no kink of a usual function is among them.
        points = [-9.3171, -4.1093, -2.2381, -1.3069, -0.7013, -0.2239, 0.1171, 0.6053, 1.1287, 1.9141, 3.7189, 8.6311]
        x = torch.tensor(points, dtype=torch.float64)
        try:
            computed = {"phi": self.evaluate(x), "phi'": self.derivative(x)}
            formulas = {"phi": self.expression, "phi'": _slope(self.expression)}
        except (RuntimeError, RecursionError, TypeError, ValueError) as error:
            raise ParameterError(
                f"function {self.name!r}: it cannot be differentiated ({type(error).__name__}: {error}); expected an "
                "expression that sympy and an evaluate that torch.func.jvp can differentiate"
            ) from error
        undefined = {p for p in points if _value(self.expression, p).is_real is False}
        for name, formula in formulas.items():
            for point, found in zip(points, computed[name].tolist(), strict=True):
                value = _value(formula, point)
                if not _agree(value, found) and not (name == "phi'" and point in undefined):
                    raise ParameterError(
                        f"function {self.name!r}: {name}({point}) is {found:.8g} by evaluate and {sympy.N(value, 8)} "
                        f"by the expression {self.expression}, expected the same; mend one of them"
                    )


@cache
def _constant_slope(expression: sympy.Expr) -> float | None:
    """phi' if phi is a polynomial of degree 1 at most: exact where steps cancel, as in (t + ct) - t."""
    if not expression.has(T):
        return 0.0
    if not expression.is_polynomial(T) or sympy.degree(expression, T) > 1:
        return None
    return float(sympy.diff(expression, T))


@cache
def _is_straight(expression: sympy.Expr) -> bool:
    """True if it is seen that phi' is constant between finitely many kinks and jumps."""
    if not expression.has(T) or expression == T:
        return True
    pieces = (sympy.Max, sympy.Min, sympy.Abs, sympy.sign, sympy.Piecewise, sympy.floor, sympy.ceiling)
    varying = [part for part in expression.args if part.has(T)]
    if isinstance(expression, (sympy.Add, *pieces, sympy.functions.elementary.piecewise.ExprCondPair)):
        return all(isinstance(part, sympy.logic.boolalg.Boolean) or _is_straight(part) for part in varying)
    return isinstance(expression, sympy.Mul) and len(varying) == 1 and _is_straight(varying[0])


def _slope(expression: sympy.Expr) -> sympy.Expr:
    """phi' where floors and ceilings do not jump; sympy keeps their derivatives as symbols."""
    steps = {step: sympy.Dummy(real=True) for step in expression.atoms(sympy.floor, sympy.ceiling)}
    slope = sympy.diff(expression.xreplace(steps), T)
    return slope.xreplace({dummy: step for step, dummy in steps.items()})


def _value(formula: sympy.Expr, point: float) -> sympy.Expr:
    return sympy.N(formula.subs(T, sympy.Float(point, 30)), 20, chop=True)


def _agree(value: sympy.Expr, found: float) -> bool:
    """A real value must be found, one that is not real must not; if sympy cannot tell, nothing is compared."""
    if not value.is_real:
        return value.is_real is None or not math.isfinite(found)
    expected = float(value)
    return expected == found or abs(expected - found) <= 1e-6 * (1 + abs(expected))


def exact(number: float) -> sympy.Rational:
    """The rational number that the float prints as: 0.1 is 1/10. Raises `ParameterError` if it is not finite."""
    if not math.isfinite(number):
        raise ParameterError(f"the number {number} is in an element-wise function, expected a finite one; replace it")
    return sympy.Rational(repr(float(number)))


@cache
def affine(scale: float, shift: float) -> ScalarFunction:
    """phi(t) = scale * t + shift, with fixed numbers (not parameters)."""

    evaluate = partial(_affine, scale=scale, shift=shift)
    return ScalarFunction(f"affine({scale:g}, {shift:g})", exact(scale) * T + exact(shift), evaluate)


def _affine(x: Tensor, scale: float, shift: float) -> Tensor:
    return scale * x + shift


_F = torch.nn.functional
TANH = ScalarFunction("tanh", sympy.tanh(T), torch.tanh, slopes.tanh, True)
SIGMOID = ScalarFunction("sigmoid", 1 / (1 + sympy.exp(-T)), torch.sigmoid, slopes.sigmoid, True)
SOFTPLUS = ScalarFunction(
    "softplus", sympy.log(1 + sympy.exp(T)), partial(_F.softplus, threshold=60.0), slopes.softplus, True
)
GELU = ScalarFunction("gelu", T * (1 + sympy.erf(T / sympy.sqrt(2))) / 2, _F.gelu, slopes.gelu)
GELU_TANH = ScalarFunction(
    "gelu_tanh",
    T * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (T + sympy.Rational(44715, 10**6) * T**3))) / 2,
    partial(_F.gelu, approximate="tanh"),
    slopes.gelu_tanh,
)
SILU = ScalarFunction("silu", T / (1 + sympy.exp(-T)), _F.silu, slopes.silu)
ELU = ScalarFunction("elu", sympy.Piecewise((sympy.exp(T) - 1, T < 0), (T, True)), _F.elu, slopes.elu, True)
SIN = ScalarFunction("sin", sympy.sin(T), torch.sin)
COS = ScalarFunction("cos", sympy.cos(T), torch.cos)
NEGATE = ScalarFunction("neg", -T, torch.neg)

ROWS: tuple[ScalarFunction, ...] = (TANH, SIGMOID, SOFTPLUS, GELU, GELU_TANH, SILU, ELU, SIN, COS, NEGATE)
