"""Jacobians of graphs with sixty digits, by hand, at given values: an oracle for ends in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mpmath
import numpy as np
import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node

Number: TypeAlias = Any
"""An mpmath number, which has no types."""
DIGITS = 60


def matrix(rows: Any) -> Any:
    return np.array([[mpmath.mpf(float(x)) for x in row] for row in rows], dtype=object)


def numbers(value: Tensor) -> Any:
    return np.array([mpmath.mpf(float(x)) for x in value.flatten()], dtype=object)


def below(jacobian: Any, upper: float) -> bool:
    """Is the operator norm at most `upper`? If upper^2 - A'A, with 50 digits' grace, has a Cholesky factor."""
    small = jacobian.T @ jacobian if jacobian.shape[0] > jacobian.shape[1] else jacobian @ jacobian.T
    top = max((x for x in abs(jacobian).flatten()), default=mpmath.mpf(0))
    if top == 0:
        return upper >= 0
    level = (mpmath.mpf(upper) / top) ** 2 * (1 + mpmath.mpf(10) ** (10 - DIGITS)) + mpmath.mpf(10) ** (20 - DIGITS)
    try:
        mpmath.cholesky(mpmath.matrix((level * np.eye(len(small)) - small / top**2).tolist()))
    except ValueError:
        return False
    return True


DERIVATIVES: dict[str, Callable[[Number], Number]] = {
    "tanh": lambda t: mpmath.sech(t) ** 2,
    "sigmoid": lambda t: 1 / (2 + mpmath.exp(t) + mpmath.exp(-t)),
    "softplus": lambda t: 1 / (1 + mpmath.exp(-t)),
    "gelu": lambda t: mpmath.ncdf(t) + t * mpmath.npdf(t),
    "sin": mpmath.cos,
    "relu": lambda t: mpmath.mpf(t > 0),
    "square": lambda t: 2 * t,
}


def local(node: Node, slot: int, slots: list[Tensor], state: dict[str, Tensor]) -> Any:
    """The Jacobian of one node in one slot at the values of one sample, by hand."""
    x, size = numbers(slots[slot]), slots[slot].numel()
    match node.operation:
        case op.Linear():
            weight = matrix(state[node.parameter["weight"]].tolist())
            return np.kron(np.eye(size // weight.shape[1], dtype=int), weight)
        case op.Elementwise(function):
            return np.diag([DERIVATIVES[function.name](t) for t in x])
        case op.Product():
            return np.diag(numbers(slots[1 - slot]))
        case op.Divide():
            p, q = map(numbers, slots)
            return np.diag(1 / q if slot == 0 else -p / q**2)
        case op.Add():
            return np.eye(size, dtype=int) * mpmath.mpf(1)
        case op.Subtract():
            return np.eye(size, dtype=int) * mpmath.mpf(1 - 2 * slot)
        case op.Reshape():
            return np.eye(size, dtype=int) * mpmath.mpf(1)
        case op.Rearrange():
            places = torch.arange(size).reshape(slots[0].shape).T.flatten().tolist()
            return (np.eye(size, dtype=int) * mpmath.mpf(1))[places]
        case op.MatrixProduct():
            left, right = (matrix(s.tolist()) for s in slots)
            if slot == 0:
                return np.kron(np.eye(len(left), dtype=int), right.T)
            return np.kron(left, np.eye(right.shape[1], dtype=int))
        case op.Normalize(group, eps, center):
            return blocks([normalized(part, eps, center) for part in x.reshape(-1, group)])
        case op.Softmax(axis, log=False) if axis == slots[0].dim() - 1:
            return blocks([softmax(part) for part in x.reshape(-1, slots[0].shape[-1])])
        case op.VectorNorm():
            return (x / mpmath.sqrt((x**2).sum()))[None]
    raise NotImplementedError(node.operation.label)


def blocks(parts: list[Any]) -> Any:
    size = len(parts[0])
    made = np.full((len(parts) * size,) * 2, mpmath.mpf(0), dtype=object)
    for i, part in enumerate(parts):
        made[i * size : (i + 1) * size, i * size : (i + 1) * size] = part
    return made


def normalized(x: Any, eps: float, center: bool) -> Any:
    n = len(x)
    one = np.full((n, n), mpmath.mpf(1) / n if center else mpmath.mpf(0), dtype=object)
    c = x - x.sum() / n if center else x
    r = mpmath.sqrt((c**2).sum() / n + mpmath.mpf(eps))
    y = c / r
    return (np.eye(n, dtype=int) - one - np.outer(y, y) / n) / r


def softmax(x: Any) -> Any:
    e = np.array([mpmath.exp(t - max(x)) for t in x], dtype=object)
    p = e / e.sum()
    return np.diag(p) - np.outer(p, p)


def total(graph: ComputationGraph, at: list[dict[str, Tensor]], state: dict[str, Tensor], a: str, row: int) -> Any:
    """D_{w<-a} of every w behind a, by name, at the given values of one sample."""
    found = {a: np.eye(graph[a].size, dtype=int) * mpmath.mpf(1)}
    for node in graph.nodes[graph.index[a] + 1 :]:
        slots = [at[row][u] for u in node.inputs]
        terms = [local(node, i, slots, state) @ found[u] for i, u in enumerate(node.inputs) if u in found]
        if terms:
            found[node.name] = sum(terms[1:], terms[0])
    return found
