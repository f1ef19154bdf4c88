"""Patches of convolutions by explicit loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from covergraph.graph import operations as op

Array = NDArray[np.float64]


def patches(x: Array, layer: op.Convolution) -> list[Array]:
    """For each group the matrix with one row a patch: (positions, c_in k) with zeros outside, by loops."""
    channels = x.shape[0] // layer.groups
    spans = zip(x.shape[1:], layer.padding, layer.dilation, layer.kernel, layer.stride, strict=True)
    counts = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in spans]
    result = []
    for g in range(layer.groups):
        rows = []
        for place in np.ndindex(*counts):
            row = []
            for c, *tap in np.ndindex(channels, *layer.kernel):
                at = [
                    o * s - p + t * d
                    for o, s, p, t, d in zip(
                        place, layer.stride, layer.padding, tap, layer.dilation, strict=True
                    )
                ]
                inside = all(0 <= i < n for i, n in zip(at, x.shape[1:], strict=True))
                row.append(x[(g * channels + c, *at)] if inside else 0.0)
            rows.append(row)
        result.append(np.array(rows))
    return result


def convolution(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
    bias: bool = False,
) -> op.Convolution:
    return op.Convolution(stride, padding, dilation, groups, kernel, bias)
