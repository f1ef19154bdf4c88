"""Both ends of the largest spectral norm among matrices, also among large ones, and a memory of such ends.

The upper end is proven by a Cholesky factorization: if that of c I - G runs to its end, then no eigenvalue of G is
above c, up to rounding (Rump 2006). The lower end of a large matrix is a Ritz value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from covergraph.measure.norms import rounding
from covergraph.measure.roundings import proved

EXACT = 1024
"""Up to this side, eigenvalues of a Gram matrix are computed; beyond it, they are enclosed."""
STEPS = 24
EXCESSES = (1e-3, 1e-2, 0.05, 0.2, 1.0)


@dataclass(frozen=True)
class Ends:
    """An interval that holds a norm; `exact` if it is as narrow as rounding allows."""

    lower: float
    upper: float
    exact: bool = False

    def widened(self, relative: float) -> Ends:
        """The interval after a relative error."""
        return Ends(max(self.lower * (1 - relative), 0.0), self.upper * (1 + relative), self.exact)


def norm_ends(matrices: Tensor, *further: int, exact: int = EXACT) -> Ends:
    """Ends of max_i ||A_i||_op for matrices (count, m, d), real or complex; infinite if an entry is not finite.

    `further` sides enter the allowance for rounding: how long the sums were that made the entries.
    """
    m, d = matrices.shape[1:]
    largest = float(torch.linalg.vector_norm(matrices, ord=math.inf)) if matrices.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return Ends(0.0, 0.0, True) if largest == 0 else Ends(0.0, math.inf)
    # The squares in the Gram matrix would overflow and underflow; a copy of a large matrix is avoided otherwise.
    scale = 1.0 if 1e-60 < largest < 1e60 else largest
    scaled = matrices / scale if scale != 1 else matrices
    gram = scaled @ scaled.mH if m <= d else scaled.mH @ scaled
    narrow = min(m, d) <= exact
    if narrow:
        lower = upper = gram.real.flatten() if min(m, d) == 1 else torch.linalg.eigvalsh(gram)[:, -1]
        upper = upper if min(m, d) == 1 else proved(gram, lower.clamp_min(0))
    else:
        lower, upper = _enclosed(gram)
    low, high = (scale * math.sqrt(max(float(end.amax()), 0.0)) for end in (lower, upper))
    return Ends(low, high, narrow).widened(rounding(torch.float64, m, d, *further))


def _enclosed(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the largest eigenvalue of each of the positive semidefinite matrices (count, n, n)."""
    lower, upper = _ritz_values(gram), gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    left = torch.arange(len(gram), device=gram.device)
    for excess in EXCESSES:
        level = lower[left] * (1 + excess)
        works = torch.linalg.cholesky_ex(level[:, None, None] * identity - gram[left]).info == 0
        upper[left[works]] = level[works]
        left = left[~works]
        if not len(left):
            break
    return lower, upper


def _ritz_values(gram: Tensor) -> Tensor:
    """The largest Ritz values on Krylov spaces of a fixed start: lower bounds of the largest eigenvalues."""
    n = gram.shape[-1]
    start = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = start.to(gram).expand(len(gram), n, 1)
    basis = vector[..., :0]
    for _ in range(min(n, STEPS)):
        vector = vector - basis @ (basis.mH @ vector)
        vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        basis = torch.cat([basis, vector], 2)
        vector = gram @ vector
    basis = torch.linalg.qr(basis).Q
    return torch.linalg.eigvalsh(basis.mH @ gram @ basis)[:, -1]


_KNOWN: MutableMapping[Tensor, dict[Hashable, Ends]] = WeakTensorKeyDictionary()


def remembered(tensor: Tensor, question: Hashable, answer: Callable[[], Ends]) -> Ends:
    """The answer to a question about a tensor, computed once as long as the tensor lives and is not written to."""
    version = 0 if tensor.is_inference() else tensor._version
    known = _KNOWN.setdefault(tensor, {})
    if (version, question) not in known:
        known[version, question] = answer()
    return known[version, question]
