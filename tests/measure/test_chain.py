"""Ends from chains in single precision against norms of the same Jacobians in double; see `test_double_chain`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from operation_cases import random
from strategies import Builder, Case, cases, examples
from torch import Tensor

from covergraph.graph import functions
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import RELU
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Permute, Pick
from covergraph.measure import chain as chains
from covergraph.measure import jacobians, roundings
from covergraph.measure.chain import full_precision, pair_norms
from covergraph.measure.engine import Engine
from covergraph.measure.jacobians import total_derivatives
from covergraph.measure.plan import plan
from covergraph.measure.rounded import Loss, schur
from covergraph.measure.roundings import SINGLE, Arithmetic

ROUNDING = 1e-12
"""Relative rounding of the norms in double precision that are taken for the truth."""
UNIT, gamma = SINGLE.unit, SINGLE.gamma
Made = tuple[ComputationGraph, dict[str, Tensor], Context]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Thousands of small matrices: threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def finished(builder: Builder, output: str, samples: int) -> Made:
    """Values of a graph at random inputs."""
    graph, state = builder.graph(output), builder.state | builder.constants
    inputs = [builder.normal(samples, *node.shape) for node in graph.nodes if isinstance(node.operation, op.Input)]
    return graph, dict(graph.run(state, *inputs)), Context(state)


def all_pairs(graph: ComputationGraph) -> list[tuple[str, str]]:
    return [(graph.nodes[w].name, graph.nodes[a].name) for w, a in np.argwhere(graph.reach)]


def single_norms(
    graph: ComputationGraph, values: dict[str, Tensor], context: Context, pairs: list[tuple[str, str]]
) -> dict[tuple[str, str], Tensor]:
    """Upper ends from single precision."""
    return {pair: upper for pair, (_, upper) in pair_norms(graph, values, context, pairs, number=SINGLE).items()}


def ends(made: Made) -> tuple[Tensor, Tensor]:
    """(upper ends, norms in double precision), both (pairs, samples)."""
    graph, values, context = made
    pairs = all_pairs(graph)
    truth = {pair: torch.zeros(len(next(iter(values.values()))), dtype=torch.float64) for pair in pairs}
    with torch.no_grad():
        for a in dict.fromkeys(a for _, a in pairs):
            for w, matrix in total_derivatives(graph, values, context, a, [w for w, b in pairs if b == a]):
                truth[w, a] = torch.linalg.matrix_norm(matrix, ord=2)
        upper = single_norms(graph, values, context, pairs)
    return torch.stack([upper[pair] for pair in pairs]), torch.stack([truth[pair] for pair in pairs])


ACTIVATIONS = (functions.TANH, functions.GELU, functions.SOFTPLUS, RELU)


def chain(seed: int, widths: list[int], change: Callable[[Tensor, int], Tensor], samples: int = 16) -> Made:
    """A sequential network, each of its weights changed by a function of the weight and the number of the layer."""
    builder = Builder(seed)
    u = builder.input(widths[0])
    for i, width in enumerate(widths[1:]):
        name = builder.linear(u, width)
        builder.state[f"{name}.weight"] = change(builder.state[f"{name}.weight"], i)
        u = builder.smooth(ACTIVATIONS[(seed + i) % 4], name) if i < len(widths) - 2 else name
    return finished(builder, u, samples)


def random_widths(seed: int, largest: int) -> list[int]:
    return torch.randint(1, largest, (4 + seed % 3,), generator=torch.Generator().manual_seed(seed)).tolist()


def plain(seed: int) -> Made:
    return chain(seed, random_widths(seed, 24), lambda weight, i: 2 * weight)


def tiny(seed: int) -> Made:
    """Few roundings: their errors come close to the bounds."""
    return chain(seed, random_widths(seed, 3), lambda weight, i: weight, 64)


def scaled(seed: int) -> Made:
    """Layers of sizes 1e-6 to 1e6."""
    sizes = 10 ** (12 * torch.rand(9, generator=torch.Generator().manual_seed(seed)) - 6)
    return chain(seed, random_widths(seed, 12)[:4], lambda weight, i: weight * sizes[i])


def graded(seed: int) -> Made:
    """Rows of sizes 1 to 1e-12."""
    return chain(
        seed, random_widths(seed, 20), lambda weight, i: weight * torch.logspace(0, -12, len(weight)).double()[:, None]
    )


def low_rank(seed: int) -> Made:
    """The third singular value is 1e-9 of the first."""

    def change(weight: Tensor, i: int) -> Tensor:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return (left * values * torch.tensor([1, 0.5] + [1e-9] * len(values)).double()[: len(values)]) @ right

    return chain(seed, random_widths(seed, 20), change)


def orthogonal(seed: int) -> Made:
    return chain(seed, [12] * 5, lambda weight, i: torch.linalg.qr(weight).Q)


def canceling(seed: int) -> Made:
    """A difference of two ways that agree to about 10^-(2 to 6), and what follows."""
    builder = Builder(seed)
    x = builder.linear(builder.input(8), 8)
    left, right = builder.linear(x, 10), builder.linear(x, 10)
    noise = 10.0 ** -(2 + seed % 5) * builder.normal(10, 8)
    builder.state[f"{right}.weight"] = builder.state[f"{left}.weight"] + noise
    difference = builder.add(op.Subtract(), left, right)
    return finished(builder, builder.linear(builder.smooth(functions.TANH, difference), 5), 16)


def image(seed: int) -> Made:
    """Convolutions, both kinds of pools, a global mean."""
    builder = Builder(seed, 2.0)
    u = builder.convolution(builder.input(2, 7, 7), 3, 3, 1 + seed % 2, 1, bias=True)
    u = builder.smooth(ACTIVATIONS[seed % 4], u)
    u = builder.add(op.MaxPool((2, 2), (1, 1), (1, 0), (1, 1), rectify=seed % 3 == 0), u)
    u = builder.convolution(u, 4, 2)
    u = builder.add(op.AveragePool((2, 2), (1, 1), (1, 1)), builder.smooth(functions.GELU, u))
    u = builder.linear(builder.add(op.Sum((1, 2), True), u), 3)
    return finished(builder, u, 16)


def diamond(seed: int) -> Made:
    """Residual sums, products, squares, a concatenation that reads one node twice."""
    builder = Builder(seed)
    x = builder.linear(builder.input(5), 6)
    t = builder.smooth(functions.TANH, x)
    total = builder.add(op.Add(), builder.linear(t, 6), t, x)
    gate = builder.add(op.Product(), builder.add(op.Product(), total, total), t)
    quotient = builder.add(op.Divide(), gate, builder.smooth(functions.SOFTPLUS, total))
    joined = builder.add(op.Concatenate(0), quotient, total, quotient)
    return finished(builder, builder.linear(builder.smooth(functions.GELU, joined), 3), 16)


def attention(seed: int) -> Made:
    """Normalization, scores, softmax, weighted means."""
    builder = Builder(seed)
    x = builder.add(op.Normalize(4, 0.1, seed % 2 == 0), builder.input(5, 4))
    q, k, v = (builder.linear(x, 4) for _ in range(3))
    weights = builder.add(
        op.Softmax(1), builder.add(op.MatrixProduct(), q, builder.add(op.Rearrange((Permute((1, 0)),)), k))
    )
    mixed = builder.add(op.Add(), x, builder.add(op.MatrixProduct(), weights, v))
    return finished(builder, builder.linear(builder.flat(mixed), 3), 8)


def absorbed(seed: int) -> Made:
    """Sums of 1 and many numbers of which none alone would change it: the bound of a sum's roundings is attained."""

    def change(weight: Tensor, i: int) -> Tensor:
        return torch.ones_like(weight) if i == 0 else (0.9 * UNIT * torch.ones_like(weight)).index_fill(1, FIRST, 1.0)

    return chain(0, [1, 40 * (seed + 1), 16], change)


