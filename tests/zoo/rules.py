"""The section "Rules" of docs/coverage.md: what the rules say about one small node each, and how tight they are found.

`python tests/zoo/rules.py` prints it. Everything but the ratios is what the rules themselves answer.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: its files are no top-level modules

import sympy
import torch
from operation_cases import Case
from tightness import (
    SLACK,
    Budget,
    condition_tightness,
    edge_tightness,
    lipschitz_tightness,
    norm_tightness,
    smoothness_tightness,
)
from tightness_classes import entropy, jacobians_tightness, values_tightness
from zoo import coverage
from zoo.rule_rows import ROWS

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.passes.lower import lower
from covergraph.rules.conditions import condition
from covergraph.rules.lipschitz import slot_lipschitz
from covergraph.rules.norms import norm_bound
from covergraph.rules.placeholders import slot_of
from covergraph.rules.smoothness import slot_smoothness

ALMOST = 0.995
NONE = "none"
HEAD = ("operation", "class entropy", "τ̄", "condition q: constant", "worst-case Lipschitz", "norm", "lemmas")
INTRODUCTION = """What each rule says about one small node (docs/mathematics.md, section 3), and how tight it is found.

Entropies: class radii a (rules) and b (Jacobians), s the norm of the input, ⌈t⌉ is 0 for t at most 1. τ̄: rho is the
level of the condition, 2 s the radius of a slot, s_1, s_2 where there are two; "none" is 0. Norm: an a-priori bound.
Tightness is the largest ratio found of what happens to what the rule allows, by random starts and gradient ascent: 1 is
tight, and a ratio above 1 would refute the rule. *τ̄*: change of the Jacobian; *q*: change of the condition; *Lip*:
norm of the Jacobian; *norm*: of the value; *edge*: norm of the Jacobian over the bound that fills in levels (Lemma 19),
smallest and largest at 12 random points; *class*: distance of two rules at one input; *class J*: of their Jacobians.
"""
Ratios = Mapping[str, tuple[float, ...]]


class UnsoundRuleError(Exception):
    """A ratio above 1 was found."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    case: Case
    ratios: Ratios = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        shown = {what: dict.fromkeys(f"{ratio:.3f}" for ratio in found) for what, found in self.ratios.items()}
        found = "; ".join(f"{what} {'–'.join(numbers)}" for what, numbers in shown.items())
        return self.name, *described(self.case), found or "–"


def text(budget: Budget | None = None) -> str:
    """The section's body; raises `UnsoundRuleError` if a rule is refuted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny, and workers share the cores
    try:
        rows = measured(budget or Budget())
    finally:
        torch.set_num_threads(threads)
    return f"{INTRODUCTION}\n{table(rows)}\n{summary(rows)}"


def table(rows: Sequence[Row]) -> str:
    return coverage.table((*HEAD, "measured tightness"), [row.cells for row in rows])


def measured(budget: Budget, names: Sequence[str] = tuple(ROWS)) -> list[Row]:
    """The rows with their ratios; raises `UnsoundRuleError` if one is above 1."""
    rows = [Row(name, ROWS[name], ratios(ROWS[name], budget)) for name in names]
    for row in rows:
        for what, found in row.ratios.items():
            if max(found) > 1 + SLACK:
                raise UnsoundRuleError(f"{row.name}: {what} has the ratio {max(found)!r}, expected at most 1")
    return rows


def ratios(case: Case, budget: Budget) -> Ratios:
    """What is measured of a case; what does not apply is absent."""
    if written_out(case):
        return {}
    questions: dict[str, Callable[[], float | tuple[float, ...] | None]] = {
        "class": lambda: values_tightness(case),
        "class J": lambda: jacobians_tightness(case),
        "τ̄": lambda: smoothness_tightness(case, budget),
        "q": lambda: condition_tightness(case, budget),
        "Lip": lambda: lipschitz_tightness(case, budget),
        "norm": lambda: norm_tightness(case, budget),
        "edge": lambda: edge_tightness(case),
    }
    found = {what: question() for what, question in questions.items()}
    return {what: n if isinstance(n, tuple) else (n,) for what, n in found.items() if n is not None}


def written_out(case: Case) -> str:
    """What `lower` writes out in place of the operation, empty if it has rules."""
    try:
        slot_smoothness(case.operation, case.node)
        return ""
    except UnsupportedOperationError:
        slots = [Node(f"u{i}", op.Parameter(), (), s, (("value", f"u{i}"),)) for i, s in enumerate(case.slots)]
        weights = Weights(constants={f"v.{role}": value for role, value in case.constants})
        nodes = lower(ComputationGraph([*slots, case.node], "v", weights=weights)).nodes
        parts = Counter(node.operation.label for node in nodes if node.name not in case.node.inputs)
        return ", ".join(label if count == 1 else f"{count} {label}" for label, count in parts.items())


def described(case: Case) -> tuple[str, ...]:
    """The columns that the rules answer."""
    if parts := written_out(case):
        return "–", f"written out: {parts}", *["–"] * 4
    found = norm_bound(case.operation, case.node)
    bound = NONE if found is None else formula(found, 1)
    return class_text(case), smoothness_text(case), condition_text(case), lipschitz_text(case), bound, lemmas(case)


def class_text(case: Case) -> str:
    found = entropy(case)
    if found is None:
        return NONE
    gain, positions = (f"{number} " * (number > 1) for number in (found.gain, found.positions))
    if found.gain and found.positions:
        values = f"a² ({gain}s² + {found.positions})"
    else:
        values = f"{gain}a² s²" if found.gain else f"{positions}a²"
    entropies = [f"⌈{values}/ε²⌉ ln {found.count}"]
    if found.derivative_count:
        entropies.append(f"⌈{gain}b²/ε²⌉ ln {found.derivative_count}")
    return "; ".join(entropies)


def smoothness_text(case: Case) -> str:
    slots = len(case.slots)
    by_value: dict[str, list[str]] = {}
    for (i, j), value in slot_smoothness(case.operation, case.node).items():
        by_value.setdefault(formula(value, slots), []).append(f"({i + 1},{j + 1})")
    if slots == 1:
        return next(iter(by_value), NONE)
    return "; ".join(f"{' '.join(pairs)}: {value}" for value, pairs in by_value.items()) or NONE


def condition_text(case: Case) -> str:
    found = condition(case.operation, case.node)
    if found is None:
        return NONE
    slopes = {f"{formula(value, 1)}" + f" (slot {i + 1})" * (len(case.slots) > 1) for i, value in found.slopes.items()}
    return f"{found.text}: {', '.join(sorted(slopes))}"


def lipschitz_text(case: Case) -> str:
    """The constants; where they depend on the weights' norm, how they do."""
    tails = {i: Node(case.node.inputs[i], op.Input(), (), case.slots[i]) for i in case.moving}
    try:
        low, high = (
            {i: float(slot_lipschitz(case.operation, case.node, u, x)) for i, u in tails.items()} for x in _TWO
        )
    except UnsupportedOperationError:
        return NONE
    known = {_TWO: "operator norm", (1.0, _TWO[1]): "max(1, norm)"}
    texts = {known.get((low[i], high[i]), f"{low[i]:.4g}") for i in tails}
    return ", ".join(sorted(texts)) or "–"


