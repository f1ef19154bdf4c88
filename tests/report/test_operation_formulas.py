"""Formulas of nodes: hand-written ones, and that every operation of the vocabulary has one that TeX can read."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import sympy
from formulas import has_katex, katex_errors, mathtext_error
from operation_cases import Case
from operation_cases.every import CASES

from covergraph.graph import operations as op
from covergraph.graph import rearrange as steps
from covergraph.graph.function_rows import LOG, RELU
from covergraph.graph.functions import TANH, ScalarFunction, T, affine
from covergraph.graph.node import Node
from covergraph.report.operation_formulas import formula

H, G = "h_{1}", "h_{2}"
VOCABULARY = [
    kind
    for kind in vars(op).values()
    if isinstance(kind, type) and issubclass(kind, op.Operation) and kind is not op.Operation
]


def written(operation: op.Operation, *h: str, shape: tuple[int, ...] = (6,), **roles: str) -> str:
    node = Node("x", operation, tuple(f"u{i}" for i in range(len(h))), shape, constants=tuple(roles.items()))
    return formula(operation, node, h, "7")


def test_the_vocabulary_is_the_whole_one() -> None:
    assert {*VOCABULARY} >= {kind for kind in op.Operation.__subclasses__() if kind.__module__.endswith("operations")}
    assert len(VOCABULARY) > 25


@pytest.mark.parametrize("kind", VOCABULARY, ids=lambda kind: kind.__name__)
def test_every_operation_has_a_formula(kind: type[op.Operation]) -> None:
    assert formula.dispatch(kind) is not formula.dispatch(op.Operation)


@pytest.mark.parametrize(
    ("operation", "h", "expected"),
    [
        (op.Linear(True), (H,), "W_{7} h_{1} + b_{7}"),
        (op.Linear(False), (H,), "W_{7} h_{1}"),
        (op.Convolution((1,), (0,), (1,), 1, (3,), True), (H,), "K_{7} * h_{1} + b_{7}"),
        (op.TransposedConvolution((1,), (0,), (0,), (1,), 1, (3,), False), (H,), r"K_{7} *^\top h_{1}"),
        (op.Affine(True, True), (H,), r"w_{7} \odot h_{1} + \beta_{7}"),
        (op.Affine(False, True), (H,), r"h_{1} + \beta_{7}"),
        (op.Add(), (H, G, H), "h_{1} + h_{2} + h_{1}"),
        (op.Subtract(), (H, G), "h_{1} - h_{2}"),
        (op.Product(), (H, G), r"h_{1} \odot h_{2}"),
        (op.MatrixProduct(), (H, G), "h_{1} h_{2}"),
        (op.Divide(), (H, G), r"h_{1} \oslash h_{2}"),
        (op.Concatenate(0), (H, G), "[h_{1}, h_{2}]"),
        (op.Embedding(), (H,), "E_{7}[h_{1}]"),
        (op.Parameter(), (), r"\theta_{7}"),
        (op.Constant(), (), "c_{7}"),
        (op.ParametricReLU(), (H,), r"\max(0, h_{1}) + \alpha_{7} \odot \min(0, h_{1})"),
        (op.Elementwise(TANH), (H,), r"\tanh{\left(h_{1} \right)}"),
        (op.Elementwise(RELU), (H,), r"\max\left(0, h_{1}\right)"),
        (op.Elementwise(LOG), (H,), r"\ln{\left(h_{1} \right)}"),
        (op.Elementwise(affine(-1, 0)), (H,), "-h_{1}"),
        (op.Elementwise(affine(0.125, -2)), (H,), "0.125 h_{1} - 2"),
        (op.Elementwise(affine(1, 3)), (H,), "h_{1} + 3"),
        (op.Elementwise(affine(0, 3)), (H,), "3"),
        (op.MaxPool((2,), (2,), (0,), (1,)), (H,), r"\max_{i \in \mathrm{window}} (h_{1})_i"),
        (op.MaxPool((2,), (2,), (0,), (1,), rectify=True), (H,), r"\max(0, \max_{i \in \mathrm{window}} (h_{1})_i)"),
        (op.Maximum((0,)), (H,), r"\max_{\mathrm{axis}\ 0}(h_{1})"),
        (op.Sum((0, 1), False), (H,), r"\sum_{\mathrm{axes}\ 0, 1}(h_{1})"),
        (op.Sum((0,), True), (H,), r"\mathrm{mean}_{\mathrm{axis}\ 0}(h_{1})"),
        (op.VectorNorm((1,)), (H,), r"\|h_{1}\|_{\mathrm{axis}\ 1}"),
        (op.Softmax(0), (H, G), r"\mathrm{softmax}(h_{1} + h_{2})"),
        (op.Softmax(0, log=True), (H,), r"\ln\,\mathrm{softmax}(h_{1})"),
        (op.Softmax(0, causal=True), (H,), r"\mathrm{softmax}(h_{1} + M_{7})"),
        (op.Attention(0.5), (H, G, "h_{3}"), r"\mathrm{softmax}(0.5\, h_{1} h_{2}^\top) h_{3}"),
        (op.Attention(1), (H, G, "h_{3}", "h_{4}"), r"\mathrm{softmax}(h_{1} h_{2}^\top + h_{4}) h_{3}"),
        (op.Normalize(6, 1e-5), (H,), r"(h_{1} - \bar{h_{1}}) / \sqrt{\mathrm{var}(h_{1}) + \varepsilon}"),
        (op.Normalize(3, 0.0, False), (H,), r"h_{1} / \sqrt{\mathrm{mean}_{3}(h_{1}^2)}"),
        (op.Rearrange((steps.Slice(1, 0, 4),)), (H,), r"\mathrm{slice}[{:}, 0{:}4](h_{1})"),
        (op.Rearrange((steps.Permute((1, 0)), steps.View((6,)))), (H,), r"\mathrm{permute}[1, 0](h_{1})"),
        (op.Rearrange((steps.Pick(0, (5, 4, 3, 2, 1)),)), (H,), r"\mathrm{pick}[\{5, 4, 3, 2, \ldots\}](h_{1})"),
        (op.Recurrent("gru"), (H,), r"\mathrm{gru}_{7}(h_{1})"),
        (op.Call("aten.cumsum.default", (op.Slot(0), 1), (), ((1, 6),)), (H,), r"\mathrm{cumsum}(h_{1})"),
    ],
)
def test_by_hand(operation: op.Operation, h: tuple[str, ...], expected: str) -> None:
    assert written(operation, *h) == expected


def test_a_constant_mask_is_shown() -> None:
    assert written(op.Softmax(0), H, mask="causal_mask") == r"\mathrm{softmax}(h_{1} + M_{7})"


def test_a_record_of_a_user_is_called_by_its_label() -> None:
    @dataclass(frozen=True)
    class OddOne(op.Operation):
        """An operation that covergraph does not know."""

        @property
        def label(self) -> str:
            return "odd_one"

    assert written(OddOne(), H, G) == r"\mathrm{odd\_one}(h_{1}, h_{2})"


def test_names_of_blocks_cannot_break_a_formula() -> None:
    block = op.Composite(r"a.b_0\$^{~", (), (), "x")
    assert written(block, H) == r"\mathrm{a.b\_0}(h_{1})"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_slot_is_read(case: Case) -> None:
    slots = [f"h_{{{i + 1}}}" for i in range(len(case.slots))]
    text = formula(case.operation, case.node, slots, "7")
    assert all(slot in text for slot in slots)
    assert r"\begin{cases}" in text or mathtext_error(text) == ""  # mathtext knows no cases
    assert not set(re.findall(r"h_\{(\d+)\}", text)) - {str(i + 1) for i in range(len(slots))}


@pytest.mark.skipif(not has_katex(), reason="needs node with katex")
def test_katex_reads_every_formula() -> None:
    cases = CASES.values()
    texts = [formula(c.operation, c.node, [f"h_{{{i}}}" for i in range(len(c.slots))], "7") for c in cases]
    kinked = ScalarFunction("kinked", sympy.Piecewise((T, T < 0), (2 * T, True)), lambda x: x)
    assert katex_errors([*texts, written(op.Elementwise(kinked), H)]) == []
