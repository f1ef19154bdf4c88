"""Functions that are written out become one function; what the formula would lose stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import sympy
import torch
from rewrites import Rows
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import (
    ACOS,
    ASIN,
    ATANH,
    EXP,
    LOG,
    MISH,
    RECIPROCAL,
    SINH,
    SQRT,
    SQUARE,
    power,
    quotient,
)
from covergraph.graph.functions import (
    GELU,
    GELU_TANH,
    SIGMOID,
    SILU,
    SIN,
    SOFTPLUS,
    TANH,
    ScalarFunction,
    T,
    affine,
)
from covergraph.graph.operation import Operation
from covergraph.passes.functions import LARGEST, recognize_functions
from covergraph.passes.prune import prune

Chain = Callable[[Rows], str]


def rows_with_input() -> Rows:
    rows = Rows()
    rows.input("x", 3)
    return rows


def recognized(build: Chain) -> tuple[Rows, str, ComputationGraph]:
    rows = rows_with_input()
    output = build(rows)
    return rows, output, prune(recognize_functions(rows.graph(output)))


def the_function(graph: ComputationGraph) -> ScalarFunction:
    """That of a graph which is an input and one function of it."""
    (_, node) = graph.nodes
    assert isinstance(node.operation, op.Elementwise)
    assert node.inputs == ("x",)
    return node.operation.function


def silu(rows: Rows) -> str:
    rows.row("s", SIGMOID, "x")
    return rows.add("y", op.Product(), "x", "s")


def silu_by_division(rows: Rows) -> str:
    rows.row("n", affine(-1, 0), "x")
    rows.row("e", EXP, "n")
    rows.row("d", affine(1, 1), "e")
    return rows.add("y", op.Divide(), "x", "d")


def mish(rows: Rows) -> str:
    rows.row("s", SOFTPLUS, "x")
    rows.row("t", TANH, "s")
    return rows.add("y", op.Product(), "x", "t")


def mish_turned(rows: Rows) -> str:
    rows.row("s", SOFTPLUS, "x")
    rows.row("t", TANH, "s")
    return rows.add("y", op.Product(), "t", "x")


def tanhshrink(rows: Rows) -> str:
    rows.row("t", TANH, "x")
    return rows.add("y", op.Subtract(), "x", "t")


KNOWN = {
    "silu": (silu, SILU),
    "silu by division": (silu_by_division, SILU),
    "mish": (mish, MISH),
    "mish turned": (mish_turned, MISH),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_functions_become_their_rows(case: str) -> None:
    build, row = KNOWN[case]
    rows, output, after = recognized(build)
    assert the_function(after) == row
    rows.assert_same(after, output)


def test_tanhshrink_by_its_formula() -> None:
    rows, output, after = recognized(tanhshrink)
    assert the_function(after).name == "tanhshrink"
    rows.assert_same(after, output)


def gelu_tanh(rows: Rows) -> str:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as GPT-2 writes it."""
    rows.row("half", affine(0.5, 0), "x")
    rows.row("cube", power(3.0), "x")
    rows.row("part", affine(0.044715, 0), "cube")
    rows.add("sum", op.Add(), "x", "part")
    rows.row("scaled", affine(math.sqrt(2 / math.pi), 0), "sum")
    rows.row("t", TANH, "scaled")
    rows.row("one", affine(1, 1), "t")
    return rows.add("y", op.Product(), "half", "one")


def test_a_written_gelu_is_one_function() -> None:
    """Its number sqrt(2/pi) is a float here: the value is that of the row to rounding, the name need not be."""
    rows, output, after = recognized(gelu_tanh)
    function = the_function(after)
    function.check()
    x = torch.linspace(-9, 9, 37, dtype=torch.float64)
    torch.testing.assert_close(function.evaluate(x), GELU_TANH.evaluate(x), rtol=1e-12, atol=1e-14)
    rows.assert_same(after, output)


def test_the_rows_of_gelu_are_kept_as_they_are() -> None:
    for row in (GELU, GELU_TANH):
        rows = rows_with_input()
        rows.row("y", row, "x")
        assert recognize_functions(rows.graph("y")) == rows.graph("y")


def unnamed(rows: Rows) -> str:
    """sin(x) exp(-x^2) - x / (1 + e^-x)."""
    rows.row("s", SIN, "x")
    rows.row("q", SQUARE, "x")
    rows.row("n", affine(-1, 0), "q")
    rows.row("e", EXP, "n")
    rows.add("p", op.Product(), "s", "e")
    rows.row("u", SILU, "x")
    return rows.add("y", op.Subtract(), "p", "u")


