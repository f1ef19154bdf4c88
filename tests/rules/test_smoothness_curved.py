"""Jacobians of every operation between two values of one component change at most as fast as stated (Lemmas 10-16).

Two values are taken on a segment along which the condition q > rho/2 is certified by its own Lipschitz constant; the
Jacobians are dense, by torch.func on plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import sympy
import torch
from dense import spectral
from hypothesis import assume, given
from hypothesis import strategies as st
from operation_cases import Case
from operation_cases.every import CASES
from strategies import examples
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.function_rows import UNARY
from covergraph.graph.node import Node
from covergraph.rules.conditions import condition
from covergraph.rules.placeholders import RHO, slot_of
from covergraph.rules.smoothness import slot_smoothness, smoothness

KINKED = {
    name: Case(op.Elementwise(UNARY[name]), ((2, 3),), (2, 3), UNARY[name].evaluate)
    for name in ("relu", "abs", "hardswish", "selu", "exp", "log", "reciprocal", "square", "sqrt", "rsqrt")
}
REFUSED = (op.Attention, op.Recurrent, op.Call, op.Composite)
KNOWN = {n: c for n, c in (CASES | KINKED).items() if c.moving and c.is_float and not isinstance(c.operation, REFUSED)}
CONDITIONED = {name: case for name, case in KNOWN.items() if condition(case.operation, case.node) is not None}
NO_SLOT = {op.Parameter, op.Constant, op.Embedding}
STEPS = 24


def tied(case: Case) -> list[Node]:
    """The node with a predecessor per slot, and with one for all slots where these have one shape."""
    nodes = [case.node]
    if len(case.slots) > 1 and len(set(case.slots)) == 1:
        nodes.append(replace(case.node, inputs=("u0",) * len(case.slots)))
    return nodes


def draw(case: Case, node: Node, scale: float, seed: int) -> dict[str, Tensor]:
    """Values of the predecessors; what is special in the case stays, masks with infinite entries."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i, name in enumerate(node.inputs):
        random = scale * torch.randn(case.slots[i], generator=generator, dtype=torch.float64)
        if isinstance(case.operation, op.Elementwise) and case.operation.function.name in ("log", "sqrt", "rsqrt"):
            random = random.abs()
        found.setdefault(name, case.special[i][seed % 3] if i in case.special else random)
    return found


def moved(values: Mapping[str, Tensor], delta: Mapping[str, Tensor], t: float = 1.0) -> dict[str, Tensor]:
    return {name: value + t * delta[name] if name in delta else value for name, value in values.items()}


def jacobian(case: Case, node: Node, values: Mapping[str, Tensor], tail: str) -> Tensor:
    """J_{x,u}, dense, summed over the slots of u."""

    def rule(h: Tensor) -> Tensor:
        slots = [(h if name == tail else values[name])[None] for name in node.inputs]
        made: Tensor = case.plain(*slots)
        return made.reshape(-1)

    found: Tensor = torch.func.jacrev(rule)(values[tail])
    return found.reshape(node.size, values[tail].numel())