FIRST = torch.tensor([0])
FAMILIES = [plain, tiny, scaled, graded, low_rank, orthogonal, canceling, image, diamond, attention, absorbed]


def test_ten_thousand_upper_ends_are_not_below_the_norms() -> None:
    finite: dict[str, int] = {}
    for family in FAMILIES:
        for seed in range(5):
            upper, truth = ends(family(seed))
            assert (upper >= truth * (1 - ROUNDING)).all(), f"{family.__name__}, seed {seed}"
            finite[family.__name__] = finite.get(family.__name__, 0) + int(upper.isfinite().sum())
    assert min(finite.values()) >= 400 and sum(finite.values()) >= 10_000, finite


def test_upper_ends_fail_without_the_bound_of_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each family some norm of single precision is too small: by 1e-7 in general, by more where numbers cancel."""
    monkeypatch.setattr(Loss, "of", lambda self, norm, *rest: torch.zeros_like(norm))
    monkeypatch.setattr(Arithmetic, "gamma", lambda self, terms: 0.0)
    monkeypatch.setattr(roundings, "EXCESS", 0.0)
    for family in FAMILIES:
        upper, truth = ends(family(0))
        assert (upper < truth * (1 - 1e-9)).any(), family.__name__
    upper, truth = ends(canceling(4))
    assert (upper < truth * (1 - 1e-5)).any()


def test_roundings_come_close_to_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a few roundings the bound is not larger than 8 times what happens: a tenth of it would not do."""
    monkeypatch.setattr(Arithmetic, "gamma", lambda self, terms: terms * UNIT / 8)
    monkeypatch.setattr(Arithmetic, "ends", lambda self, matrices: 2 * (torch.linalg.matrix_norm(matrices, 2),))
    monkeypatch.setattr(roundings, "EXCESS", 0.0)
    upper, truth = ends(tiny(3))
    assert (upper < truth * (1 - 1e-9)).any()


