"""Rows of element-wise functions: against pencil-and-paper formulas, torch's modules, autograd, and the rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covergraph.errors import ParameterError, UnsupportedOperationError
from covergraph.graph import function_rows as rows
from covergraph.graph.function_rows import PARAMETRIC, UNARY
from covergraph.graph.functions import ELU, GELU, GELU_TANH, ROWS, SOFTPLUS, ScalarFunction, T, affine, exact
from covergraph.graph.operations import Elementwise
from covergraph.rules.smoothness import curvature
from covergraph.rules.suprema import supremum

Formula = Callable[[float], float]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def sigma(t: float) -> float:
    return 1 / (1 + math.exp(-t))


def clip(t: float, low: float, high: float) -> float:
    return min(max(t, low), high)


def whole(t: float) -> float:
    return float(math.trunc(t))


UNARY_FORMULAS: dict[str, Formula] = {
    "relu": lambda t: t if t > 0 else 0.0,
    "abs": abs,
    "hardswish": lambda t: t * clip(t + 3, 0, 6) / 6,
    "hardsigmoid": lambda t: clip(t + 3, 0, 6) / 6,
    "selu": lambda t: SELU_SCALE * (t if t > 0 else SELU_ALPHA * math.expm1(t)),
    "sign": lambda t: float((t > 0) - (t < 0)),
    "floor": lambda t: float(math.floor(t)),
    "ceil": lambda t: float(math.ceil(t)),
    "trunc": whole,
    "frac": lambda t: t - whole(t),
    "round": lambda t: float(round(t)),
    "tanh": math.tanh,
    "sigmoid": sigma,
    "silu": lambda t: t * sigma(t),
    "sin": math.sin,
    "cos": math.cos,
    "neg": lambda t: -t,
    "mish": lambda t: t * math.tanh(math.log1p(math.exp(t))),
    "logsigmoid": lambda t: -math.log1p(math.exp(-t)),
    "tanhshrink": lambda t: t - math.tanh(t),
    "softsign": lambda t: t / (1 + abs(t)),
    "erf": math.erf,
    "erfc": math.erfc,
    "ndtr": lambda t: math.erfc(-t / math.sqrt(2)) / 2,
    "atan": math.atan,
    "asinh": math.asinh,
    "sinc": lambda t: math.sin(math.pi * t) / (math.pi * t) if t else 1.0,
    "square": lambda t: t * t,
    "exp": math.exp,
    "exp2": lambda t: 2.0**t,
    "expm1": math.expm1,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "log": math.log,
    "log1p": math.log1p,
    "log2": math.log2,
    "log10": math.log10,
    "logit": lambda t: math.log(t / (1 - t)),
    "sqrt": math.sqrt,
    "rsqrt": lambda t: 1 / math.sqrt(t),
    "reciprocal": lambda t: 1 / t,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atanh": math.atanh,
    "acosh": math.acosh,
}
OTHER_NAMES = {"special_expit": "sigmoid", "log_sigmoid": "logsigmoid", "sgn": "sign"}

BUILT: list[tuple[str, ScalarFunction, Formula]] = [
    ("leaky_relu(0.01)", rows.leaky_relu(0.01), lambda t: t if t > 0 else 0.01 * t),
    ("leaky_relu(0.2)", rows.leaky_relu(0.2), lambda t: max(t, 0.2 * t)),
    ("leaky_relu(-1)", rows.leaky_relu(-1), abs),
    ("leaky_relu(0.25)", rows.rrelu(0.125, 0.375), lambda t: max(t, 0.25 * t)),
    ("clamp(0, 6)", rows.hardtanh(0.0, 6.0), lambda t: clip(t, 0, 6)),
    ("clamp(-1, 1)", rows.hardtanh(), lambda t: clip(t, -1, 1)),
    ("clamp(-0.3, 1.7)", rows.clamp(-0.3, 1.7), lambda t: clip(t, -0.3, 1.7)),
    ("clamp(0.5, None)", rows.clamp_min(0.5), lambda t: max(t, 0.5)),
    ("clamp(None, 6)", rows.clamp_max(6), lambda t: min(t, 6.0)),
    ("clamp(5, 3)", rows.clamp(5, 3), lambda t: 3.0),
    ("threshold(0.1, 2)", rows.threshold(0.1, 2), lambda t: t if t > 0.1 else 2.0),
    ("threshold(0.5, 0.5)", rows.threshold(0.5, 0.5), lambda t: max(t, 0.5)),
    ("softshrink(0.5)", rows.softshrink(), lambda t: t - clip(t, -0.5, 0.5)),
    ("softshrink(0)", rows.softshrink(0), lambda t: t),
    ("hardshrink(0.5)", rows.hardshrink(), lambda t: t if abs(t) > 0.5 else 0.0),
    ("hardshrink(0)", rows.hardshrink(0), lambda t: t),
    ("elu(2)", rows.elu(2), lambda t: t if t > 0 else 2 * math.expm1(t)),
    ("elu(0.5, 3, 2)", rows.elu(0.5, 3, 2), lambda t: 3 * (t if t > 0 else 0.5 * math.expm1(2 * t))),
    ("celu(1)", rows.celu(), lambda t: t if t > 0 else math.expm1(t)),
    ("celu(0.5)", rows.celu(0.5), lambda t: t if t > 0 else 0.5 * math.expm1(2 * t)),
    ("softplus", rows.softplus(), lambda t: math.log1p(math.exp(t))),
    ("softplus(2, 30)", rows.softplus(2, 30), lambda t: math.log1p(math.exp(2 * t)) / 2),
    ("softplus(2, 4)", rows.softplus(2, 4), lambda t: t if t > 2 else math.log1p(math.exp(2 * t)) / 2),
    ("gelu", rows.gelu(), lambda t: t * math.erfc(-t / math.sqrt(2)) / 2),
    ("gelu_tanh", rows.gelu("tanh"), lambda t: t * sigma(math.sqrt(8 / math.pi) * (t + 0.044715 * t**3))),
    ("pow(0)", rows.power(0), lambda t: 1.0),
    ("pow(1)", rows.power(1), lambda t: t),
    ("pow(2)", rows.power(2), lambda t: t * t),
    ("pow(3)", rows.power(3.0), lambda t: t * t * t),
    ("pow(-1)", rows.power(-1), lambda t: 1 / t),
    ("pow(-0.5)", rows.power(-0.5), lambda t: 1 / math.sqrt(t)),
    ("pow(2.5)", rows.power(2.5), lambda t: t * t * math.sqrt(t)),
    ("pow(0.3333333333333333)", rows.power(1 / 3), lambda t: math.exp(math.log(t) / 3) if t else 0.0),
    ("pow(2, t)", rows.exponential(2), lambda t: 2.0**t),
    ("pow(0.1, t)", rows.exponential(0.1), lambda t: 0.1**t),
    ("div(2.5, t)", rows.quotient(2.5), lambda t: 2.5 / t),
    ("affine(0.1, -2)", affine(0.1, -2), lambda t: 0.1 * t - 2),
]
EVERY = {name: (UNARY[name], formula) for name, formula in UNARY_FORMULAS.items()}
EVERY |= {name: (row, formula) for name, row, formula in BUILT}

each_row = pytest.mark.parametrize("name", EVERY)

KINKS = (-3.0, -1.0, -0.5, -0.3, 0.0, 0.1, 0.5, 1.0, 1.7, 2.0, 2.5, 3.0, 3.5, 6.0)
GRID = sorted({k + d for k in KINKS for d in (-1e-3, -1e-9, 0.0, 1e-9, 1e-3)} | {i / 7 for i in range(-84, 85)})
POINTS = torch.tensor(GRID, dtype=torch.float64)
BESIDE = torch.tensor([k + d for k in KINKS for d in (-0.013, 0.013)] + [-11.7, -5.3, 4.1, 9.9], dtype=torch.float64)


def by_pencil(formula: Formula, points: Tensor) -> Tensor:
    """The formula's values, NaN where it has none."""

    def value(t: float) -> float:
        try:
            return float(formula(t))
        except (ValueError, ZeroDivisionError):
            return math.nan

    return torch.tensor([value(t) for t in points.tolist()], dtype=torch.float64)