def test_evaluate_takes_the_steps() -> None:
    rows, output, after = recognized(unnamed)
    function = the_function(after)
    assert sympy.simplify(function.expression - (sympy.sin(T) * sympy.exp(-(T**2)) - T / (1 + sympy.exp(-T)))) == 0
    x = torch.linspace(-30, 30, 61, dtype=torch.float64)
    steps = torch.sin(x) * torch.exp(-torch.square(x)) - torch.nn.functional.silu(x)
    assert torch.equal(function.evaluate(x), steps)
    function.check()
    rows.assert_same(after, output)


def through(first: ScalarFunction, second: ScalarFunction) -> Chain:
    def build(rows: Rows) -> str:
        """second(first(x)) + x."""
        rows.row("a", first, "x")
        rows.row("b", second, "a")
        return rows.add("y", op.Add(), "b", "x")

    return build


def over(function: ScalarFunction, operation: Operation) -> Chain:
    def build(rows: Rows) -> str:
        rows.row("a", function, "x")
        return rows.add("y", operation, "x", "a")

    return build


UNDEFINED: dict[str, Chain] = {
    "exp(log)": through(LOG, EXP),
    "sin(asin)": through(ASIN, SIN),
    "cosine of acos": through(ACOS, ScalarFunction("cos", sympy.cos(T), torch.cos)),
    "square of sqrt": through(SQRT, SQUARE),
    "tanh(atanh)": through(ATANH, TANH),
    "1/(1/x)": through(RECIPROCAL, RECIPROCAL),
    "log(exp) of a root": through(power(0.5), power(2.0)),
    "x * (1/x)": over(quotient(1.0), op.Product()),
    "x / x^2": over(SQUARE, op.Divide()),
    "x / sin(x)": over(SIN, op.Divide()),
    "x / sinh(x)": over(SINH, op.Divide()),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_what_has_no_value_somewhere_stays(case: str) -> None:
    """exp(log(t)) = t as a formula, but NaN for t < 0: the formula would have a finite bound."""
    rows = rows_with_input()
    graph = rows.graph(UNDEFINED[case](rows))
    assert recognize_functions(graph) == graph


def powers(steps: int) -> Rows:
    """x -> tanh(x) x -> tanh(tanh(x) x) ...: `steps` nodes."""
    rows = rows_with_input()
    rows.row("n1", TANH, "x")
    for i in range(2, steps + 1):
        if i % 2:
            rows.row(f"n{i}", TANH, f"n{i - 1}")
        else:
            rows.add(f"n{i}", op.Product(), f"n{i - 1}", "x")
    return rows


def test_a_function_has_a_dozen_steps_at_most() -> None:
    """Without the cap, the formula of a recurrence doubles with every step."""
    assert LARGEST % 2 == 0
    rows = powers(LARGEST)
    assert len(recognize_functions(rows.graph(f"n{LARGEST}")).nodes) == LARGEST + 1
    assert len(prune(recognize_functions(rows.graph(f"n{LARGEST}")))) == 2
    longer = powers(LARGEST + 2)
    after = prune(recognize_functions(longer.graph(f"n{LARGEST + 2}")))
    assert len(after) > 2
    longer.assert_same(after, f"n{LARGEST + 2}")


def test_steps_that_others_read_stay() -> None:
    rows = rows_with_input()
    silu(rows)
    rows.add("z", op.Concatenate(0), "y", "s", shape=(6,))
    assert recognize_functions(rows.graph("z")) == rows.graph("z")


def test_squares_and_doubles_have_no_step_in_between() -> None:
    for operation in (op.Product(), op.Add()):
        rows = rows_with_input()
        rows.add("y", operation, "x", "x")
        assert recognize_functions(rows.graph("y")) == rows.graph("y")


def test_functions_of_two_nodes_stay() -> None:
    rows = rows_with_input()
    rows.input("z", 3)
    rows.row("s", SIGMOID, "x")
    rows.add("y", op.Product(), "z", "s")
    assert recognize_functions(rows.graph("y")) == rows.graph("y")


def test_the_function_can_be_differentiated_twice() -> None:
    _, _, after = recognized(unnamed)
    function = the_function(after)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)

    def second(value: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(function.evaluate(value).sum(), value, create_graph=True)
        (result,) = torch.autograd.grad(slope.sum(), value)
        return result

    curved = sympy.lambdify(T, sympy.diff(function.expression, T, 2), "math")
    expected = torch.tensor([curved(float(t)) for t in x.detach()], dtype=torch.float64)
    torch.testing.assert_close(second(x), expected, rtol=1e-9, atol=1e-9)
