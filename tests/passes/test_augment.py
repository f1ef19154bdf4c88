"""Lipschitz augmentation: which S and P each mode has, that P is closed, and how output-only mode fails."""

from __future__ import annotations

import numpy as np
import pytest
from hand_rules import condition
from hypothesis import given
from hypothesis import strategies as st
from oracles import ancestors, closed_pairs, limited
from strategies import Builder, Case, cases, examples

from covergraph.bound.constants import release_lipschitz
from covergraph.bound.derive import derive
from covergraph.errors import GraphError, UnsupportedOperationError
from covergraph.graph.augmented import (
    AugmentedGraph,
    ConditionIndicator,
    Mode,
    NormIndicator,
    PairIndicator,
    TotalDerivative,
)
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH, affine
from covergraph.graph.operations import Add, Elementwise, Input, ParametricReLU, Product, Reshape
from covergraph.passes.augment import augment

modes = st.sampled_from(["minimal", "paper", "output-only"])


@examples(60)
@given(cases())
def test_minimal_pairs_are_the_closure_and_no_more(case: Case) -> None:
    augmented = augment(case.graph, mode="minimal")
    assert set(augmented.pair_names) == closed_pairs(augmented.base, augmented.hidden)


@examples(25)
@given(cases())
def test_paper_pairs_are_all_ancestor_pairs(case: Case) -> None:
    augmented = augment(case.graph, mode="paper")
    above = ancestors(augmented.base)
    assert set(augmented.pair_names) == {(w, a) for w in above for a in above[w]}


@examples(25)
@given(cases(), modes)
def test_hidden_nodes_are_read_by_their_norm_or_follow_activations(case: Case, mode: Mode) -> None:
    augmented = augment(case.graph, mode=mode)
    base = augmented.base
    above = ancestors(base)
    learned = {v for v in above if v in base.covered or above[v] & set(base.covered)}
    expected = limited(base)
    if mode == "paper":
        activations = [node for node in base.nodes if isinstance(node.operation, Elementwise)]
        expected |= {node.name for node in activations if not node.operation.function.is_affine} & learned  # type: ignore[attr-defined]
    assert set(augmented.hidden) == expected


@examples(40)
@given(cases(), modes)
def test_nodes_with_kinks_and_poles_have_conditions(case: Case, mode: Mode) -> None:
    augmented = augment(case.graph, mode=mode)
    base = augmented.base
    free = [node for node in base.nodes if node.name not in base.data_only]
    expected = {node.name: condition(node) for node in free if condition(node)}
    for node in free:  # nothing varies; in paper mode the divisor's derivative does, which reads rho, unlike a kink's
        fixed = mode != "paper" or isinstance(node.operation, ParametricReLU)
        if fixed and {node.inputs[slot] for slot in condition(node)} <= base.data_only:
            expected.pop(node.name, None)
    found = {name: {slot: float(lip) for slot, lip in c.slopes.items()} for name, c in augmented.conditions.items()}
    assert found == {name: pytest.approx(slopes) for name, slopes in expected.items()}


@examples(25)
@given(cases(), modes)
def test_nodes_carry_exactly_the_matrix_of_pairs(case: Case, mode: Mode) -> None:
    augmented = augment(case.graph, mode=mode)
    augmented.graph.verify()
    read_off(augmented)


def read_off(augmented: AugmentedGraph) -> AugmentedGraph:
    """The augmented graph made from S and P as its nodes have them; they must equal the arrays'."""
    index = augmented.base.index
    operations = [node.operation for node in augmented.graph.nodes]
    hidden = [o.node for o in operations if isinstance(o, NormIndicator)]
    assert [o.head.name for o in operations if isinstance(o, ConditionIndicator)] == list(augmented.conditions)
    pairs = np.zeros_like(augmented.pairs)
    for o in operations:
        if isinstance(o, PairIndicator):
            pairs[index[o.pair[0]], index[o.pair[1]]] = True
    assert np.array_equal(pairs, augmented.pairs)
    assert tuple(hidden) == augmented.hidden
    totals = {node.name for node in augmented.graph.nodes if isinstance(node.operation, TotalDerivative)}
    assert {f"D[{w},{a}]" for w, a in augmented.pair_names} <= totals
    return AugmentedGraph(augmented.base, augmented.loss, augmented.mode, hidden, pairs, augmented.rules)