def test_every_row_has_a_formula_here() -> None:
    covered = {*UNARY_FORMULAS, *OTHER_NAMES}
    assert {name.removeprefix("special_") if name not in covered else name for name in UNARY} == covered
    for name, row in UNARY.items():
        assert row.name == OTHER_NAMES.get(name, name.removeprefix("special_"))


@each_row
def test_values_are_those_of_the_formula(name: str) -> None:
    """Also at the kinks and on both sides of them; NaN or infinite outside the domain."""
    row, formula = EVERY[name]
    expected, found = by_pencil(formula, POINTS), row.evaluate(POINTS)
    assert row.name == name and found.shape == POINTS.shape
    inside = ~expected.isnan()
    assert inside.sum() >= 10 and not found[~inside].isfinite().any()
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-12, atol=1e-13)


@each_row
def test_derivatives_are_those_of_autograd(name: str) -> None:
    """Forward against reverse mode of torch, and both against differences of the formula."""
    row, formula = EVERY[name]
    x = BESIDE.clone().requires_grad_()
    y = row.evaluate(x)
    slopes = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(BESIDE)
    found = row.derivative(BESIDE)
    torch.testing.assert_close(found, slopes, rtol=1e-10, atol=1e-12, equal_nan=True)
    step = 1e-5
    ahead, behind = by_pencil(formula, BESIDE + step), by_pencil(formula, BESIDE - step)
    inside = ~(ahead - behind).isnan()
    assert inside.sum() >= 2
    torch.testing.assert_close(found[inside], ((ahead - behind) / (2 * step))[inside], rtol=1e-4, atol=1e-6)


