"""The engine against dense Jacobians of every pair: random graphs, bounds along edges, levels, undefined samples."""

from __future__ import annotations

from unittest.mock import patch

import hypothesis.strategies as st
import pytest
import torch
from handmade import NETWORKS, mlp
from hypothesis import given
from oracles import ancestor_pairs, total_derivative
from strategies import Builder, Case, cases, examples
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH, ScalarFunction
from covergraph.graph.interpreter import Context, evaluate
from covergraph.measure.chain import pair_norms
from covergraph.measure.engine import Engine, Norms
from covergraph.measure.jacobians import filled_norms
from covergraph.measure.plan import Preference, plan
from covergraph.values import Pair

EVERY = 2**30


def run(
    case: Case,
    pairs: list[Pair],
    wanted: Preference = "lanczos",
    width: float = 1.01,
    levels: dict[Pair, float] | None = None,
) -> tuple[Norms, Engine]:
    context = Context(case.graph.state(case.state))
    rows = len(case.inputs[0])
    engine = Engine(plan(case.graph, pairs, rows, EVERY, wanted), context, width, failure=1e-6)
    with torch.no_grad():
        values = evaluate(case.graph, context, case.graph.named_inputs(case.inputs), {})
        return engine.block(values, 0, levels or {}, torch.ones(rows, dtype=torch.bool)), engine


SLOPES = ScalarFunction.derivative


def truth(case: Case, pair: Pair) -> Tensor:
    return torch.linalg.matrix_norm(total_derivative(case.graph, case.state, case.inputs, *pair), 2)


@examples(60)
@given(cases(largest=6), st.sampled_from(["auto", "exact", "lanczos"]), st.sampled_from([1.001, 1.01, 1.3]))
def test_ends_hold_the_norms_of_every_pair_of_random_graphs(case: Case, wanted: Preference, width: float) -> None:
    pairs = ancestor_pairs(case.graph)
    found, engine = run(case, pairs, wanted, width)
    assert set(found.upper) == set(pairs)
    values, context = case.graph.run(case.state, *case.inputs), Context(case.graph.state(case.state))
    along = filled_norms(case.graph, values, context, pairs)
    rounded = pair_norms(case.graph, values, context, pairs)  # the reference, by autograd, is no better than its margin
    with patch.object(ScalarFunction, "derivative", lambda f, x: SLOPES(f, x).abs() + 2.0**-45):
        moved = filled_norms(case.graph, values, context, pairs)  # nor than 1 - tanh^2; so are lower ends of edges
    for pair in pairs:
        dense, upper = truth(case, pair), found.upper[pair]
        whole = float(along[pair].max())
        floor = float((moved[pair] - along[pair]).max()) + 1e-13 * whole + 1e-250
        floor += 2 * float((rounded[pair][1] - rounded[pair][0]).max())  # where paths cancel
        assert (upper >= dense * (1 - 1e-10) - floor).all(), (pair, engine.plan.way[pair])
        assert found.lower[pair] <= float(dense.max()) * (1 + 1e-9) + floor
        if float(dense.max()) > 1e-6 * whole:  # else rounding may forbid to come so close
            assert float(upper.max()) <= width * found.lower[pair] * (1 + 1e-9) + floor
        assert float(upper.max()) <= max(width * float(dense.max()), whole) * (1 + 1e-9) + floor


def wide(samples: int) -> Case:
    """A second input of very different size multiplies a layer: so differ the Jacobians across it."""
    builder = Builder()
    top, gate = builder.input(6), builder.input(50)
    for width in (50, 60, 50):
        top = builder.add(op.Elementwise(TANH), builder.linear(top, width, True))
    top = builder.add(op.Product(), builder.linear(top, 50, True), gate)
    top = builder.linear(builder.linear(top, 40, True), 3, True)
    sizes = torch.logspace(-2, 2, samples, dtype=torch.float64)[:, None]
    inputs = torch.randn(samples, 6, dtype=torch.float64), sizes * torch.rand(samples, 50, dtype=torch.float64)
    return Case(builder.graph(top), builder.state, inputs)


def across(case: Case) -> Pair:
    """From before the product to behind it."""
    (product,) = (node.name for node in case.graph.nodes if isinstance(node.operation, op.Product))
    last = next(node.name for node in case.graph.nodes if product in node.inputs)
    return last, case.graph[case.graph[product].inputs[0]].inputs[0]


def test_bounds_along_edges_spare_samples() -> None:
    case = wide(160)
    pair = across(case)
    found, _ = run(case, [pair])
    dense = truth(case, pair)
    assert (found.upper[pair] >= dense * (1 - 1e-10)).all()
    assert float(found.upper[pair].max()) <= 1.01 * float(dense.max()) * (1 + 1e-9)
    values, context = case.graph.run(case.state, *case.inputs), Context(case.graph.state(case.state))
    along = filled_norms(case.graph, values, context, [pair])[pair]
    spared = found.upper[pair] == along
    assert int(spared.sum()) > 80
    assert found.steps[pair] <= 30 * int((~spared).sum())