@pytest.mark.parametrize("width", [64, 256])
def test_margins_of_sequential_networks_are_small(width: int) -> None:
    upper, truth = ends(chain(0, [width] * 5, lambda weight, i: weight, 2))
    excess = upper / truth - 1
    assert excess.median() < 0.002 and excess.max() < 0.01


@examples(40)
@given(cases(batch=2))
def test_upper_ends_of_random_graphs(case: Case) -> None:
    context = Context(case.state)
    upper, truth = ends((case.graph, dict(case.graph.run(case.state, *case.inputs)), context))
    assert (upper >= truth * (1 - ROUNDING)).all()


def test_a_weight_times_the_identity_is_rounded_once() -> None:
    """Its entries are those of the weight, so only the conversion is lost."""
    graph, values, context = chain(1, [300, 200], lambda weight, i: weight, 2)
    chain_ = chains._Chain.of(graph, values, context, all_pairs(graph), SINGLE)
    ((_, matrix, lost),) = chain_.derivatives(graph.nodes[0].name, [graph.output], slice(0, 2))
    weight = next(iter(context.state.values()))
    assert matrix is not None and torch.equal(matrix[0], weight.float())
    error = float((weight.float().double() - weight).norm())
    assert error <= float(lost[0]) <= gamma(1) * 1.01 * schur(weight) * math.sqrt(300)


def test_known_norms_of_later_sources_sharpen_the_margins() -> None:
    graph, values, context = chain(3, [48] * 9, lambda weight, i: weight, 2)
    pair = (graph.output, graph.nodes[0].name)
    with torch.no_grad():
        alone = single_norms(graph, values, context, [pair])[pair]
        known = single_norms(graph, values, context, all_pairs(graph))[pair]
        truth = pair_norms(graph, values, context, [pair])[pair][1]
    assert ((known - truth) < 0.7 * (alone - truth)).all()


def test_pairs_whose_margin_is_wide_are_left_to_double_precision() -> None:
    """Of the others both ends are those of single precision, within the width that was asked for."""
    graph, values, context = canceling(3)
    pairs = [pair for pair, way in plan(graph, all_pairs(graph), 16, 2**30, "exact").way.items() if way == "dense"]
    engine = Engine(plan(graph, pairs, 16, 2**30, "exact"), context, width=1.002, dtype=torch.float32)
    with torch.no_grad():
        found = engine._formed(values, pairs)
        single = pair_norms(graph, values, context, pairs, number=SINGLE)
        double = pair_norms(graph, values, context, pairs)
    left = {pair for pair in pairs if torch.equal(found[pair][1], double[pair][1])}
    assert 0 < len(left) < len(pairs)
    for pair in pairs:
        lower, upper = single[pair]
        assert bool((upper <= 1.002 * lower).all()) == (pair not in left)
        assert pair in left or torch.equal(found[pair][1], upper)


def test_numbers_out_of_range_are_left_to_double_precision() -> None:
    """Products of 1e60 and 1e-60; the others of the network are measured."""
    graph, values, context = chain(0, [3, 3, 3, 3], lambda weight, i: weight * (1e60, 1e-60, 1.0)[i], 2)
    state = dict(context.state)
    upper = single_norms(graph, values, Context(state), all_pairs(graph))
    weights = [node.name for node in graph.nodes if isinstance(node.operation, op.Linear)]
    x = graph.nodes[0].name
    assert upper[weights[0], x].isinf().all() and upper[weights[1], x].isinf().all()
    last = graph[weights[2]]
    assert upper[last.name, last.inputs[0]].isfinite().all()


def test_samples_without_derivative_do_not_disturb_the_others() -> None:
    graph, values, context = chain(0, [4, 5, 3], lambda weight, i: weight, 4)
    pair = (graph.output, graph.nodes[0].name)
    expected = single_norms(graph, values, context, [pair])[pair]
    broken = {name: value.clone() for name, value in values.items()}
    for value in broken.values():
        value[2] = math.nan
    found = single_norms(graph, broken, context, [pair])[pair]
    assert found[2] == math.inf and torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


