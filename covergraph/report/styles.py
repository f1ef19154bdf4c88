"""How each kind of node looks in a drawing, and what is written on it."""

from __future__ import annotations

from dataclasses import dataclass

from covergraph.graph import augmented as aug
from covergraph.graph import operations as op
from covergraph.graph.augmented import AugmentedGraph
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node


@dataclass(frozen=True)
class Style:
    """How a kind of node looks, and what the legend calls it."""

    legend: str
    shape: str
    face: str
    edge: str = "#444444"


INPUT = Style("input", "box", "#ffffff")
LEARNED = Style("learned layer", "round", "#bcd4ee")
CURVED = Style("non-linear operation", "round", "#c9e4c0")
FIXED = Style("fixed linear operation", "round", "#e8e8e8")
JACOBIAN = Style("edge Jacobian J", "box", "#f9cf9c")
TOTAL = Style("total derivative D", "hexagon", "#dccbe8")
INDICATOR = Style("soft indicator", "ellipse", "#fff3b0")
LOSS = Style("loss", "box", "#f4b6b6")
SINK = Style("sink: augmented loss", "ellipse", "#f08080")
MARKED = "#c0392b"

STYLES: tuple[tuple[tuple[type[op.Operation], ...], Style], ...] = (
    ((op.Input, aug.Label), INPUT),
    (op.COVERED, LEARNED),
    (op.FIXED_LINEAR, FIXED),
    ((aug.EdgeJacobian,), JACOBIAN),
    ((aug.TotalDerivative,), TOTAL),
    ((aug.NormIndicator, aug.PairIndicator), INDICATOR),
    ((aug.LossNode,), LOSS),
    ((aug.Sink,), SINK),
)


def style_of(node: Node) -> Style:
    """The style of a node's kind."""
    if isinstance(node.operation, op.Elementwise) and node.operation.function.is_affine:
        return FIXED
    return next((style for kinds, style in STYLES if isinstance(node.operation, kinds)), CURVED)


def label_of(node: Node, graph: ComputationGraph) -> str:
    """What is written on a node; derivatives and indicators carry the positions of their nodes."""
    base = graph.base if isinstance(graph, AugmentedGraph) else graph
    first = 1 - len(base.inputs)

    def place(name: str) -> int:
        return base.index[name] + first

    match node.operation:
        case aug.EdgeJacobian(head, tail):
            return f"$J_{{{place(head.name)},{place(tail)}}}$"
        case aug.TotalDerivative():
            w, a = _pair(node, base)
            return rf"$D_{{{place(w)} \leftarrow {place(a)}}}$"
        case aug.NormIndicator(v):
            return rf"$\mathbf{{1}}(\|h_{{{place(v)}}}\|)$"
        case aug.PairIndicator((w, a)):
            return rf"$\mathbf{{1}}(\|D_{{{place(w)} \leftarrow {place(a)}}}\|)$"
        case aug.Label():
            return "$y$"
        case aug.LossNode():
            return rf"$\ell(h_{{{place(base.output)}}}, y)$"
        case aug.Sink():
            return r"$\tilde{z}$"
        case _:
            shape = "×".join(map(str, node.shape))
            name = node.name if len(node.name) <= 24 else f"{node.name[:10]}…{node.name[-13:]}"
            return f"{name.replace('$', '')}\n$h_{{{place(node.name)}}}$: {node.operation.label} {shape}"


def _pair(node: Node, base: ComputationGraph) -> tuple[str, str]:
    """(w, a) of a total derivative, whose name is D[w,a]."""
    inner = node.name[2:-1]
    found = [(w, inner[len(w) + 1 :]) for w in base.by_name if inner.startswith(f"{w},")]
    return next((w, a) for w, a in found if a in base.by_name)


def length_of(line: str) -> float:
    """Characters as they are shown: a formula's commands and braces take no room."""
    for command in (r"\mathbf", r"\tilde", r"\ell", r"\|", "{", "}", "$", "_"):
        line = line.replace(command, "")
    return len(line.replace(r"\leftarrow", "<").replace(" < ", "<"))
