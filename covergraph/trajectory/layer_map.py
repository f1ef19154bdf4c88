"""The linear part of the watched layer: h -> W h."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.interpreter import Context, apply, edge_jacobian
from covergraph.graph.node import Node
from covergraph.graph.rearrange import Shape


@dataclass(frozen=True)
class Map:
    """h -> W h as a matrix: `node` reads the weight as "weight", `slot` is the shape of h; node None: W = I."""

    node: Node | None
    slot: Shape

    @property
    def inputs(self) -> int:
        return math.prod(self.slot)

    @property
    def outputs(self) -> int:
        return self.inputs if self.node is None else self.node.size

    @property
    def taps(self) -> int:
        """T, or 1."""
        operation = self.node.operation if self.node else None
        return math.prod(operation.kernel) if isinstance(operation, op.Convolution) else 1

    def sides(self, weight: Tensor) -> tuple[int, int]:
        """Rows and columns of `matrix`, or of what stands for it."""
        operation = self.node.operation if self.node else None
        if isinstance(operation, op.Convolution):
            return self.outputs, self.inputs
        return (weight.shape[0], weight.shape[1]) if isinstance(operation, op.Linear) else (self.outputs, 1)

    def matrix(self, weight: Tensor) -> Tensor:
        """W in double precision (rows, columns): of a linear layer at one position; of a scale its diagonal (n,)."""
        assert self.node is not None
        if isinstance(self.node.operation, op.Linear):
            return weight.double()
        if isinstance(self.node.operation, op.Affine):
            return weight.double().expand(self.node.shape).reshape(-1)
        zero = torch.zeros(1, *self.slot, dtype=torch.float64, device=weight.device)
        return edge_jacobian(self.node, "h", [zero], Context({"weight": weight.double()}))[0]

    def transposed(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Wᵀ g, flat, for g of the shape of z."""
        if self.node is None:
            return gradient.reshape(-1)
        if isinstance(self.node.operation, op.Linear) and len(self.slot) == 1:
            return gradient.reshape(-1) @ weight.detach()
        with torch.enable_grad():
            h = torch.zeros(1, *self.slot, dtype=weight.dtype, device=weight.device, requires_grad=True)
            z = apply(self.node.operation, self.node, [h], Context({"weight": weight.detach()}))
            (pulled,) = torch.autograd.grad(z, h, gradient.reshape(z.shape))
        return pulled.reshape(-1)
