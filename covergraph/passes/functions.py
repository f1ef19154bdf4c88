"""Functions of one entry that a model writes out: x * sigmoid(x), 0.5 x (1 + tanh(...)), become one function again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sympy
import torch
from torch import Tensor

from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import UNARY
from covergraph.graph.functions import GELU, GELU_TANH, ScalarFunction, T
from covergraph.graph.node import Node
from covergraph.graph.operations import Add, Call, Divide, Elementwise, Product, Subtract
from covergraph.passes.choices import (
    Rounded,
    choice_error,
    choice_expression,
    choice_slope,
    choice_value,
    is_choice,
    is_defined,
)
from covergraph.passes.rewriting import uses
from covergraph.rounding import UNIT

LARGEST = 12
"""Steps of a function at most: a formula may double with every step."""

GRID = torch.linspace(-60, 60, 241, dtype=torch.float64)
"""Numbers, 0 among them, at which a function that is defined everywhere has a value."""

KNOWN: Mapping[sympy.Expr, ScalarFunction] = {
    row.expression: row for row in (*UNARY.values(), GELU, GELU_TANH)
}


def recognize_functions(graph: ComputationGraph) -> ComputationGraph:
    """Sums, products, quotients and choices of functions of one node's entries become one function of these entries.

    phi(x) * psi(x) is a function of x alone; its own curvature is smaller than what the product rule knows. Only where
    no other node reads the steps in between; x * x and x + x, which have none, stay.
    """
    count = uses(graph)
    found: dict[str, Node] = {}
    inside: set[str] = set()
    for node in reversed(graph.nodes):
        region = None if node.name in inside else _region(graph, count, node)
        if region is not None:
            found[node.name] = _fused(region)
            inside |= {inner.name for inner in region}
    return graph.replaced([found.get(node.name, node) for node in graph.nodes]) if found else graph


def _is_scalar(graph: ComputationGraph, node: Node) -> bool:
    """True for a node whose every entry is a fixed function of the entries at its place in the slots."""
    binary = isinstance(node.operation, (Add, Subtract, Product, Divide))
    return (node.kind == "float" and (binary or isinstance(node.operation, Elementwise))) or is_choice(graph, node)


def _region(graph: ComputationGraph, count: Counter[str], end: Node) -> Sequence[Node] | None:
    """The nodes from behind one source up to `end`, in order, if there is such a source and a step in between."""
    if end.kind != "float" or not _is_scalar(graph, end):
        return None
    region, frontier = [end], set(end.inputs)
    read = Counter(end.inputs)
    joined = len(end.inputs) > 1
    while len(frontier) > 1 or not joined:
        if len(region) == LARGEST:
            return None
        node = graph[max(frontier, key=graph.index.__getitem__)]
        if not _is_scalar(graph, node) or read[node.name] != count[node.name]:
            return None
        frontier = frontier - {node.name} | set(node.inputs)
        read.update(node.inputs)
        joined = joined or len(node.inputs) > 1
        region.append(node)
    real = all(graph[u].kind == "float" for u in frontier)
    return list(reversed(region)) if real and len(region) > 1 and _defined(region) else None


def _defined(region: Sequence[Node]) -> bool:
    """True if every step has a value at every number: exp(log(t)) = t as a formula, but log(t) may have none.

    A function that is not defined everywhere must have an argument that sympy knows to be positive; so must, up to the
    sign, what a quotient divides by.
    """
    (source,) = {u for node in region for u in node.inputs} - {node.name for node in region}
    found: dict[str, sympy.Expr] = {source: T}
    for node in reversed(region):
        slots = [found[u] for u in node.inputs]
        if not _step_defined(node, slots):
            return False
        found[node.name] = _expression(node, slots)
    return True


def _step_defined(node: Node, slots: Sequence[sympy.Expr]) -> bool:
    if isinstance(node.operation, Call):
        return is_defined(node, slots)
    if isinstance(node.operation, Divide):
        return bool(slots[1].is_positive or slots[1].is_negative)
    if isinstance(node.operation, Elementwise):
        everywhere = bool(node.operation.function.evaluate(GRID).isfinite().all())
        return everywhere or bool(slots[0].is_positive)
    return True


def _expressions(region: Sequence[Node]) -> dict[str, sympy.Expr]:
    """The source and every node of the region, in order, as functions of the source's entries."""
    (source,) = {u for node in region for u in node.inputs} - {node.name for node in region}
    found: dict[str, sympy.Expr] = {source: T}
    for node in region:
        found[node.name] = _expression(node, [found[u] for u in node.inputs])
    return found


def _fused(region: Sequence[Node]) -> Node:
    """The last node as one function of the region's source."""
    expressions = _expressions(region)
    source, expression = next(iter(expressions)), expressions[region[-1].name]
    function = KNOWN.get(expression)
    if function is None:
        evaluation = _Evaluation(tuple(region), source)
        name = f"function({_short(expression)})"
        function = ScalarFunction(name, expression, evaluation, evaluation.slope, loss=evaluation.slope_error)
    return replace(region[-1], operation=Elementwise(function), inputs=(source,))


