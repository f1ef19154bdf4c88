"""How else could the norms be had? Dense Jacobians and singular values, power iteration, Golub-Kahan-Lanczos.

All in single precision on whole batches, written as well as torch allows. None is certified: power iteration and
Golub-Kahan-Lanczos approach the norm from below, and nothing says how far they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from machine import clock
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

Map = Callable[[Tensor], Tensor]


class Products:
    """J v and J' c of a map at a batch, by reverse mode on one graph that is kept: no tracing and no forward passes.

    The backward pass g = J' c is linear in c; going back through it, from g to c, gives J v.
    """

    def __init__(self, f: Map, x: Tensor) -> None:
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            self.y = f(self.x)
            self.c = torch.zeros_like(self.y, requires_grad=True)
            (self.g,) = torch.autograd.grad(self.y, self.x, self.c, create_graph=True)

    def push(self, v: Tensor) -> Tensor:
        """J v, one row a sample."""
        return torch.autograd.grad(self.g, self.c, v, retain_graph=True)[0]

    def pull(self, c: Tensor) -> Tensor:
        """J' c, one row a sample."""
        return torch.autograd.grad(self.y, self.x, c, retain_graph=True)[0]


def power_iteration(f: Map, x: Tensor, steps: int, seed: int = 0) -> Tensor:
    """||J v|| after `steps` times v = J' J v / ||J' J v||: (batch,)."""
    products = Products(f, x)
    v = _random_start(x, seed)
    norms = x.new_zeros(len(x))
    for _ in range(steps):
        y = products.push(v)
        norms = y.flatten(1).norm(dim=1)
        v = _normalized(products.pull(y))[0]
    return norms


def golub_kahan_lanczos(f: Map, x: Tensor, steps: int, seed: int = 0) -> Tensor:
    """The largest singular value of the bidiagonal matrix after `steps` steps: (batch,).

    No more steps than the smaller dimension; a length that is rounding of the lengths before ends its row's recurrence.
    """
    products = Products(f, x)
    v = _random_start(x, seed)
    u, beta = torch.zeros_like(products.y), x.new_zeros(len(x))
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    for _ in range(min(steps, x[0].numel(), products.y[0].numel())):
        u, alpha = _normalized(products.push(v) - _column(beta, u) * u, betas)
        v, beta = _normalized(products.pull(u) - _column(alpha, v) * v, [*alphas, alpha])
        alphas.append(alpha)
        betas.append(beta)
    bidiagonal = torch.diag_embed(torch.stack(alphas, 1))
    if len(alphas) > 1:
        bidiagonal = bidiagonal + torch.diag_embed(torch.stack(betas[:-1], 1), 1)
    return torch.linalg.svdvals(bidiagonal)[:, 0]


def _random_start(x: Tensor, seed: int) -> Tensor:
    return _normalized(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x))[0]


def _column(lengths: Tensor, like: Tensor) -> Tensor:
    return lengths.reshape(-1, *[1] * (like.dim() - 1))


def _normalized(vectors: Tensor, before: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths, (batch,); both are zero where the length is rounding of the lengths before."""
    lengths = vectors.flatten(1).norm(dim=1)
    if before:
        lengths = lengths * (lengths > 1e-6 * torch.stack(before).amax(0))
    factors = torch.where(lengths > 0, 1 / lengths.clamp_min(1e-30), 0.0)
    return vectors * _column(factors, vectors), lengths


def dense(f: Map, x: Tensor, forward: bool = False) -> tuple[Tensor, float, float]:
    """Norms of Jacobians by `vmap(jacrev)`, or jacfwd, (batch,); seconds for these and for the singular values."""
    start = clock(x.device.type)
    derivative = jacfwd if forward else jacrev
    jacobian = vmap(derivative(lambda one: f(one[None])[0]))(x)
    matrices = jacobian.reshape(len(x), -1, x[0].numel())
    formed = clock(x.device.type)
    norms: Tensor = torch.linalg.matrix_norm(matrices, ord=2)
    return norms, formed - start, clock(x.device.type) - formed
