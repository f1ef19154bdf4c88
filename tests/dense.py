"""Dense oracles: derivatives by torch.func, norms by numpy's SVD, convolutions by explicit loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from handmade import Marked
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


def dense_derivative(module: Marked, inputs: Sequence[Tensor], w: str, a: str) -> Matrix:
    """D_{w<-a} at one sample (inputs of batch size 1), by torch.func.jacrev over the plain module."""
    module.cut = {}
    module(*inputs)
    value = module.seen[a].detach()

    def later(replaced: Tensor) -> Tensor:
        module.cut = {a: replaced}
        module(*inputs)
        return module.seen[w]

    try:
        jacobian = torch.func.jacrev(later)(value)
    finally:
        module.cut = {}
    dense: Matrix = jacobian.reshape(module.seen[w].numel(), value.numel()).detach().numpy()
    return dense


def spectral(matrix: Any) -> float:
    """The largest singular value, by numpy's SVD."""
    return float(np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)[0])


def dense_convolution(
    weight: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Matrix:
    """The matrix of a 2-d convolution on inputs of `shape`, entry by entry with explicit loops."""
    kernel = weight.detach().double().numpy()
    c_out, c_in, kh, kw = kernel.shape
    channels, height, width = shape
    assert channels == c_in * groups
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    matrix = np.zeros((c_out, rows, columns, channels, height, width))
    for o in range(c_out):
        first = (o // (c_out // groups)) * c_in
        for p, q, c, i, j in np.ndindex(rows, columns, c_in, kh, kw):
            y = p * stride[0] - padding[0] + i * dilation[0]
            x = q * stride[1] - padding[1] + j * dilation[1]
            if 0 <= y < height and 0 <= x < width:
                matrix[o, p, q, first + c, y, x] += kernel[o, c, i, j]
    return matrix.reshape(c_out * rows * columns, -1)
