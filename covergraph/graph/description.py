"""The settings of an operation in words: with them, a line of text determines what a node computes."""

from __future__ import annotations

from collections.abc import Sequence

from covergraph.graph import operations as op
from covergraph.graph import rearrange as steps

LISTED = 8
"""So many positions of an index map are listed; more are counted."""


def settings(operation: op.Operation) -> str:
    """What `label` does not say: kernels, axes, steps, …; empty if there is nothing to say."""
    match operation:
        case op.Convolution() | op.TransposedConvolution():
            return _convolution(operation)
        case op.AveragePool(kernel, stride, padding, ceil_mode, count):
            words = [_windows(kernel, stride, padding), "ceil" * ceil_mode]
            return _join([*words, "padding not counted" * (not count and any(padding))])
        case op.MaxPool(kernel, stride, padding, dilation, ceil_mode):
            return _join([_windows(kernel, stride, padding), _unless(1, "dilation", dilation), "ceil" * ceil_mode])
        case op.Concatenate(axis) | op.AxisMap(axis):
            return f"axis {axis}"
        case op.Softmax(axis, _, causal):
            return _join([f"axis {axis}", "causal" * causal])
        case op.Sum(axes) | op.Maximum(axes) | op.VectorNorm(axes):
            return f"{'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"
        case op.Normalize(group, eps):
            return f"groups of {group}, eps {eps:g}"
        case op.Attention(scale, causal):
            return _join([f"scale {scale:.6g}", "causal" * causal])
        case op.Recurrent(_, reverse, _, cells):
            return _join(["reverse" * reverse, "cells" * cells])
        case op.Rearrange(chain):
            return ", ".join(_step(step) for step in chain)
        case op.Call():
            return _call(operation)
        case op.Composite(nodes=nodes):
            return f"{len(nodes)} nodes"
        case _:
            return ""


def _join(words: Sequence[str]) -> str:
    return ", ".join(word for word in words if word)


def _sides(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _unless(usual: int, name: str, values: Sequence[int]) -> str:
    return "" if set(values) == {usual} else f"{name} {_sides(values)}"


def _windows(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> str:
    return _join(["x".join(map(str, kernel)), f"stride {_sides(stride)}", _unless(0, "padding", padding)])


def _convolution(operation: op.Convolution | op.TransposedConvolution) -> str:
    words = ["x".join(map(str, operation.kernel)), _unless(1, "stride", operation.stride)]
    words += [_unless(0, "padding", operation.padding), _unless(1, "dilation", operation.dilation)]
    if isinstance(operation, op.TransposedConvolution):
        words.append(_unless(0, "output padding", operation.output_padding))
    return _join([*words, _unless(1, "groups", (operation.groups,))])


def _step(step: steps.RearrangeStep) -> str:
    match step:
        case steps.View(shape):
            return f"view {_shape(shape)}"
        case steps.Permute(order):
            return f"permute {' '.join(map(str, order))}"
        case steps.Expand(shape):
            return f"expand {_shape(shape)}"
        case steps.Slice(axis, start, stop, stride):
            return f"axis {axis} [{start}:{stop}{f':{stride}' * (stride != 1)}]"
        case steps.Pick(axis, indices):
            listed = " ".join(map(str, indices)) if len(indices) <= LISTED else f"{len(indices)} positions"
            return f"axis {axis} [{listed}]"
        case steps.Pad(axis, before, after):
            return f"axis {axis} padded by {before} and {after}"
        case steps.Join(axis, branches):
            parts = " | ".join(", ".join(map(_step, branch)) or "all" for branch in branches)
            return f"join axis {axis} ({parts})"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _call(operation: op.Call) -> str:
    """The arguments with $i for slot i, unless they are the slots alone; and which result is taken."""
    given = [_written(a) for a in operation.arguments]
    plain = ", ".join(f"${i}" for i in range(len(operation.shapes)))
    words = [] if ", ".join(given) in (plain, f"[{plain}]") else given
    words += [f"{name}={_written(value)}" for name, value in operation.keywords]
    return _join([*words, "" if operation.output is None else f"result {operation.output}"])


def _written(value: object) -> str:
    if isinstance(value, op.Slot):
        return f"${value.position}"
    return f"[{', '.join(map(_written, value))}]" if isinstance(value, tuple) else repr(value)
