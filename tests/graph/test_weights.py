"""Programs on a model's state, the constants beside it, and the digests of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operation_cases import random
from strategies import examples
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.dispatch import Context, apply
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.node import Node
from covergraph.graph.weights import Instruction, Program, Result, Source, Weights

STATE = {"w": random(2, 3, seed=1), "v": random(2, 3, seed=2), "g": random(3, 2, seed=3)}


SINGLE = {name: value.float() for name, value in STATE.items()}
Eager = Callable[..., Tensor]


@dataclass(frozen=True)
class Written:
    """A program, what it reads, and what the same calls give one after the other on `STATE` and on `SINGLE`."""

    program: Program
    read: tuple[str, ...]
    value: Tensor
    single: Tensor


def steps_on(leaf: Any, other: Any, shape: tuple[int, ...], number: float) -> list[tuple[Instruction, Eager]]:
    """The operations on one or two values of a shape, as instructions and as calls."""
    flipped = (shape[1], shape[0])
    return [
        (Instruction("aten.mul.Tensor", (leaf, other)), lambda x, y: x * y),
        (
            Instruction("aten.add.Tensor", (leaf, other), (("alpha", number),)),
            lambda x, y: torch.add(x, y, alpha=number),
        ),
        (Instruction("aten.permute.default", (leaf, (1, 0))), lambda x, y: x.T),
        (Instruction("aten.reshape.default", (leaf, flipped)), lambda x, y: x.reshape(flipped)),
    ]


@st.composite
def programs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Written:
    """Up to six operations on entries of the state and on earlier results."""
    pool: list[tuple[Any, Tensor, Tensor]] = [(Source(name), STATE[name], SINGLE[name]) for name in STATE]
    steps: list[Instruction] = []
    for _ in range(draw(st.integers(1, 6))):
        leaf, x, narrow_x = pool[-1] if steps and draw(st.booleans()) else draw(st.sampled_from(pool))
        other, y, narrow_y = draw(st.sampled_from([entry for entry in pool if entry[1].shape == x.shape]))
        known = steps_on(leaf, other, tuple(x.shape), draw(st.sampled_from([-2.0, 0.5, 3.0])))
        instruction, eager = known[draw(st.integers(0, len(known) - 1))]
        steps.append(instruction)
        pool.append((Result(len(steps) - 1), eager(x, y), eager(narrow_x, narrow_y)))
    read = [leaf.name for step in steps for leaf in step.arguments if isinstance(leaf, Source)]
    return Written(Program(tuple(steps)), tuple(dict.fromkeys(read)), *pool[-1][1:])


def assert_same(found: Tensor, expected: Tensor) -> None:
    """The same calls on the same numbers: equal to the last bit, infinities of float32 included."""
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@given(programs())
@examples(100)
def test_programs_run_like_eager_torch(written: Written) -> None:
    assert_same(written.program.run(STATE), written.value)
    assert written.program.sources == written.read
    assert_same(written.program.run({name: STATE[name] for name in written.read}), written.value)


@given(programs())
@examples(50)
def test_effective_parameters_are_completed_in_the_type_of_the_state(written: Written) -> None:
    weights = Weights({"made": written.program})
    full = weights.complete(STATE, ["w", "made"])
    assert set(full) == {*STATE, "made"}
    assert_same(full["made"], written.value)
    assert_same(weights.complete(SINGLE, ["made"])["made"], written.single)


def test_several_results_are_picked_by_position() -> None:
    split = Instruction("aten.split_with_sizes.default", (Source("w"), (1, 2), 1))
    program = Program((split, Instruction("getitem", (Result(0), 1))))
    torch.testing.assert_close(program.run(STATE), STATE["w"][:, 1:])


def test_sources_in_tuples_and_keywords_are_read() -> None:
    stack = Instruction("aten.cat.default", ((Source("v"), Source("w"), Source("v")), 0))
    full = Instruction("aten.addmm.default", (), (("self", Source("b")), ("mat1", Result(0)), ("mat2", Source("g"))))
    program = Program((stack, full))
    assert program.sources == ("v", "w", "b", "g")
    state = STATE | {"b": random(2, seed=4)}
    expected = torch.cat([STATE["v"], STATE["w"], STATE["v"]]) @ STATE["g"] + state["b"]
    torch.testing.assert_close(program.run(state), expected)


SCALED = Program((Instruction("aten.mul.Tensor", (Source("w"), Source("half"))),))
SPLIT = Program((Instruction("aten.mul.Tensor", (Source("w"), Source("v"))),))
BESIDE = Weights(
    {"scaled": SCALED, "split": SPLIT},
    {"half": torch.full((2, 3), 0.5).double(), "index": torch.tensor([1, 2]), "mask": torch.tensor([True, False])},
    {"w": "shared", "u": "shared"},
)


def test_names_are_traced_to_the_state() -> None:
    """`read` gives entries, `sources` what stands for their storage; constants are neither."""
    assert BESIDE.read("w") == ("w",) and BESIDE.sources("w") == ("shared",)
    assert BESIDE.read("scaled") == ("w",) and BESIDE.sources("scaled") == ("shared",)
    assert BESIDE.read("split") == ("w", "v") and BESIDE.sources("split") == ("shared", "v")
    both = replace(BESIDE, ties={"w": "shared", "v": "shared"})
    assert both.read("split") == ("w", "v") and both.sources("split") == ("shared",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_take_the_type_of_the_state(dtype: torch.dtype) -> None:
    state = {"steps": torch.zeros((), dtype=torch.long)} | {name: value.to(dtype) for name, value in STATE.items()}
    full = BESIDE.complete(state, ["scaled"])
    assert {name: full[name].dtype for name in ("steps", "half", "scaled", "index", "mask")} == {
        "steps": torch.int64,
        "half": dtype,
        "scaled": dtype,
        "index": torch.int64,
        "mask": torch.bool,
    }
    torch.testing.assert_close(full["scaled"], state["w"] / 2)
    assert "split" not in full  # nobody asked for it
    assert "half" not in state  # the model's state stays as it is


def test_complex_constants_take_the_precision_of_the_state() -> None:
    weights = Weights(constants={"phase": torch.tensor([1j, 1.0], dtype=torch.complex128)})
    assert weights.complete({"w": torch.zeros(1, dtype=torch.float32)}, [])["phase"].dtype == torch.complex64
    assert weights.complete({"w": torch.zeros(1, dtype=torch.float64)}, [])["phase"].dtype == torch.complex128


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_in_a_program_is_the_type_of_the_state(dtype: torch.dtype) -> None:
    total = Program((Instruction("aten.sum.dim_IntList", (Source("w"), (1,)), (("dtype", torch.float64),)),))
    state = {name: value.to(dtype) for name, value in STATE.items()}
    found = Weights({"total": total}).complete(state, ["total"])["total"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, state["w"].sum(1))


def test_a_program_that_lacks_a_source_stays_out() -> None:
    assert set(BESIDE.complete({"w": STATE["w"]}, ["split", "scaled"])) == {"w", "half", "index", "mask", "scaled"}


def test_the_state_goes_before_a_program() -> None:
    given_one = torch.zeros(2, 3).double()
    assert BESIDE.complete(STATE | {"scaled": given_one}, ["scaled"])["scaled"] is given_one


def test_constants_without_a_state_keep_their_type() -> None:
    full = BESIDE.complete({}, ["scaled"])
    assert full["half"].dtype == torch.float64 and "scaled" not in full


def program(*arguments: Any, target: str = "aten.add.Tensor", **keywords: Any) -> Program:
    return Program((Instruction(target, arguments, tuple(keywords.items())),))


BASE = Weights({"p": program(Source("w"), 2)}, {"c": torch.tensor([[1.0, 2.0]])}, {"a": "b"})
CHANGES = {
    "name of a program": replace(BASE, effective={"q": program(Source("w"), 2)}),
    "another program": replace(BASE, effective=dict(BASE.effective) | {"q": program(Source("w"))}),
    "target": replace(BASE, effective={"p": program(Source("w"), 2, target="aten.sub.Tensor")}),
    "source": replace(BASE, effective={"p": program(Source("v"), 2)}),
    "number": replace(BASE, effective={"p": program(Source("w"), 3)}),
    "keyword": replace(BASE, effective={"p": program(Source("w"), 2, alpha=2)}),
    "position": replace(BASE, effective={"p": program(Result(0), 2)}),
    "value of a constant": replace(BASE, constants={"c": torch.tensor([[1.0, 2.0 + 2**-20]])}),
    "shape of a constant": replace(BASE, constants={"c": torch.tensor([1.0, 2.0])}),
    "type of a constant": replace(BASE, constants={"c": torch.tensor([[1.0, 2.0]]).view(torch.int32)}),
    "name of a constant": replace(BASE, constants={"d": torch.tensor([[1.0, 2.0]])}),
    "another constant": replace(BASE, constants=dict(BASE.constants) | {"d": torch.zeros(0)}),
    "tie": replace(BASE, ties={"a": "c"}),
    "tied name": replace(BASE, ties={"c": "b"}),
    "no ties": replace(BASE, ties={}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_digest_sees_every_part(name: str) -> None:
    assert CHANGES[name].digest() != BASE.digest()


def test_the_digest_sees_values_alone() -> None:
    """Neither the order of names, nor strides or laziness of a constant, nor another object of the same value."""
    order = replace(BASE, constants={"z": torch.zeros(2), **BASE.constants})
    other = replace(BASE, constants={**BASE.constants, "z": torch.zeros(2)})
    assert order.digest() == other.digest()
    square = random(3, 3)
    plain, strided = Weights(constants={"c": square.T.contiguous()}), Weights(constants={"c": square.T})
    assert plain.digest() == strided.digest() != Weights(constants={"c": square}).digest()
    phase = torch.complex(square, square + 1)
    assert Weights(constants={"c": phase.conj()}).digest() == Weights(constants={"c": phase.conj_physical()}).digest()
    part = phase.conj().imag
    assert Weights(constants={"c": part}).digest() == Weights(constants={"c": -phase.imag}).digest()


def test_empty_weights_are_false() -> None:
    assert not Weights()
    assert Weights({"p": SPLIT}) and Weights(constants={"c": torch.zeros(1)}) and Weights(ties={"a": "b"})


X = Node("x", op.Input(), (), (3,))
NODE = Node("f", op.Linear(False), ("x",), (2,), (("weight", "split"),), constants=(("other", "half"),))


def test_fingerprints_change_with_what_a_node_is_made_of() -> None:
    base = fingerprint([X, NODE], STATE, BESIDE)
    changed = {
        "weights": fingerprint([X, NODE], STATE | {"v": STATE["v"] + 1e-9}, BESIDE),
        "constants": fingerprint(
            [X, NODE], STATE, replace(BESIDE, constants=dict(BESIDE.constants) | {"half": STATE["w"]})
        ),
        "programs": fingerprint(
            [X, NODE], STATE, replace(BESIDE, effective={"split": program(Source("w"), Source("v"))})
        ),
        "ties": fingerprint([X, NODE], STATE, replace(BESIDE, ties={})),
        "nodes": fingerprint([X, replace(NODE, origin="head")], STATE, BESIDE),
    }
    assert len({base, *changed.values()}) == 6


def test_fingerprints_do_not_change_with_the_precision_of_the_same_numbers() -> None:
    single = SINGLE
    assert fingerprint([X, NODE], single, BESIDE) == fingerprint(
        [X, NODE], {name: value.double() for name, value in single.items()}, BESIDE
    )
    unread = STATE | {"g": torch.zeros(1)}
    assert fingerprint([X, NODE], STATE, BESIDE) == fingerprint([X, NODE], unread, BESIDE)


def test_fingerprints_see_imaginary_parts() -> None:
    node = replace(NODE, parameters=(("weight", "z"),))
    one, other = ({"z": torch.tensor([1 + y * 1j])} for y in (1, 2))
    assert fingerprint([node], one) != fingerprint([node], other)
    assert fingerprint([node], one) == fingerprint([node], {"z": one["z"].to(torch.complex128)})


def test_the_largest_number_of_a_trace_in_float64_is_that_of_the_weights() -> None:
    """What a mask is filled with, in a program and in a call."""
    lowest = torch.finfo(torch.float64).min
    fill = Program((Instruction("aten.where.ScalarOther", (Source("kept"), Source("w"), lowest)),))
    state = {"w": torch.ones(2), "kept": torch.tensor([True, False])}
    assert fill.run(state).tolist() == [1.0, torch.finfo(torch.float32).min]
    call = op.Call("aten.where.ScalarOther", (op.Slot(0), op.Slot(1), lowest), (), ((2,), (2,)))
    values = [state["kept"][None], state["w"][None]]
    made = apply(call, Node("v", call, ("a", "b"), (2,)), values, Context(state))
    assert made.tolist() == [[1.0, torch.finfo(torch.float32).min]]
