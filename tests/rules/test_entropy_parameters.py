"""Entropies of every operation with learned parameters: classes are linear in them, with known features (Lemma 11).

The features are the values of the node at unit parameters; covers are listed average by average, as in
`test_entropy`. Sizes of classes are computed here by hand, in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense import spectral
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from operation_cases import Case, random
from operation_cases.linear import LINEAR
from rules.test_entropy import averages
from strategies import examples
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.dispatch import apply, edge_jacobian
from covergraph.graph.functions import TANH
from covergraph.graph.interpreter import Context
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.rules.entropy import ClassEntropy, class_entropy, learned_entropy

Array = NDArray[np.float64]
State = Mapping[str, Tensor]
SLOPES = random(3, 1, seed=90)
PRELU = Case(op.ParametricReLU(), ((3, 2),), (3, 2), lambda x: x.relu(), (("slope", SLOPES),))
LEARNED = {name: case for name, case in LINEAR.items() if case.parameters} | {"prelu": PRELU}


def entropy_of(case: Case) -> ClassEntropy:
    inputs = [Node(f"u{i}", op.Input(), (), shape) for i, shape in enumerate(case.slots)]
    shapes = {f"v.{role}": tuple(value.shape) for role, value in case.parameters}
    constants = {f"v.{role}": value for role, value in case.constants}
    graph = ComputationGraph([*inputs, case.node], "v", weights=Weights(constants=constants, shapes=shapes))
    found = class_entropy(case.operation, case.node, graph)
    assert found is not None
    return found


def value(case: Case, state: State, slots: list[Tensor]) -> Tensor:
    """h_v at other parameters, (batch, size)."""
    context = Context(dict(state) | {f"v.{role}": tensor for role, tensor in case.constants})
    batch = len(slots[0]) if slots else 1
    return apply(case.operation, case.node, slots, context).reshape(batch, -1)


def other(case: Case, seed: int) -> dict[str, Tensor]:
    """Other parameters of the same shapes."""
    return {name: random(*tensor.shape, seed=seed + i) for i, (name, tensor) in enumerate(case.state.items())}


def size(first: State, second: State) -> float:
    """The Frobenius norm of the difference of all parameters, below every distance a of the class."""
    return math.sqrt(sum(float((first[name] - second[name]).norm()) ** 2 for name in first))


@pytest.mark.parametrize("name", LEARNED)
@examples(8)
@given(st.sampled_from([0.1, 1.0, 10.0]), st.integers(0, 10**6))
def test_other_parameters_change_a_value_by_their_distance_times_the_radius(name: str, scale: float, seed: int) -> None:
    """||f_theta(x) - f_theta'(x)|| <= ||theta - theta'|| (gain ||x||^2 + positions)^(1/2)."""
    case = LEARNED[name]
    entropy = entropy_of(case)
    first, second = other(case, seed), other(case, seed + 10)
    slots = [scale * s if s.is_floating_point() else s for s in case.values(1)]
    change = float((value(case, first, slots) - value(case, second, slots)).norm())
    square = float(slots[0].double().norm()) ** 2 if entropy.gain else 0.0
    assert change <= size(first, second) * math.sqrt(entropy.gain * square + entropy.positions) * (1 + 1e-9)


@pytest.mark.parametrize("name", LEARNED)
def test_other_parameters_change_a_jacobian_by_their_distance(name: str) -> None:
    """||J_theta - J_theta'||_op <= ||theta - theta'|| gain^(1/2); without derivative class it does not change."""
    case = LEARNED[name]
    entropy = entropy_of(case)
    if not case.moving:
        assert entropy.derivative_count == 0
        return
    fixed = {f"v.{role}": tensor for role, tensor in case.constants}
    states = [other(case, seed) for seed in (0, 10)]
    jacobians = [edge_jacobian(case.node, "u0", case.values(1), Context(state | fixed))[0] for state in states]
    limit = size(*states) * math.sqrt(entropy.gain) if entropy.derivative_count else 0.0
    assert spectral(jacobians[0] - jacobians[1]) <= limit * (1 + 1e-9)


@pytest.mark.parametrize("name", LEARNED)
def test_counts_are_twice_the_parameters(name: str) -> None:
    case = LEARNED[name]
    entropy = entropy_of(case)
    sizes = {role: tensor.numel() for role, tensor in case.parameters}
    assert entropy.count == 2 * sum(sizes.values())
    moving = sum(n for role, n in sizes.items() if role in ("weight", "scale", "slope"))
    assert entropy.derivative_count == 2 * moving * (not isinstance(case.operation, op.Embedding))
    assert (entropy.gain == 0) == (entropy.derivative_count == 0)


SHIFTED = [name for name, case in LEARNED.items() if {"bias", "shift"} & dict(case.parameters).keys()]


@pytest.mark.parametrize("name", SHIFTED)
def test_the_positions_of_a_shift_are_attained(name: str) -> None:
    """Shifted by one entry, a value moves by the square root of the number of its copies."""
    case = LEARNED[name]
    role = next(role for role, _ in case.parameters if role in ("bias", "shift"))
    after = {n: tensor.clone() for n, tensor in case.state.items()}
    after[f"v.{role}"].view(-1)[0] += 1
    change = (value(case, after, case.values(1)) - value(case, case.state, case.values(1))).norm()
    assert float(change) == pytest.approx(math.sqrt(entropy_of(case).positions))


def test_the_gain_of_a_transposed_convolution_is_attained() -> None:
    """One entry in the middle with a kernel of ones: it meets every tap."""
    operation = op.TransposedConvolution((1, 1), (0, 0), (0, 0), (1, 1), 1, (2, 3), False)
    kernel = torch.ones(1, 1, 2, 3).double()
    case = Case(operation, ((1, 3, 3),), (1, 4, 5), lambda x: x, (("weight", kernel),))
    x = torch.zeros(1, 1, 3, 3).double()
    x[0, 0, 1, 1] = 2
    assert float(value(case, case.state, [x]).norm()) == pytest.approx(2 * math.sqrt(entropy_of(case).gain))


def features(case: Case, slots: list[Tensor]) -> Array:
    """What each unit parameter adds to the value: (parameters, batch * size)."""
    zero = {name: torch.zeros_like(tensor) for name, tensor in case.state.items()}
    offset = value(case, zero, slots)
    rows = []
    for name, tensor in case.state.items():
        for i in range(tensor.numel()):
            unit = zero | {name: torch.eye(tensor.numel(), dtype=torch.float64)[i].reshape(tensor.shape)}
            rows.append((value(case, unit, slots) - offset).reshape(-1).numpy())
    return np.array(rows)


def by_entry(theta: Array) -> Array:
    """||theta||_1."""
    return np.abs(theta).sum(1)


def by_role(theta: Array) -> Array:
    """(||scale||_1^2 + ||shift||_1^2)^(1/2), at most the sum over channels of the norms of (scale, shift)."""
    return np.linalg.norm(np.abs(theta.reshape(len(theta), 2, -1)).sum(2), axis=1)


def by_column(width: int) -> Callable[[Array], Array]:
    """sum of the norms of the columns of a table."""
    return lambda theta: np.linalg.norm(theta.reshape(len(theta), -1, width), axis=1).sum(1)


TWO, ONE = random(2, 1, seed=91), random(1, seed=92)
TINY: dict[str, tuple[Case, Callable[[Array], Array]]] = {
    "scale and shift": (
        Case(op.Affine(True, True), ((2, 3),), (2, 3), lambda x: x, (("scale", TWO), ("shift", TWO))),
        by_role,
    ),
    "scale": (Case(op.Affine(True, False), ((2, 3),), (2, 3), lambda x: x, (("scale", TWO),)), by_entry),
    "shift": (Case(op.Affine(False, True), ((2, 3),), (2, 3), lambda x: x, (("shift", TWO),)), by_entry),
    "shift after a constant scale": (
        Case(op.Affine(True, True), ((2, 3),), (2, 3), lambda x: x, (("shift", TWO),), (("scale", TWO),)),
        by_entry,
    ),
    "prelu": (Case(op.ParametricReLU(), ((2, 3),), (2, 3), lambda x: x, (("slope", TWO),)), by_entry),
    "parameter": (Case(op.Parameter(), (), (3,), lambda: ONE, (("value", random(3)),)), by_entry),
    "embedding": (
        Case(
            op.Embedding(),
            ((4,),),
            (4, 2),
            lambda x: x,
            (("weight", random(2, 2)),),
            special={0: torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]])},
        ),
        by_column(2),
    ),
    "transposed convolution": (
        Case(
            op.TransposedConvolution((1,), (0,), (0,), (1,), 1, (3,), True),
            ((1, 2),),
            (1, 4),
            lambda x: x,
            (("weight", random(1, 1, 3)), ("bias", ONE)),
        ),
        lambda theta: np.linalg.norm(theta, axis=1),
    ),
    "bias of a constant matrix": (
        Case(op.Linear(True), ((3, 2),), (3, 2), lambda x: x, (("bias", random(2)),), (("weight", random(2, 2)),)),
        by_entry,
    ),
    "matrix with a constant bias": (
        Case(op.Linear(True), ((2,),), (2,), lambda x: x, (("weight", random(2, 2)),), (("bias", random(2)),)),
        lambda theta: np.linalg.norm(theta.reshape(len(theta), 2, 2), axis=2).sum(1),
    ),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("relative", [0.9, 0.6])
def test_classes_have_the_cover_of_maurey(name: str, relative: float) -> None:
    """Averages of k = ceil(coefficient / eps^2) of the `count` functions +-c_i f_i cover the class within eps."""
    case, distance = TINY[name]
    entropy = entropy_of(case)
    slots = case.values()
    n = len(slots[0]) if slots else 1
    f = features(case, slots)
    lengths = np.sqrt((f**2).sum(1) / n)
    square = float((slots[0].double() ** 2).sum()) / n if entropy.gain else 0.0
    a = 1.3
    coefficient = a**2 * (entropy.gain * square + entropy.positions)
    scaled = np.divide(math.sqrt(coefficient), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    atoms = np.concatenate([np.diag(scaled), -np.diag(scaled)])
    assert len(atoms) == entropy.count
    eps = relative * math.sqrt(coefficient)
    cover = averages(atoms, math.ceil(coefficient / eps**2))
    theta = np.random.default_rng(0).standard_normal((60, len(f)))
    theta *= a / distance(theta)[:, None]
    gaps = ((cover[None] - theta[:, None]) @ f) / math.sqrt(n)
    assert np.sqrt((gaps**2).sum(2)).min(1).max() <= eps


@pytest.mark.parametrize("operation", [op.Linear(True), op.Softmax(0), op.Elementwise(TANH)], ids=lambda o: o.label)
def test_constants_are_no_class(operation: op.Operation) -> None:
    node = Node("v", operation, ("x",), (2,), constants=(("weight", "c"), ("bias", "c"), ("mask", "c")))
    graph = ComputationGraph(
        [Node("x", op.Input(), (), (2,)), node], "v", weights=Weights(constants={"c": torch.ones(2)})
    )
    assert class_entropy(operation, node, graph) is None


REFUSED = [
    (op.Affine(True, False, select=True), "scale", "masks has no entropy rule"),
    (op.Softmax(0), "mask", r"no entropy rule for 'softmax'.*\(mask\)"),
    (op.AxisMap(0, "mix"), "weight", "no entropy rule for 'mix'"),
]


@pytest.mark.parametrize(("operation", "role", "reason"), REFUSED)
def test_classes_without_rule_are_refused(operation: op.Operation, role: str, reason: str) -> None:
    node = Node("v", operation, ("x",), (2,), ((role, "net.w"),), "net")
    graph = ComputationGraph([Node("x", op.Input(), (), (2,)), node], "v")
    with pytest.raises(UnsupportedOperationError, match=rf"'v' \(net\).*{reason}"):
        class_entropy(operation, node, graph)


def test_unknown_shapes_are_refused_by_name() -> None:
    node = Node("v", op.ParametricReLU(), ("x",), (2,), (("slope", "net.slope"),), "net")
    graph = ComputationGraph([Node("x", op.Input(), (), (2,)), node], "v")
    with pytest.raises(UnsupportedOperationError, match=r"'v' \(net\).*'net\.slope' \(slope\).*shapes"):
        class_entropy(node.operation, node, graph)


def test_a_mask_with_a_learned_shift_has_a_class() -> None:
    """A constant mask that selects is the same in all rules."""
    mask = torch.tensor([[1.0, 0, 1]]).double()
    case = Case(op.Affine(True, True, True), ((2, 3),), (2, 3), lambda x: x, (("shift", TWO),), (("scale", mask),))
    assert replace(entropy_of(case), source="") == ClassEntropy(0, 3, 4, 0, "")


def test_a_learned_bias_of_a_constant_matrix_reads_no_radius() -> None:
    case, _ = TINY["bias of a constant matrix"]
    assert replace(entropy_of(case), source="") == ClassEntropy(0, 3, 4, 0, "")
    case, _ = TINY["matrix with a constant bias"]
    assert replace(entropy_of(case), source="") == ClassEntropy(1, 0, 8, 8, "")


def test_every_operation_that_has_learned_parameters_in_the_cases_has_a_rule() -> None:
    known = {type(case.operation) for case in LEARNED.values()}
    default = learned_entropy.dispatch(object)
    assert known == {kind for kind in vars(op).values() if isinstance(kind, type)} & {
        kind for kind in learned_entropy.registry if learned_entropy.dispatch(kind) is not default
    }
