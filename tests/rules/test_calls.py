"""Rules of calls against dense Jacobians of torch's own operations, and the registry's refusals (Lemma 20)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
import sympy
import torch
from dense import spectral
from hypothesis import given
from strategies import examples
from torch import Tensor

from covergraph import CallRule, register
from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph.calls import CALLS
from covergraph.graph.condition_rules import condition_value
from covergraph.graph.dispatch import Context, apply, tangent
from covergraph.graph.node import Node
from covergraph.graph.operations import Slot
from covergraph.measure.edges import edge_bound
from covergraph.rules.conditions import condition
from covergraph.rules.lipschitz import slot_lipschitz
from covergraph.rules.placeholders import RHO, radius
from covergraph.rules.smoothness import slot_smoothness, smoothness

EMPTY = Context({})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places(high: int, *shape: int, seed: int = 7) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Case:
    """A call with one value (batch size 1) per slot, and the slots that vary."""

    operation: op.Call
    values: tuple[Tensor, ...]
    varying: tuple[int, ...]

    @property
    def node(self) -> Node:
        shape = tuple(self.plain(self.values).shape)
        return Node("v", self.operation, tuple(f"u{i}" for i in range(len(self.values))), shape, origin="block.pool")

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset(f"u{i}" for i in range(len(self.values)) if i not in self.varying)

    def plain(self, values: tuple[Tensor, ...]) -> Tensor:
        """Torch's own operation, without covergraph."""
        found: Any = torch.ops
        for part in self.operation.target.split("."):
            found = getattr(found, part)

        def filled(argument: Any) -> Any:
            if isinstance(argument, Slot):
                return values[argument.position]
            return [filled(item) for item in argument] if isinstance(argument, tuple) else argument

        keywords = {key: filled(value) for key, value in self.operation.keywords}
        result = found(*map(filled, self.operation.arguments), **keywords)
        return result if self.operation.output is None else result[self.operation.output]

    def jacobian(self, slot: int, values: tuple[Tensor, ...]) -> Tensor:
        def rule(x: Tensor) -> Tensor:
            return self.plain((*values[:slot], x, *values[slot + 1 :]))

        dense: Tensor = torch.autograd.functional.jacobian(rule, values[slot])
        return dense.reshape(-1, values[slot].numel())

    def moved(self, seed: int, scale: float = 1.0) -> tuple[Tensor, ...]:
        """Other values in the slots that vary."""
        return tuple(
            v + scale * random(*v.shape, seed=seed + i) if i in self.varying else v for i, v in enumerate(self.values)
        )


def case(target: str, values: tuple[Tensor, ...], varying: tuple[int, ...], *arguments: Any, **keywords: Any) -> Case:
    output = keywords.pop("output", None)
    shapes = tuple(tuple(v.shape) for v in values)
    return Case(op.Call(f"aten.{target}", arguments, tuple(keywords.items()), shapes, output), values, varying)


S0, S1, S2, S3 = (Slot(i) for i in range(4))
MASK = places(2, 3, 4).bool()

