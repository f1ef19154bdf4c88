"""Cases of calls of torch operations and of composite nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.functions import TANH
from covergraph.graph.node import Node
from covergraph.graph.operations import Slot
from operation_cases import Case, random

W, V, OFFSET, MIX = random(2, 3, seed=80), random(2, 2, seed=81), random(2, seed=82), random(2, 3, seed=83)
ROWS = torch.tensor([[2, 0], [1, 1], [0, 2]])
CHOSEN = torch.tensor([[True, False, True, False], [False, True, True, False], [True, False, False, True]])


def call(
    target: str, arguments: tuple[Any, ...], *shapes: tuple[int, ...], output: int | None = None, **keywords: Any
) -> op.Call:
    """Shapes without the batch axis, which every slot has here."""
    return op.Call(target, arguments, tuple(keywords.items()), tuple((1, *s) for s in shapes), output)


def taken(x: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([sample[index] for sample, index in zip(x, rows, strict=True)])


CALLS = {
    "call": Case(
        call("aten.cumsum.default", (Slot(0), 1), (4,)), ((4,),), (4,), lambda x: x @ torch.ones(4, 4).double().triu()
    ),
    "call without slots": Case(
        call("aten.arange.default", (4,), dtype=torch.float64),
        (),
        (4,),
        lambda: torch.tensor([[0.0, 1, 2, 3]]).double(),
    ),
    "call with keywords": Case(
        call("aten.linalg_vector_norm.default", (Slot(0),), (2, 3), ord=3, dim=(2,), dtype=torch.float64),
        ((2, 3),),
        (2,),
        lambda x: x.abs().pow(3).sum(2).pow(1 / 3),
    ),
    "second of several results": Case(
        call("aten.split_with_sizes.default", (Slot(0), (1, 3), 2), (2, 4), output=1),
        ((2, 4),),
        (2, 3),
        lambda x: x[:, :, 1:],
    ),
    "first of several results": Case(
        call("aten.topk.default", (Slot(0), 2), (5,), output=0), ((5,),), (2,), lambda x: x.sort(1, True).values[:, :2]
    ),
    "integer result": Case(
        call("aten.topk.default", (Slot(0), 2), (5,), output=1), ((5,),), (2,), lambda x: x.sort(1, True).indices[:, :2]
    ),
    "list of slots": Case(
        call("aten.stack.default", ((Slot(1), Slot(0), Slot(1)), 2), (3,), (3,)),
        ((3,), (3,)),
        (3, 3),
        lambda x, y: torch.cat([y[:, :, None], x[:, :, None], y[:, :, None]], 2),
    ),
    "integer slot": Case(
        call("aten.gather.default", (Slot(0), 1, Slot(1)), (3,), (2,)), ((3,), (2,)), (2,), taken, special={1: ROWS}
    ),
    "no batching rule": Case(
        call("aten.masked_select.default", (Slot(0), Slot(1)), (4,), (4,)),
        ((4,), (4,)),
        (2,),
        lambda x, mask: torch.stack([row[chosen] for row, chosen in zip(x, mask, strict=True)]),
        special={1: CHOSEN},
    ),
    "slot without batch axis": Case(
        op.Call("aten.mv.default", (Slot(0), Slot(1)), (), ((2, 3), (3,))),
        ((2, 3), (3,)),
        (2,),
        lambda x, y: torch.einsum("bij,bj->bi", x, y),
    ),
    "conversion": Case(
        call("aten.to.dtype", (Slot(0), torch.float64), (2,)),
        ((2,),),
        (2,),
        lambda x: 1.0 * x.to(torch.float64),
        special={0: ROWS},
    ),
}


def node(name: str, operation: op.Operation, *inputs: str, shape: tuple[int, ...] = (2,), **roles: str) -> Node:
    parameters = tuple((role, entry) for role, entry in roles.items() if "fixed" not in entry)
    constants = tuple((role, entry) for role, entry in roles.items() if "fixed" in entry)
    return Node(name, operation, inputs, shape, parameters, "", constants)


INNER = op.Composite(
    "inner",
    (
        node("a", op.Linear(True), "p", weight="v.a.weight", bias="v.a.bias"),
        node("b", op.Elementwise(TANH), "a"),
        node("c", op.Product(), "b", "q"),
    ),
    ("q", "p"),
    "c",
)
OUTER = op.Composite(
    "outer",
    (
        node("token", op.Parameter(), value="v.token.value"),
        node("mixed", op.AxisMap(0, "mix"), "x", weight="v.mixed.fixed"),
        node("sum", op.Add(), "mixed", "token"),
        Node("inner", INNER, ("sum", "x"), (2,)),
        node("d", op.Linear(False), "inner", weight="v.d.weight"),
        node("out", op.Subtract(), "d", "y"),
    ),
    ("x", "y"),
    "out",
)


def outer(x: Tensor, y: Tensor) -> Tensor:
    total = x @ MIX.T + OFFSET
    return (torch.tanh(x @ W.T + OFFSET) * total) @ V.T - y


COMPOSITES = {
    "composite": Case(
        INNER,
        ((2,), (3,)),
        (2,),
        lambda q, p: torch.tanh(p @ W.T + OFFSET) * q,
        (("a.weight", W), ("a.bias", OFFSET)),
    ),
    "nested composite": Case(
        OUTER,
        ((3,), (2,)),
        (2,),
        outer,
        (("a.weight", W), ("a.bias", OFFSET), ("token.value", OFFSET[None]), ("d.weight", V)),
        (("mixed.fixed", MIX),),
    ),
    "composite of constants": Case(
        op.Composite(
            "sum",
            (
                node("one", op.Parameter(), value="v.one"),
                node("two", op.Constant(), value="v.fixed"),
                node("three", op.Add(), "one", "two"),
            ),
            (),
            "three",
        ),
        (),
        (2,),
        lambda: (2 * OFFSET)[None],
        (("one", OFFSET),),
        (("fixed", OFFSET),),
    ),
}