def test_ways_that_are_closed_have_norm_0() -> None:
    """ReLUs at negative arguments: nothing passes, and nothing is lost."""
    builder = Builder(0)
    closed = builder.smooth(RELU, builder.linear(builder.input(3), 4))
    graph, values, context = finished(builder, builder.linear(closed, 2), 2)
    values[closed] = torch.zeros_like(values[closed])
    values[graph[closed].inputs[0]] = -torch.ones_like(values[closed])
    upper = single_norms(graph, values, context, all_pairs(graph))
    assert upper[graph.output, graph.nodes[0].name].tolist() == [0, 0]
    assert upper[closed, graph[closed].inputs[0]].tolist() == [0, 0]


def test_what_passes_through_an_operation_without_rule_is_refused() -> None:
    """Also where another way goes around it; pairs beside it are measured."""
    builder = Builder(0)
    x = builder.input(2, 4)
    y = builder.linear(x, 4)
    z = builder.add(op.Add(), y, builder.add(op.Attention(0.5), y, y, y, name="attention"))
    graph, values, context = finished(builder, builder.linear(z, 4, name="last"), 3)
    upper = single_norms(graph, values, context, all_pairs(graph))
    finite = {pair for pair, norm in upper.items() if norm.isfinite().all()}
    assert finite == {(y, x), ("last", z), ("last", "attention"), (z, "attention")}
    assert all(norm.isinf().all() for pair, norm in upper.items() if pair not in finite)


def test_integers_end_all_ways() -> None:
    nodes = [
        Node("x", op.Input(), (), (3,)),
        Node("i", op.Rearrange((Pick(0, (0, 1)),)), ("x",), (2,), kind="integer"),
        Node("e", op.Embedding(), ("i",), (2, 4), (("weight", "w"),)),
        Node("f", op.Sum((0,), False), ("e",), (4,)),
    ]
    graph = ComputationGraph(nodes, "f")
    values = {"x": torch.zeros(2, 3).double(), "i": torch.zeros(2, 2).long()}
    values |= {"e": random(2, 2, 4), "f": random(2, 4)}
    upper = single_norms(graph, values, Context({"w": random(5, 4)}), [("f", "x"), ("f", "e")])
    assert upper["f", "x"].tolist() == [0, 0]
    assert upper["f", "e"].tolist() == pytest.approx([math.sqrt(2)] * 2, rel=1e-3)


@pytest.mark.parametrize("memory", [1, 2000])
def test_chunks_of_samples_give_the_same_numbers(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (diamond(1), image(1), attention(1)):
        expected, _ = ends(made)
        with monkeypatch.context() as patch:
            patch.setattr(jacobians, "MEMORY", memory)
            found, truth = ends(made)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        assert (found >= truth * (1 - ROUNDING)).all()


def test_lowered_precision_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 or bfloat16 inside products, by torch's switch or by the environment: all is left to double precision."""
    assert full_precision("cpu") and full_precision("cuda")
    before = torch.get_float32_matmul_precision()
    try:
        for lowered in ("high", "medium"):
            torch.set_float32_matmul_precision(lowered)
            assert not full_precision("cpu") and not full_precision("cuda")
            assert ends(plain(0))[0].isinf().all()
    finally:
        torch.set_float32_matmul_precision(before)
    assert full_precision("cpu")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert not full_precision("cuda")


def test_switches_of_torch_are_set_and_put_back() -> None:
    """Also under autocast, which would make products half precision."""
    before = (torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled())
    with chains.plain_sums("cpu"):
        assert (torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled()) == (False, False)
    graph, values, context = plain(0)
    expected, _ = ends((graph, values, context))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = single_norms(graph, values, context, all_pairs(graph))
        assert torch.is_autocast_enabled("cpu")
    assert (torch.backends.cudnn.enabled, torch._C._get_nnpack_enabled()) == before
    assert torch.equal(torch.stack(list(found.values())), expected)


@pytest.mark.parametrize("family", [diamond, attention, image])
def test_gains_along_all_paths_are_not_below_the_norms(family: Callable[[int], Made]) -> None:
    """What a loss at one node can become until another, from the norms of edges alone."""
    made = family(0)
    graph, values, context = made
    pairs = all_pairs(graph)
    _, truth = ends(made)
    with torch.no_grad():
        chain_ = chains._Chain.of(graph, values, context, pairs, SINGLE)
        for node in graph.nodes:
            chain_.learn(node.name, {})
    norms = dict(zip(pairs, truth, strict=True))
    assert len(chain_.gains) > 5
    assert all((gain >= norms[pair] * (1 - ROUNDING)).all() for pair, gain in chain_.gains.items())
    ends_of_sums = [pair for pair, gain in chain_.gains.items() if gain.max() > 1.01 * norms[pair].max()]
    assert ends_of_sums
