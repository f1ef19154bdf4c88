"""What a node computes, as a formula of the symbols of its slots; plain LaTeX that KaTeX reads, without packages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import singledispatch

import sympy

from covergraph.graph import operations as op
from covergraph.graph import rearrange as steps
from covergraph.graph.functions import T
from covergraph.graph.node import Node
from covergraph.report.formulas import latex
from covergraph.report.numbers import tex

LISTED = 4
"""So many positions of an index map are written; more are left out."""


@singledispatch
def formula(operation: op.Operation, node: Node, h: Sequence[str], v: str = "v") -> str:
    """The value of `node` from the symbols `h` of its slots, in order; `v` is the subscript of its own parameters.

    The settings that are missing in it are those of `Node.text()`. An operation of a user's is called by its label.
    """
    return _called(operation.label, h)


def _called(name: str, h: Sequence[str], settings: str = "") -> str:
    """name[settings](h, ...)."""
    return f"{_word(name)}{f'[{settings}]' if settings else ''}({', '.join(h)})"


def _word(name: str) -> str:
    r"""\mathrm of what is left of a name: letters, digits, dots and blanks."""
    plain = re.sub(r"[^A-Za-z0-9_. ]", "", name).replace("_", r"\_").replace(" ", r"\ ")
    return rf"\mathrm{{{plain or '?'}}}"


@formula.register
def _(operation: op.Input, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _word("input")


@formula.register
def _(operation: op.Linear, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"W_{{{v}}} {h[0]}" + _shift("b", v, operation.bias)


@formula.register
def _(operation: op.Convolution, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"K_{{{v}}} * {h[0]}" + _shift("b", v, operation.bias)


@formula.register
def _(operation: op.TransposedConvolution, node: Node, h: Sequence[str], v: str = "v") -> str:
    return rf"K_{{{v}}} *^\top {h[0]}" + _shift("b", v, operation.bias)


@formula.register
def _(operation: op.Affine, node: Node, h: Sequence[str], v: str = "v") -> str:
    scaled = rf"w_{{{v}}} \odot {h[0]}" if operation.scale else h[0]
    return scaled + _shift(r"\beta", v, operation.shift)


def _shift(letter: str, v: str, present: bool) -> str:
    return f" + {letter}_{{{v}}}" if present else ""


@formula.register
def _(operation: op.Parameter, node: Node, h: Sequence[str], v: str = "v") -> str:
    return rf"\theta_{{{v}}}"


@formula.register
def _(operation: op.Constant, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"c_{{{v}}}"


@formula.register
def _(operation: op.Embedding, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"E_{{{v}}}[{h[0]}]"


@formula.register
def _(operation: op.ParametricReLU, node: Node, h: Sequence[str], v: str = "v") -> str:
    return rf"\max(0, {h[0]}) + \alpha_{{{v}}} \odot \min(0, {h[0]})"


@formula.register
def _(operation: op.Elementwise, node: Node, h: Sequence[str], v: str = "v") -> str:
    """Coefficients of affine functions with four digits."""
    expression = operation.function.expression
    if not operation.function.is_affine:
        return latex(expression.subs(T, sympy.Symbol(h[0], real=True)))
    slope, shift = expression.coeff(T, 1), expression.coeff(T, 0)
    scaled = {1: h[0], -1: f"-{h[0]}"}.get(slope, f"{tex(float(slope))} {h[0]}") if slope else ""
    if not scaled:
        return tex(float(shift))
    return f"{scaled} {'+' if shift > 0 else '-'} {tex(abs(float(shift)))}" if shift else scaled


@formula.register
def _(operation: op.Add, node: Node, h: Sequence[str], v: str = "v") -> str:
    return " + ".join(h)


@formula.register
def _(operation: op.Subtract, node: Node, h: Sequence[str], v: str = "v") -> str:
    return " - ".join(h)


@formula.register
def _(operation: op.Product, node: Node, h: Sequence[str], v: str = "v") -> str:
    return r" \odot ".join(h)


@formula.register
def _(operation: op.Divide, node: Node, h: Sequence[str], v: str = "v") -> str:
    return rf"{h[0]} \oslash {h[1]}"


@formula.register
def _(operation: op.MatrixProduct, node: Node, h: Sequence[str], v: str = "v") -> str:
    return " ".join(h)


@formula.register
def _(operation: op.Concatenate, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"[{', '.join(h)}]"


@formula.register
def _(operation: op.Reshape, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _called("reshape", h)


@formula.register
def _(operation: op.Rearrange, node: Node, h: Sequence[str], v: str = "v") -> str:
    moves = [step for step in operation.steps if not isinstance(step, steps.View)]
    settings = _settings(moves[0]) if len(moves) == 1 else ""
    return _called(operation.label, h, settings)


def _settings(step: steps.RearrangeStep) -> str:
    """What the shape does not say; axes with one colon each, as in Python."""
    match step:
        case steps.Permute(order):
            return ", ".join(map(str, order))
        case steps.Slice(axis, start, stop, stride):
            return _at(axis, f"{start}{{:}}{stop}" + (f"{{:}}{stride}" if stride != 1 else ""))
        case steps.Pick(axis, indices):
            dots = [r"\ldots"] if len(indices) > LISTED else []
            return _at(axis, rf"\{{{', '.join([*map(str, indices[:LISTED]), *dots])}\}}")
        case steps.Pad(axis, before, after):
            return _at(axis, f"{before} + {after}")
        case steps.Join(axis):
            return rf"\mathrm{{axis}}\ {axis}"
        case _:
            return ""


def _at(axis: int, what: str) -> str:
    return "".join(["{:}, "] * axis) + what


@formula.register
def _(operation: op.AveragePool, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _over("mean", "window", h[0])


@formula.register
def _(operation: op.MaxPool, node: Node, h: Sequence[str], v: str = "v") -> str:
    inner = _over("max", "window", h[0])
    return rf"\max(0, {inner})" if operation.rectify else inner


@formula.register
def _(operation: op.Maximum, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _along("max", operation.axes, h[0])


@formula.register
def _(operation: op.Sum, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _along("mean" if operation.mean else "sum", operation.axes, h[0])


@formula.register
def _(operation: op.VectorNorm, node: Node, h: Sequence[str], v: str = "v") -> str:
    return rf"\|{h[0]}\|_{{{_axes(operation.axes)}}}"


@formula.register
def _(operation: op.AxisMap, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"{_word(operation.name)}_{{{_axes((operation.axis,))}}}({h[0]})"


_SIGNS = {"max": r"\max", "sum": r"\sum", "mean": r"\mathrm{mean}"}


def _over(what: str, where: str, h: str) -> str:
    return rf"{_SIGNS[what]}_{{i \in \mathrm{{{where}}}}} ({h})_i"


def _along(what: str, axes: Sequence[int], h: str) -> str:
    return rf"{_SIGNS[what]}_{{{_axes(axes)}}}({h})"


def _axes(axes: Sequence[int]) -> str:
    word = "axis" if len(axes) == 1 else "axes"
    return rf"\mathrm{{{word}}}\ {', '.join(map(str, axes))}" if axes else r"\emptyset"


@formula.register
def _(operation: op.Softmax, node: Node, h: Sequence[str], v: str = "v") -> str:
    """The mask is a second slot, or a constant M."""
    mask = [*h[1:], *([f"M_{{{v}}}"] if operation.causal or "mask" in node.parameter else [])]
    name = rf"\ln\,{_word('softmax')}" if operation.log else _word("softmax")
    return f"{name}({' + '.join([h[0], *mask])})"


@formula.register
def _(operation: op.Attention, node: Node, h: Sequence[str], v: str = "v") -> str:
    mask = [*h[3:], *([f"M_{{{v}}}"] if operation.causal or "mask" in node.parameter else [])]
    factor = "" if operation.scale == 1 else f"{operation.scale:.4g}\\, "
    scores = rf"{factor}{h[0]} {h[1]}^\top"
    return f"{_word('softmax')}({' + '.join([scores, *mask])}) {h[2]}"


@formula.register
def _(operation: op.Normalize, node: Node, h: Sequence[str], v: str = "v") -> str:
    """The subscript of var and mean is the size of a group, unless the group is all of a sample."""
    group = "" if operation.group == node.size else f"_{{{operation.group}}}"
    centered = rf"({h[0]} - \bar{{{h[0]}}})" if operation.center else h[0]
    moment = rf"\mathrm{{var}}{group}({h[0]})" if operation.center else rf"\mathrm{{mean}}{group}({h[0]}^2)"
    shift = r" + \varepsilon" if operation.eps else ""
    return rf"{centered} / \sqrt{{{moment}{shift}}}"


@formula.register
def _(operation: op.Recurrent, node: Node, h: Sequence[str], v: str = "v") -> str:
    return f"{_word(operation.cell)}_{{{v}}}({', '.join(h)})"


@formula.register
def _(operation: op.Call, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _called(operation.label, h)


@formula.register
def _(operation: op.Composite, node: Node, h: Sequence[str], v: str = "v") -> str:
    return _called(operation.name, h)
