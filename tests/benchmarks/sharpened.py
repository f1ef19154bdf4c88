"""A network for double reverse mode at its best: torch's own rules do more than J v and J' c need.

Going back through the backward pass of a convolution, torch computes the gradient of the weight too, whoever wants it,
and that of BatchNorm takes thirty operations. Here convolutions know that they are linear, and BatchNorm is folded
into them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pairs = tuple[int, ...]


def sharpened(module: nn.Module) -> nn.Module:
    """A copy that computes the same."""
    made = copy.deepcopy(module)
    for inner in list(made.modules()):
        if hasattr(inner, "norm1") and isinstance(inner.norm1, nn.BatchNorm2d):
            inner.convolution1 = fuse_conv_bn_eval(inner.convolution1, inner.norm1)
            inner.convolution2 = fuse_conv_bn_eval(inner.convolution2, inner.norm2)
            inner.norm1 = inner.norm2 = nn.Identity()
        for name, child in list(inner.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(inner, name, LinearConvolution(child))
    return made.requires_grad_(False)


class LinearConvolution(nn.Module):
    """The same as a Conv2d without dilation and groups."""

    def __init__(self, given: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.sides = given.weight, given.bias, (given.stride, given.padding)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inner, side, side) to (n, outer, ...)."""
        return _Forward.apply(x, self.weight, self.bias, self.sides)


class _Forward(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sides: tuple[Pairs, Pairs]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.sides, ctx.shape = sides, x.shape
        return F.conv2d(x, weight, bias, *sides)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Backward.apply(c, ctx.saved_tensors[0], ctx.sides, ctx.shape), None, None, None


class _Backward(Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, weight: Tensor, sides: tuple[Pairs, Pairs], shape: torch.Size) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.sides = sides
        stride, padding = (list(side) for side in sides)
        images = c.new_empty(1).expand(shape)
        return torch.ops.aten.convolution_backward(
            c, images, weight, None, stride, padding, [1, 1], False, [0, 0], 1, [True, False, False]
        )[0]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Forward.apply(v, ctx.saved_tensors[0], None, ctx.sides), None, None, None
