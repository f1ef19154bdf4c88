"""How each kind of node looks in a drawing, and what is written on it."""

from __future__ import annotations

from dataclasses import dataclass

from covergraph.graph import augmented as aug
from covergraph.graph import operations as op
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
LEARNED_AFFINE = Style("learned scale and shift", "round", "#e0ecf8")
LEARNED_VALUE = Style("learned value", "box", "#bcd4ee")
CURVED = Style("non-linear operation", "round", "#c9e4c0")
NORM = Style("normalization", "round", "#bfe3dc")
MIXER = Style("attention, softmax", "round", "#f3dcef")
MAXIMUM = Style("maximum", "round", "#e3e9b5")
PRODUCT = Style("product or quotient", "round", "#d8f0a8")
FIXED = Style("fixed linear operation", "round", "#e8e8e8")
CONSTANT = Style("constant", "box", "#e8e8e8")
DATA = Style("integers or Booleans", "hexagon", "#f4f0e6")
BLOCK = Style("block with parameters", "stack", "#9dbfe6")
CHAIN = Style("block without parameters", "stack", "#d6d6d6")
NO_RULE = Style("torch operation without rule", "broken", "#fde3d3", "#b8501e")
JACOBIAN = Style("edge Jacobian J", "box", "#f9cf9c")
TOTAL = Style("total derivative D", "hexagon", "#dccbe8")
INDICATOR = Style("soft indicator", "ellipse", "#fff3b0")
LOSS = Style("loss", "box", "#f4b6b6")
SINK = Style("sink: augmented loss", "ellipse", "#f08080")
MARKED, OUTPUT = "#c0392b", "#222222"

STYLES: tuple[tuple[tuple[type[op.Operation], ...], Style], ...] = (
    ((op.Input, aug.Label), INPUT),
    ((op.Parameter,), LEARNED_VALUE),
    ((op.Constant,), CONSTANT),
    ((op.Call,), NO_RULE),
    (op.FIXED_LINEAR, FIXED),
    ((op.Normalize,), NORM),
    ((op.Attention, op.Softmax), MIXER),
    ((op.MaxPool, op.Maximum), MAXIMUM),
    ((op.Product, op.MatrixProduct, op.Divide), PRODUCT),
    ((aug.EdgeJacobian,), JACOBIAN),
    ((aug.TotalDerivative,), TOTAL),
    ((aug.NormIndicator, aug.PairIndicator, aug.ConditionIndicator), INDICATOR),
    ((aug.LossNode,), LOSS),
    ((aug.Sink,), SINK),
)

LONGEST_NAME = 26


def style_of(node: Node) -> Style:
    """The style of a node's kind."""
    match node.operation:
        case op.Composite():
            return BLOCK if node.learned else CHAIN
        case op.Affine():
            return LEARNED_AFFINE if node.learned else FIXED
        case op.Elementwise(function) if function.is_affine:
            return FIXED
    found = next((style for kinds, style in STYLES if isinstance(node.operation, kinds)), None)
    if found in (INPUT, CONSTANT, LEARNED_VALUE, NO_RULE, JACOBIAN):
        return found
    if node.learned:
        return LEARNED
    return DATA if node.kind == "integer" else found or CURVED


def label_of(node: Node, graph: ComputationGraph, module: str = "") -> str:
    """What is written on a node: its name, without the path of the `module` around it, h_i, operation and shape.

    A composite node is called by its own name; derivatives and indicators carry the positions of their nodes.
    """
    first = 1 - len(graph.inputs)

    def place(name: str) -> int:
        return graph.index[name] + first

    match node.operation:
        case aug.EdgeJacobian(head, tail):
            return f"$J_{{{place(head.name)},{place(tail)}}}$"
        case aug.TotalDerivative((w, a)):
            return rf"$D_{{{place(w)} \leftarrow {place(a)}}}$"
        case aug.NormIndicator(v):
            return rf"$\mathbf{{1}}(\|h_{{{place(v)}}}\|)$"
        case aug.PairIndicator((w, a)):
            return rf"$\mathbf{{1}}(\|D_{{{place(w)} \leftarrow {place(a)}}}\|)$"
        case aug.ConditionIndicator(head):
            return rf"$\mathbf{{1}}(q_{{{place(head.name)}}} \geq \rho)$"
        case aug.Label():
            return "$y$"
        case aug.LossNode():
            return rf"$\ell(h_{{{place(node.inputs[0])}}}, y)$"
        case aug.Sink():
            return r"$\tilde{z}$"
        case _:
            shape = "×".join(map(str, node.shape))
            name, what = _titles(node, module)
            return f"{name}\n$h_{{{place(node.name)}}}$: {what}{shape}"


def _titles(node: Node, module: str) -> tuple[str, str]:
    """The name and the operation as they are written; `add` and `add_1` say themselves what they are."""
    if isinstance(node.operation, op.Composite):
        return shortened(_within(node.operation.name, module)), f"{len(node.operation.nodes)} nodes, "
    name, label = _within(node.name, module), node.operation.label
    known = name.split(".")[-1].rstrip("0123456789").rstrip("_") == label.rstrip("0123456789")
    return shortened(name), "" if known else f"{_without_middle(label)} "


def _within(name: str, module: str) -> str:
    """The name without the module's path."""
    return name.removeprefix(f"{module}.")


def _without_middle(label: str) -> str:
    label = label.replace("$", "")
    return label if len(label) <= LONGEST_NAME else f"{label[:10]}…{label[11 - LONGEST_NAME :]}"


def shortened(name: str) -> str:
    """The end of a long name, from a dot on if there is one; a dollar sign would begin a formula."""
    name = name.replace("$", "")
    if len(name) <= LONGEST_NAME:
        return name
    end = name[1 - LONGEST_NAME :]
    parts = name.split(".")
    ends = [".".join(parts[i:]) for i in range(1, len(parts))]
    return "…" + next((other for other in ends if len(other) < LONGEST_NAME), end)
