"""Rules for calls with parameters: linear maps and convolutions."""

from __future__ import annotations

from dataclasses import replace

from covergraph.graph.operations import Convolution, Linear
from covergraph.tracers.call import Call, State, Step


def linear(call: Call) -> Step:
    """F.linear(x, W, b): x of shape (batch, ..., d), W (m, d), b (m,)."""
    return _linear(call, "input", transposed=False)


def addmm(call: Call) -> Step:
    """b + x @ Wᵀ, which torch writes addmm(b, x, t(W))."""
    if call.number("beta", 1) != 1 or call.number("alpha", 1) != 1:
        raise call.refuse("has beta or alpha other than 1", "scale with a multiplication of its own")
    renamed = dict(call.arguments, bias=call.arguments["input"], weight=call.arguments["mat2"])
    return _linear(replace(call, arguments=renamed), "mat1", transposed=True)


def matmul(call: Call) -> Step:
    """x @ Wᵀ for a parameter W of shape (m, d)."""
    key = "mat2" if "mat2" in call.arguments else "other"
    if not isinstance(call.arguments[key], State):
        raise call.refuse("multiplies two activations, which is not supported yet", "expected x @ W.t()")
    renamed = dict(call.arguments, weight=call.arguments[key])
    return _linear(replace(call, arguments=renamed), "input", transposed=True)


def _linear(call: Call, key: str, transposed: bool) -> Step:
    x, weight = call.data(key), call.parameter("weight")
    if not x.shape:
        raise call.mixes(f"contracts the batch with the {weight.description}", "keep the batch in dim 0")
    if len(weight.shape) != 2 or weight.transposed != transposed:
        raise call.refuse(
            f"has a weight of shape {weight.shape}", "expected (outputs, inputs), applied as nn.Linear does"
        )
    roles = call.roles("weight", "bias")
    return Step(Linear(bias=len(roles) == 2), (x,), roles)


def convolution(call: Call) -> Step:
    """F.conv{1,2,3}d with zero padding, equal on both sides of each axis."""
    x, weight = call.data("input"), call.parameter("weight")
    kernel = weight.shape[2:]
    if len(x.shape) != len(kernel) + 1:
        raise call.mixes(
            f"takes {len(x.shape) + 1} dimensions, so that dim 0 is its channels", "add a channel dimension"
        )
    stride, dilation = call.sizes("stride", len(kernel), 1), call.sizes("dilation", len(kernel), 1)
    padding = _padding(call, kernel, dilation)
    roles = call.roles("weight", "bias")
    groups = int(call.number("groups", 1))
    return Step(Convolution(stride, padding, dilation, groups, kernel, len(roles) == 2), (x,), roles)


def _padding(call: Call, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    value = call.arguments.get("padding")
    if not isinstance(value, str):
        return call.sizes("padding", len(kernel), 0)
    if value == "valid":
        return (0,) * len(kernel)
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in totals):
        raise call.refuse(
            f"pads {totals} zeros in all, which is asymmetric", "use an odd kernel or an even dilation"
        )
    return tuple(total // 2 for total in totals)


def transpose(parameter: State) -> State:
    """t(W), W.T and the like of a parameter W with two axes."""
    return replace(parameter, transposed=not parameter.transposed)