AFFINE = {
    "scatter_add": case(
        "scatter_add.default", (random(4, 3), places(4, 5, 3), random(5, 3, seed=1)), (0, 2), S0, 0, S1, S2
    ),
    "index_put": case(
        "index_put.default",
        (random(2, 4, 5), places(4, 3, 1), places(5, 2), random(2, 3, 2, seed=1)),
        (0, 3),
        *(S0, (None, S1, S2), S3, True),
    ),
    "index_put, one value in many places": case(
        "index_put.default", (random(6, 3), places(6, 5), random(1, 3, seed=1)), (0, 2), S0, (S1,), S2, True
    ),
    "gather": case("gather.default", (random(4, 5), places(5, 3, 7)), (0,), S0, 1, S1),
    "index": case(
        "index.Tensor", (random(4, 5, 2), places(4, 6), places(5, 6, seed=8)), (0,), S0, (S1, S2)
    ),
    "index_select": case("index_select.default", (random(4, 3), places(4, 6)), (0,), S0, 0, S1),
    "cumsum": case("cumsum.default", (random(3, 6),), (0,), S0, -1),
    "masked_fill": case("masked_fill.Scalar", (random(3, 4), MASK), (0,), S0, S1, 0.5),
    "masked_fill, repeated": case("masked_fill.Scalar", (random(4), MASK), (0,), S0, S1, -math.inf),
    "masked_fill by a tensor": case(
        "masked_fill.Tensor", (random(3, 4), MASK, random(seed=2)), (0, 2), S0, S1, S2
    ),
    "where with a number": case("where.ScalarOther", (MASK, random(3, 4)), (1,), S0, S1, -3.0),
    "where with a number first": case("where.ScalarSelf", (MASK, random(3, 1)), (1,), S0, 2.0, S1),
    "where": case("where.self", (MASK, random(3, 4), random(4, seed=3)), (1, 2), S0, S1, S2),
    "sums of bags": case(
        "_embedding_bag.default", (random(7, 3), places(7, 8), torch.tensor([0, 3])), (0,), S0, S1, S2, output=0
    ),
    "means of bags": case(
        "_embedding_bag.default",
        (random(7, 3), places(7, 8), torch.tensor([0, 3])),
        (0,),
        *(S0, S1, S2, False, 1),
        output=0,
    ),
    "weighted bags": case(
        "_embedding_bag.default",
        (random(7, 3), places(7, 8), torch.tensor([0, 3]), random(8, seed=4)),
        (0,),
        *(S0, S1, S2, False, 0, False, S3),
        output=0,
    ),
    "sums of segments": case(
        "scatter_reduce.two", (random(4, 2), places(4, 6, 2), random(6, 2, seed=1)), (0, 2), S0, 0, S1, S2, "sum"
    ),
    "means of segments": case(
        "scatter_reduce.two",
        (random(4, 2), places(4, 6, 2), random(6, 2, seed=1)),
        (0, 2),
        *(S0, 0, S1, S2, "mean"),
        include_self=False,
    ),
}

MAXIMA = {
    "maximum": case("maximum.default", (random(3, 4), random(3, 4, seed=1)), (0, 1), S0, S1),
    "maximum, repeated": case("maximum.default", (random(4), random(3, 4, seed=1)), (0, 1), S0, S1),
    "minimum": case("minimum.default", (random(3, 4), random(3, 4, seed=1)), (0, 1), S0, S1),
    **{
        f"{reduce} of segments, {'with' if own else 'without'} self": case(
            "scatter_reduce.two",
            (random(5, 2), places(4, 6, 2), random(6, 2, seed=1)),
            (0, 2),
            *(S0, 0, S1, S2, reduce),
            include_self=own,
        )
        for reduce in ("amax", "amin")
        for own in (False, True)
    },
    "maxima of segments of vectors": case(
        "scatter_reduce.two", (random(4), places(3, 6), random(6, seed=1)), (0, 2), S0, -1, S1, S2, "amax"
    ),
}

each = pytest.mark.parametrize("case", (AFFINE | MAXIMA).values(), ids=AFFINE | MAXIMA)
each_affine = pytest.mark.parametrize("case", AFFINE.values(), ids=AFFINE)
each_maximum = pytest.mark.parametrize("case", MAXIMA.values(), ids=MAXIMA)


def batch(values: tuple[Tensor, ...]) -> list[Tensor]:
    return [value[None] for value in values]


def gap(case: Case, values: tuple[Tensor, ...]) -> float:
    return float(condition_value(case.operation, case.node, batch(values), EMPTY))


def test_every_rule_has_a_case() -> None:
    assert {c.operation.target for c in (AFFINE | MAXIMA).values()} == {t for t in CALLS if t.startswith("aten.")}


@each_affine
def test_affine_calls_have_one_jacobian(case: Case) -> None:
    """In all varying slots together, however far they move."""
    assert smoothness(case.node, case.fixed) == {}
    assert condition(case.operation, case.node) is None
    for slot in case.varying:
        far = case.moved(seed=20, scale=50.0)
        torch.testing.assert_close(case.jacobian(slot, case.values), case.jacobian(slot, far))


