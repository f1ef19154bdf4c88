"""Upper ends filled in from each other: never below a norm, equal to products where all paths meet a node."""

from __future__ import annotations

import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from handmade import NETWORKS
from hypothesis import given
from oracles import ancestor_pairs, total_derivative
from strategies import Builder, Case, cases, examples

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.interpreter import Context
from covergraph.measure.jacobians import edge_norms
from covergraph.measure.levels import Levels
from covergraph.values import Pair


def norms(case: Case, pairs: list[Pair]) -> dict[Pair, float]:
    """The largest norms over the samples, by dense Jacobians."""
    dense = (total_derivative(case.graph, case.state, case.inputs, *pair) for pair in pairs)
    return {pair: float(torch.linalg.matrix_norm(d, 2).max()) for pair, d in zip(pairs, dense, strict=True)}


def edges_of(case: Case) -> dict[Pair, float]:
    values, context = case.graph.run(case.state, *case.inputs), Context(case.graph.state(case.state))
    return {edge: float(ends.max()) for edge, ends in edge_norms(case.graph, values, context).items()}


def levels_of(case: Case, pairs: list[Pair]) -> Levels:
    return Levels(case.graph, pairs, edges_of(case))


@examples(10)
@given(cases(largest=4), st.data())
def test_no_level_is_below_its_norm_whatever_is_known(case: Case, data: st.DataObject) -> None:
    pairs = ancestor_pairs(case.graph)
    known = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    levels, truth = levels_of(case, pairs), norms(case, pairs)
    along = {pair: levels[pair] for pair in pairs}
    levels.lower_to({pair: truth[pair] for pair in known})
    for pair in pairs:
        floor = 1e-13 * along[pair] + 1e-250  # where paths cancel
        assert truth[pair] * (1 - 1e-10) - floor <= levels[pair] <= along[pair] * (1 + 1e-12)
        assert levels[pair] <= truth[pair] or pair not in known
    if set(known) != set(pairs):
        levels.lower_to(truth)
        assert all(levels[pair] == pytest.approx(min(truth[pair], along[pair]), rel=1e-9) for pair in pairs)


def test_what_lies_on_no_path_of_a_pair_stays_unknown() -> None:
    """Some edges into it were not given, so a finite number would be wrong."""
    case = chain(4)
    names = [node.name for node in case.graph.nodes]
    levels = levels_of(case, [(names[3], names[1])])
    assert levels[names[3], names[1]] < np.inf and levels[names[3], names[2]] < np.inf
    assert levels[names[4], names[1]] == np.inf and levels[names[1], names[0]] == np.inf
    assert levels[names[1], names[1]] == 1 and levels[names[1], names[3]] == 0


def chain(layers: int) -> Case:
    builder = Builder()
    top = builder.input(5)
    for _ in range(layers):
        top = builder.smooth(TANH, builder.linear(top, 5))
    return Case(builder.graph(top), builder.state, (builder.normal(3, 5),))


def test_a_measured_pair_lowers_all_pairs_around_it_by_the_same_factor() -> None:
    case = chain(3)
    names = [node.name for node in case.graph.nodes]
    levels = levels_of(case, ancestor_pairs(case.graph))
    before = levels.upper.copy()
    middle = names[4], names[2]
    levels.lower_to({middle: levels[middle] / 8})
    i, j = 4, 2
    for w in range(len(names)):
        for a in range(w):
            factor = 8 if w >= i and a <= j else 1
            assert levels.upper[w, a] == pytest.approx(before[w, a] / factor, rel=1e-12)


def test_paths_that_meet_twice_are_not_split_there() -> None:
    """a -> x1 -> x2 beside a -> x2, and both to w: the largest sum of products over the paths stays (Proposition 2)."""
    builder = Builder()
    a = builder.smooth(TANH, builder.input(1, name="x"), name="a")
    x1 = builder.smooth(TANH, a, name="x1")
    x2 = builder.add(op.Subtract(), a, x1, name="x2")
    w = builder.add(op.Add(), x1, x2, name="w")
    case = Case(builder.graph(w), builder.state, (torch.zeros(1, 1, dtype=torch.float64),))
    pairs = ancestor_pairs(case.graph)
    truth = norms(case, pairs)
    assert (truth["w", "x1"], truth["x2", "a"], truth["w", "a"]) == (0, 0, 1)
    levels = levels_of(case, pairs)
    levels.lower_to({pair: truth[pair] for pair in (("w", "x1"), ("x2", "a"))})
    assert 1 <= levels["w", "a"] <= 2


def test_norms_behind_an_identity_are_those_before_it() -> None:
    """The branch of a residual block is read by its sum alone, which all later paths meet."""
    builder = Builder()
    x = builder.input(4, name="x")
    branch = builder.linear(builder.smooth(TANH, x, name="t"), 4, name="branch")
    total = builder.add(op.Add(), branch, x, name="sum")
    flat = builder.add(op.Reshape(), total, name="flat", shape=(4,))
    builder.linear(flat, 3, name="out")
    case = Case(builder.graph("out"), builder.state, (builder.normal(2, 4),))
    levels = levels_of(case, ancestor_pairs(case.graph))
    before = levels["out", "x"]
    levels.lower_to({("out", "branch"): levels["out", "branch"] / 5})
    for same in ("sum", "flat"):
        assert levels["out", same] == pytest.approx(levels["out", "branch"], rel=1e-12)
    assert levels["out", "x"] == pytest.approx(before / 5, rel=1e-12)
    levels.lower_to({("out", "x"): before / 1e6})  # x is read twice, t by what is no identity
    assert levels["out", "sum"] > before / 1e3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gain_is_what_filling_in_again_lowers(name: str) -> None:
    """Exactly what products with the pair give; where paths are added up there may be more."""
    net = NETWORKS[name]()
    case = Case(net.graph, dict(net.module.state_dict()), net.sample(4)[0])
    pairs = ancestor_pairs(net.graph)
    weights = {pair: 1.0 + i % 3 for i, pair in enumerate(pairs)}
    sequential = all(len(node.predecessors) <= 1 for node in net.graph.nodes)
    gains, edges = [], edges_of(case)
    for pair in pairs:
        levels = Levels(case.graph, pairs, edges)
        levels.lower_to({})
        before = {other: levels[other] for other in pairs}
        gain = levels.gain(pair, levels[pair] / 3, levels.matrix(weights))
        levels.lower_to({pair: levels[pair] / 3})
        lost = sum(weights[other] * np.log(before[other] / levels[other]) for other in pairs if before[other] > 0)
        assert gain == pytest.approx(lost, rel=1e-9) if sequential else gain <= lost * (1 + 1e-9)
        assert gain >= weights[pair] * np.log(3) * (1 - 1e-9)
        gains.append(gain)
    assert max(gains) > 3 * min(gains)


def test_gains_do_not_depend_on_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    case = chain(3)
    pairs = ancestor_pairs(case.graph)
    weights = dict.fromkeys(pairs, 2.0)

    def gains() -> list[float]:
        levels = levels_of(case, pairs)
        return [levels.gain(pair, levels[pair] / 3, levels.matrix(weights)) for pair in pairs]

    expected = gains()
    monkeypatch.setattr(sys.modules["covergraph.measure.levels"], "REMEMBERED", 0)
    assert gains() == expected
