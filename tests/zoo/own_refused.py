"""Networks that have no graph per sample: each must be refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.entry import Case, floats, images


class Body(nn.Module):
    """A linear layer before and after a function that is the matter of the case."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def branch(h: Tensor) -> Tensor:
    """A choice that depends on the data."""
    return h.tanh() if h.sum() > 0 else h.relu()


def loop(h: Tensor) -> Tensor:
    """As many steps as the data ask for."""
    while h.abs().max() > 0.1:
        h = h / 2
    return h


def first_sample(h: Tensor) -> Tensor:
    """Every sample sees the first one."""
    return h - h[:1]


def normalized_over_batch(h: Tensor) -> Tensor:
    """Batch statistics, with two values per channel, so that even one sample has some."""
    return F.batch_norm(h.unflatten(1, (3, 2)), None, None, training=True).flatten(1)


def attention_over_samples(h: Tensor) -> Tensor:
    """Samples attend to each other."""
    return (h @ h.T).softmax(-1) @ h


def convolution(norm: nn.Module) -> nn.Module:
    """A small convolutional network with a norm in it."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def body(function: Callable[[Tensor], Tensor]) -> Callable[[], Case]:
    """The case of one function between two linear layers, in eval mode."""
    return lambda: Case(Body(function).eval(), floats(6))


CASES: dict[str, Callable[[], Case]] = {
    "batch_norm_without_statistics": lambda: Case(
        convolution(nn.BatchNorm2d(4, track_running_stats=False)).eval(), images(8)
    ),
    "functional_batch_norm": body(normalized_over_batch),
    "mean_over_batch": body(lambda h: h - h.mean(0)),
    "softmax_over_batch": body(lambda h: h.softmax(0)),
    "cumsum_over_batch": body(lambda h: h.cumsum(0)),
    "roll_over_batch": body(lambda h: h + h.roll(1, 0)),
    "first_sample": body(first_sample),
    "attention_over_samples": body(attention_over_samples),
    "global_maximum": body(lambda h: h / h.abs().max()),
    "whole_tensor_norm": body(lambda h: h / h.norm()),
    "dropout_in_eval": body(lambda h: F.dropout(h, 0.5, training=True)),
    "noise": body(lambda h: h + torch.randn_like(h)),
    "random_mask": body(lambda h: h * torch.bernoulli(torch.full_like(h, 0.5))),
    "data_dependent_branch": body(branch),
    "data_dependent_loop": body(loop),
    "data_dependent_shape": body(lambda h: h[h > 0].sum() + h),
    "number_of_samples": body(lambda h: h * h.shape[0]),
    "scalar_to_python": body(lambda h: h * float(h.abs().max())),
}
"""Builders by name."""
