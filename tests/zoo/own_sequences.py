"""Own networks on sequences: recurrent layers, attention, experts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.entry import Case, floats, images, tokens


class BidirectionalLSTM(nn.Module):
    """Two bidirectional LSTM layers; the head reads both last hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, (h, _) = self.lstm(x)
        return self.head(torch.cat([out[:, -1], h[-2], h[-1]], dim=-1))


class GatedRecurrent(nn.Module):
    """A GRU with a learned initial state; the mean over time is read."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.start, self.head = nn.GRU(4, 6, batch_first=True), nn.Parameter(torch.randn(6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.gru(x, self.start.expand(1, x.shape[0], 6).contiguous())
        return self.head(out.mean(1))


class StackedRNN(nn.Module):
    """Three layers of plain recurrence with dropout between, then one with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 5, num_layers=3, dropout=0.2, batch_first=True)
        self.top = nn.RNN(5, 3, nonlinearity="relu", bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.rnn(x)[0])[0]


class Cells(nn.Module):
    """An LSTM cell and a GRU cell, unrolled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(4, 5), nn.GRUCell(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c, g = x.new_zeros(len(x), 5), x.new_zeros(len(x), 5), x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
        return g


class TimeFirst(nn.Module):
    """Layout (time, batch, features) inside, with a projecting LSTM and a linear layer on it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.lstm, self.head = nn.Linear(4, 6), nn.LSTM(6, 8, proj_size=5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(torch.relu(self.enter(x.transpose(0, 1))))
        return self.head(out).mean(dim=0)


class MaskedAttention(nn.Module):
    """nn.MultiheadAttention on (time, batch, features) with a mask and a bias on keys."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, add_bias_kv=True), nn.LayerNorm(8)
        self.register_buffer("mask", torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        out, weights = self.attention(h, h, h, attn_mask=self.mask)
        return self.norm(h + out).transpose(0, 1) + weights[..., :1]


class CrossAttention(nn.Module):
    """Queries that are parameters attend to a sequence whose keys and values have other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 8))
        self.attention = nn.MultiheadAttention(8, 4, kdim=5, vdim=5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        return self.attention(queries, x, x, need_weights=False)[0].flatten(1)


class EncoderDecoder(nn.Module):
    """nn.Transformer with a causal mask on the target."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 2, 2, 16, dropout=0.1, batch_first=True, norm_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        return self.transformer(source, target, tgt_mask=mask, tgt_is_causal=True)


class HandwrittenAttention(nn.Module):
    """Causal attention written out: tril, masked_fill, softmax, two heads, rotary positions as complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        angles = torch.outer(torch.arange(x.shape[1]).to(x.dtype), torch.tensor([1.0, 0.1], dtype=x.dtype))
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (2, 2))) * turn).flatten(-2) for t in (q, k))
        scores = (q @ k.mT / 2).masked_fill(torch.ones(x.shape[1], x.shape[1]).tril() == 0, -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FusedAttention(nn.Module):
    """scaled_dot_product_attention: causal, then with a learned bias, then with fewer key heads than query heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.bias = nn.Linear(8, 16), nn.Linear(8, 16), nn.Parameter(torch.randn(4, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        h = F.scaled_dot_product_attention(h, q, q, attn_mask=self.bias, scale=0.3)
        return h.transpose(1, 2).flatten(2)


class LinearAttention(nn.Module):
    """Attention without softmax: a feature map, cumulative sums over time, a quotient."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(1)
        return (q.unsqueeze(-2) @ memory).squeeze(-2) / (q * k.cumsum(1)).sum(-1, keepdim=True)


class VisionTransformer(nn.Module):
    """Patches, a class token, a positional embedding, one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.position, self.block = nn.Parameter(torch.randn(1, 5, 8)), nn.TransformerEncoderLayer(8, 2, 16, 0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).mT
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.position
        return self.head(self.block(h.transpose(0, 1))[0])


class Sinusoids(nn.Module):
    """Positions made in forward from arange, sin and cos; a masked mean over tokens that are not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        angles = torch.arange(ids.shape[1])[:, None] / 100 ** torch.linspace(0, 1, 4)
        h = h + torch.cat([angles.sin(), angles.cos()], dim=-1).to(h)
        keep = (ids % 3 != 0).to(h).unsqueeze(-1)
        return self.head((h * keep).sum(1) / keep.sum(1).clamp(min=1))


class SoftExperts(nn.Module):
    """A mixture of experts with a soft gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 3)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        values = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (self.gate(x).softmax(-1).unsqueeze(-1) * values).sum(1)


class TopExperts(nn.Module):
    """A mixture of experts of which each sample keeps the best two."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.weights = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 3, 6))

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.gate(x).topk(2, dim=-1)
        values = torch.einsum("emd,bd->bem", self.weights, x)
        return (values.gather(1, which[..., None].expand(-1, -1, 3)) * best.softmax(-1)[..., None]).sum(1)


class CausalConvolutions(nn.Module):
    """Dilated causal convolutions with tanh and sigmoid gates and skip sums."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=2**i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        skip = 0
        for layer in self.layers:
            a, b = layer(F.pad(x, (layer.dilation[0], 0))).chunk(2, dim=1)
            skip = skip + a.tanh() * b.sigmoid()
            x = x + skip
        return skip


class RootMeanSquare(nn.Module):
    """RMSNorm, by torch and by hand, around a SwiGLU block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = nn.RMSNorm(8), nn.Parameter(torch.ones(8))
        self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        h = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class MeanOfWords(nn.Module):
    """nn.EmbeddingBag and a one-hot count of the same tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.counts = nn.EmbeddingBag(20, 6, mode="mean"), nn.Linear(20, 6)

    def forward(self, ids: Tensor) -> Tensor:
        count = F.one_hot(ids, 20).sum(1).to(self.counts.weight.dtype)
        return self.bag(ids) * self.counts(count)


CASES = {
    "bidirectional_lstm": lambda: Case(BidirectionalLSTM(), floats(6, 4)),
    "gru": lambda: Case(GatedRecurrent(), floats(6, 4)),
    "stacked_rnn": lambda: Case(StackedRNN(), floats(6, 4)),
    "recurrent_cells": lambda: Case(Cells(), floats(4, 4)),
    "time_first": lambda: Case(TimeFirst(), floats(6, 4)),
    "masked_attention": lambda: Case(MaskedAttention(), floats(6, 8)),
    "cross_attention": lambda: Case(CrossAttention(), floats(6, 5)),
    "torch_transformer": lambda: Case(EncoderDecoder(), floats(6, 8) + floats(5, 8)),
    "handwritten_attention": lambda: Case(HandwrittenAttention(), floats(6, 8)),
    "fused_attention": lambda: Case(FusedAttention(), floats(5, 8)),
    "linear_attention": lambda: Case(LinearAttention(), floats(5, 6)),
    "vision_transformer": lambda: Case(VisionTransformer(), images(8)),
    "sinusoids": lambda: Case(Sinusoids(), tokens(7, 20)),
    "soft_experts": lambda: Case(SoftExperts(), floats(6)),
    "top_experts": lambda: Case(TopExperts(), floats(6)),
    "causal_convolutions": lambda: Case(CausalConvolutions(), floats(4, 12)),
    "rms_norm_swiglu": lambda: Case(RootMeanSquare(), floats(5, 8)),
    "mean_of_words": lambda: Case(MeanOfWords(), tokens(7, 20)),
}
"""Builders by name."""
