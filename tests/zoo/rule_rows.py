"""One small representative node, or a few, for each operation of the vocabulary and each common function."""

from __future__ import annotations

import torch
from operation_cases import Case, random
from operation_cases.composed import CALLS, call
from operation_cases.every import CASES
from torch import Tensor
from torch.nn import functional as F

from covergraph.graph import operations as op
from covergraph.graph.function_rows import UNARY, clamp, leaky_relu
from covergraph.graph.functions import ELU, GELU, SIN, SOFTPLUS, TANH, ScalarFunction
from covergraph.graph.node import Node
from covergraph.graph.operations import Slot

KERNEL, BIAS = random(3, 2, 3, 3, seed=90), random(3, seed=91)
FUNCTIONS: dict[str, ScalarFunction] = {
    "leaky_relu": leaky_relu(),
    "gelu": GELU,
    "softplus": SOFTPLUS,
    "elu": ELU,
    "clamp": clamp(-1.0, 1.0),
    **{name: UNARY[name] for name in ("relu", "silu", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "exp")},
    **{name: UNARY[name] for name in ("log", "sqrt", "rsqrt", "reciprocal", "square", "sin")},
}
"""Functions of one entry by torch's names."""
WITHOUT_FORWARD = {"silu": lambda x: x * torch.sigmoid(x)}
"""In other words: torch lacks the second forward derivative."""


def convolution(stride: int) -> Case:
    """3x3, padding 1, from two channels of 8x8 to three."""
    side = 8 // stride
    return Case(
        op.Convolution((stride, stride), (1, 1), (1, 1), 1, (3, 3), True),
        ((2, 8, 8),),
        (3, side, side),
        lambda x: F.conv2d(x, KERNEL, BIAS, stride, 1),
        (("weight", KERNEL), ("bias", BIAS)),
    )


def average_pool(stride: int) -> Case:
    side = (6 - 2) // stride + 1
    return Case(
        op.AveragePool((2, 2), (stride, stride), (0, 0)),
        ((1, 6, 6),),
        (1, side, side),
        lambda x: F.avg_pool2d(x, 2, stride),
    )


def max_pool(rectify: bool) -> Case:
    """Windows of three that overlap."""
    return Case(
        op.MaxPool((3,), (2,), (0,), (1,), False, rectify),
        ((1, 7),),
        (1, 3),
        lambda x: F.max_pool1d(x.relu() if rectify else x, 3, 2),
    )


def normalize(eps: float, center: bool = True, size: int = 4) -> Case:
    """In plain arithmetic: the second forward derivative of torch's layer_norm is wrong."""

    def plain(x: Tensor) -> Tensor:
        y = x - x.mean(1, keepdim=True) if center else x
        return y / (y.square().mean(1, keepdim=True) + eps).sqrt()

    return Case(op.Normalize(size, eps, center), ((size,),), (size,), plain)


def softmax(size: int, log: bool = False) -> Case:
    def plain(x: Tensor) -> Tensor:
        found = x - x.exp().sum(1, keepdim=True).log()
        return found if log else found.exp()

    return Case(op.Softmax(0, log), ((size,),), (size,), plain)


def chain(*functions: ScalarFunction) -> Case:
    """Functions of each entry, the first one first, as one node."""
    names = ["u", *(f"f{i}" for i in range(len(functions)))]
    inner = tuple(
        Node(names[i + 1], op.Elementwise(function), (names[i],), (2,)) for i, function in enumerate(functions)
    )

    def plain(x: Tensor) -> Tensor:
        for function in functions:
            x = function.evaluate(x)
        return x

    return Case(
        op.Composite(" after ".join(f.name for f in functions[::-1]), inner, ("u",), names[-1], ((2,),)),
        ((2,),),
        (2,),
        plain,
    )


def single(function: ScalarFunction) -> Case:
    return Case(op.Elementwise(function), ((2,),), (2,), WITHOUT_FORWARD.get(function.name, function.evaluate))


def _of(name: str) -> Case:
    return CASES[name]


LAYERS = {
    "Linear": _of("linear per position"),
    "Convolution 3x3 on 8x8": convolution(1),
    "Convolution 3x3 on 8x8, stride 2": convolution(2),
    "Convolution in groups": _of("conv2d in groups"),
    "TransposedConvolution": _of("conv_transpose1d"),
    "Affine": _of("scale and shift"),
    "Affine, shift alone": _of("shift of every entry"),
    "ParametricReLU": _of("prelu per channel"),
    "Embedding": _of("embedding"),
    "Parameter": _of("parameter"),
}
FIXED = {
    "Input": Case(op.Input(), (), (3,), lambda: torch.zeros(1, 3).double()),
    "Constant": _of("constant"),
    "Add": _of("add of three"),
    "Subtract": _of("subtract"),
    "Concatenate": _of("concat first"),
    "Reshape": _of("reshape"),
    "AveragePool": average_pool(2),
    "AveragePool, overlapping": average_pool(1),
    "Rearrange (slice)": _of("slice"),
    "Rearrange (expand)": _of("expand"),
    "Sum": _of("sum of one axis"),
    "Sum (mean)": _of("mean of two axes"),
    "AxisMap": _of("uneven average pool"),
}
CURVED = {
    "Product": Case(op.Product(), ((2,),) * 2, (2,), lambda x, y: x * y),
    "Divide": Case(op.Divide(), ((2,),) * 2, (2,), lambda x, y: x / y),
    "MatrixProduct": _of("matmul"),
    "MatrixProduct (scores of attention)": Case(
        op.MatrixProduct(), ((5, 4), (4, 5)), (5, 5), lambda q, k: torch.einsum("bie,bej->bij", q, k)
    ),
    "MaxPool": max_pool(False),
    "MaxPool, rectified": max_pool(True),
    "Maximum": _of("max of one axis"),
    "Softmax of 2": softmax(2),
    "Softmax of 6": softmax(6),
    "Softmax of 2 x 3 scores": Case(
        op.Softmax(1), ((2, 3),), (2, 3), lambda x: torch.stack([softmax(3).plain(row) for row in x.unbind(1)], 1)
    ),
    "Softmax of two slots": Case(op.Softmax(0), ((2,),) * 2, (2,), lambda x, y: softmax(2).plain(x + y)),
    "Softmax (logarithm) of 2": softmax(2, True),
    "Softmax (logarithm) of 6": softmax(6, True),
    "VectorNorm": Case(op.VectorNorm((0,)), ((4,),), (), lambda x: x.square().sum(1).sqrt()),
    "Normalize, eps 1e-5": normalize(1e-5),
    "Normalize, eps 0.5": normalize(0.5),
    "Normalize (RMS), eps 1e-5": normalize(1e-5, False),
    "Normalize (RMS), eps 0": normalize(0.0, False),
    "Composite (a chain)": chain(TANH, SIN),
    "Composite (a longer chain)": chain(SIN, GELU, TANH),
    "Call of cumsum": CALLS["call"],
    "Call of maximum": Case(
        call("aten.maximum.default", (Slot(0), Slot(1)), (3,), (3,)),
        ((3,), (3,)),
        (3,),
        lambda x, y: torch.maximum(x, y),
    ),
    "Attention": _of("attention"),
    "Recurrent (LSTM)": _of("lstm"),
    "Recurrent (GRU)": _of("gru"),
}
ELEMENTWISE = {f"Elementwise: {name}": single(function) for name, function in FUNCTIONS.items()}
ROWS: dict[str, Case] = LAYERS | FIXED | CURVED | ELEMENTWISE
"""Row of the table: its node."""