_TWO = (0.37, 3.71)
"""Two norms of weights that no constant equals."""


def formula(value: sympy.Expr, slots: int) -> str:
    """The expression in short: 2 s for the radius, numbers without closed form by four digits."""
    radii = {symbol: slot_of(symbol) for symbol in value.free_symbols}
    level = {r: 2 * sympy.Symbol("s" if slots == 1 else f"s_{i + 1}") for r, i in radii.items() if i is not None}
    shown = value.xreplace(level)
    if shown.has(sympy.Float) or len(str(shown)) > 60:
        shown = sympy.N(shown, 4)
    return str(shown).replace("**", "^").replace("*", " ")


def lemmas(case: Case) -> str:
    """The lemmas that the rules' sources name."""
    questions = (slot_smoothness, condition, slot_lipschitz, norm_bound)
    sources = [_source(question, case.operation) for question in questions]
    found = entropy(case)
    sources.append("" if found is None else found.source.split(" (")[0])  # what follows is cited by the lemma
    groups = [group for source in sources for group in re.findall(r"Lemmas? ((?:\d+(?:, | and )?)+)", source)]
    numbers = {int(number) for group in groups for number in re.findall(r"\d+", group)}
    return ", ".join(map(str, sorted(numbers))) or "–"


def _source(question: Any, operation: op.Operation) -> str:
    """The docstring of an operation's own rule; of its module, where a module is about one operation."""
    rule = question.dispatch(type(operation))
    if rule is question.dispatch(op.Operation):
        return ""
    own = rule.__doc__ or ""
    return own or (sys.modules[rule.__module__].__doc__ or "" if isinstance(operation, op.Composite) else "")


def summary(rows: Sequence[Row]) -> str:
    """The tightest and the loosest rules by what the search found, one sentence each."""
    every = [(max(found), what, row.name) for row in rows for what, found in row.ratios.items() if what != "edge"]
    known = {name for _, _, name in every}
    rest = "; ".join(dict.fromkeys(name for ratio, _, name in every if ratio < ALMOST))
    tight = len(known) - len({name for ratio, _, name in every if ratio < ALMOST})
    loose = ", ".join(f"{name} ({what} {ratio:.3f})" for ratio, what, name in lowest(every))
    return (
        f"Tightest, edges apart: {tight} of {len(known)} rows, whose ratios all reach {ALMOST:g}"
        f"{f' (the others: {rest})' if rest else ''}.\nLoosest, edges apart: {loose}.\n"
    )


def lowest(every: Sequence[tuple[float, str, str]], count: int = 5) -> list[tuple[float, str, str]]:
    """The lowest ratios, one for each row."""
    first: dict[str, tuple[float, str, str]] = {}
    for found in sorted(every):
        first.setdefault(found[2], found)
    return list(first.values())[:count]


if __name__ == "__main__":
    print(text())