def _expression(node: Node, slots: Sequence[sympy.Expr]) -> sympy.Expr:
    match node.operation:
        case Elementwise(function):
            return function.expression.xreplace({T: slots[0]})
        case Add():
            return sympy.Add(*slots)
        case Subtract():
            return slots[0] - slots[1]
        case Divide():
            return slots[0] / slots[1]
        case Call():
            return choice_expression(node, slots)
        case _:
            return sympy.Mul(*slots)


@dataclass(frozen=True)
class _Evaluation:
    """The steps of a region on tensors; it can be pickled."""

    region: tuple[Node, ...]
    source: str

    def __call__(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for node in self.region:
            values[node.name] = _value(node, [values[u] for u in node.inputs], x)
        return values[self.region[-1].name]

    def slope(self, x: Tensor) -> Tensor:
        """The derivative by the chain rule from those of the rows, which do not cancel where they saturate."""
        values, slopes = {self.source: x}, {self.source: torch.ones_like(x)}
        for node in self.region:
            slots = [values[u] for u in node.inputs]
            values[node.name] = _value(node, slots, x)
            slopes[node.name] = _slope(node, slots, [slopes[u] for u in node.inputs], x)
        return slopes[self.region[-1].name]

    def slope_error(self, x: Tensor) -> Tensor:
        """Bound of what roundings make of it: of values, of slopes, and of the arguments of the steps."""
        none = torch.zeros_like(x)
        found = {self.source: Rounded(x, none, torch.ones_like(x), none)}
        for node in self.region:
            found[node.name] = _rounded(node, [found[u] for u in node.inputs], x)
        return found[self.region[-1].name].lost


def _rounded(node: Node, slots: Sequence[Rounded], x: Tensor) -> Rounded:
    """One step. An argument that is off moves the slope of a function as far as at the ends of where it may be."""
    values, slopes = [s.value for s in slots], [s.slope for s in slots]
    value, slope = _value(node, values, x), _slope(node, values, slopes, x)
    if isinstance(node.operation, Call):
        return Rounded(value, *choice_error(node, slots, slope, x))
    match node.operation:
        case Elementwise(function):
            (s,) = slots
            own = function.derivative(s.value)
            ends = [s.value - s.off, s.value + s.off]
            moved = [(function.derivative(end) - own).abs() for end in ends]
            error = torch.where(s.off > 0, 2 * torch.maximum(*moved), 0.0) + function.slope_error(s.value, own)
            shifted = [(function.evaluate(end) - value).abs() for end in ends]
            off, lost = 2 * torch.maximum(*shifted), (own.abs() + error) * s.lost + error * s.slope.abs()
        case Product():
            a, b = slots
            off = a.value.abs() * b.off + b.value.abs() * a.off
            lost = torch.zeros_like(value)
            for p, q in ((a, b), (b, a)):
                lost = lost + (p.value.abs() + p.off) * q.lost + p.off * q.slope.abs()
                lost = lost + 2 * UNIT * (p.value * q.slope).abs()
        case Divide():
            a, b = slots
            least = (b.value.abs() - b.off).clamp_min(0)
            off = (a.off + value.abs() * b.off) / least
            lost = (a.lost + value.abs() * b.lost + off * b.slope.abs() + slope.abs() * b.off) / least
            lost = lost + 4 * UNIT * (a.slope.abs() + (value * b.slope).abs()) / least
        case _:
            off = sum((s.off for s in slots), torch.zeros_like(value))
            lost = sum((s.lost + len(slots) * UNIT * s.slope.abs() for s in slots), torch.zeros_like(value))
    return Rounded(value, off + 8 * UNIT * value.abs(), slope, lost + 2 * UNIT * slope.abs())


def _slope(node: Node, slots: Sequence[Tensor], slopes: Sequence[Tensor], x: Tensor) -> Tensor:
    """The derivative of one step."""
    match node.operation:
        case Elementwise(function):
            return function.derivative(slots[0]) * slopes[0]
        case Add():
            return sum(slopes[1:], slopes[0])
        case Subtract():
            return slopes[0] - slopes[1]
        case Divide():
            return (slopes[0] - slots[0] / slots[1] * slopes[1]) / slots[1]
        case Call():
            return choice_slope(node, slots, slopes, x)
        case _:
            return slopes[0] * slots[1] + slots[0] * slopes[1]


def _value(node: Node, slots: Sequence[Tensor], x: Tensor) -> Tensor:
    match node.operation:
        case Elementwise(function):
            return function.evaluate(slots[0])
        case Add():
            return sum(slots[1:], slots[0])
        case Subtract():
            return slots[0] - slots[1]
        case Divide():
            return slots[0] / slots[1]
        case Call():
            return choice_value(node, slots, x)
        case _:
            return slots[0] * slots[1]


def _short(expression: sympy.Expr) -> str:
    """The expression with numbers of four digits, cut to 60 characters."""
    numbers = expression.atoms(sympy.Rational) | expression.atoms(sympy.Float)
    rounded = expression.xreplace({n: sympy.Float(n, 4) for n in numbers if not n.is_Integer})
    text = str(rounded).replace(" ", "")
    return text if len(text) <= 60 else f"{text[:59]}…"
