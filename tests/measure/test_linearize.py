"""Products with Jacobians in both directions against dense Jacobians by autograd of the same in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from handmade import NETWORKS
from hypothesis import assume, given
from hypothesis import strategies as st
from operation_cases import BATCH, Case, at_positions, random
from operation_cases.composed import call
from operation_cases.every import CASES
from oracles import total_derivative
from strategies import Case as Network
from strategies import cases, examples
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH, ScalarFunction
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Expand
from covergraph.measure import jacobians, local_convolutions, local_rules
from covergraph.measure.edges import edge_bound
from covergraph.measure.jacobians import filled_norms, total_derivatives
from covergraph.measure.linearize import Linearization, Local, Segment, local
from covergraph.measure.local_rules import local_at

NO_REAL_SLOT = {op.Input, op.Parameter, op.Constant, op.Embedding}
WHOLE = torch.tensor([[2, 1, -3], [1, 4, 1], [3, -1, 2]])
KEPT = torch.tensor([0.0, 1.0, -3.0]).double()
SCALE, MASK = random(3, 1, seed=90), torch.tensor([0.0, -math.inf, 1.0]).double()
LATER = -1e300 * torch.ones(3, 3).double().triu(1)
KERNEL, LONG, POINT = random(8, 8, 3, 3, seed=91), random(8, 8, 3, seed=92), random(9, 8, seed=93)
BY_TAPS = op.Convolution((1, 1), (1, 0), (1, 1), 1, (3, 3), False)
OF_KERNEL, OF_LONG = (("weight", KERNEL),), (("weight", LONG),)


def by_taps(x: Tensor) -> Tensor:
    return F.conv2d(x, KERNEL, None, 1, (1, 0))


def longer(stride: int) -> Callable[[Tensor], Tensor]:
    return lambda x: F.conv_transpose1d(x, LONG, None, stride, 1, 2, 1, 3)


def pointwise(padding: int) -> Case:
    operation = op.Convolution((1, 1), (padding,) * 2, (1, 1), 1, (1, 1), False)
    result = (9, 2 + 2 * padding, 3 + 2 * padding)
    weight = (("weight", POINT[:, :, None, None]),)
    return Case(
        operation, ((8, 2, 3),), result, lambda x: F.pad(torch.einsum("bchw,oc->bohw", x, POINT), [padding] * 4), weight
    )


SHAPES = {
    "scale": Case(
        op.Affine(True, True), ((1, 3),), (3, 3), lambda x: x * SCALE + 1, (("scale", SCALE), ("shift", SCALE**0))
    ),
    "shift": Case(op.Affine(False, True), ((1, 3),), (3, 3), lambda x: x + SCALE, (("shift", SCALE),)),
    "slope": Case(
        op.ParametricReLU(), ((1, 3),), (3, 3), lambda x: x.relu() - SCALE * (-x).relu(), (("slope", SCALE),)
    ),
    "subtract": Case(op.Subtract(), ((2, 3), (1, 3)), (2, 3), lambda x, y: x - y),
    "subtract both": Case(op.Subtract(), ((2, 1), (1, 3)), (2, 3), lambda x, y: x - y),
    "product": Case(op.Product(), ((2, 3), (2, 1)), (2, 3), lambda x, y: x * y),
    "divide": Case(op.Divide(), ((1, 3), (2, 1)), (2, 3), lambda x, y: x * y**-1),
    "matmul": Case(op.MatrixProduct(), ((2, 3, 4), (1, 4, 2)), (2, 3, 2), lambda x, y: torch.matmul(x, y)),
    "matmul both": Case(
        op.MatrixProduct(), ((2, 1, 3, 4), (1, 2, 4, 2)), (2, 2, 3, 2), lambda x, y: torch.matmul(x, y)
    ),
    "mask for all heads": Case(op.Softmax(2), ((2, 2, 3), (1, 2, 3)), (2, 2, 3), lambda x, y: (x + y).softmax(3)),
    "scores for all masks": Case(op.Softmax(1), ((1, 3), (2, 3)), (2, 3), lambda x, y: (x + y).softmax(2)),
}
"""Slots that are repeated along an axis."""
INTEGERS = {
    "product": Case(op.Product(), ((3,), (3,)), (3,), lambda x, y: x * y, special={1: WHOLE}),
    "divisor": Case(op.Divide(), ((3,), (3,)), (3,), lambda x, y: x / y, special={1: WHOLE}),
    "numerator": Case(op.Divide(), ((3,), (3,)), (3,), lambda x, y: x / y, special={0: WHOLE}),
    "minuend": Case(op.Subtract(), ((3,), (3,)), (3,), lambda x, y: x - y, special={0: WHOLE}),
    "matrix": Case(
        op.MatrixProduct(), ((1, 3), (3, 2)), (1, 2), lambda x, y: x.double() @ y, special={0: WHOLE[:, None]}
    ),
    "joined": Case(op.Concatenate(0), ((3,), (2,), (3,)), (8,), lambda *s: torch.cat(s, 1), special={0: WHOLE}),
}
"""Slots of integers beside those of reals."""
SETTINGS = {
    "mask": Case(op.Affine(True, False, True), ((3,),), (3,), lambda x: x * KEPT, (), (("scale", KEPT),)),
    "softmax before other axes": Case(op.Softmax(0), ((3, 2, 2),), (3, 2, 2), lambda x: x.softmax(1)),
    "log_softmax before another axis": Case(op.Softmax(0, True), ((3, 2),), (3, 2), lambda x: x.log_softmax(1)),
    "log_softmax with a mask": Case(op.Softmax(1, True), ((2, 3),) * 2, (2, 3), lambda x, y: (x + y).log_softmax(2)),
    "masked thrice": Case(
        op.Softmax(1, causal=True),
        ((3, 3), (1, 3)),
        (3, 3),
        lambda x, y: (x + y + MASK + LATER).softmax(2),
        constants=(("mask", MASK),),
    ),
    "taps": Case(BY_TAPS, ((8, 4, 5),), (8, 4, 3), by_taps, OF_KERNEL),
    "taps at positions": Case(BY_TAPS, ((2, 8, 4, 5),), (2, 8, 4, 3), lambda x: at_positions(by_taps, x), OF_KERNEL),
    "pointwise convolution": pointwise(0),
    "pointwise convolution with padding": pointwise(1),
    "output padding beyond the stride": Case(
        op.TransposedConvolution((1,), (1,), (2,), (3,), 1, (3,), False), ((8, 4),), (8, 10), longer(1), OF_LONG
    ),
    "output padding as long as the stride, at positions": Case(
        op.TransposedConvolution((2,), (1,), (2,), (3,), 1, (3,), False),
        ((2, 8, 3),),
        (2, 8, 11),
        lambda x: at_positions(longer(2), x),
        OF_LONG,
    ),
    "expand of a scalar": Case(op.Rearrange((Expand((2, 3)),)), ((1, 1),), (2, 3), lambda x: x.repeat(1, 2, 3)),
    "mean of all": Case(op.Sum((0, 1), True), ((2, 3),), (), lambda x: x.flatten(1).mean(1)),
}
MORE = {
    f"{name}{end}": case
    for more, end in ((SHAPES, ", repeated"), (INTEGERS, " of integers"), (SETTINGS, ""))
    for name, case in more.items()
}
EVERY = CASES | MORE
assert len(EVERY) == len(CASES) + len(MORE)
REAL = {name: case for name, case in EVERY.items() if case.moving and case.is_float}
each_case = pytest.mark.parametrize("case", REAL.values(), ids=REAL)


def close(found: Tensor, expected: Tensor, slack: float = 1e-300) -> None:
    """To 1e-12 of the largest entry."""
    assert found.shape == expected.shape and not found.requires_grad
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * size + slack)


def made(case: Case, choose: slice | Tensor = slice(None)) -> Local:
    with torch.no_grad():
        return local_at(case.node, [value[choose] for value in case.values()], case.context)


def dense_by_slot(case: Case) -> dict[int, Tensor]:
    """Dense, by slot of reals: (BATCH, size, size of the slot)."""
    return {i: torch.stack([case.dense(i, n) for n in range(BATCH)]).detach() for i in case.moving}


def directions(case: Case) -> tuple[dict[int, Tensor], Tensor]:
    """A tangent for each slot of reals and a cotangent."""
    tangents = {i: random(BATCH, *case.slots[i], seed=50 + i) for i in case.moving}
    return tangents, random(BATCH, *case.shape, seed=49)


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("bij,bj->bi", matrices, vectors.reshape(len(vectors), -1))


def compare(found: Local, case: Case, rows: Tensor) -> None:
    """All slots together, and each slot alone, at some of the rows."""
    dense, (tangents, cotangent) = dense_by_slot(case), directions(case)
    for chosen in [list(dense), *([i] for i in dense)]:
        expected = torch.stack([times(dense[i], tangents[i]) for i in chosen]).sum(0)
        with torch.no_grad():
            pushed = found.push({i: tangents[i][rows] for i in chosen})
            pulled = found.pull(cotangent[rows], chosen)
        close(pushed, expected.reshape(BATCH, *case.shape)[rows])
        assert sorted(pulled) == chosen
        for i in chosen:
            expected = times(dense[i].mT, cotangent).reshape(BATCH, *case.slots[i])
            close(pulled[i], expected[rows])


@each_case
def test_products_are_those_with_the_dense_jacobian(case: Case) -> None:
    compare(made(case), case, torch.arange(BATCH))


def test_every_operation_of_reals_has_a_case() -> None:
    known = {type(case.operation) for case in REAL.values()}
    every = {c for c in vars(op).values() if isinstance(c, type) and issubclass(c, op.Operation)}
    assert every - known == NO_REAL_SLOT | {op.Operation}
    assert set(local.registry) - {object} <= known | {op.Operation}


@each_case
def test_both_directions_are_adjoint(case: Case) -> None:
    """<push t, c> = <t, pull c> to rounding, summed over the slots; cancellation is that of the terms."""
    found, (tangents, cotangent) = made(case), directions(case)
    with torch.no_grad():
        one = found.push(tangents) * cotangent
        pulled = found.pull(cotangent, case.moving)
    other = [(pulled[i] * t).reshape(BATCH, -1) for i, t in tangents.items()]
    size = float(one.abs().sum() + sum(terms.abs().sum() for terms in other))
    difference = one.reshape(BATCH, -1).sum(1) - torch.cat(other, 1).sum(1)
    assert float(difference.abs().max()) <= 1e-14 * size


@pytest.mark.parametrize("rows", [[0, 1, 2], [2], [2, 0], [1, 1]])
@each_case
def test_a_jacobian_at_some_rows_is_that_of_their_values(case: Case, rows: list[int]) -> None:
    found = made(case)
    if found.narrow is not None:
        compare(found.narrow(torch.tensor(rows)), case, torch.tensor(rows))
        compare(found.narrow(torch.arange(BATCH)).narrow(torch.tensor(rows)), case, torch.tensor(rows))
        compare(found, case, torch.arange(BATCH))


def test_only_what_needs_it_is_made_again_for_some_rows() -> None:
    again = {type(case.operation).__name__ for case in REAL.values() if made(case).narrow is None}
    assert again == {"Attention", "Recurrent", "Call", "Softmax"}  # of log softmax with a mask
    assert made(CASES["nested composite"]).narrow is not None


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("using", MODES)
@pytest.mark.parametrize("making", MODES)
@pytest.mark.parametrize(
    "name",
    ["attention with a mask slot", "gru", "composite", "call", "avgpool1d", "tanh", "maxpool3d", "masked thrice"],
)
def test_every_mode_of_autograd_will_do(name: str, making: str, using: str) -> None:
    """Also values and parameters that were made in inference mode."""
    case = REAL[name]
    with MODES[making]():
        values = [value.clone() for value in case.values()]
        context = Context({key: value.clone() for key, value in case.context.state.items()})
    dense, (tangents, cotangent) = dense_by_slot(case), directions(case)
    with MODES[using]():
        found = local_at(case.node, values, context)
        pushed, pulled = found.push(tangents), found.pull(cotangent, case.moving)
        pulled = found.pull(cotangent, case.moving)
    expected = torch.stack([times(dense[i], t) for i, t in tangents.items()]).sum(0)
    close(pushed.detach(), expected.reshape(BATCH, *case.shape))
    for i in case.moving:
        close(pulled[i].detach(), times(dense[i].mT, cotangent).reshape(BATCH, *case.slots[i]))


def test_of_equal_entries_each_gets_its_share_and_a_norm_is_flat_at_zero() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]]).double()
    for operation, expected in (
        (op.Maximum((0,)), [[0, 0.5, 0.5], [1 / 3] * 3]),
        (op.VectorNorm((0,)), [[19**-0.5, 3 * 19**-0.5, 3 * 19**-0.5], [0.0] * 3]),
    ):
        found = local(operation, Node("v", operation, ("u",), ()), [x], Context({}))
        close(found.pull(torch.ones(2).double(), [0])[0], torch.tensor(expected, dtype=torch.float64))
        automatic = local_rules.generic(operation, Node("v", operation, ("u",), ()), [x], Context({}))
        close(automatic.pull(torch.ones(2).double(), [0])[0], torch.tensor(expected, dtype=torch.float64))


def test_a_dropped_entry_does_not_move_however_steep_it_is() -> None:
    case = REAL["mask"]
    found = made(case).push({0: torch.tensor([[math.inf, 1, 1], [math.nan, 1, 1], [1, 1, 1]]).double()})
    assert torch.equal(found, torch.tensor([[0.0, 1, -3]] * 3).double())


@pytest.mark.parametrize("logits", [[40.0, 0.0, 1.0], [0.0, 30.0, 29.0], [0.1, 0.2, -0.3], [-500.0, 200.0, 0.0]])
def test_what_is_left_of_a_probability_near_1_is_not_lost(logits: list[float]) -> None:
    """p_i sum_j p_j (t_i - t_j) in 50 digits."""
    tangents = [0.3, -1.7, 0.9]
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(x)) for x in logits]
        p = [x / mpmath.fsum(e) for x in e]
        t = [mpmath.mpf(x) for x in tangents]
        exact = [p[i] * mpmath.fsum(p[j] * (t[i] - t[j]) for j in range(3)) for i in range(3)]
    x, v = (torch.tensor([row], dtype=torch.float64) for row in (logits, tangents))
    found = local(op.Softmax(0), Node("v", op.Softmax(0), ("u",), (3,)), [x], Context({}))
    expected = torch.tensor([[float(number) for number in exact]], dtype=torch.float64)
    close(found.push({0: v}), expected)
    close(found.pull(v, [0])[0], expected)


axes = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)),
    min_size=1,
    max_size=3,
)
"""Length, kernel, stride, padding, dilation of each axis."""
channels = st.sampled_from([(1, 1, 1), (2, 3, 1), (3, 3, 3), (8, 9, 1), (10, 8, 1), (8, 8, 2), (16, 16, 2), (9, 9, 9)])
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def linear(case: Case, count: int) -> None:
    """Both products against `plain` and its autograd, for a linear map."""
    x = random(count, *case.slots[0]).requires_grad_()
    y = case.plain(x)
    assert tuple(y.shape) == (count, *case.shape)
    c = random(*y.shape, seed=1)
    found = local(case.operation, case.node, [x.detach()], case.context)
    close(found.push({0: x.detach()}), y.detach())
    close(found.pull(c, [0])[0], torch.autograd.grad(y, x, c)[0])


@examples(150)
@given(axes, channels, st.booleans(), st.sampled_from([1, 2, 5]), st.sampled_from([1, 3000, 2**21]))
def test_convolutions_of_every_kind(
    sides: list[tuple[int, ...]], channels: tuple[int, int, int], unit: bool, count: int, cache: int
) -> None:
    length, kernel, stride, padding, dilation = zip(*sides, strict=True)
    stride = (1,) * len(sides) if unit else stride
    c_in, c_out, groups = channels
    assume(all(n + 2 * p > d * (k - 1) for n, k, _, p, d in sides))
    weight = random(c_out, c_in // groups, *kernel, seed=2)
    operation = op.Convolution(stride, padding, dilation, groups, kernel, False)

    def plain(x: Tensor) -> Tensor:
        return CONVOLUTIONS[len(sides)](x, weight, None, stride, padding, dilation, groups)

    shape = tuple(plain(torch.zeros(1, c_in, *length).double()).shape[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_convolutions, "CACHE", cache)
        linear(Case(operation, ((c_in, *length),), shape, plain, (("weight", weight),)), count)


@examples(100)
@given(axes, channels, st.integers(0, 2), st.booleans())
def test_transposed_convolutions_of_every_kind(
    sides: list[tuple[int, ...]], channels: tuple[int, int, int], more: int, unit: bool
) -> None:
    length, kernel, stride, padding, dilation = zip(*sides, strict=True)
    stride = (1,) * len(sides) if unit else stride
    c_in, c_out, groups = channels
    ends = tuple(min(more, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
    long = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(length, kernel, stride, padding, dilation, ends, strict=True)
    ]
    assume(min(long) > 0)
    weight = random(c_in, c_out // groups, *kernel, seed=2)
    operation = op.TransposedConvolution(stride, padding, ends, dilation, groups, kernel, False)

    def plain(x: Tensor) -> Tensor:
        return TRANSPOSED[len(sides)](x, weight, None, stride, padding, ends, groups, dilation)

    linear(Case(operation, ((c_in, *length),), (c_out, *long), plain, (("weight", weight),)), 2)


def pairs(graph: ComputationGraph) -> list[tuple[str, str]]:
    return [(graph.nodes[w].name, graph.nodes[a].name) for w, a in np.argwhere(graph.reach)]


def unsaturated(operation: op.Operation, *rest: Any) -> Tensor:
    """The dense derivative of a sharp softmax is exact to rounding of probabilities near 1, not of what is left."""
    found = edge_bound(operation, *rest)
    return found.clamp_min(1.0) if isinstance(operation, op.Softmax) else found


def both(at: Linearization, w: str, a: str, dense: Tensor, rows: Tensor | None = None) -> None:
    """Both products of a pair against D, (batch, size of w, size of a); where paths cancel, relative to their sum."""
    graph, segment = at.graph, Segment.of(at.graph, w, a)
    rows = torch.arange(len(dense)) if rows is None else rows
    t, c = random(len(dense), *graph[a].shape, seed=3)[rows], random(len(dense), *graph[w].shape, seed=4)[rows]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jacobians, "edge_bound", unsaturated)
        slack = 1e-14 * float(filled_norms(graph, at.values, at.context, [(w, a)])[w, a].max()) + 1e-300
    close(segment.push(at, t), times(dense[rows], t).reshape(len(rows), *graph[w].shape), slack * float(t.norm()))
    close(segment.pull(at, c), times(dense[rows].mT, c).reshape(len(rows), *graph[a].shape), slack * float(c.norm()))


@examples(60)
@given(cases(batch=2), st.data())
def test_segments_of_random_graphs_are_total_derivatives(case: Network, data: st.DataObject) -> None:
    graph, context = case.graph, Context(case.state)
    values = graph.run(case.state, *case.inputs)
    at = Linearization(graph, values, context)
    chosen = data.draw(st.lists(st.sampled_from(pairs(graph)), min_size=1, max_size=3, unique=True))
    for w, a in chosen:
        dense = total_derivative(graph, case.state, case.inputs, w, a).detach()
        assume(bool(dense.isfinite().all()))
        both(at, w, a, dense)
        both(at.narrow(torch.tensor([1])), w, a, dense, torch.tensor([1]))


@pytest.mark.parametrize("name", NETWORKS)
def test_segments_of_networks_are_total_derivatives(name: str) -> None:
    """The modules' parameters require gradients; no product does."""
    net = NETWORKS[name]()
    inputs, _ = net.sample(3, seed=1)
    values, context = net.graph.run(net.module, *inputs), Context.of(net.module)
    at = Linearization(net.graph, values, context)
    for w, a in pairs(net.graph):
        ((_, dense),) = total_derivatives(net.graph, values, context, a, [w])
        both(at, w, a, dense.detach())


