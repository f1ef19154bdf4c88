"""Worst-case constants of every operation: bounds of dense Jacobians and of values, attained where they can be."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from dense import spectral
from hypothesis import given
from hypothesis import strategies as st
from operation_cases import Case, random
from operation_cases.every import CASES
from strategies import examples
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import SIGMOID
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Expand, Pad, Pick, Slice
from covergraph.graph.weights import Weights
from covergraph.rules.lipschitz import slot_lipschitz
from covergraph.rules.radii import worst_radius

NONE = (op.Product, op.MatrixProduct, op.Divide, op.Attention, op.Recurrent, op.Call, op.Composite)
KNOWN = {n: c for n, c in CASES.items() if not isinstance(c.operation, NONE) and c.is_float}
MOVING = {name: case for name, case in KNOWN.items() if case.moving}
LINEAR = (op.Linear, op.Convolution, op.TransposedConvolution, op.AxisMap, op.Affine)


def graph_of(case: Case) -> ComputationGraph:
    inputs = [Node(f"u{i}", op.Input(), (), shape) for i, shape in enumerate(case.slots)]
    shapes = {f"v.{role}": tuple(tensor.shape) for role, tensor in case.parameters}
    constants = {f"v.{role}": tensor for role, tensor in case.constants}
    return ComputationGraph([*inputs, case.node], "v", weights=Weights(constants=constants, shapes=shapes))


def norm_of(case: Case) -> float | None:
    """The operator norm of the layer: of its dense matrix, or its largest slope."""
    given = dict(case.parameters + case.constants)
    match case.operation:
        case op.ParametricReLU():
            return float(given["slope"].abs().max())
        case _:
            return spectral(case.dense(0, 0)) if isinstance(case.operation, LINEAR) else None


def shift_of(case: Case) -> float | None:
    """The Euclidean norm of what is added; of a table, of its largest row."""
    given = dict(case.parameters + case.constants)
    if isinstance(case.operation, op.Embedding):
        return float(given["weight"].norm(dim=1).max())
    return next((float(given[role].norm()) for role in ("bias", "shift", "value") if role in given), None)


def jacobian(case: Case, slots: list[Tensor], slot: int) -> Tensor:
    found = torch.func.jacrev(lambda x: case.plain(*(x if i == slot else s for i, s in enumerate(slots))))(slots[slot])
    return found.reshape(case.node.size, slots[slot].numel())


@pytest.mark.parametrize("name", MOVING)
@examples(6)
@given(st.sampled_from([1e-2, 1.0, 20.0]), st.integers(0, 10**6))
def test_jacobians_never_exceed_the_constant(name: str, scale: float, seed: int) -> None:
    case = MOVING[name]
    graph = graph_of(case)
    slots = [
        case.values(1)[i] if i in case.special else scale * random(1, *s, seed=seed + i)
        for i, s in enumerate(case.slots)
    ]
    for slot in case.moving:
        if torch.isfinite(slots[slot]).all():
            constant = slot_lipschitz(case.operation, case.node, graph[f"u{slot}"], norm_of(case))
            assert spectral(jacobian(case, slots, slot)) <= float(constant) * (1 + 1e-9)


def root_mean_square(x: Tensor) -> float:
    return math.sqrt(float((x.double() ** 2).sum()) / len(x))


@pytest.mark.parametrize("name", [name for name, case in KNOWN.items() if -math.inf not in case.plain(*case.values())])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_radii_bound_the_root_mean_square_of_values(name: str, scale: float) -> None:
    case = KNOWN[name]
    slots = [v if i in case.special else scale * v for i, v in enumerate(case.values())]
    radii = [mpmath.mpf(root_mean_square(x)) for x in slots]
    value = root_mean_square(case.plain(*slots))
    assert value <= worst_radius(case.node, graph_of(case), radii, norm_of(case), shift_of(case)) * (1 + 1e-9)


def constant(operation: op.Operation, before: tuple[int, ...], after: tuple[int, ...], slots: int = 1) -> float:
    tail = Node("u", op.Input(), (), before)
    return float(slot_lipschitz(operation, Node("v", operation, ("u",) * slots, after), tail))


FIXED = {name: case for name, case in MOVING.items() if isinstance(case.operation, op.Rearrange | op.Sum)}


@pytest.mark.parametrize("name", FIXED)
def test_the_constants_of_index_maps_and_sums_are_their_norms(name: str) -> None:
    case = FIXED[name]
    assert constant(case.operation, case.slots[0], case.shape) == pytest.approx(spectral(case.dense(0, 0)))


def test_copies_are_counted_by_entry() -> None:
    """Zeros are no copies; the entry that is picked most often counts."""
    assert constant(op.Rearrange((Pad(0, 3, 3),)), (2,), (8,)) == 1
    assert constant(op.Rearrange((Pick(0, (0, 1, 1, 1)), Pad(0, 5, 0))), (2,), (9,)) == pytest.approx(math.sqrt(3))
    assert constant(op.Rearrange((Expand((4, 2)), Slice(0, 0, 2))), (1, 2), (2, 2)) == pytest.approx(math.sqrt(2))
    assert constant(op.Rearrange((Slice(0, 0, 0),)), (2,), (0,)) == 0


def at(case: Case, *entries: float) -> float:
    """The norm of the Jacobian at a value."""
    x = torch.tensor(entries, dtype=torch.float64).reshape(1, *case.slots[0])
    return spectral(jacobian(case, [x], 0))


def test_constants_are_attained() -> None:
    """Softmax of two equal scores; its logarithm with one large score; a constant group; one entry in all windows."""
    softmax = Case(op.Softmax(0), ((2,),), (2,), lambda x: x.softmax(1))
    assert constant(op.Softmax(0), (2,), (2,)) == pytest.approx(at(softmax, 1.5, 1.5))
    logarithm = Case(op.Softmax(0, True), ((5,),), (5,), lambda x: x.log_softmax(1))
    assert constant(op.Softmax(0, True), (5,), (5,)) == pytest.approx(at(logarithm, 60, 0, 0, 0, 0))
    norm = CASES["layer norm"]
    x = torch.ones(12).tolist()
    assert constant(norm.operation, (3, 4), (3, 4)) == pytest.approx(at(norm, *x), rel=1e-6)
    pool = op.MaxPool((3,), (1,), (0,), (1,))
    case = Case(pool, ((1, 5),), (1, 3), lambda x: torch.nn.functional.max_pool1d(x, 3, 1))
    assert constant(pool, (1, 5), (1, 3)) == pytest.approx(at(case, 0, 0.5, 9, 0.5, 0)) == pytest.approx(math.sqrt(3))
    assert constant(op.Softmax(0), (2,), (2,), slots=2) == 1.0


def test_slopes_of_parametric_relu() -> None:
    """1 on the positive side, whatever the slope."""
    tail, node = Node("u", op.Input(), (), (2,)), Node("v", op.ParametricReLU(), ("u",), (2,))
    assert [float(slot_lipschitz(node.operation, node, tail, norm)) for norm in (0.25, 3.0)] == [1.0, 3.0]


@pytest.mark.parametrize(
    "kind", [op.Product(), op.MatrixProduct(), op.Divide(), op.Attention(1.0), op.Recurrent("gru")]
)
def test_what_has_no_constant_is_refused_by_name(kind: op.Operation) -> None:
    with pytest.raises(UnsupportedOperationError, match=f"'{kind.label}' has no finite worst-case"):
        constant(kind, (2, 2), (2, 2), 2)


def test_a_norm_without_eps_has_no_constant() -> None:
    with pytest.raises(UnsupportedOperationError, match="'normalize' with eps = 0 has no finite constant"):
        constant(op.Normalize(2, 0.0), (2,), (2,))


@pytest.mark.parametrize(
    "operation",
    [op.Linear(False), op.Affine(True, False), op.ParametricReLU(), op.AxisMap(0, "mix")],
    ids=lambda o: o.label,
)
def test_norms_that_are_not_measured_are_missed(operation: op.Operation) -> None:
    with pytest.raises(UnsupportedOperationError, match=f"'{operation.label}' .*norm is not measured"):
        constant(operation, (2,), (2,))


@pytest.mark.parametrize("shift", [None, math.inf])
def test_masks_of_infinity_have_no_radius(shift: float | None) -> None:
    node = Node("v", op.Affine(False, True), ("u",), (2,), (), "", (("shift", "c"),))
    weights = Weights(constants={"c": torch.tensor([0.0, -math.inf])})
    graph = ComputationGraph([Node("u", op.Input(), (), (2,)), node], "v", weights=weights)
    with pytest.raises(UnsupportedOperationError, match=r"'shift' 'v'"):
        worst_radius(node, graph, [mpmath.mpf(1)], None, shift)


def test_chains_need_not_vanish_at_zero() -> None:
    """sigmoid(x + x) of 3 entries, at x = 0 and elsewhere."""
    inner = (Node("a", op.Add(), ("x", "x"), (3,)), Node("b", op.Elementwise(SIGMOID), ("a",), (3,)))
    node = Node("v", op.Composite("chain", inner, ("x",), "b", ((3,),)), ("u",), (3,))
    graph = ComputationGraph([Node("u", op.Input(), (), (3,)), node], "v")
    for x in (torch.zeros(3), torch.ones(3), torch.tensor([-1.0, 0.1, 4.0])):
        radius = worst_radius(node, graph, [mpmath.mpf(float(x.norm()))], None, None)
        assert float(torch.sigmoid(2 * x).norm()) <= radius * (1 + 1e-6)
    assert float(worst_radius(node, graph, [mpmath.mpf(0)], None, None)) == pytest.approx(0.5 * math.sqrt(3))


def test_what_has_no_radius_is_refused_by_name() -> None:
    nodes = [Node("u", op.Input(), (), (2,)), Node("v", op.Product(), ("u", "u"), (2,))]
    with pytest.raises(UnsupportedOperationError, match="'product' has no worst-case norm"):
        worst_radius(nodes[1], ComputationGraph(nodes, "v"), [mpmath.mpf(1)] * 2, None, None)
