"""Norm layers that a model writes by hand: x * rsqrt(mean(x^2) + eps), and the same around the mean."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import sympy

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import T
from covergraph.graph.node import Node
from covergraph.graph.operations import Divide, Elementwise, Normalize, Product, Rearrange, Subtract, Sum
from covergraph.graph.rearrange import Expand, Permute, Shape, Steps, View
from covergraph.passes.rearrangements import steps_of
from covergraph.passes.rewriting import fresh, uses
from covergraph.passes.simplification import simplify


def recognize_norms(graph: ComputationGraph) -> ComputationGraph:
    """y / sqrt(mean(y^2) + eps) becomes `Normalize` of y; of y = x - mean(x), the centered one of x.

    The mean runs over any axes, with a permutation on both sides where these are not the last ones. The steps in
    between must not be read by others, except x and y.
    """
    count = uses(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _norm(graph, count, node)
        nodes += [node] if found is None else _normalized(graph, node, found)
    return graph.replaced(nodes) if len(nodes) > len(graph) or tuple(nodes) != graph.nodes else graph


@dataclass(frozen=True)
class _Norm:
    """What is normalized, over which axes, by which formula."""

    argument: str
    axes: tuple[int, ...]
    eps: float
    center: bool


@dataclass(frozen=True)
class _Statistic:
    """phi(mean of the node `argument` over `axes`), repeated over these axes; phi in the symbol T."""

    argument: str
    axes: tuple[int, ...]
    phi: sympy.Expr


def _norm(graph: ComputationGraph, count: Counter[str], node: Node) -> _Norm | None:
    """The norm that ends in `node`, a product with 1 / sqrt(...) or a quotient by sqrt(...)."""
    power = {Product: -2, Divide: 2}.get(type(node.operation), 0)
    slots = [node.inputs, node.inputs[::-1]] if power < 0 else [node.inputs] if power else []
    for y, other in slots:
        statistic = _statistic(graph, other, count) if y != other else None
        if statistic is None or _squared(graph, count, statistic.argument) != y:
            continue
        eps = _epsilon(statistic.phi, power)
        if eps is not None:
            source = _centered(graph, y, statistic.axes)
            return _Norm(source or y, statistic.axes, eps, bool(source))
    return None


def _statistic(graph: ComputationGraph, name: str, count: Counter[str] | None) -> _Statistic | None:
    """The mean behind a chain of element-wise functions and repetitions; with `count`, each must be read once."""
    node, phi = graph[name], T
    steps: Steps = ()
    while not isinstance(node.operation, Sum):
        here = steps_of(node)
        if len(node.inputs) != 1 or (count and count[node.name] != 1):
            return None
        if here is not None:
            steps = here + steps
        elif isinstance(node.operation, Elementwise):
            phi = phi.xreplace({T: node.operation.function.expression})
        else:
            return None
        node = graph[node.inputs[0]]
    if count and count[node.name] != 1:
        return None
    source = graph[node.inputs[0]]
    axes = tuple(sorted(axis % len(source.shape) for axis in node.operation.axes))
    size = math.prod(source.shape[axis] for axis in axes)
    if size < 2 or not _repeats(steps, node.shape, source.shape, axes):
        return None
    return _Statistic(source.name, axes, phi if node.operation.mean else phi.xreplace({T: size * T}))


def _repeats(steps: Steps, reduced: Shape, shape: Shape, axes: tuple[int, ...]) -> bool:
    """True if the steps repeat the reduced tensor along `axes` of `shape`, and do nothing else."""
    kept = View(tuple(1 if axis in axes else n for axis, n in enumerate(shape)))
    return simplify(steps, reduced) == simplify((kept, Expand(shape)), reduced)


def _squared(graph: ComputationGraph, count: Counter[str], name: str) -> str:
    """The node whose square `name` is, entry by entry; empty if it is none, or is read elsewhere."""
    node = graph[name]
    if count[name] != 1:
        return ""
    match node.operation:
        case Product() if node.inputs[0] == node.inputs[1]:
            return node.inputs[0]
        case Elementwise(function) if sympy.expand(function.expression - T**2) == 0:
            return node.inputs[0]
        case _:
            return ""


def _epsilon(phi: sympy.Expr, power: int) -> float | None:
    """eps if phi(t) = (t + eps) ^ (1 / power), else None."""
    inside = sympy.nsimplify(sympy.expand(phi**power), rational=True)
    if not inside.is_polynomial(T) or sympy.degree(inside, T) != 1:
        return None
    slope, eps = (float(inside.coeff(T, k)) for k in (1, 0))
    positive = phi.subs(T, 1).is_positive
    return eps if positive and abs(slope - 1) < 1e-12 and eps >= 0 else None


def _centered(graph: ComputationGraph, name: str, axes: tuple[int, ...]) -> str:
    """x if the node is x minus its mean over the axes, else the empty name."""
    node = graph[name]
    if not isinstance(node.operation, Subtract):
        return ""
    x, other = node.inputs
    mean = _statistic(graph, other, None)
    return x if mean is not None and (mean.argument, mean.axes, sympy.expand(mean.phi - T)) == (x, axes, 0) else ""


def _normalized(graph: ComputationGraph, node: Node, norm: _Norm) -> list[Node]:
    """The nodes instead of `node`, which keeps its name: a norm, between permutations if need be."""
    shape = graph[norm.argument].shape
    operation = Normalize(math.prod(shape[axis] for axis in norm.axes), norm.eps, norm.center)
    rest = [axis for axis in range(len(shape)) if axis not in norm.axes]
    order = (*rest, *norm.axes)
    if [axis for axis in order if shape[axis] > 1] == [axis for axis in range(len(shape)) if shape[axis] > 1]:
        return [replace(node, operation=operation, inputs=(norm.argument,))]
    permuted = tuple(shape[axis] for axis in order)
    before, core = (fresh(f"{node.name}.{label}", graph.by_name) for label in ("permute", "normalize"))
    back = tuple(order.index(axis) for axis in range(len(shape)))
    return [
        replace(node, name=before, operation=Rearrange((Permute(order),)), inputs=(norm.argument,), shape=permuted),
        replace(node, name=core, operation=operation, inputs=(before,), shape=permuted),
        replace(node, operation=Rearrange((Permute(back),)), inputs=(core,)),
    ]