def graph_of(*nodes: Node, state: dict[str, Tensor] | None = None) -> tuple[ComputationGraph, Linearization]:
    graph = ComputationGraph(nodes, nodes[-1].name)
    inputs = [random(BATCH, *node.shape, seed=i) for i, node in enumerate(graph.inputs)]
    return graph, Linearization(graph, graph.run(state or {}, *inputs), Context(state or {}))


def dense_of(at: Linearization, w: str, a: str) -> Tensor:
    """By torch.func.jacrev with a cut."""
    graph, state = at.graph, at.context.state

    def later(value: Tensor, sample: int) -> Tensor:
        given = [at.values[node.name][sample : sample + 1] for node in graph.inputs]
        return graph.run(state, *given, cut={a: value[None]})[w][0].reshape(-1)

    return torch.stack([torch.func.jacrev(later)(at.values[a][i], i).flatten(1) for i in range(BATCH)])


def test_one_node_in_several_slots_gets_the_sum() -> None:
    _, at = graph_of(
        Node("x", op.Input(), (), (3,)),
        Node("square", op.Product(), ("x", "x"), (3,)),
        Node("join", op.Concatenate(0), ("square", "x", "square"), (9,)),
        Node("nothing", op.Subtract(), ("join", "join"), (9,)),
        Node("sum", op.Add(), ("join", "nothing", "join"), (9,)),
    )
    for w, a in pairs(at.graph):
        both(at, w, a, dense_of(at, w, a))


