"""Cases of layers with weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from covergraph.graph import operations as op
from operation_cases import Case, at_positions, random

W, B = random(4, 3, seed=20), random(4, seed=21)
K1, K2, K3 = random(4, 2, 3, seed=22), random(4, 1, 2, 3, seed=23), random(2, 1, 2, 1, 2, seed=24)
C1, C2, C3 = random(4, seed=25), random(4, seed=26), random(2, seed=27)
T1, T2, T3 = random(2, 3, 3, seed=28), random(4, 1, 2, 2, seed=29), random(1, 2, 1, 2, 1, seed=30)
D1, D3 = random(3, seed=31), random(2, seed=32)
CHANNELS, ENTRIES, ROW = random(4, 1, seed=33), random(4, 5, seed=34), random(5, seed=35)
TABLE = random(7, 4, seed=36)
TOKENS = torch.tensor([[0, 6, 6, 2, 1], [3, 3, 3, 3, 3], [5, 4, 0, 1, 2]], dtype=torch.int16)
TOKEN, MASK = random(1, 2, 3, seed=37), random(2, 3, seed=38)


def conv(kernel: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, bias: bool) -> op.Convolution:
    return op.Convolution(stride, padding, dilation, groups, tuple(kernel.shape[2:]), bias)


CONV1 = conv(K1, (2,), (1,), (2,), 1, True)
CONV2 = conv(K2, (1, 2), (0, 1), (1, 1), 2, False)
CONV3 = conv(K3, (1, 1, 1), (0, 0, 0), (1, 1, 1), 1, True)
BACK1 = op.TransposedConvolution((2,), (1,), (1,), (1,), 1, (3,), True)
BACK2 = op.TransposedConvolution((2, 1), (0, 1), (1, 0), (1, 2), 2, (2, 2), False)
BACK3 = op.TransposedConvolution((1, 1, 1), (0, 0, 0), (0, 0, 0), (1, 1, 1), 1, (1, 2, 1), True)
OF_K1, OF_T1 = (("weight", K1), ("bias", C1)), (("weight", T1), ("bias", D1))


def conv1(x: Tensor) -> Tensor:
    return F.conv1d(x, K1, C1, 2, 1, 2)


def conv2(x: Tensor) -> Tensor:
    return F.conv2d(x, K2, None, (1, 2), (0, 1), 1, 2)


def back1(x: Tensor) -> Tensor:
    return F.conv_transpose1d(x, T1, D1, stride=2, padding=1, output_padding=1)


LINEAR = {
    "linear": Case(op.Linear(False), ((3,),), (4,), lambda x: x @ W.T, (("weight", W),)),
    "linear per position": Case(
        op.Linear(True), ((5, 3),), (5, 4), lambda x: x @ W.T + B, (("weight", W), ("bias", B))
    ),
    "linear at two axes of positions": Case(
        op.Linear(True),
        ((2, 2, 3),),
        (2, 2, 4),
        lambda x: torch.einsum("bpqd,md->bpqm", x, W) + B,
        (("weight", W), ("bias", B)),
    ),
    "conv1d": Case(CONV1, ((2, 8),), (4, 3), conv1, OF_K1),
    "conv1d at positions": Case(CONV1, ((3, 2, 8),), (3, 4, 3), lambda x: at_positions(conv1, x), OF_K1),
    "conv2d in groups": Case(CONV2, ((2, 4, 5),), (4, 3, 3), conv2, (("weight", K2),)),
    "conv2d at two axes of positions": Case(
        CONV2,
        ((2, 1, 2, 4, 5),),
        (2, 1, 4, 3, 3),
        lambda x: at_positions(lambda y: at_positions(conv2, y), x),
        (("weight", K2),),
    ),
    "conv3d": Case(CONV3, ((1, 3, 2, 3),), (2, 2, 2, 2), lambda x: F.conv3d(x, K3, C3), (("weight", K3), ("bias", C3))),
    "conv_transpose1d": Case(BACK1, ((2, 4),), (3, 8), back1, OF_T1),
    "conv_transpose1d at positions": Case(BACK1, ((2, 2, 4),), (2, 3, 8), lambda x: at_positions(back1, x), OF_T1),
    "conv_transpose2d in groups": Case(
        BACK2,
        ((4, 3, 4),),
        (2, 7, 4),
        lambda x: F.conv_transpose2d(x, T2, None, (2, 1), (0, 1), (1, 0), 2, (1, 2)),
        (("weight", T2),),
    ),
    "conv_transpose3d": Case(
        BACK3,
        ((1, 2, 2, 3),),
        (2, 2, 3, 3),
        lambda x: F.conv_transpose3d(x, T3, D3),
        (("weight", T3), ("bias", D3)),
    ),
    "scale per channel": Case(
        op.Affine(True, False),
        ((4, 5),),
        (4, 5),
        lambda x: torch.einsum("bcl,c->bcl", x, CHANNELS[:, 0]),
        (("scale", CHANNELS),),
    ),
    "shift of every entry": Case(
        op.Affine(False, True), ((4, 5),), (4, 5), lambda x: x + ENTRIES, (("shift", ENTRIES),)
    ),
    "scale and shift": Case(
        op.Affine(True, True),
        ((4, 5),),
        (4, 5),
        lambda x: torch.stack([x[:, i] * CHANNELS[i, 0] + ROW for i in range(4)], 1),
        (("scale", CHANNELS), ("shift", ROW)),
    ),
    "learned scale, constant shift": Case(
        op.Affine(True, True), ((4, 5),), (4, 5), lambda x: ROW * x + ENTRIES, (("scale", ROW),), (("shift", ENTRIES),)
    ),
    "embedding": Case(
        op.Embedding(),
        ((5,),),
        (5, 4),
        lambda tokens: F.one_hot(tokens.long(), 7).to(TABLE.dtype) @ TABLE,
        (("weight", TABLE),),
        special={0: TOKENS},
    ),
    "embedding of one token": Case(
        op.Embedding(),
        ((),),
        (4,),
        lambda tokens: TABLE[tokens.long()],
        (("weight", TABLE),),
        special={0: TOKENS[:, 1].int()},
    ),
    "parameter": Case(op.Parameter(), (), (2, 3), lambda: TOKEN, (("value", TOKEN),)),
    "constant": Case(op.Constant(), (), (2, 3), lambda: MASK[None], (), (("value", MASK),)),
}