def long_chain(layers: int, learned_every: int) -> ComputationGraph:
    """linear and tanh at some places, a reshape elsewhere."""
    builder = Builder()
    last = builder.input(1, name="x")
    for i in range(layers):
        if i % learned_every == 0:
            last = builder.smooth(TANH, builder.linear(last, 1, name=f"f{i}"), name=f"t{i}")
        else:
            last = builder.add(Reshape(), last, shape=(1,), name=f"r{i}")
    return builder.graph(last)


LONG_CHAINS = [(12, 3, "minimal"), (8, 2, "paper"), (420, 30, "minimal"), (401, 40, "paper")]
"""Layers, one of how many is learned, mode; the last has some 80,000 pairs."""


@pytest.mark.parametrize(("layers", "learned_every", "mode"), LONG_CHAINS)
def test_constants_read_off_the_nodes_equal_those_of_the_matrix(layers: int, learned_every: int, mode: Mode) -> None:
    augmented = augment(long_chain(layers, learned_every), mode=mode)
    s = dict.fromkeys(augmented.hidden, 1.5)
    kappa = {pair: 0.5 + 0.1 * (i % 7) for i, pair in enumerate(augmented.pair_names)}
    taubar = derive(augmented).taubar()
    one, two = (release_lipschitz(a, 0.8, s, kappa, taubar) for a in (augmented, read_off(augmented)))
    for name in augmented.base.covered:
        assert one.hidden(name) == two.hidden(name) > 0
        (u,) = augmented.base[name].predecessors
        assert one.jacobian(name, u) == two.jacobian(name, u)
    assert np.array_equal(one.J, two.J)


def test_a_long_graph_prints_its_pairs_as_a_count() -> None:
    augmented = augment(long_chain(420, 60), mode="minimal")
    assert augmented.text().endswith(f"|S| = {len(augmented.hidden)}, |P| = {int(augmented.pairs.sum())}")
    assert len(augmented.text().splitlines()) == len(augmented.base) + 2


def test_what_does_not_reach_the_output_is_pruned() -> None:
    builder = Builder()
    x = builder.input(2, name="x")
    f = builder.linear(x, 2, name="f")
    builder.smooth(TANH, f, name="unused")
    base = augment(builder.graph("f"), mode="paper").base
    assert [node.name for node in base.nodes] == ["x", "f"]


def test_data_only_nodes_are_like_inputs() -> None:
    """No pair starts at the sample, its norm has no indicator, and a Jacobian that varies with it alone is fixed."""
    builder = Builder()
    squashed = builder.smooth(TANH, builder.input(2, name="x"), name="squashed")
    f = builder.linear(squashed, 2, name="f")
    gate = builder.add(Product(), f, squashed, name="gate")
    augmented = augment(builder.graph(builder.linear(gate, 1, name="g")), mode="minimal")
    assert augmented.hidden == ("gate",)
    assert set(augmented.pair_names) == {("g", "f"), ("gate", "f")}


def test_unknown_mode_and_nothing_learned() -> None:
    builder = Builder()
    x = builder.input(2, name="x")
    t = builder.smooth(TANH, x, name="t")
    with pytest.raises(GraphError, match="no learned parameter"):
        augment(builder.graph(t))
    f = builder.linear(t, 2, name="f")
    with pytest.raises(GraphError, match="'maximal', expected one of minimal, paper, output-only"):
        augment(builder.graph(f), mode="maximal")  # type: ignore[arg-type]


def test_margin_loss_needs_a_vector() -> None:
    builder = Builder()
    f = builder.linear(builder.input(2, 2, name="x"), 2, name="f")
    with pytest.raises(UnsupportedOperationError, match="flatten"):
        augment(builder.graph(f))


def test_derive_needs_an_augmented_graph() -> None:
    builder = Builder()
    graph = builder.graph(builder.linear(builder.input(2, name="x"), 2, name="f"))
    with pytest.raises(GraphError, match="call augment"):
        derive(graph)  # type: ignore[arg-type]


def test_affine_functions_are_no_activations() -> None:
    builder = Builder()
    f = builder.linear(builder.input(1, name="x"), 1, name="f")
    halved = builder.smooth(affine(0.5, 1.0), f, name="halved")
    augmented = augment(builder.graph(halved), mode="paper")
    assert augmented.hidden == ()


def test_inputs_come_first() -> None:
    builder = Builder()
    f = builder.linear(builder.input(1, name="x"), 1, name="f")
    both = builder.add(Add(), f, builder.input(1, name="y"), name="both")
    base = augment(builder.graph(both)).base
    assert [isinstance(node.operation, Input) for node in base.nodes] == [True, True, False, False]