def test_branches_that_lead_elsewhere_take_no_part() -> None:
    """y is beside the path, the first branch ends before w, the second comes from a and never meets w."""
    graph, at = graph_of(
        Node("y", op.Input(), (), (3,)),
        Node("x", op.Input(), (), (3,)),
        Node("a", op.Product(), ("x", "y"), (3,)),
        Node("early", op.Elementwise(TANH), ("y",), (3,)),
        Node("late", op.Divide(), ("a", "early"), (3,)),
        Node("w", op.Product(), ("early", "a"), (3,)),
        Node("end", op.Add(), ("late", "w"), (3,)),
    )
    assert [node.name for node in Segment.of(graph, "w", "a").nodes] == ["w"]
    assert [node.name for node in Segment.of(graph, "end", "y").nodes] == ["a", "early", "late", "w", "end"]
    for w, a in pairs(graph):
        both(at, w, a, dense_of(at, w, a))


def test_there_is_no_derivative_through_integers() -> None:
    """From steep to half there are integers; the gathered entries move with x, not with their places."""
    graph, at = graph_of(
        Node("x", op.Input(), (), (3,)),
        Node("steep", op.Elementwise(TANH), ("x",), (3,)),
        Node("order", call("aten.argsort.default", (op.Slot(0), 1), (3,)), ("steep",), (3,), kind="integer"),
        Node("real", call("aten.to.dtype", (op.Slot(0), torch.float64), (3,)), ("order",), (3,)),
        Node("half", op.Elementwise(TANH), ("real",), (3,)),
        Node("sorted", call("aten.gather.default", (op.Slot(0), 1, op.Slot(1)), (3,), (3,)), ("x", "order"), (3,)),
        Node("end", op.Product(), ("sorted", "half"), (3,)),
    )
    assert Segment.of(graph, "half", "steep").nodes == Segment.of(graph, "order", "x").nodes == ()
    assert [node.name for node in Segment.of(graph, "end", "x").nodes] == ["sorted", "end"]
    assert [node.name for node in Segment.of(graph, "end", "order").nodes] == []
    zero = torch.zeros(BATCH, 3, 3).double()
    for w, a in (("half", "x"), ("order", "steep"), ("end", "order"), ("end", "steep")):
        both(at, w, a, zero)
    for w, a in (("sorted", "x"), ("end", "x"), ("end", "half")):
        both(at, w, a, dense_of(at, w, a))


