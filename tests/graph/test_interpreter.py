"""Every operation: its value against plain torch, its tangent against torch.func.jvp of its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from handmade import NETWORKS, mlp
from torch import Tensor
from torch.nn import functional as F

from covergraph.errors import ForeignModelError, GraphError, UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import ROWS, affine
from covergraph.graph.interpreter import Context, apply, edge_jacobian, identity_tangents, state_of, tangent
from covergraph.graph.node import Node

BATCH, TANGENTS = 3, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """An operation, shapes of its slots and of its value, its parameters, and the same in plain torch."""

    operation: op.Operation
    slots: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    plain: Any
    parameters: tuple[tuple[str, Tensor], ...] = ()

    @property
    def node(self) -> Node:
        names = tuple(f"u{i}" for i in range(len(self.slots)))
        return Node("v", self.operation, names, self.shape, tuple((r, f"v.{r}") for r, _ in self.parameters))

    @property
    def context(self) -> Context:
        return Context({f"v.{role}": value for role, value in self.parameters})

    def values(self, seed: int = 0) -> list[Tensor]:
        return [random(BATCH, *shape, seed=seed + i) for i, shape in enumerate(self.slots)]


W, B = random(4, 3, seed=20), random(4, seed=21)
K1, K2, K3 = random(4, 2, 3, seed=22), random(4, 1, 2, 3, seed=23), random(2, 1, 2, 1, 2, seed=24)
C1, C2, C3 = random(4, seed=25), random(4, seed=26), random(2, seed=27)


def conv(kernel: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, bias: bool) -> op.Convolution:
    return op.Convolution(stride, padding, dilation, groups, tuple(kernel.shape[2:]), bias)


CASES = {
    "linear": Case(op.Linear(False), ((3,),), (4,), lambda x: x @ W.T, (("weight", W),)),
    "linear per position": Case(
        op.Linear(True), ((5, 3),), (5, 4), lambda x: x @ W.T + B, (("weight", W), ("bias", B))
    ),
    "conv1d": Case(
        conv(K1, (2,), (1,), (2,), 1, True),
        ((2, 8),),
        (4, 3),
        lambda x: F.conv1d(x, K1, C1, 2, 1, 2),
        (("weight", K1), ("bias", C1)),
    ),
    "conv2d in groups": Case(
        conv(K2, (1, 2), (0, 1), (1, 1), 2, False),
        ((2, 4, 5),),
        (4, 3, 3),
        lambda x: F.conv2d(x, K2, None, (1, 2), (0, 1), 1, 2),
        (("weight", K2),),
    ),
    "conv3d": Case(
        conv(K3, (1, 1, 1), (0, 0, 0), (1, 1, 1), 1, True),
        ((1, 3, 2, 3),),
        (2, 2, 2, 2),
        lambda x: F.conv3d(x, K3, C3),
        (("weight", K3), ("bias", C3)),
    ),
    "add of three": Case(op.Add(), ((2, 3),) * 3, (2, 3), lambda x, y, z: x + y + z),
    "subtract": Case(op.Subtract(), ((2, 3),) * 2, (2, 3), lambda x, y: x - y),
    "concat first": Case(op.Concatenate(0), ((2, 3), (1, 3)), (3, 3), lambda x, y: torch.cat([x, y], 1)),
    "concat last": Case(op.Concatenate(1), ((2, 3), (2, 4)), (2, 7), lambda x, y: torch.cat([x, y], 2)),
    "reshape": Case(op.Reshape(), ((2, 6),), (3, 4), lambda x: x.reshape(-1, 3, 4)),
    "reshape to a scalar": Case(op.Reshape(), ((1,),), (), lambda x: x.squeeze(1)),
    "product": Case(op.Product(), ((2, 3),) * 2, (2, 3), lambda x, y: x * y),
    "avgpool1d": Case(
        op.AveragePool((3,), (2,), (1,)), ((2, 7),), (2, 4), lambda x: F.avg_pool1d(x, 3, 2, 1)
    ),
    "avgpool2d ceil": Case(
        op.AveragePool((2, 3), (2, 2), (0, 1), True, False),
        ((2, 5, 4),),
        (2, 3, 3),
        lambda x: F.avg_pool2d(x, (2, 3), 2, (0, 1), ceil_mode=True, count_include_pad=False),
    ),
    "avgpool3d": Case(
        op.AveragePool((2, 1, 2), (1, 1, 2), (0, 0, 0)),
        ((1, 3, 2, 4),),
        (1, 2, 2, 2),
        lambda x: F.avg_pool3d(x, (2, 1, 2), (1, 1, 2)),
    ),
}
_PLAIN = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: x * torch.sigmoid(x),
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "sin": torch.sin,
    "cos": torch.cos,
    "neg": lambda x: -x,
    "affine(2, -1)": lambda x: 2 * x - 1,
}
for function in (*ROWS, affine(2, -1)):
    CASES[function.name] = Case(op.Elementwise(function), ((2, 3),), (2, 3), _PLAIN[function.name])

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_values_are_those_of_plain_torch(case: Case) -> None:
    found = apply(case.operation, case.node, case.values(), case.context)
    assert found.shape == (BATCH, *case.shape)
    torch.testing.assert_close(found, case.plain(*case.values()), rtol=1e-12, atol=1e-13)


@each_case
def test_tangents_are_those_of_forward_differentiation(case: Case) -> None:
    """All slots together, and each slot alone with None in the others."""
    values = case.values()
    directions = [random(BATCH, TANGENTS, *shape, seed=50 + i) for i, shape in enumerate(case.slots)]
    given = [[*directions]] + [
        [d if j == i else None for j, d in enumerate(directions)] for i in range(len(values))
    ]
    for slots in given:
        found = tangent(case.operation, case.node, values, slots, case.context)
        assert found.shape == (BATCH, TANGENTS, *case.shape)
        for t in range(TANGENTS):
            ones = [torch.zeros_like(v) if d is None else d[:, t] for v, d in zip(values, slots, strict=True)]
            _, expected = torch.func.jvp(
                lambda *x: apply(case.operation, case.node, x, case.context), tuple(values), tuple(ones)
            )
            torch.testing.assert_close(found[:, t], expected, rtol=1e-10, atol=1e-12)


@each_case
def test_edge_jacobians_are_dense_derivatives(case: Case) -> None:
    values = case.values()
    for i, name in enumerate(case.node.inputs):
        found = edge_jacobian(case.node, name, values, case.context)
        for n in range(BATCH):

            def rule(x: Tensor, i: int = i, n: int = n) -> Tensor:
                return case.plain(*(x[None] if j == i else v[n : n + 1] for j, v in enumerate(values)))[0]

            dense = torch.func.jacrev(rule)(values[i][n]).reshape(case.node.size, -1)
            torch.testing.assert_close(found[n], dense, rtol=1e-9, atol=1e-11)


@each_case
def test_samples_do_not_see_each_other(case: Case) -> None:
    values = case.values()
    found = apply(case.operation, case.node, values, case.context)
    alone = [
        apply(case.operation, case.node, [v[n : n + 1] for v in values], case.context) for n in range(BATCH)
    ]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-12, atol=1e-13)


def test_every_operation_has_a_case() -> None:
    known = {type(case.operation) for case in CASES.values()}
    every = {c for c in vars(op).values() if isinstance(c, type) and issubclass(c, op.Operation)}
    assert every - known == {op.Operation, op.Input}


def test_slots_filled_by_one_node_are_summed() -> None:
    x = random(BATCH, 3)
    context = Context({})
    square = Node("v", op.Product(), ("u", "u"), (3,))
    torch.testing.assert_close(edge_jacobian(square, "u", [x, x], context), torch.diag_embed(2 * x))
    double = Node("v", op.Add(), ("u", "u"), (3,))
    torch.testing.assert_close(
        edge_jacobian(double, "u", [x, x], context)[0], 2 * torch.eye(3, dtype=torch.float64)
    )
    nothing = Node("v", op.Subtract(), ("u", "u"), (3,))
    assert not edge_jacobian(nothing, "u", [x, x], context).any()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_identity_tangents(shape: tuple[int, ...]) -> None:
    basis = identity_tangents(torch.zeros(2, *shape))
    size = max(1, shape[0] * shape[-1] if len(shape) > 1 else 1)
    assert basis.shape == (2, size, *shape)
    torch.testing.assert_close(basis.reshape(2, size, -1)[0], torch.eye(size))


@dataclass(frozen=True)
class Sorting(op.Operation):
    """Unknown to covergraph."""


def test_unknown_operations_are_refused_by_name() -> None:
    node = Node("v", Sorting(), ("u",), (2,), origin="head.sort")
    with pytest.raises(UnsupportedOperationError, match=r"'v' \(head\.sort\).*no rule for 'sorting'"):
        apply(node.operation, node, [torch.zeros(1, 2)], Context({}))
    with pytest.raises(
        UnsupportedOperationError, match=r"'v' \(head\.sort\).*no derivative rule for 'sorting'"
    ):
        tangent(node.operation, node, [torch.zeros(1, 2)], [torch.zeros(1, 1, 2)], Context({}))


@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_run_like_the_modules(name: str) -> None:
    """Every marked value, at two batch sizes."""
    net = NETWORKS[name]()
    for n in (1, 5):
        inputs, _ = net.sample(n, seed=n)
        output = net.module(*inputs)
        values = net.graph.run(net.module, *inputs)
        torch.testing.assert_close(values[net.graph.output], output, rtol=1e-12, atol=1e-13)
        for v, expected in net.module.seen.items():
            torch.testing.assert_close(values[v], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_nodes_take_the_values_given(name: str) -> None:
    net = NETWORKS[name]()
    inputs, _ = net.sample(4)
    for node in net.graph.nodes:
        free = random(4, *node.shape, seed=9)
        net.module.cut = {node.name: free}
        expected = net.module(*inputs)
        net.module.cut = {}
        found = net.graph.run(net.module, *inputs, cut={node.name: free})
        torch.testing.assert_close(found[node.name], free)
        torch.testing.assert_close(found[net.graph.output], expected, rtol=1e-12, atol=1e-13)


def test_wrong_inputs_are_refused() -> None:
    net = mlp()
    with pytest.raises(GraphError, match=r"input 'x' has shape \(4, 6\), expected \(batch, 5\)"):
        net.graph.run(net.module, torch.zeros(4, 6))
    with pytest.raises(GraphError, match=r"input 'x' has shape \(5,\)"):
        net.graph.run(net.module, torch.zeros(5))
    with pytest.raises(GraphError, match=r"2 inputs given, expected 1: \['x'\]"):
        net.graph.run(net.module, torch.zeros(4, 5), torch.zeros(4, 5))
    with pytest.raises(GraphError, match="no node is called 'nowhere'"):
        net.graph.run(net.module, torch.zeros(4, 5), cut={"nowhere": torch.zeros(1)})


def test_missing_parameters_name_the_node() -> None:
    net = mlp()
    state = {k: v for k, v in net.module.state_dict().items() if k != "f2.weight"}
    with pytest.raises(ForeignModelError, match=r"'f2'.*no parameter 'f2\.weight'"):
        net.graph.run(state, torch.zeros(2, 5, dtype=torch.float64))


def test_state_holds_tied_names_and_buffers() -> None:
    module = torch.nn.Module()
    module.one = torch.nn.Linear(2, 2)
    module.two = module.one
    module.register_buffer("extra", torch.ones(1))
    assert set(state_of(module)) == {"one.weight", "one.bias", "two.weight", "two.bias", "extra"}


def test_graphs_are_checked_when_they_are_made() -> None:
    x, t = Node("x", op.Input(), (), (2,)), Node("t", op.Reshape(), ("x",), (2,))
    for nodes, output, pattern in (
        ([x, x], "x", "two nodes are called 'x'"),
        ([t, x], "t", r"'t' uses \['x'\] before it is defined"),
        ([x, t], "z", "output 'z' is not a node"),
        ([x, Node("y", op.Input(), ("x",), (2,))], "y", "input 'y' has predecessors"),
    ):
        with pytest.raises(GraphError, match=pattern):
            ComputationGraph(nodes, output)