@each_maximum
def test_maxima_are_affine_until_the_condition_is_zero(case: Case) -> None:
    """Along a segment the Jacobian changes only between points where q = 0 is passed."""
    assert smoothness(case.node, case.fixed) == {}
    changes = 0
    for seed in range(30):
        before, after = case.moved(seed, 0.5), case.moved(seed + 100, 0.5)
        ways = {i: after[i] - before[i] for i in case.varying}
        steps = [
            tuple(v + t / 40 * ways[i] if i in ways else v for i, v in enumerate(before)) for t in range(41)
        ]
        length = sum(float(way.norm()) for way in ways.values())
        for here, there in pairwise(steps):
            same = all(torch.equal(case.jacobian(s, here), case.jacobian(s, there)) for s in case.varying)
            changes += not same
            assert same or min(gap(case, here), gap(case, there)) <= 2 * length / 40
        if changes > 3:
            break
    assert changes > 3


@each_maximum
def test_the_slopes_of_conditions_hold_and_are_attained_in_sum(case: Case) -> None:
    found = condition(case.operation, case.node)
    assert found is not None and found.text and found.latex
    slopes = {slot: float(value) for slot, value in found.slopes.items()}
    worst = 0.0
    for seed in range(60):
        here = case.moved(seed, 0.3)
        value = gap(case, here)
        for slot in slopes:
            point = here[slot].clone().requires_grad_()
            values = (*here[:slot], point, *here[slot + 1 :])
            (slope,) = torch.autograd.grad(condition_value(case.operation, case.node, batch(values), EMPTY), point)
            assert float(slope.norm()) <= slopes[slot] * (1 + 1e-12)
            worst = max(worst, float(slope.norm()) / slopes[slot])
            moved = here[slot] + 0.1 * random(*here[slot].shape, seed=seed + 500)
            after = gap(case, (*here[:slot], moved, *here[slot + 1 :]))
            assert abs(after - value) <= slopes[slot] * float((moved - here[slot]).norm()) * (1 + 1e-12)
    assert worst == pytest.approx(1)


def brute_gap(start: Tensor, index: Tensor, src: Tensor, own: bool) -> float:
    """The two largest entries of every segment, by lists."""
    groups: dict[tuple[int, int], list[float]] = {}
    for row in range(start.shape[0]):
        for column in range(start.shape[1]):
            groups[row, column] = [float(start[row, column])] if own else []
    for row in range(index.shape[0]):
        for column in range(index.shape[1]):
            groups[int(index[row, column]), column].append(float(src[row, column]))
    ordered = [sorted(group)[-2:] for group in groups.values() if len(group) > 1]
    return min((high - low for low, high in ordered), default=math.inf)


@given(st.integers(1, 4), st.integers(0, 6), st.integers(1, 3), st.booleans(), st.integers(0, 99))
@examples(60)
def test_gaps_of_segments_are_those_of_lists(rows: int, entries: int, columns: int, own: bool, seed: int) -> None:
    """With ties, empty segments and segments of one entry."""
    start = random(rows, columns + seed % 2, seed=seed).round(decimals=1)
    index = places(rows, entries, columns, seed=seed)
    src = random(entries + 1, columns, seed=seed + 1).round(decimals=1)
    made = case("scatter_reduce.two", (start, index, src), (0, 2), S0, 0, S1, S2, "amax", include_self=own)
    assert gap(made, made.values) == pytest.approx(brute_gap(start, index, src, own))


@each
def test_worst_case_constants_bound_every_jacobian(case: Case) -> None:
    if case is AFFINE["weighted bags"]:
        with pytest.raises(UnsupportedOperationError, match="no worst-case"):
            slot_lipschitz(case.operation, case.node, Node("u0", op.Input(), (), ()))
        return
    for slot in case.varying:
        tail = Node(f"u{slot}", op.Input(), (), tuple(case.values[slot].shape))
        norm = spectral(case.jacobian(slot, case.values))
        assert norm <= float(slot_lipschitz(case.operation, case.node, tail)) * (1 + 1e-12)