def test_reals_behind_complex_numbers_are_reached() -> None:
    """|fft(x)|^2 entry by entry, as plain torch has it."""
    fft, parts = "aten.fft_fft.default", "aten.view_as_real.default"
    _, at = graph_of(
        Node("x", op.Input(), (), (4,)),
        Node("spectrum", call(fft, (op.Slot(0),), (4,)), ("x",), (4,), kind="complex"),
        Node("twice", op.Product(), ("spectrum", "spectrum"), (4,), kind="complex"),
        Node("parts", call(parts, (op.Slot(0),), (4,)), ("twice",), (4, 2)),
    )
    dense = [torch.func.jacrev(lambda x: torch.view_as_real(torch.fft.fft(x) ** 2))(x) for x in at.values["x"]]
    both(at, "parts", "x", torch.stack(dense).flatten(1, 2))


def test_what_is_known_for_all_rows_is_not_made_again() -> None:
    seen = []

    def counted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.tanh(x)

    function = ScalarFunction("tanh", TANH.expression, counted)
    _, at = graph_of(Node("x", op.Input(), (), (3,)), Node("v", op.Elementwise(function), ("x",), (3,)))
    dense, segment = dense_of(at, "v", "x"), Segment.of(at.graph, "v", "x")
    seen.clear()
    t = random(BATCH, 3, seed=3)
    twice = at.narrow(torch.tensor([2, 0])).narrow(torch.tensor([1]))
    for part, rows in (
        (at.narrow(torch.tensor([2, 0])), [2, 0]),
        (twice, [0]),
        (at.narrow(torch.arange(3)), [0, 1, 2]),
    ):
        close(segment.push(part, t[rows]), times(dense, t)[rows])
        close(segment.pull(part, t[rows]), times(dense.mT, t)[rows])
    assert seen == [BATCH]
    assert at.narrow(torch.arange(BATCH)) is at