@each_row
def test_derivatives_are_those_of_the_expression(name: str) -> None:
    """To the precision of float64: some of torch's formulas have constants in float32."""
    row, formula = EVERY[name]
    if row.expression.has(sympy.floor, sympy.ceiling):
        pytest.skip("sympy has no derivative of steps")
    slope = sympy.diff(row.expression, T)
    points = torch.tensor([-4.03, -1.51, -0.83, -0.21, 0.17, 0.71, 1.37, 5.03], dtype=torch.float64)
    points = points[~by_pencil(formula, points).isnan()]
    expected = [float(sympy.N(slope.subs(T, sympy.Rational(t)), 20)) for t in points.tolist()]
    found = row.derivative(points)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@each_row
def test_expressions_are_those_of_evaluate(name: str) -> None:
    EVERY[name][0].check()


@each_row
def test_expressions_are_exact_at_kinks_too(name: str) -> None:
    """At the points themselves, where sides differ: by sympy's exact numbers."""
    row, formula = EVERY[name]
    for t in (-3, -0.5, 0, 0.5, 1.5, 2.5, 3, 6):
        expected = by_pencil(formula, torch.tensor([float(t)]))[0]
        value = sympy.N(row.expression.subs(T, sympy.Rational(t)), 20)
        if not expected.isnan():
            assert float(value) == pytest.approx(float(expected), rel=1e-12, abs=1e-13)
        else:
            assert not value.is_real


MODULES: list[tuple[nn.Module, ScalarFunction]] = [
    (nn.ReLU(), rows.RELU),
    (nn.ReLU6(), rows.clamp(0, 6)),
    (nn.LeakyReLU(), rows.leaky_relu()),
    (nn.LeakyReLU(0.3), rows.leaky_relu(0.3)),
    (nn.RReLU(), rows.rrelu()),
    (nn.Hardtanh(-1, 2), rows.clamp(-1, 2)),
    (nn.Hardswish(), rows.HARDSWISH),
    (nn.Hardsigmoid(), rows.HARDSIGMOID),
    (nn.ELU(), ELU),
    (nn.ELU(0.7), rows.elu(0.7)),
    (nn.SELU(), rows.SELU),
    (nn.CELU(0.3), rows.celu(0.3)),
    (nn.Mish(), rows.MISH),
    (nn.LogSigmoid(), rows.LOGSIGMOID),
    (nn.Softplus(2, 10), rows.softplus(2, 10)),
    (nn.Softplus(0.5, 25), rows.softplus(0.5, 25)),
    (nn.Softshrink(0.3), rows.softshrink(0.3)),
    (nn.Hardshrink(), rows.hardshrink()),
    (nn.Threshold(0.1, 0.2), rows.threshold(0.1, 0.2)),
    (nn.Threshold(0, 0), rows.RELU),
    (nn.GELU(), GELU),
    (nn.GELU("tanh"), GELU_TANH),
    (nn.SiLU(), UNARY["silu"]),
    (nn.Sigmoid(), UNARY["sigmoid"]),
    (nn.Tanh(), UNARY["tanh"]),
]


