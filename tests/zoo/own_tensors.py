"""Own networks of unusual tensor code: products, mutation, views, layout, several inputs and outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.entry import Case, floats, images, tokens


class TwoInputs(nn.Module):
    """Two inputs of different shapes, added and multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 6), nn.Linear(5, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = torch.tanh(self.left(x)), F.relu(self.right(y))
        return self.head(torch.cat([a + b, a * b], dim=-1))


class DictOutput(nn.Module):
    """A dict of logits and features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = F.gelu(self.body(x))
        return {"logits": self.head(features), "features": features}


class Gram(nn.Module):
    """The Gram matrix of rows: x times its own transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(25, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head((h @ h.mT / 5).flatten(1))


class HypernetworkOfParameters(nn.Module):
    """A weight computed from a learned code by another network."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.maker = nn.Parameter(torch.randn(4)), nn.Linear(4, 8 * 3 + 3)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = torch.tanh(self.maker(self.code)).split([24, 3])
        return F.linear(torch.sin(x), weight.view(3, 8), bias)


class HypernetworkOfData(nn.Module):
    """A weight computed from the sample itself."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.bias = nn.Linear(8, 8 * 3), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(x).view(-1, 3, 8)
        return torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1) + self.bias


class TiedLanguageModel(nn.Module):
    """The head is the embedding, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(ids))))


class OneLayerManyTimes(nn.Module):
    """The same linear layer at every step, with the input injected again."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.inject = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        for _ in range(5):
            h = torch.tanh(self.step(h) + self.inject(x))
        return h


class InPlace(nn.Module):
    """Activations and sums in place, and assignment to a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu_()
        h += x
        h[:, 2:5] = h[:, 3:6].tanh() * 2
        h[:, 0].add_(h[:, 7]).clamp_(-2, 2)
        return self.b(h.mul_(0.5))


class InPlaceThroughViews(nn.Module):
    """Writes through a chain of views that reach a tensor read later."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        grid = h.view(-1, 3, 4).transpose(1, 2)
        grid[:, 1].mul_(3)
        grid.select(2, 0).sigmoid_()
        out = torch.empty_like(h)
        out.view(-1, 2, 6).copy_(h.view(-1, 2, 6).flip(1))
        return h + out


class FourierFilter(nn.Module):
    """A learned complex filter between a real FFT and its inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = nn.Parameter(torch.randn(4, 9, 2)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, dim=-1, norm="ortho")
        return self.head(torch.fft.irfft(spectrum * torch.view_as_complex(self.filter), n=16, dim=-1, norm="ortho"))


class BilinearForm(nn.Module):
    """nn.Bilinear of a vector and a function of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.form = nn.Linear(6, 4), nn.Bilinear(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(torch.tanh(self.left(x)), x)


class Einsum(nn.Module):
    """Contractions by einsum, of values with a core tensor and with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.mix = nn.Parameter(torch.randn(4, 3, 5)), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:  # (b, 6, 4)
        h = torch.einsum("btd,dhe->bhte", x, self.core)
        pairs = torch.einsum("bhte,bhse->bhts", h, h) / 3
        return torch.einsum("bhts,su,bhue->bte", pairs.softmax(-1), self.mix, h)


class Layout(nn.Module):
    """Chunk, split, stack, roll, flip, repeat, unbind, movedim, narrow, meshed in a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:  # (b, 4, 6)
        a, b = x.chunk(2, dim=1)
        c, d = torch.split(x, [2, 4], dim=2)
        h = torch.stack([a.flip(-1), b.roll((1, 2), dims=(1, 2))], dim=1).movedim(1, -1).flatten(2)
        tail = torch.cat([c.repeat(1, 1, 2), d.narrow(2, 0, 2)], -1).unbind(1)[::2]
        return self.mix(h) * torch.stack(tail, 1).repeat_interleave(2, dim=-1)[..., :8].roll(1, -1)


class Patches(nn.Module):
    """Patches by unfold, mixed, and summed back by fold."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(27, 27)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1, stride=2)
        mixed = torch.tanh(self.mix(columns.mT)).mT
        return F.fold(mixed, x.shape[-2:], 3, padding=1, stride=2)


class SlidingWindows(nn.Module):
    """Overlapping windows by Tensor.unfold, centered, and their differences."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(-1, 4, 2)
        return self.score(windows - windows.mean(-1, keepdim=True)).diff(dim=1).flatten(1)


class Gathered(nn.Module):
    """Fixed index lists, advanced indexing, gather, scatter and where."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.order = nn.Linear(8, 8), [3, 1, 1, 7, 0]
        self.register_buffer("mask", torch.arange(8) % 3 == 0)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.where(self.mask, self.body(x), -x)
        picked = h[:, self.order] + h[:, self.mask].sum(-1, keepdim=True)
        return torch.zeros_like(h).index_add(1, torch.tensor(self.order), picked.masked_fill(picked > 1, 0.5))


class KMaxPool(nn.Module):
    """The three largest entries per channel, sorted; cumulative sums along the channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(2, 4, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).cumsum(-1)
        return self.head(h.topk(3, dim=-1).values.flatten(1))


class Energy(nn.Module):
    """Division, powers, log-sum-exp, distances: what generic rules are loose on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.points = nn.Linear(6, 6), nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).abs() + 0.1
        scores = torch.cdist(h[:, None], self.points[None]).squeeze(1)
        return torch.cat([scores / h.sum(-1, keepdim=True), h.pow(0.75), torch.logsumexp(scores, -1, keepdim=True)], -1)


class Integrator(nn.Module):
    """Four Runge-Kutta steps of a learned vector field."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            half = x + 0.05 * self.field(x)
            x = torch.lerp(x, x + 0.1 * self.field(half), 1.0)
        return x


class GradientField(nn.Module):
    """The symplectic gradient of a learned energy: the derivative is part of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda p: self.second(torch.tanh(self.first(p))).sum())(x)
        return torch.cat([slope[..., 2:], -slope[..., :2]], dim=-1)


CASES = {
    "two_inputs": lambda: Case(TwoInputs(), floats(8) + floats(5)),
    "dict_output": lambda: Case(DictOutput(), floats(8), output="logits"),
    "gram_matrix": lambda: Case(Gram(), floats(5, 4)),
    "hypernetwork_of_parameters": lambda: Case(HypernetworkOfParameters(), floats(8)),
    "hypernetwork_of_data": lambda: Case(HypernetworkOfData(), floats(8)),
    "tied_embedding": lambda: Case(TiedLanguageModel(), tokens(6, 20)),
    "one_layer_many_times": lambda: Case(OneLayerManyTimes(), floats(6)),
    "in_place": lambda: Case(InPlace(), floats(8)),
    "in_place_through_views": lambda: Case(InPlaceThroughViews(), floats(12)),
    "fourier_filter": lambda: Case(FourierFilter(), floats(4, 16)),
    "bilinear": lambda: Case(BilinearForm(), floats(6)),
    "einsum": lambda: Case(Einsum(), floats(6, 4)),
    "layout_grid": lambda: Case(Layout(), floats(4, 6)),
    "unfold_fold": lambda: Case(Patches(), images(7)),
    "sliding_windows": lambda: Case(SlidingWindows(), floats(12)),
    "gathered": lambda: Case(Gathered(), floats(8)),
    "k_max_pool": lambda: Case(KMaxPool(), floats(2, 12)),
    "energy": lambda: Case(Energy(), floats(6)),
    "runge_kutta": lambda: Case(Integrator(), floats(4)),
    "gradient_field": lambda: Case(GradientField(), floats(4)),
}
"""Builders by name."""