def quantity(case: Case, node: Node, points: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """q at some points."""
    slots = [torch.stack([point[name] for point in points]) for name in node.inputs]
    return condition_value(node.operation, node, slots, case.context)


def slope(node: Node, delta: Mapping[str, Tensor]) -> float:
    """A bound of |Delta q|."""
    found = condition(node.operation, node)
    assert found is not None
    return sum(float(lip) * norm(delta, node.inputs[slot]) for slot, lip in found.slopes.items())


def norm(delta: Mapping[str, Tensor], name: str) -> float:
    return float(delta[name].norm()) if name in delta else 0.0


def level(case: Case, node: Node, values: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> float:
    """A rho with q > rho/2 on the whole segment, not positive if there is none: q moves little between two points."""
    points = [moved(values, delta, i / STEPS) for i in range(STEPS + 1)]
    return 2 * (float(quantity(case, node, points).min()) - slope(node, delta) / STEPS / 2) * (1 - 1e-9)


def rate(node: Node, tail: str, ends: Sequence[Mapping[str, Tensor]], rho: float) -> dict[str, float]:
    """taubar_{x;tail,u'} by u', the radii at their values."""
    numbers: dict[sympy.Basic, float] = {RHO: rho}
    found = {}
    for (u, v), value in smoothness(node).items():
        if u == tail:
            for symbol in value.free_symbols - {RHO}:
                slot = slot_of(symbol)
                assert slot is not None
                numbers[symbol] = max(float(end[node.inputs[slot]].norm()) for end in ends)
            found[v] = float(sympy.N(value.xreplace({s: sympy.Float(x) for s, x in numbers.items()})))
    return found


@pytest.mark.parametrize("name", KNOWN)
@examples(8)
@given(st.sampled_from([0.03, 0.3, 1.0, 3.0]), st.sampled_from([1e-3, 0.1, 1.0]), st.integers(0, 10**6))
def test_jacobians_change_at_most_as_fast_as_stated(name: str, scale: float, size: float, seed: int) -> None:
    case = KNOWN[name]
    for node in tied(case):
        values = draw(case, node, scale, seed)
        delta = {u: d for u, d in draw(case, node, scale * size, seed + 1).items() if torch.isfinite(values[u]).all()}
        rho = 1.0
        if condition(node.operation, node) is not None:
            while (rho := level(case, node, values, delta)) <= 0 and slope(node, delta) > 1e-9:
                delta = {u: d / 2 for u, d in delta.items()}
            assume(rho > 0)
        after = moved(values, delta)
        for tail in delta:
            before = jacobian(case, node, values, tail)
            change = spectral(jacobian(case, node, after, tail) - before)
            allowed = sum(tau * norm(delta, v) for v, tau in rate(node, tail, (values, after), rho).items())
            assert change <= allowed * (1 + 1e-6) + 1e-11 * (1 + spectral(before))


@pytest.mark.parametrize("name", CONDITIONED)
@examples(12)
@given(st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([1e-4, 0.1, 2.0]), st.integers(0, 10**6))
def test_conditions_change_at_most_as_fast_as_stated(name: str, scale: float, size: float, seed: int) -> None:
    case = CONDITIONED[name]
    for node in tied(case):
        values, delta = draw(case, node, scale, seed), draw(case, node, scale * size, seed + 1)
        q = quantity(case, node, [values, moved(values, delta)])
        assert (q >= 0).all()
        assert float((q[1] - q[0]).abs()) <= slope(node, delta) * (1 + 1e-9) + 1e-12 * scale


def speed(case: Case, node: Node, values: Mapping[str, Tensor], delta: Mapping[str, Tensor], tail: str) -> float:
    """||d/dt J_{x,u}(h + t delta)||_op at t = 0 over the norm of delta, by forward over reverse mode."""

    def along(t: Tensor) -> Tensor:
        return jacobian(case, node, {u: v + t * delta[u] if u in delta else v for u, v in values.items()}, tail)

    change = torch.func.jvp(along, (torch.zeros((), dtype=torch.float64),), (torch.ones((), dtype=torch.float64),))[1]
    return spectral(change) / math.sqrt(sum(float(d.norm()) ** 2 for d in delta.values()))


def case_of(
    operation: op.Operation, plain: Callable[..., Tensor], *slots: tuple[int, ...], shape: tuple[int, ...]
) -> Case:
    return Case(operation, slots, shape, plain)


def tensor(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


EPS = 0.3
THIRD = 1 / math.sqrt(3)
FLAT = tensor(1, 1, -1, -1) / 2, tensor(1, -1, 1, -1) / 2  # orthonormal, of mean 0
OBLIQUE = THIRD * FLAT[0] + math.sqrt(2 / 3) * FLAT[1]


def norm_case(center: bool, eps: float) -> Case:
    def plain(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if center else x
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    return case_of(op.Normalize(4, eps, center), plain, (4,), shape=(4,))


TIGHT = {
    "softmax at p(1-p)|1-2p| largest": (
        case_of(op.Softmax(0), softmax, (2,), shape=(2,)),
        {"u0": tensor(math.log((1 + THIRD) / (1 - THIRD)), 0)},
        {"u0": tensor(1, -1)},
        "u0",
    ),
    "log-softmax of two equal scores": (
        case_of(op.Softmax(0, True), lambda x: torch.log_softmax(x, -1), (2,), shape=(2,)),
        {"u0": tensor(0.7, 0.7)},
        {"u0": tensor(1, -1)},
        "u0",
    ),
    "softmax, second slot": (
        case_of(op.Softmax(0), lambda x, y: softmax(x + y), (2,), (2,), shape=(2,)),
        {"u0": tensor(math.log((1 + THIRD) / (1 - THIRD)), 0), "u1": tensor(0, 0)},
        {"u1": tensor(1, -1)},
        "u0",
    ),
    "normalize along the value, r^2 = 5 eps/4": (
        norm_case(True, EPS),
        {"u0": math.sqrt(EPS) * FLAT[0]},
        {"u0": FLAT[0]},
        "u0",
    ),
    "rms along the value": (norm_case(False, EPS), {"u0": math.sqrt(EPS) * FLAT[1]}, {"u0": FLAT[1]}, "u0"),
    "normalize obliquely, without eps": (norm_case(True, 0.0), {"u0": 3 * FLAT[0]}, {"u0": OBLIQUE}, "u0"),
    "rms obliquely, without eps": (norm_case(False, 0.0), {"u0": 3 * FLAT[0]}, {"u0": OBLIQUE}, "u0"),
    "norm across": (
        case_of(op.VectorNorm((0,)), lambda x: x.norm(dim=1), (2,), shape=()),
        {"u0": tensor(0.5, 0)},
        {"u0": tensor(0, 1)},
        "u0",
    ),
    "numerator of a quotient": (
        case_of(op.Divide(), lambda x, y: x / y, (2,), (2,), shape=(2,)),
        {"u0": tensor(3, 1), "u1": tensor(0.5, 2)},
        {"u1": tensor(1, 0)},
        "u0",
    ),
    "denominator of a quotient, by the numerator": (
        case_of(op.Divide(), lambda x, y: x / y, (2,), (2,), shape=(2,)),
        {"u0": tensor(3, 1), "u1": tensor(-0.5, 2)},
        {"u0": tensor(1, 0)},
        "u1",
    ),
    "denominator of a quotient": (
        case_of(op.Divide(), lambda x, y: x / y, (2,), (2,), shape=(2,)),
        {"u0": tensor(3, 0), "u1": tensor(0.5, 2)},
        {"u1": tensor(1, 0)},
        "u1",
    ),
    "matrix product": (
        case_of(op.MatrixProduct(), torch.matmul, (2, 2), (2, 2), shape=(2, 2)),
        {"u0": torch.eye(2).double(), "u1": torch.eye(2).double()},
        {"u1": tensor(1, 0, 0, 0).reshape(2, 2)},
        "u0",
    ),
}


@pytest.mark.parametrize("name", TIGHT)
def test_the_constants_are_attained(name: str) -> None:
    """At rho/2 = q, the smallest value that the condition allows."""
    case, values, delta, tail = TIGHT[name]
    node = case.node
    (moving,) = delta
    rho = 2 * float(quantity(case, node, [values])[0]) if condition(node.operation, node) is not None else 1.0
    taubar = rate(node, tail, [values], rho)[moving]
    assert speed(case, node, values, delta, tail) == pytest.approx(taubar, rel=1e-9)


def test_eps_limits_the_rate_of_a_norm_where_the_condition_is_weak() -> None:
    """min(48/(25 sqrt5 sqrt d eps), 2/(sqrt3 sqrt d r^2)): the first for small rho, the second for large rho."""
    value = slot_smoothness(op.Normalize(4, 0.1), norm_case(True, 0.1).node)[0, 0]
    first, second = 48 / (25 * math.sqrt(5)) / (2 * 0.1), 2 / math.sqrt(3) / 2
    assert float(value.subs(RHO, sympy.Float("1e-9"))) == pytest.approx(min(first, second / 0.1))
    assert float(value.subs(RHO, 10)) == pytest.approx(second / 25)
    alone = slot_smoothness(op.Normalize(4, 0.0), norm_case(True, 0.0).node)[0, 0]
    assert float(alone.subs(RHO, 10)) == pytest.approx(second / 25)


def test_slots_filled_by_one_node_add_up() -> None:
    """softmax(x + x) four times one slot's rate; x/x: two cross terms and the denominator's own one."""
    one = next(iter(smoothness(Node("v", op.Softmax(0), ("x",), (3,))).values()))
    assert smoothness(Node("v", op.Softmax(0), ("x", "x"), (3,))) == {("x", "x"): 4 * one}
    (value,) = smoothness(Node("v", op.Divide(), ("x", "x"), (3,))).values()
    radius = (value.free_symbols - {RHO}).pop()
    assert sympy.simplify(value - 8 / RHO**2 - 16 * radius / RHO**3) == 0
    assert smoothness(Node("v", op.MatrixProduct(), ("x", "x"), (2, 2))) == {("x", "x"): 2}


def test_what_is_fixed_does_not_vary() -> None:
    """The value of the other slot varies no more: of x * c, of x/c and of softmax(x + c) what x does remains."""
    fixed = frozenset({"c"})
    assert smoothness(Node("v", op.Product(), ("x", "c"), (3,)), fixed) == {("c", "x"): 1}
    assert set(smoothness(Node("v", op.Divide(), ("x", "c"), (3,)), fixed)) == {("c", "x")}
    assert set(smoothness(Node("v", op.Softmax(0), ("x", "c"), (3,)), fixed)) == {("x", "x"), ("c", "x")}


CALL = op.Call("aten.cumprod.default", (op.Slot(0), 1), (), ((1, 3),))
LAYERS = [op.Attention(1.0), op.Recurrent("gru"), CALL, op.Composite("block", (), (), "")]


@pytest.mark.parametrize("operation", LAYERS, ids=lambda o: o.label)
def test_layers_and_calls_are_refused_with_a_remedy(operation: op.Operation) -> None:
    remedy = {"cumprod": r"aten\.cumprod\.default.*adding_an_op", "block": "no chain of operations"}
    with pytest.raises(UnsupportedOperationError, match=rf"'v' \(net\.v\).*{remedy.get(operation.label, 'lower')}"):
        smoothness(Node("v", operation, ("x",), (3,), origin="net.v"))


def test_every_operation_of_the_vocabulary_answers() -> None:
    kinds = {kind for kind in vars(op).values() if isinstance(kind, type) and issubclass(kind, op.Operation)}
    refusal = slot_smoothness.dispatch(object)
    assert len(kinds) > 25
    assert {kind.__name__ for kind in kinds if slot_smoothness.dispatch(kind) is refusal} == {"Operation"}
    assert {type(case.operation) for case in KNOWN.values()} == kinds - {op.Operation, op.Input, *REFUSED} - NO_SLOT
