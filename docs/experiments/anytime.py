"""What a time budget buys: a ResNet-18 on Fashion-MNIST, its bound against the seconds spent on measuring.

    python docs/experiments/anytime.py --samples 64 --budget 600

Writes docs/figures/anytime.png and the curve, build/anytime/curve.csv. The trained weights stay in build/anytime.
The images are those of the Debian package dataset-fashion-mnist; without it, the digits of scikit-learn.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg
from covergraph.models import load_digits
from covergraph.models.training import error
from covergraph.values import Measurements

ROOT = Path(__file__).resolve().parents[2]
IMAGES = Path("/usr/share/datasets/fashion-mnist")
BUILD = ROOT / "build" / "anytime"
FIGURE = ROOT / "docs" / "figures" / "anytime.png"
TRAINED_ON, EPOCHS = 2048, 10


class Block(nn.Module):
    """Two convolutions beside a skip connection, as in torchvision's ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        result: Tensor = self.act2(h + self.skip(x))
        return result


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with one channel and ten classes, 11.2 million parameters, and a mean in its first pool.

    Maxima tie in the constant background of an image: there z would be 1 (Theorem 2').
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.AvgPool2d(2)
        )
        widths = (64, 64, 128, 256, 512)
        rows = [(widths[i + j], widths[i + 1], 1 + (i > 0 and j == 0)) for i in range(4) for j in range(2)]
        self.blocks = nn.Sequential(*(Block(*row) for row in rows))
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def images(name: str, count: int) -> TensorDataset:
    """The first images of a part of Fashion-MNIST, `name` being train or t10k; or digits."""
    if not IMAGES.exists():
        digits, held_out = load_digits()
        x, y = (digits if name == "train" else held_out).tensors
        return TensorDataset(nn.functional.interpolate(x[:count].reshape(-1, 1, 8, 8), 28), y[:count])
    files = (IMAGES / f"{name}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
    parts = [gzip.decompress(file.read_bytes()) for file in files]
    x, y = (np.frombuffer(part, np.uint8, offset=16 - 8 * i) for i, part in enumerate(parts))
    pixels = torch.from_numpy(x.copy()).reshape(-1, 1, 28, 28)[:count].float() / 255
    return TensorDataset((pixels - 0.286) / 0.353, torch.from_numpy(y.copy())[:count].long())


def trained(dataset: TensorDataset, epochs: int) -> tuple[nn.Module, nn.Module]:
    """The network before and after training; its weights are kept in build/anytime."""
    torch.manual_seed(0)
    before, model = ResNet18(), ResNet18()
    model.load_state_dict(before.state_dict())
    kept = BUILD / f"weights-{len(dataset)}-{epochs}.pt"
    if kept.exists():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return before.eval(), model.eval()
    steps = epochs * -(-len(dataset) // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    for epoch in range(epochs):
        for x, y in DataLoader(dataset, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: training error {error(model, dataset):.4f}", flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), kept)
    return before.eval(), model.eval()


def picture(found: Measurements, name: str, parameters: int) -> Figure:
    """C/sqrt(n) against seconds, on a logarithmic scale, with the number of pairs measured by then."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    seconds, _, normalized, refined = zip(*found.curve, strict=True)
    axes.step(seconds, normalized, where="post", color="#1f4e79")
    axes.plot(seconds, normalized, ".", color="#1f4e79")
    shown = sorted({0, *(int(i) for i in np.linspace(0, len(found.curve) - 1, 6))})
    for i in shown:
        axes.annotate(f"{refined[i]}", (seconds[i], normalized[i]), xytext=(3, 5), textcoords="offset points")
    axes.set_yscale("log")
    axes.set_xlim(0, 1.06 * seconds[-1])
    axes.margins(y=0.1)
    axes.set_xlabel("seconds")
    axes.set_ylabel("$C/\\sqrt{n}$")
    axes.set_title(
        f"{name}: {parameters / 1e6:.1f} million parameters, n = {found.n}\n"
        f"numbers: how many of {len(found.pairs)} pairs were measured, the others filled in",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64, help="n, the first of the training images")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds")
    options = parser.parse_args()
    training = images("train", TRAINED_ON)
    before, model = trained(training, EPOCHS)
    held_out = images("t10k", 2000)
    print(f"training error {error(model, training):.4f}, test error {error(model, held_out):.4f}")
    bound = cg.derive(cg.augment(cg.trace(model, training.tensors[0][:2])))
    print(bound, flush=True)
    loader = DataLoader(TensorDataset(*(part[: options.samples] for part in training.tensors)), batch_size=64)
    found = cg.measure(bound, model, loader, init_model=before, budget=options.budget, progress=False)
    BUILD.mkdir(parents=True, exist_ok=True)
    lines = ["seconds,value,normalized,refined", *(",".join(f"{x:.6g}" for x in point) for point in found.curve)]
    (BUILD / "curve.csv").write_text("\n".join(lines) + "\n")
    data = "Fashion-MNIST" if IMAGES.exists() else "digits"
    picture(found, f"ResNet-18 on {data}", sum(p.numel() for p in model.parameters())).savefig(FIGURE, dpi=130)
    for point in found.curve[:: max(1, len(found.curve) // 16)] + found.curve[-1:]:
        print(f"{point.seconds:7.0f} s  {point.refined:5d} pairs  C/sqrt(n) {point.normalized:.3e}")
    print(found, bound.evaluate(found), FIGURE, sep="\n")


if __name__ == "__main__":
    main()