def test_constants_that_are_attained() -> None:
    """All entries added at one place, one entry taken everywhere, and the sums of a sequence."""
    ones = torch.zeros(5, 2, dtype=torch.long)
    for attained, slot in [
        (case("scatter_add.default", (random(4, 2), ones, random(5, 2)), (0, 2), S0, 0, S1, S2), 2),
        (case("gather.default", (random(4, 2), ones), (0,), S0, 0, S1), 0),
        (case("index_put.default", (random(6, 3), ones[:, 0], random(1, 3)), (0, 2), S0, (S1,), S2, True), 2),
        (AFFINE["cumsum"], 0),
    ]:
        tail = Node(f"u{slot}", op.Input(), (), ())
        norm = spectral(attained.jacobian(slot, attained.values))
        assert norm == pytest.approx(float(slot_lipschitz(attained.operation, attained.node, tail)), rel=1e-12)


@each
def test_edges_are_bounded_at_the_sample(case: Case) -> None:
    """Above the true norm, and not above the worst case."""
    for slot in case.varying:
        bound = float(edge_bound(case.operation, case.node, slot, batch(case.values), EMPTY))
        assert spectral(case.jacobian(slot, case.values)) <= bound
        if case is not AFFINE["weighted bags"]:
            tail = Node(f"u{slot}", op.Input(), (), ())
            assert bound <= float(slot_lipschitz(case.operation, case.node, tail)) * (1 + 1e-9)


@each
def test_tangents_are_dense_jacobians_times_directions(case: Case) -> None:
    for slot in case.varying:
        directions = random(1, 3, *case.values[slot].shape, seed=9)
        slots = [directions if i == slot else None for i in range(len(case.values))]
        found = tangent(case.operation, case.node, batch(case.values), slots, EMPTY)
        expected = directions.reshape(3, -1) @ case.jacobian(slot, case.values).T
        torch.testing.assert_close(found, expected.reshape(1, 3, *case.node.shape))


@each
def test_slots_that_must_not_vary_are_refused_by_name(case: Case) -> None:
    if not case.fixed:
        return
    slot = min(int(name[1:]) for name in case.fixed)
    with pytest.raises(UnsupportedOperationError) as refused:
        smoothness(case.node, case.fixed - {f"u{slot}"})
    for part in ("'v'", "block.pool", case.operation.target, f"slot {slot}", f"'u{slot}'", "from the inputs alone"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("target", "slots", "arguments", "part"),
    [
        ("index_put.default", 3, (S0, (S1,), S2), "accumulate"),
        ("index_put.default", 3, (S0, (S1,), S2, False), "accumulate"),
        ("scatter_reduce.two", 3, (S0, 0, S1, S2, "prod"), "prod"),
        ("_embedding_bag.default", 3, (S0, S1, S2, False, 2), "mode 2"),
        ("topk.default", 1, (S0, 2), "covergraph.register"),
        ("_cdist_forward.default", 2, (S0, S1, 2.0, None), "covergraph.register"),
    ],
)
def test_calls_without_rule_are_refused(target: str, slots: int, arguments: Any, part: str) -> None:
    call = op.Call(f"aten.{target}", arguments, (), ((4,),) * slots, 0 if "bag" in target else None)
    node = Node("v", call, tuple(f"u{i}" for i in range(slots)), (4,), origin="block.pool")
    for ask in (lambda: smoothness(node), lambda: slot_smoothness(call, node)):
        with pytest.raises(UnsupportedOperationError, match=part) as refused:
            ask()
        assert target in str(refused.value)


HYPOT = CallRule(
    (0, 1),
    taubar={(i, j): 2 / RHO for i in (0, 1) for j in (0, 1)},
    slopes={0: sympy.Integer(1), 1: sympy.Integer(1)},
    quantity=lambda a, b: torch.hypot(a, b).amin(),
    text="length of the pairs",
    lipschitz={0: sympy.Integer(1), 1: sympy.Integer(1)},
    source="a test",
)