def test_samples_below_a_level_are_only_proven_to_be_below() -> None:
    case = wide(40)
    pair = across(case)
    dense = truth(case, pair)
    level = 1.5 * float(dense.max())
    found, _ = run(case, [pair], levels={pair: level})
    free, _ = run(case, [pair])
    assert (found.upper[pair] >= dense).all() and float(found.upper[pair].max()) <= 1.01 * level * (1 + 1e-9)
    assert found.steps[pair] < free.steps[pair]


def test_few_outputs_are_measured_sample_by_sample() -> None:
    case = wide(40)
    pair = (case.graph.output, case.graph.nodes[4].name)
    found, _ = run(case, [pair])
    dense = truth(case, pair)
    assert (found.upper[pair] >= dense * (1 - 1e-12)).all() and (found.upper[pair] <= 1.01 * dense * (1 + 1e-9)).all()


def test_what_no_sample_changes_is_measured_once() -> None:
    builder = Builder(3)
    top = builder.input(9)
    for width in (30, 25, 30):
        top = builder.linear(top, width, True)
    case = Case(builder.graph(top), builder.state, (torch.randn(5, 9, dtype=torch.float64),))
    pair = (case.graph.output, case.graph.nodes[1].name)
    found, engine = run(case, [pair])
    assert engine.plan.way[pair] == "fixed" and pair not in found.steps
    assert len(set(found.upper[pair].tolist())) == 1
    assert float(truth(case, pair)[0]) == pytest.approx(float(found.upper[pair][0]), rel=0.0101)
    assert float(truth(case, pair)[0]) <= float(found.upper[pair][0])


def test_samples_that_are_not_defined_are_left_out() -> None:
    case = wide(12)
    pair = across(case)
    context = Context(case.graph.state(case.state))
    engine = Engine(plan(case.graph, [pair], 12, EVERY, "lanczos"), context)
    defined = torch.arange(12) % 3 != 0
    with torch.no_grad():
        values = evaluate(case.graph, context, case.graph.named_inputs(case.inputs), {})
        broken = {name: torch.where(defined[:, None], value, torch.nan) for name, value in values.items()}
        found = engine.block(broken, 0, {}, defined)
    assert (found.upper[pair][~defined] == 0).all()
    assert (found.upper[pair][defined] >= truth(case, pair)[defined]).all()
    with torch.no_grad():
        nothing = engine.block(broken, 0, {}, torch.zeros(12, dtype=torch.bool))
    assert (nothing.upper[pair] == 0).all() and nothing.lower[pair] == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_numbers_of_a_sample_do_not_depend_on_its_block(name: str) -> None:
    """Same starts, whatever block a sample is in; few outputs: each sample is measured on its own."""
    net = NETWORKS[name]()
    graph, context = net.graph, Context(net.graph.state({k: v.double() for k, v in net.module.state_dict().items()}))
    inputs = tuple(x.double() for x in net.sample(6)[0])
    pairs = [pair for pair in ancestor_pairs(graph) if pair[0] == graph.output]
    engine = Engine(plan(graph, pairs, 6, EVERY, "lanczos"), context)

    def block(rows: slice) -> Norms:
        with torch.no_grad():
            values = evaluate(graph, context, graph.named_inputs([x[rows] for x in inputs]), {})
            return engine.block(values, rows.start, {}, torch.ones(len(inputs[0][rows]), dtype=torch.bool))

    whole, parts = block(slice(0, 6)), [block(slice(0, 2)), block(slice(2, 6))]
    for pair in pairs:
        joined = torch.cat([part.upper[pair] for part in parts])
        torch.testing.assert_close(whole.upper[pair], joined, rtol=1e-9, atol=1e-300)


def test_another_seed_makes_other_starts() -> None:
    net = mlp((5, 40, 40, 2))
    pair = [("t2", "t1")] if "t2" in net.graph.by_name else [(net.graph.nodes[4].name, net.graph.nodes[2].name)]
    context = Context(net.graph.state({k: v.double() for k, v in net.module.state_dict().items()}))
    values = evaluate(net.graph, context, net.graph.named_inputs([x.double() for x in net.sample(4)[0]]), {})
    chosen = plan(net.graph, pair, 4, EVERY, "lanczos")
    found = [
        Engine(chosen, context, seed=seed).block(values, 0, {}, torch.ones(4, dtype=torch.bool)).lower[pair[0]]
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
