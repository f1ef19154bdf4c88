"""Rules for element-wise functions, and for arithmetic of activations with each other and with numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from covergraph.graph import functions as rows
from covergraph.graph.functions import ScalarFunction, affine
from covergraph.graph.operations import Add, Elementwise, Operation, Product, Subtract
from covergraph.tracers.call import Call, Data, State, Step

Numbers = Callable[[float], tuple[float, float]]

BY_NAME = {row.name: row for row in (rows.TANH, rows.SIGMOID, rows.SILU, rows.SIN, rows.COS, rows.NEGATE)}


def elementwise(call: Call, row: ScalarFunction | None = None) -> Step:
    """phi(x) for a row; without one, the row of the call's own name."""
    return Step(Elementwise(row or BY_NAME[call.name]), (_first(call),))


def _first(call: Call) -> Data:
    return call.as_data(next(iter(call.arguments.values()), None))


def negate(call: Call) -> Step:
    """-x."""
    return elementwise(call, rows.NEGATE)


def gelu(call: Call) -> Step:
    """x Phi(x), or its approximation by tanh."""
    approximate = call.arguments.get("approximate", "none")
    return elementwise(call, rows.GELU_TANH if approximate == "tanh" else rows.GELU)


def softplus(call: Call) -> Step:
    """log(1 + e^x); torch switches to the identity above `threshold`, which is invisible from 20 on."""
    if call.number("beta", 1) != 1 or call.number("threshold", 20) < 20:
        raise call.refuse("has beta other than 1 or a threshold below 20", "use beta=1, threshold=20")
    return elementwise(call, rows.SOFTPLUS)


def elu(call: Call) -> Step:
    """ELU with alpha = 1; any other alpha has a kink at 0."""
    factors = [call.number(key, 1) for key in ("alpha", "scale", "input_scale")]
    if factors != [1, 1, 1]:
        raise call.refuse(f"has alpha, scale, input_scale {factors}, so a kink at 0", "use nn.ELU(alpha=1)")
    return elementwise(call, rows.ELU)


def add(call: Call) -> Step:
    """x + y, x + c, c + x."""
    return _binary(call, Add(), lambda c: (1.0, c), lambda c: (1.0, c))


def subtract(call: Call) -> Step:
    """x - y, x - c, c - x."""
    return _binary(call, Subtract(), lambda c: (1.0, -c), lambda c: (-1.0, c))


def rsub(call: Call) -> Step:
    """rsub(x, y) = y - x."""
    swapped = dict(call.arguments, input=call.arguments["other"], other=call.arguments["input"])
    return subtract(replace(call, arguments=swapped))


def multiply(call: Call) -> Step:
    """x * y of one shape, c * x, x * c."""
    return _binary(call, Product(), lambda c: (c, 0.0), lambda c: (c, 0.0))


def divide(call: Call) -> Step:
    """x / c; a division by an activation has no rule."""
    x, other = call.arguments["input"], call.arguments["other"]
    if isinstance(other, (Data, State)) or not isinstance(x, Data) or call.arguments.get("rounding_mode"):
        raise call.refuse("divides by a tensor or rounds", "divide by a number that is not 0")
    number = call.as_number(other)
    if number == 0:
        raise call.refuse("divides by 0", "divide by a number that is not 0")
    return Step(Elementwise(affine(1 / number, 0.0)), (call.as_data(x),))


def _binary(call: Call, operation: Operation, right: Numbers, left: Numbers) -> Step:
    """`operation` on two activations; with a number c to the right or left, the affine map that they give."""
    x, y = call.arguments["input"], call.arguments["other"]
    if call.number("alpha", 1) != 1:
        raise call.refuse(f"has alpha={call.arguments['alpha']}", "scale with a multiplication of its own")
    if isinstance(x, (Data, State)) and isinstance(y, (Data, State)):
        return _pair(call, operation, call.as_data(x), call.as_data(y))
    if isinstance(x, Data):
        return Step(Elementwise(affine(*right(call.as_number(y)))), (call.as_data(x),))
    return Step(Elementwise(affine(*left(call.as_number(x)))), (call.as_data(y),))


def _pair(call: Call, operation: Operation, x: Data, y: Data) -> Step:
    if x.shape != y.shape:
        raise call.refuse(
            f"broadcasts shapes {x.shape} and {y.shape} per sample, which is not supported yet",
            "give both operands one shape",
        )
    return Step(operation, (x, y))