def test_rows_may_be_given_at_once() -> None:
    _, whole = graph_of(Node("x", op.Input(), (), (3,)), Node("v", op.Elementwise(TANH), ("x",), (3,)))
    rows = torch.tensor([2, 0])
    part = Linearization(whole.graph, whole.values, whole.context, rows)
    both(part, "v", "x", dense_of(whole, "v", "x"), rows)
    both(part.narrow(torch.tensor([1])), "v", "x", dense_of(whole, "v", "x"), torch.tensor([0]))


def test_composites_of_composites_of_integers_and_constants() -> None:
    """Slot q does not reach the result; the choice of entries does not vary."""
    operation = op.Composite(
        "chosen",
        (
            Node("order", call("aten.argsort.default", (op.Slot(0), 1), (3,)), ("p",), (3,), kind="integer"),
            Node("unused", op.Elementwise(TANH), ("q",), (3,)),
            Node("shift", op.Parameter(), (), (3,), (("value", "s"),)),
            Node("sum", op.Add(), ("p", "shift"), (3,)),
            Node("out", call("aten.gather.default", (op.Slot(0), 1, op.Slot(1)), (3,), (3,)), ("sum", "order"), (3,)),
        ),
        ("p", "q"),
        "out",
    )
    _, at = graph_of(
        Node("x", op.Input(), (), (3,)),
        Node("y", op.Input(), (), (3,)),
        Node("v", operation, ("x", "y"), (3,), (("shift.value", "s"),)),
        state={"s": random(3, seed=9)},
    )
    for rows in (torch.arange(BATCH), torch.tensor([2, 1])):
        both(at.narrow(rows), "v", "x", dense_of(at, "v", "x"), rows)
        both(at.narrow(rows), "v", "y", torch.zeros(BATCH, 3, 3).double(), rows)
