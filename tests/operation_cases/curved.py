"""Cases of functions of every entry, products, maxima, norms and attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from covergraph.graph import operations as op
from covergraph.graph.functions import ROWS, affine
from operation_cases import Case, at_positions, random

SLOPES, SLOPE = random(2, 1, seed=60).abs() / 2, random(1, seed=61).abs() / 2
HOLES = torch.tensor([[0.0, -math.inf, 1.0, -2.0, -math.inf], [0.5] * 5, [-math.inf] * 4 + [3.0]]).double()
"""A mask of scores (3, 5); no row is all -inf."""
HEADED = torch.stack([HOLES, HOLES.flip(0), HOLES.flip(1)])[:, None]
"""Another mask for each of three samples, the same for every head."""


def pool2(x: Tensor) -> Tensor:
    return F.max_pool2d(x, (2, 3), 2, (0, 1), ceil_mode=True)


def attention(scale: float, mask: Tensor | float = 0.0) -> Callable[..., Tensor]:
    """Row by row, as it is written in the docstring of the operation."""

    def plain(q: Tensor, k: Tensor, v: Tensor, m: Tensor | float = mask) -> Tensor:
        scores = torch.einsum("...le,...se->...ls", q, k) * scale + m
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        return torch.einsum("...ls,...sd->...ld", weights, v)

    return plain


def softmax(x: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    """Over the last axis, as it is written in the docstring of the operation."""
    weights = (x + mask).exp()
    return weights / weights.sum(-1, keepdim=True)


POOL2 = op.MaxPool((2, 3), (2, 2), (0, 1), (1, 1), True)
QKV = ((2, 3, 4), (2, 5, 4), (2, 5, 2))
LATER, LATER4 = (torch.full(shape, -math.inf).double().triu(1) for shape in ((3, 5), (4, 4)))

CURVED = {
    "product": Case(op.Product(), ((2, 3),) * 2, (2, 3), lambda x, y: x * y),
    "divide": Case(op.Divide(), ((2, 3),) * 2, (2, 3), lambda x, y: x * y**-1),
    "matmul": Case(op.MatrixProduct(), ((3, 2), (2, 4)), (3, 4), lambda x, y: torch.einsum("bmd,bdn->bmn", x, y)),
    "matmul of squares": Case(
        op.MatrixProduct(), ((2, 2, 2),) * 2, (2, 2, 2), lambda x, y: torch.einsum("bpmd,bpdn->bpmn", x, y)
    ),
    "prelu per channel": Case(
        op.ParametricReLU(), ((2, 3),), (2, 3), lambda x: F.prelu(x, SLOPES[:, 0]), (("slope", SLOPES),)
    ),
    "prelu": Case(op.ParametricReLU(), ((2, 3),), (2, 3), lambda x: F.prelu(x, SLOPE), (("slope", SLOPE),)),
    "maxpool1d": Case(op.MaxPool((3,), (2,), (1,), (1,)), ((2, 7),), (2, 4), lambda x: F.max_pool1d(x, 3, 2, 1)),
    "maxpool1d dilated": Case(
        op.MaxPool((2,), (1,), (0,), (3,)), ((1, 6),), (1, 3), lambda x: torch.maximum(x[..., :3], x[..., 3:])
    ),
    "maxpool2d ceil": Case(POOL2, ((2, 5, 4),), (2, 3, 3), pool2),
    "maxpool2d at positions": Case(POOL2, ((3, 2, 5, 4),), (3, 2, 3, 3), lambda x: at_positions(pool2, x)),
    "maxpool3d": Case(
        op.MaxPool((2, 1, 2), (1, 1, 2), (0, 0, 0), (1, 1, 1)),
        ((1, 3, 2, 4),),
        (1, 2, 2, 2),
        lambda x: F.max_pool3d(x, (2, 1, 2), (1, 1, 2)),
    ),
    "relu_maxpool2d": Case(
        op.MaxPool((2, 3), (2, 2), (0, 1), (1, 1), True, True), ((2, 5, 4),), (2, 3, 3), lambda x: pool2(x.relu())
    ),
    "max of one axis": Case(op.Maximum((1,)), ((2, 3, 2),), (2, 2), lambda x: x.max(2).values),
    "max of two axes": Case(
        op.Maximum((0, 2)),
        ((2, 3, 2),),
        (1, 3, 1),
        lambda x: x.transpose(1, 2).flatten(2).max(2).values[:, None, :, None],
    ),
    "max of all": Case(op.Maximum((0, 1)), ((2, 3),), (), lambda x: x.flatten(1).max(1).values),
    "max of no axes": Case(op.Maximum(()), ((2,),), (2,), lambda x: x),
    "softmax first": Case(op.Softmax(0), ((3, 2),), (3, 2), lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
    "softmax last": Case(op.Softmax(1), ((3, 2),), (3, 2), lambda x: x.exp() / x.exp().sum(2, keepdim=True)),
    "log_softmax": Case(op.Softmax(1, True), ((2, 3, 2),), (2, 3, 2), lambda x: x - x.exp().sum(2, True).log()),
    "softmax with a constant mask": Case(
        op.Softmax(1), ((3, 5),), (3, 5), lambda x: softmax(x, HOLES), constants=(("mask", HOLES),)
    ),
    "softmax of two slots": Case(op.Softmax(2), ((2, 3, 5),) * 2, (2, 3, 5), lambda x, y: softmax(x + y)),
    "softmax of scores and a mask": Case(
        op.Softmax(2), ((1, 3, 5),) * 2, (1, 3, 5), softmax, special={1: HEADED}
    ),
    "softmax causal": Case(op.Softmax(2, causal=True), ((2, 4, 4),), (2, 4, 4), lambda x: softmax(x, LATER4)),
    "norm of one axis": Case(op.VectorNorm((1,)), ((2, 3, 2),), (2, 2), lambda x: x.square().sum(2).sqrt()),
    "norm of two axes": Case(
        op.VectorNorm((0, 2)), ((2, 3, 2),), (1, 3, 1), lambda x: x.square().sum((1, 3), keepdim=True).sqrt()
    ),
    "norm of all": Case(op.VectorNorm((0, 1)), ((2, 3),), (), lambda x: x.square().sum((1, 2)).sqrt()),
    "layer norm": Case(op.Normalize(4, 1e-2), ((3, 4),), (3, 4), lambda x: F.layer_norm(x, (4,), eps=1e-2)),
    "layer norm of two axes": Case(
        op.Normalize(12, 0.5), ((2, 3, 4),), (2, 3, 4), lambda x: F.layer_norm(x, (3, 4), eps=0.5)
    ),
    "group norm": Case(op.Normalize(6, 0.1), ((4, 3),), (4, 3), lambda x: F.group_norm(x, 2, eps=0.1)),
    "instance norm": Case(op.Normalize(4, 0.1), ((3, 2, 2),), (3, 2, 2), lambda x: F.instance_norm(x, eps=0.1)),
    "rms norm": Case(op.Normalize(4, 0.1, False), ((3, 4),), (3, 4), lambda x: F.rms_norm(x, (4,), eps=0.1)),
    "attention": Case(op.Attention(0.5), QKV, (2, 3, 2), attention(0.5)),
    "attention without heads": Case(op.Attention(0.7), ((3, 2),) * 3, (3, 2), attention(0.7)),
    "attention causal": Case(op.Attention(1.5, True), QKV, (2, 3, 2), attention(1.5, LATER)),
    "attention masked": Case(op.Attention(0.5), QKV, (2, 3, 2), attention(0.5, HOLES), constants=(("mask", HOLES),)),
    "attention with a learned mask": Case(
        op.Attention(0.5), QKV, (2, 3, 2), attention(0.5, LATER.exp()), (("mask", LATER.exp()),)
    ),
    "attention with a mask slot": Case(
        op.Attention(0.5), (*QKV, (1, 3, 5)), (2, 3, 2), attention(0.5), special={3: HEADED}
    ),
}

PLAIN = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: x * torch.sigmoid(x),
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "sin": torch.sin,
    "cos": torch.cos,
    "neg": lambda x: -x,
    "affine(2, -1)": lambda x: 2 * x - 1,
}
CURVED |= {f.name: Case(op.Elementwise(f), ((2, 3),), (2, 3), PLAIN[f.name]) for f in (*ROWS, affine(2, -1))}