class OneAfterAnother(nn.Module):
    """All modules on one input, without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(module for module, _ in MODULES)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part(x) for part in self.parts]


def test_rows_compute_what_the_modules_compute() -> None:
    wide = torch.linspace(-80, 80, 3201, dtype=torch.float64)
    for module, row in MODULES:
        for x in (POINTS, wide, wide.float()):
            assert torch.equal(row.evaluate(x), module.eval()(x)), row.name


def test_the_tables_read_exported_calls() -> None:
    """What torch.export keeps of the modules: the row is found by the name and the arguments of the call."""
    program = torch.export.export(OneAfterAnother().eval(), (torch.randn(1, 3),), strict=False)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert len(calls) == len(MODULES)
    for call, (_, row) in zip(calls, MODULES, strict=True):
        name = call.target._schema.name.removeprefix("aten::")
        found = UNARY[name] if name in UNARY else PARAMETRIC[name](*call.args[1:], **call.kwargs)
        assert found == row and (name not in UNARY or len(call.args) == 1)


def test_arguments_are_called_as_in_torch() -> None:
    """Every factory takes its operation's arguments by name, in order, with their defaults."""
    for name, factory in PARAMETRIC.items():
        overload = getattr(torch.ops.aten, name), "Tensor_Scalar" if name == "pow" else "default"
        arguments = [a for a in getattr(*overload)._schema.arguments[1:] if a.name not in ("training", "generator")]
        given = {a.name: "tanh" if a.name == "approximate" else 0.25 + i for i, a in enumerate(arguments)}
        assert factory(**given) == factory(*given.values())
        if all(a.has_default_value() for a in arguments):
            assert factory() == factory(*(a.default_value for a in arguments))


def test_softplus_near_its_threshold() -> None:
    """torch's default threshold of 20 is within 1e-9 of the smooth row; a lower one is a jump of its own."""
    x = torch.linspace(15, 45, 30_001, dtype=torch.float64)
    model, smooth = F.softplus(x), x + torch.log1p(torch.exp(-x))
    torch.testing.assert_close(SOFTPLUS.evaluate(x), smooth, rtol=1e-15, atol=0)
    assert 0 < float(((model - smooth).abs() / smooth).max()) < 1.1e-10
    assert rows.softplus(1, 20) is rows.softplus() is SOFTPLUS
    assert rows.softplus(1, 21).expression == SOFTPLUS.expression
    assert float(curvature(Elementwise(rows.softplus(2, 20))).value) == pytest.approx(0.5, rel=1e-12)
    for beta in (1, 2.5):
        with pytest.raises(UnsupportedOperationError, match=r"activation 'softplus\(.*, 19\.5\)'.*not continuous"):
            curvature(Elementwise(rows.softplus(beta, 19.5)))