@pytest.fixture
def registry() -> Iterator[dict[str, Any]]:
    """The registry, as it was before afterwards."""
    before = dict(CALLS)
    CALLS.pop("aten.hypot.default", None)
    yield CALLS
    CALLS.clear()
    CALLS.update(before)


@pytest.mark.usefixtures("registry")
def test_a_registered_rule_answers_all_questions() -> None:
    register(torch.ops.aten.hypot.default, HYPOT)
    pairs = case("hypot.default", (random(3), random(3, seed=1)), (0, 1), S0, S1)
    assert smoothness(pairs.node) == {(f"u{i}", f"u{j}"): 2 / RHO for i in (0, 1) for j in (0, 1)}
    assert gap(pairs, pairs.values) == pytest.approx(float((pairs.values[0] ** 2 + pairs.values[1] ** 2).sqrt().min()))
    found = condition(pairs.operation, pairs.node)
    assert found is not None
    assert dict(found.slopes) == {0: 1, 1: 1}
    assert found.latex == r"\text{length of the pairs}"


@pytest.mark.usefixtures("registry")
def test_one_value_in_two_places_sums_over_them() -> None:
    """Of hypot(x, x) and of a rule with norms of its slots."""
    register("aten.hypot.default", HYPOT)
    square = op.Call("aten.hypot.default", (S0, S0), (), ((1, 3),))
    node = Node("v", square, ("u0",), (3,))
    assert smoothness(node) == {("u0", "u0"): 8 / RHO}
    assert slot_lipschitz(square, node, Node("u0", op.Input(), (), (3,))) == 2
    value = random(1, 3)
    torch.testing.assert_close(condition_value(square, node, [value], EMPTY), math.sqrt(2) * value.abs().amin(1))
    register("aten.atan2.default", CallRule((0, 1), taubar={(0, 1): radius(0), (1, 0): radius(1)}, source="none"))
    twice = Node("v", op.Call("aten.atan2.default", (S1, S0), (), ((1, 3),) * 2), ("u0", "u1"), (3,))
    assert smoothness(twice) == {("u1", "u0"): radius(1), ("u0", "u1"): radius(0)}


@pytest.mark.usefixtures("registry")
def test_a_function_of_the_call_may_register() -> None:
    register("aten.hypot.default", lambda call: HYPOT)
    register("aten.cumprod.default", lambda call: _rule(taubar={(0, 0): sympy.Integer(call.arguments[1])}))
    call = op.Call("aten.cumprod.default", (S0, 5), (), ((1, 3),))
    assert slot_smoothness(call, Node("v", call, ("u",), (3,))) == {(0, 0): 5}


@pytest.mark.usefixtures("registry")
def test_a_rule_is_registered_once() -> None:
    register(torch.ops.aten.hypot.default, HYPOT)
    for again in (torch.ops.aten.hypot.default, "aten.hypot.default"):
        with pytest.raises(UnsupportedOperationError, match=r"aten.hypot.default has a rule, from a test"):
            register(again, HYPOT)
    with pytest.raises(UnsupportedOperationError, match="from covergraph itself"):
        register("aten.gather.default", HYPOT)


@pytest.mark.parametrize("target", ["hypot", "aten.hypot", "aten.nothing.default", torch.hypot, torch.ops.aten.hypot])
def test_only_overloads_are_registered(target: Any) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"expected an overload such as torch.ops.aten.hypot.default"):
        register(target, HYPOT)


def _rule(**changed: Any) -> CallRule:
    return CallRule(**({"varying": (0,), "source": "a test"} | changed))


