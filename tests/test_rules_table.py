"""The table of the rules (docs/coverage.md) has every operation; its search finds what is wrong and what is tight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from operation_cases import Case
from rules.test_vocabulary import VOCABULARY
from tightness import SLACK, Budget, maximum, norm, smoothness_tightness
from torch import Tensor
from torch.func import jvp
from torch.nn import functional as F
from zoo import rules
from zoo.rule_rows import ROWS, normalize

QUICK = Budget(64, 4, 8)
FUNCTIONS = {
    *("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "elu", "hardswish", "hardsigmoid", "clamp"),
    *("abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "sin"),
}


def test_every_operation_and_common_function_has_a_row() -> None:
    shown = {type(case.operation).__name__ for case in ROWS.values()}
    assert set(VOCABULARY) - shown == set()
    assert {f"Elementwise: {name}" for name in FUNCTIONS} <= set(ROWS)


@pytest.fixture(scope="module")
def quick() -> list[rules.Row]:
    return rules.measured(QUICK)


def test_no_ratio_of_a_quick_run_is_above_one(quick: list[rules.Row]) -> None:
    for row in quick:
        for what, found in row.ratios.items():
            assert all(0 <= ratio <= 1 + SLACK for ratio in found), (row.name, what, found)


def test_what_has_slots_and_rules_is_measured(quick: list[rules.Row]) -> None:
    empty = {row.name for row in quick if not row.ratios}
    assert empty == {"Input", "Constant", "Attention", "Recurrent (LSTM)", "Recurrent (GRU)"}


@pytest.mark.parametrize("name", ["Softmax of 2", "Elementwise: tanh", "Normalize, eps 0.5", "Divide", "VectorNorm"])
def test_tight_rules_are_found_tight_quickly(name: str) -> None:
    found = smoothness_tightness(ROWS[name], Budget(256, 8, 60))
    assert found is not None
    assert 0.99 <= found <= 1 + SLACK


def test_the_entropies_of_linear_maps_are_attained(quick: list[rules.Row]) -> None:
    """One output and one direction of the input, Cauchy-Schwarz twice with equality; a Jacobian of one entry."""
    (linear,) = (row for row in quick if row.name == "Linear")
    assert min(*linear.ratios["class"], *linear.ratios["class J"]) >= 1 - 1e-6


def test_one_tap_of_a_convolution_has_norm_one(quick: list[rules.Row]) -> None:
    """Nine taps and stride 1: the lemma allows rho = 3 times the change of one entry, which moves J by 1."""
    (row,) = (row for row in quick if row.name == "Convolution 3x3 on 8x8")
    assert row.ratios["class J"][0] == pytest.approx(1 / 3, rel=1e-9)


WRONG = {
    "curvature": replace(normalize(0.5), plain=normalize(0.25).plain),
    "no curvature": replace(ROWS["Elementwise: relu"], plain=F.softplus),
    "slope": replace(ROWS["Sum"], plain=lambda x: 1.01 * ROWS["Sum"].plain(x)),
    "bilinear": replace(ROWS["Product"], plain=lambda x, y: 1.01 * x * y),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_rule_that_allows_too_little_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "wrong", WRONG[name])
    with pytest.raises(rules.UnsoundRuleError, match="wrong"):
        rules.measured(QUICK, ["wrong"])


def test_the_search_climbs() -> None:
    """The sharp maximum of 1 / (1 + |x - 1|^2) at the point of ones, which no random start hits."""
    case = Case(ROWS["Add"].operation, ((4,),), (4,), lambda x: x)

    def ratio(values: Sequence[Tensor], directions: Sequence[Sequence[Tensor]]) -> Tensor:
        return 1 / (1 + norm(values[0] - 1) ** 2)

    assert maximum(ratio, case, 0, Budget(64, 4, 0)) < 0.9
    assert maximum(ratio, case, 0, Budget(64, 4, 200)) > 0.999


CURVED = [name for name, row in ROWS.items() if row.moving and not rules.written_out(row)]


@pytest.mark.parametrize("name", CURVED)
def test_second_derivatives_by_nested_forward_mode_are_right(name: str) -> None:
    """Torch's layer_norm fails this; the rows must not use such functions."""
    case = ROWS[name]
    generator = torch.Generator().manual_seed(3)
    h, w, d = (
        tuple(0.5 + torch.rand(1, *shape, generator=generator, dtype=torch.float64) for shape in case.slots)
        for _ in range(3)
    )

    def slope(*values: Tensor) -> Tensor:
        found: Tensor = jvp(case.plain, values, w)[1]
        return found

    step = 1e-5
    after, before = (slope(*(x + sign * step * y for x, y in zip(h, d, strict=True))) for sign in (1, -1))
    torch.testing.assert_close(jvp(slope, h, d)[1], (after - before) / (2 * step), rtol=1e-6, atol=1e-7)


def test_columns_are_what_the_lemmas_say() -> None:
    """Lemma 16 with the radius 2 s_1; Lemma 3 with 3x3 taps, stride 1, two channels, 64 positions and a bias."""
    divide, convolution = (rules.described(ROWS[name]) for name in ("Divide", "Convolution 3x3 on 8x8"))
    assert divide[1] == "(1,2) (2,1): 4/rho^2; (2,2): 32 s_1/rho^3"
    assert convolution[0] == f"⌈a² (9 s² + 64)/ε²⌉ ln {2 * (2 * 9 + 1) * 3}; ⌈9 b²/ε²⌉ ln {2 * 2 * 9 * 3}"
    assert rules.described(ROWS["ParametricReLU"])[3] == "max(1, norm)"
    assert rules.described(ROWS["Attention"])[1].startswith("written out: ")


def test_the_table_names_the_tightest_and_the_loosest(quick: list[rules.Row]) -> None:
    rows = [
        rules.Row("exact", ROWS["Add"], {"edge": (0.2, 1.0), "Lip": (0.996,)}),
        rules.Row("half", ROWS["Add"], {"Lip": (1.0,), "q": (0.5,)}),
    ]
    assert rules.summary(rows) == (
        "Tightest, edges apart: 1 of 2 rows, whose ratios all reach 0.995 (the others: half).\n"
        "Loosest, edges apart: half (q 0.500), exact (Lip 0.996).\n"
    )
    assert len(rules.table(quick).splitlines()) == len(ROWS) + 2
