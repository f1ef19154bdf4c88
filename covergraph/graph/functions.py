"""Element-wise functions as rows: a name, the symbolic expression, and the way to evaluate it.

The constants of a row (sup|phi'|, sup|phi''|) are never written here: they are derived from the expression by
`covergraph.rules.suprema` (Lemma 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import sympy
import torch
from torch import Tensor

from covergraph.errors import ParameterError

T = sympy.Symbol("t", real=True)


@dataclass(frozen=True)
class ScalarFunction:
    """A function phi: R -> R applied to every entry of an activation.

    `expression` is phi in the symbol `T`; `evaluate` computes it on tensors (any shape, twice differentiable
    by autograd) and is not part of the value's identity.
    """

    name: str
    expression: sympy.Expr
    evaluate: Callable[[Tensor], Tensor] = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        expression = sympy.sympify(self.expression)
        object.__setattr__(self, "expression", expression)
        if not expression.free_symbols <= {T}:
            raise ParameterError(
                f"function {self.name!r}: the expression {expression} has the symbols {expression.free_symbols}, "
                "expected covergraph.graph.functions.T alone (the real symbol t)"
            )

    def derivative(self, x: Tensor) -> Tensor:
        """phi'(x), entry by entry, same shape as x; itself differentiable."""
        x = x.contiguous()  # forward mode refuses expanded tensors
        return torch.func.jvp(self.evaluate, (x,), (torch.ones_like(x),))[1]

    @property
    def is_affine(self) -> bool:
        """True if phi is a polynomial of degree 1 at most, so that the derivative does not vary.

        A vanishing symbolic phi'' is not enough: it vanishes for kinks between straight pieces, too.
        """
        phi = self.expression
        return bool(phi.is_polynomial(T) and sympy.degree(phi, T) <= 1) if phi.has(T) else True

    def check(self) -> None:
        """Raise `ParameterError` unless `expression` and `evaluate` agree at some points, with their derivatives.

        Points at which the expression has no derivative are left out: what is not smooth is refused elsewhere.
        """
        points = [-9.3, -4.1, -2.2, -1.3, -0.7, -0.2, 0.1, 0.6, 1.1, 1.9, 3.7, 8.6]
        x = torch.tensor(points, dtype=torch.float64)
        try:
            computed = {"phi": self.evaluate(x), "phi'": self.derivative(x)}
            formulas = {"phi": self.expression, "phi'": sympy.diff(self.expression, T)}
        except (RuntimeError, RecursionError, TypeError, ValueError) as error:
            raise ParameterError(
                f"function {self.name!r}: it cannot be differentiated ({type(error).__name__}: {error}); expected an "
                "expression that sympy and an evaluate that torch.func.jvp can differentiate"
            ) from error
        for name, formula in formulas.items():
            for point, found in zip(points, computed[name].tolist(), strict=True):
                value = sympy.N(formula.subs(T, sympy.Float(point, 30)), 20)
                if value.is_real and abs(float(value) - found) > 1e-6 * (1 + abs(float(value))):
                    raise ParameterError(
                        f"function {self.name!r}: {name}({point}) is {found:.8g} by evaluate and {float(value):.8g} by "
                        f"the expression {self.expression}, expected the same; mend one of them"
                    )


def affine(scale: float, shift: float) -> ScalarFunction:
    """phi(t) = scale * t + shift, with fixed numbers (not parameters)."""

    def evaluate(x: Tensor) -> Tensor:
        return scale * x + shift

    a, b = (sympy.nsimplify(c, rational=True) for c in (scale, shift))
    return ScalarFunction(f"affine({scale:g}, {shift:g})", a * T + b, evaluate)


_F = torch.nn.functional
TANH = ScalarFunction("tanh", sympy.tanh(T), torch.tanh)
SIGMOID = ScalarFunction("sigmoid", 1 / (1 + sympy.exp(-T)), torch.sigmoid)
SOFTPLUS = ScalarFunction("softplus", sympy.log(1 + sympy.exp(T)), lambda x: _F.softplus(x, threshold=60.0))
GELU = ScalarFunction("gelu", T * (1 + sympy.erf(T / sympy.sqrt(2))) / 2, _F.gelu)
GELU_TANH = ScalarFunction(
    "gelu_tanh",
    T * (1 + sympy.tanh(sympy.sqrt(2 / sympy.pi) * (T + sympy.Rational(44715, 10**6) * T**3))) / 2,
    lambda x: _F.gelu(x, approximate="tanh"),
)
SILU = ScalarFunction("silu", T / (1 + sympy.exp(-T)), _F.silu)
ELU = ScalarFunction("elu", sympy.Piecewise((sympy.exp(T) - 1, T < 0), (T, True)), _F.elu)
SIN = ScalarFunction("sin", sympy.sin(T), torch.sin)
COS = ScalarFunction("cos", sympy.cos(T), torch.cos)
NEGATE = ScalarFunction("neg", -T, torch.neg)

ROWS: tuple[ScalarFunction, ...] = (TANH, SIGMOID, SOFTPLUS, GELU, GELU_TANH, SILU, ELU, SIN, COS, NEGATE)