Q: Callable[..., Tensor] = lambda a: a.amin()  # noqa: E731


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (_rule(varying=()), "no tensor is varying"),
        (_rule(varying=(-1,)), "no tensor is varying"),
        (_rule(taubar={(0, 1): 1}), "tensor 1 is not among"),
        (_rule(slopes={2: 1}, quantity=Q, text="t"), "tensor 2 is not among"),
        (_rule(taubar={(0, 0): 0}), "not positive"),
        (_rule(taubar={(0, 0): -sympy.sqrt(2)}), "not positive"),
        (_rule(taubar={(0, 0): sympy.oo}), "not positive and finite"),
        (_rule(taubar={(0, 0): 1 / RHO}), "has the symbols"),
        (_rule(taubar={(0, 0): radius(1)}), "has the symbols"),
        (_rule(lipschitz={0: radius(0)}), "has the symbols"),
        (_rule(slopes={0: 1}, text="t"), "a quantity needs slopes"),
        (_rule(quantity=Q), "a quantity needs slopes"),
        (_rule(slopes={0: 1}, quantity=Q), "slopes need a text"),
        (_rule(varying=(0, 1), lipschitz={1: 1}), "lipschitz lacks"),
        (_rule(source=""), "source of its proof"),
    ],
)
def test_rules_that_do_not_hold_together_are_refused(rule: CallRule, problem: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=problem):
        register("aten.hypot.default", rule)
    assert "aten.hypot.default" not in CALLS


@pytest.mark.usefixtures("registry")
def test_a_rule_for_more_tensors_than_the_call_has_is_refused() -> None:
    register("aten.hypot.default", HYPOT)
    call = op.Call("aten.hypot.default", (S0, 1.0), (), ((1, 3),))
    with pytest.raises(UnsupportedOperationError, match="with 1 tensors"):
        smoothness(Node("v", call, ("u",), (3,)))


@torch.library.custom_op("covergraph_tests::shrink", mutates_args=())
def shrink(h: Tensor) -> Tensor:
    return h / (1 + h.square().sum(-1, keepdim=True)).sqrt()


def _backward(context: Any, gradient: Tensor) -> Tensor:
    (h,) = context.saved_tensors
    r = (1 + h.square().sum(-1, keepdim=True)).sqrt()
    return (gradient - h / r * (h / r * gradient).sum(-1, keepdim=True)) / r


shrink.register_fake(torch.empty_like)
shrink.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]))


def test_operations_without_forward_mode_are_differentiated_in_reverse() -> None:
    """A custom operation, which torch differentiates backwards only."""
    call = op.Call("covergraph_tests.shrink.default", (S0,), (), ((1, 4),))
    node, x, directions = Node("v", call, ("u",), (4,)), random(2, 4), random(2, 3, 4, seed=1)
    dense = [torch.func.jacrev(lambda h: h / (1 + h.square().sum()).sqrt())(sample) for sample in x]
    found = tangent(call, node, [x], [directions], EMPTY)
    torch.testing.assert_close(found, torch.stack([d @ j.T for d, j in zip(directions, dense, strict=True)]))
    torch.testing.assert_close(apply(call, node, [x], EMPTY), x / (1 + x.square().sum(1, keepdim=True)).sqrt())


@torch.library.custom_op("covergraph_tests::opaque", mutates_args=())
def opaque(h: Tensor) -> Tensor:
    return h.tanh()


def test_operations_without_derivative_are_refused() -> None:
    call = op.Call("covergraph_tests.opaque.default", (S0,), (), ((1, 4),))
    node = Node("v", call, ("u",), (4,), origin="block")
    with pytest.raises(UnsupportedOperationError, match=r"'v' \(block\).*no derivative of covergraph_tests.opaque"):
        tangent(call, node, [random(2, 4)], [random(2, 3, 4)], EMPTY)


def test_large_edges_need_no_dense_jacobian() -> None:
    """Counts of a sum over 200 000 entries, some of which meet in one place."""
    index = places(1000, 200_000)
    sums = case("scatter_add.default", (random(200_000), index, random(200_000)), (0, 2), S0, 0, S1, S2)
    bound = float(edge_bound(sums.operation, sums.node, 2, batch(sums.values), EMPTY))
    assert bound == pytest.approx(math.sqrt(int(torch.bincount(index).max())), rel=1e-9)