# sup |phi''| with pencil and paper; rows that are neither here nor refused make the test below fail.
KNOWN: dict[str, float | None] = {
    "tanh": 4 / (3 * math.sqrt(3)),
    "tanhshrink": 4 / (3 * math.sqrt(3)),
    "sigmoid": 1 / (6 * math.sqrt(3)),
    "silu": 0.5,
    "mish": None,
    "sin": 1.0,
    "cos": 1.0,
    "neg": 0.0,
    "logsigmoid": 0.25,
    "softsign": 2.0,
    "erf": math.sqrt(8 / (math.e * math.pi)),
    "erfc": math.sqrt(8 / (math.e * math.pi)),
    "ndtr": 1 / math.sqrt(2 * math.pi * math.e),
    "atan": 9 / (8 * math.sqrt(3)),
    "asinh": 2 / (3 * math.sqrt(3)),
    "square": 2.0,
    "clamp(5, 3)": 0.0,
    "softshrink(0)": 0.0,
    "hardshrink(0)": 0.0,
    "elu(0.5, 3, 2)": 6.0,
    "celu(1)": 1.0,
    "celu(0.5)": 2.0,
    "softplus": 0.25,
    "softplus(2, 30)": 0.5,
    "gelu": math.sqrt(2 / math.pi),
    "gelu_tanh": math.sqrt(2 / math.pi),
    "pow(0)": 0.0,
    "pow(1)": 0.0,
    "pow(2)": 2.0,
    "affine(0.1, -2)": 0.0,
}
KINKED = ["relu", "abs", "hardswish", "hardsigmoid", "selu", "leaky_relu(0.01)", "leaky_relu(0.2)", "leaky_relu(-1)"]
KINKED += ["leaky_relu(0.25)", "clamp(0, 6)", "clamp(-1, 1)", "clamp(-0.3, 1.7)", "clamp(0.5, None)", "clamp(None, 6)"]
KINKED += ["threshold(0.5, 0.5)", "softshrink(0.5)", "elu(2)"]
JUMPING = ["sign", "threshold(0.1, 2)", "hardshrink(0.5)", "softplus(2, 4)"]


def sampled(row: ScalarFunction) -> float:
    """The largest |phi''| at many points, by autograd of the forward derivative."""
    grid = torch.linspace(-30, 30, 120_001, dtype=torch.float64) + 1e-7
    x = grid.requires_grad_()
    y = row.derivative(x)
    second = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(x)
    return float(second.abs().nan_to_num(0.0).max())


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_accepted_rows_have_the_largest_second_derivative(name: str) -> None:
    row = EVERY[name][0]
    bound, seen = float(curvature(Elementwise(row)).value), sampled(row)
    assert seen * (1 - 1e-9) <= bound <= seen * (1 + 2e-3)
    known = KNOWN[name]
    assert known is None or bound == pytest.approx(known, rel=1e-7)


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(KNOWN)))
def test_all_other_rows_are_refused_by_name(name: str) -> None:
    """The slope of a kinked row is still bounded; that of a row with a jump is not."""
    row = EVERY[name][0]
    reason = "has a kink" if name in KINKED else "not continuous" if name in JUMPING else None
    with pytest.raises(UnsupportedOperationError, match=reason) as refusal:
        curvature(Elementwise(row))
    assert f"activation {name!r}" in str(refusal.value)
    if name in KINKED:
        slopes = row.derivative(POINTS).abs().max()
        assert float(slopes) * (1 - 1e-9) <= supremum(row.expression, 1).upper() <= float(slopes) * 1.01
    elif name in JUMPING:
        with pytest.raises(UnsupportedOperationError):
            supremum(row.expression, 1)


def test_the_smooth_member_of_a_family_is_accepted() -> None:
    """ELU with alpha * input_scale = 1 has one slope at 0; the least change makes a kink."""
    assert curvature(Elementwise(rows.elu(0.5, 3, 2))).value == 6
    with pytest.raises(UnsupportedOperationError, match="kink"):
        curvature(Elementwise(rows.elu(0.5000001, 3, 2)))


@each_row
def test_only_straight_lines_are_affine(name: str) -> None:
    straight = {"neg", "clamp(5, 3)", "softshrink(0)", "hardshrink(0)", "pow(0)", "pow(1)", "affine(0.1, -2)"}
    assert EVERY[name][0].is_affine == (name in straight)


def test_numbers_are_exact_in_expressions_and_floats_in_evaluate() -> None:
    row = rows.leaky_relu(0.01)
    assert row.expression.subs(T, -1) == -sympy.Rational(1, 100)
    x = torch.tensor([-7.0, -1 / 3], dtype=torch.float64)
    assert torch.equal(row.evaluate(x), 0.01 * x)
    for number in (0.1, 1 / 3, 2**0.5 * 1e-20, -7, 1e22):
        assert float(exact(number)) == number
        assert affine(number, 0).expression.coeff(T) == exact(number)


