"""Plain stochastic gradient descent, and the 0-1 error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.progress import track
from torch import nn
from torch.utils.data import TensorDataset

GRID = 2.0**-18
"""Weights are multiples of this while they are trained; it divides every float32 below 64."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, so that the order of its sums, and the last digits, do not depend on the cores.

    On networks this small more threads gain nothing, and on a busy machine they lose much.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def train(
    model: nn.Module,
    dataset: TensorDataset,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    decay: bool = False,
    progress: bool = True,
) -> nn.Module:
    """Train ``model`` in place on cross entropy and return it in eval mode.

    Plain SGD without momentum or weight decay, each epoch in an order drawn from ``seed``: the same start, data and
    seed give the same weights, on any processor: steps are made in double precision, and then the weights rounded to
    multiples of ``GRID``, which forgets in what order a processor adds. Without that, training can amplify the last
    digit up to the second. ``dataset`` holds inputs (n, ...) and labels (n,). The rate is ``lr`` throughout; with
    ``decay`` it is lr (1 - e / epochs) in epoch e = 0, 1, ...
    """
    inputs, labels = dataset.tensors
    inputs, own = inputs.double(), next(model.parameters()).dtype
    model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    order = torch.Generator().manual_seed(seed)
    model.train()
    for epoch in track(range(epochs), description=f"training {type(model).__name__}", disable=not progress):
        if decay:
            optimizer.param_groups[0]["lr"] = lr * (1 - epoch / epochs)
        for batch in torch.randperm(len(labels), generator=order).split(batch_size):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            round_to_grid(model)
    return model.to(own).eval()


@torch.no_grad()
def round_to_grid(model: nn.Module) -> None:
    """Round weights and running statistics to the nearest multiple of `GRID`."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.div_(GRID).round_().mul_(GRID)


def error(model: nn.Module, dataset: TensorDataset) -> float:
    """Return the share of ``dataset`` whose largest logit is not at the label, in [0, 1].

    The model is run in eval mode and its own mode is restored.
    """
    inputs, labels = dataset.tensors
    was_training = model.training
    model.eval()
    with torch.no_grad():
        wrong = model(inputs).argmax(dim=1) != labels
    model.train(was_training)
    return wrong.double().mean().item()
