"""The statement of a large graph stays short, and says what it leaves out."""

from __future__ import annotations

import re

from formulas import formulas_in, has_katex, katex_errors
from strategies import Builder

from covergraph.bound.derive import Bound, derive
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import RELU
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.passes.augment import augment
from covergraph.report.latex import statement
from covergraph.report.statement import EQUATIONS_SHOWN, PAIRS_SHOWN
from covergraph.report.tex import ROWS_SHOWN


def chain(length: int) -> Bound:
    """`length` linear layers with biases, each followed by ReLU; the last two thirds share their weights."""
    builder = Builder(seed=1)
    last = builder.linear(builder.input(2, name="x"), 2, name="first")
    for i in range(length):
        name = "shared" if 3 * i > length else f"own_{i}"
        roles = (("weight", f"{name}.weight"), ("bias", f"{name}.bias"))
        builder.nodes.append(Node(f"f{i}", op.Linear(True), (last,), (2,), roles))
        last = builder.nodes[-1].name
        builder.nodes.append(Node(f"r{i}", op.Elementwise(RELU), (last,), (2,)))
        last = builder.nodes[-1].name
    shapes = {name: (2, 2) if role == "weight" else (2,) for node in builder.nodes for role, name in node.parameters}
    return derive(augment(ComputationGraph(builder.nodes, last, weights=Weights(shapes=shapes))))


def test_five_hundred_nodes() -> None:
    bound = chain(250)
    assert len(bound.graph) == 502 and len(bound.augmented.pair_names) > 50_000
    text = statement(bound)
    assert len(text) < 120_000
    assert len(text.splitlines()) < 1000
    left_out = [int(n) for n in re.findall(r"\$\\ldots\$ and \$(\d+)\$ more rows", text)]
    conditions, classes = len(bound.augmented.conditions), len(bound.contributions)
    assert left_out == [n - ROWS_SHOWN for n in (502, conditions, classes)]
    assert f"and ${len(bound.augmented.pair_names) - PAIRS_SHOWN}$ more" in text
    assert f"The other ${classes - EQUATIONS_SHOWN}$ constants have the same form" in text
    longest = max(len(formula) for formula in formulas_in(text))
    assert longest < 20_000
    if has_katex():
        assert katex_errors(formulas_in(text)) == []


def test_a_small_one_leaves_nothing_out() -> None:
    text = statement(chain(6))
    assert "$ more" not in text and "The other" not in text and r"\cdots" not in text
