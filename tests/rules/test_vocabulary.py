"""Every operation answers every question that a bound asks, or stands in a table of those that need not.

A new record without an answer fails here, and so does an answer that is no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from covergraph.graph import interpreter, layer_operations, operations
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.operation import Operation
from covergraph.measure.edges import slot_bound
from covergraph.measure.layers import distance
from covergraph.report.operation_formulas import formula
from covergraph.rules import composition as composition  # registers the rule of chains
from covergraph.rules.conditions import condition
from covergraph.rules.entropy import learned_entropy
from covergraph.rules.lipschitz import slot_lipschitz
from covergraph.rules.smoothness import slot_smoothness

VOCABULARY = {
    name: record
    for module in (operations, layer_operations)
    for name, record in vars(module).items()
    if isinstance(record, type) and issubclass(record, Operation) and record is not Operation
}
LEARNED = {"Linear", "Convolution", "TransposedConvolution", "Affine", "Parameter", "ParametricReLU", "Embedding"}
KINKED = {"Elementwise", "ParametricReLU", "MaxPool", "Maximum", "Normalize", "VectorNorm", "Divide", "Call"}
LOWERED = {"Attention", "Recurrent"}
"""Written out by other operations before a bound is derived; asked for taubar they refuse by name."""
NO_SLOT = {"Input", "Parameter", "Constant", "Embedding"}
"""Without a slot of reals: nothing to react to."""
NO_FINITE_CONSTANT = {"Product", "MatrixProduct", "Divide"}
"""Not Lipschitz on the whole space; the comparison with products of constants prints a dash."""

QUESTIONS: dict[str, tuple[Any, set[str]]] = {
    "value": (interpreter.apply, {"Input"}),
    "smoothness": (slot_smoothness, set()),
    "condition": (condition, set(VOCABULARY) - KINKED),
    "quantity of the condition": (condition_value, set(VOCABULARY) - KINKED),
    "entropy": (learned_entropy, set(VOCABULARY) - LEARNED),
    "distance to the reference": (distance, set(VOCABULARY) - LEARNED),
    "worst-case constant": (slot_lipschitz, NO_SLOT | LOWERED | NO_FINITE_CONSTANT),
    "edge norm": (slot_bound, NO_SLOT | LOWERED),
    "formula": (formula, set()),
}
"""Question: its function, and the operations that need no answer."""


def answered(question: Any) -> set[str]:
    """The operations that have an answer of their own."""
    fallback = question.dispatch(Operation)
    return {name for name, record in VOCABULARY.items() if question.dispatch(record) is not fallback}


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_operation_is_without_an_answer(name: str) -> None:
    question, exempt = QUESTIONS[name]
    found = answered(question)
    assert set(VOCABULARY) - found - exempt == set(), f"no answer to {name!r}"
    assert found & exempt == set(), f"an answer to {name!r} that nobody needs, or a table that is out of date"


def test_the_vocabulary_is_found() -> None:
    assert {"Linear", "Attention", "MaxPool", "Call", "Composite", "VectorNorm"} <= set(VOCABULARY)
    assert set(VOCABULARY) >= LEARNED | KINKED | LOWERED | NO_SLOT | NO_FINITE_CONSTANT


def test_a_new_record_without_rules_is_a_hole() -> None:
    class Unheard(Operation):
        pass

    refusals: list[Callable[..., Any]] = [q.dispatch(Unheard) for q, _ in QUESTIONS.values()]
    assert all(r is q.dispatch(Operation) for r, (q, _) in zip(refusals, QUESTIONS.values(), strict=True))