def test_equal_arguments_give_equal_rows() -> None:
    """Built afresh, rows agree in value, hash and text (the fingerprint reads it); other arguments differ."""
    for factory, one, same, other in (
        (rows.leaky_relu, (0.1,), (0.1,), (0.2,)),
        (rows.clamp, (0, 6), (0.0, 6.0), (0, 6.5)),
        (rows.softplus, (2, 20), (2.0, 20.0), (2, 20.000001)),
        (rows.power, (2,), (2.0,), (3,)),
        (rows.elu, (2, 1, 1), (2.0,), (2, 2, 1)),
        (affine, (2, -1), (2.0, -1.0), (2, 1)),
    ):
        found = factory(*one)
        assert factory(*one) is found
        afresh = factory.__wrapped__(*same)
        assert afresh is not found and afresh == found and hash(afresh) == hash(found) and repr(afresh) == repr(found)
        assert factory(*other) != found and repr(factory(*other)) != repr(found)


def test_what_is_the_same_function_is_the_same_row() -> None:
    assert rows.clamp(0) == rows.clamp(0, math.inf) == rows.clamp_min(0.0) == rows.leaky_relu(0) == rows.RELU
    assert rows.threshold(0, 0) == rows.RELU
    assert rows.elu(1, 1, 1) == rows.elu() == ELU
    assert rows.clamp(-math.inf, math.inf) == affine(1, 0)


def test_thousands_of_nodes_are_cheap() -> None:
    for make in (lambda: rows.clamp(0, 6), lambda: rows.leaky_relu(0.01), lambda: affine(0.5, 0)):
        assert make() is make()


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: rows.softshrink(-1), r"lambd is -1, expected at least 0"),
        (lambda: rows.celu(0), r"celu: alpha is 0"),
        (lambda: rows.softplus(0), r"softplus: beta is 0"),
        (lambda: rows.gelu("erf"), r"approximate is 'erf', expected one of \['none', 'tanh'\]"),
        (lambda: affine(math.nan, 0), r"the number nan .* expected a finite one"),
        (lambda: rows.clamp(math.nan, 1), r"the number nan"),
    ],
)
def test_wrong_parameters_are_refused(make: Callable[[], ScalarFunction], pattern: str) -> None:
    with pytest.raises(ParameterError, match=pattern):
        make()


@pytest.mark.parametrize("base", [0, -2.0])
def test_powers_of_numbers_that_are_not_positive_are_refused(base: float) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"pow\(.*, t\): the base is not positive"):
        rows.exponential(base)


@pytest.mark.parametrize("name", ["log", "round", "hardswish", "relu", "trunc", "sqrt", "sinc"])
def test_check_notices_a_wrong_row(name: str) -> None:
    """A wrong value, a wrong slope, a value where there is none, and none where there is one."""
    row = UNARY[name]
    formulas: list[Callable[[Tensor], Tensor]] = [
        lambda x: row.evaluate(x) + 1e-4,
        lambda x: row.evaluate(x).detach() + 0 * x + (x - x.detach()) * 7,
        lambda x: torch.where(x > 1, torch.nan, row.evaluate(x)),
    ]
    if name in ("log", "sqrt"):
        formulas.append(lambda x: row.evaluate(x.abs()))
    for evaluate in formulas:
        with pytest.raises(ParameterError, match=f"function {name!r}"):
            replace(row, evaluate=evaluate, slope=None).check()
    with pytest.raises(ParameterError, match=f"function {name!r}"):
        replace(row, slope=lambda x: 7 + 0 * x).check()


def test_the_common_rows_stay() -> None:
    """The other rows do not enter `ROWS`, the rows with constants of the literature."""
    names = ["tanh", "sigmoid", "softplus", "gelu", "gelu_tanh", "silu", "elu", "sin", "cos", "neg"]
    assert [row.name for row in ROWS] == names
