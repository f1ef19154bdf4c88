"""Cases of fixed linear maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from covergraph.graph import operations as op
from covergraph.graph.rearrange import Expand, Join, Pad, Permute, Pick, Slice, View
from operation_cases import Case, at_positions, random


def pool2(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, (2, 3), 2, (0, 1), ceil_mode=True, count_include_pad=False)


UNEVEN = torch.zeros(3, 7, dtype=torch.float64)
"""The matrix of adaptive average pooling from 7 to 3: windows 0-2, 2-4, 4-6."""
for row, start in enumerate((0, 2, 4)):
    UNEVEN[row, start : start + 3] = 1 / 3
MIX = random(5, 3, seed=40)
POOL2 = op.AveragePool((2, 3), (2, 2), (0, 1), True, False)

FIXED = {
    "add of three": Case(op.Add(), ((2, 3),) * 3, (2, 3), lambda x, y, z: x + y + z),
    "subtract": Case(op.Subtract(), ((2, 3),) * 2, (2, 3), lambda x, y: x - y),
    "concat first": Case(op.Concatenate(0), ((2, 3), (1, 3)), (3, 3), lambda x, y: torch.cat([x, y], 1)),
    "concat last": Case(op.Concatenate(1), ((2, 3), (2, 4)), (2, 7), lambda x, y: torch.cat([x, y], 2)),
    "concat equal": Case(op.Concatenate(0), ((2, 3), (2, 3)), (4, 3), lambda x, y: torch.cat([x, y], 1)),
    "reshape": Case(op.Reshape(), ((2, 6),), (3, 4), lambda x: x.reshape(-1, 3, 4)),
    "reshape to a scalar": Case(op.Reshape(), ((1,),), (), lambda x: x.squeeze(1)),
    "avgpool1d": Case(op.AveragePool((3,), (2,), (1,)), ((2, 7),), (2, 4), lambda x: F.avg_pool1d(x, 3, 2, 1)),
    "avgpool2d ceil": Case(POOL2, ((2, 5, 4),), (2, 3, 3), pool2),
    "avgpool2d at positions": Case(POOL2, ((3, 2, 5, 4),), (3, 2, 3, 3), lambda x: at_positions(pool2, x)),
    "avgpool3d": Case(
        op.AveragePool((2, 1, 2), (1, 1, 2), (0, 0, 0)),
        ((1, 3, 2, 4),),
        (1, 2, 2, 2),
        lambda x: F.avg_pool3d(x, (2, 1, 2), (1, 1, 2)),
    ),
    "permute": Case(
        op.Rearrange((Permute((2, 0, 1)),)), ((2, 3, 4),), (4, 2, 3), lambda x: torch.einsum("zabc->zcab", x)
    ),
    "expand": Case(op.Rearrange((Expand((3, 4)),)), ((1, 4),), (3, 4), lambda x: torch.cat([x, x, x], 1)),
    "slice": Case(op.Rearrange((Slice(1, 1, 5, 2),)), ((2, 6),), (2, 2), lambda x: x[:, :, 1:5:2]),
    "pick": Case(
        op.Rearrange((Pick(0, (2, 0, 2)),)), ((3, 2),), (3, 2), lambda x: torch.stack([x[:, 2], x[:, 0], x[:, 2]], 1)
    ),
    "pad": Case(op.Rearrange((Pad(0, 1, 2),)), ((2, 3),), (5, 3), lambda x: F.pad(x, (0, 0, 1, 2))),
    "windows of a shifted image": Case(
        op.Rearrange((Join(0, ((Slice(0, 1, 4),), (Slice(0, 0, 1),))), View((2, 2, 3)), Permute((0, 2, 1)))),
        ((4, 3),),
        (2, 3, 2),
        lambda x: x.roll(-1, 1).reshape(-1, 2, 2, 3).transpose(2, 3),
    ),
    "sum of one axis": Case(op.Sum((1,), False), ((2, 3, 4),), (2, 4), lambda x: torch.einsum("bijk->bik", x)),
    "mean of two axes": Case(
        op.Sum((0, 2), True), ((2, 3, 4),), (1, 3, 1), lambda x: torch.einsum("bijk->bj", x).reshape(-1, 1, 3, 1) / 8
    ),
    "sum of all": Case(op.Sum((0, 1), False), ((2, 3),), (), lambda x: x.flatten(1) @ torch.ones(6).double()),
    "sum of no axes": Case(op.Sum((), False), ((),), (), lambda x: x),
    "uneven average pool": Case(
        op.AxisMap(1, "adaptive_avg_pool1d"),
        ((2, 7),),
        (2, 3),
        lambda x: F.adaptive_avg_pool1d(x, 3),
        constants=(("weight", UNEVEN),),
    ),
    "map of the first of three axes": Case(
        op.AxisMap(0, "mix"),
        ((3, 2, 2),),
        (5, 2, 2),
        lambda x: torch.einsum("md,bdij->bmij", MIX, x),
        constants=(("weight", MIX),),
    ),
}
