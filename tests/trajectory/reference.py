"""A slow training loop that fills trajectories as `COLUMNS` documents them.

autograd.grad and dense singular values at each step, numpy for everything else, no part of the recorder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from covergraph.trajectory.trajectory import COLUMNS, Layer, Moments, Setting, Trajectory

Loss = Callable[[Tensor, Tensor], Tensor]


class LocalBias(nn.Module):
    """A map without bias, and a bias for each entry of its output: an unshared first layer."""

    def __init__(self, map_: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.map, self.bias = map_, nn.Parameter(0.1 * torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) + self.bias


class TwoPaths(nn.Module):
    """x + g(x), a skip."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@dataclass
class Watch:
    """One watched layer, its rows, and what the last forward pass showed."""

    name: str
    module: nn.Module
    gain: str = "all rows"
    kind: str = "linear"
    first: bool = True
    rows: list[dict[str, float]] = field(default_factory=list)
    iterates: list[np.ndarray] = field(default_factory=list)
    h: Tensor | None = None
    z: Tensor | None = None
    passes: int = 0
    identity: float = 0.0
    g_b: np.ndarray = field(default_factory=lambda: np.zeros(0))
    g_z: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pulled: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shape: tuple[int, ...] = ()

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self.h, self.z, self.passes = args[0], out, self.passes + 1

    def weights(self) -> np.ndarray:
        """The dense matrix (outputs, inputs) of the layer on one sample, by its Jacobian."""
        assert self.h is not None
        at = self.h[0].detach()

        def one(h: Tensor) -> Tensor:
            return self.module.forward(h[None])[0].reshape(-1)

        return torch.func.jacrev(one)(at).reshape(-1, at.numel()).detach().double().numpy()


def train(
    model: nn.Module, names: list[str], batches: Sequence[tuple[Tensor, Tensor]], loss: Loss,
    optimizer: torch.optim.Optimizer, *, alphas: Sequence[float], plain: bool = True, reason: str = "",
    gain: str = "all rows", every: int = 1, flush: int = 3, last: str = "", kind: str = "linear",
    piecewise: bool | None = None, spoil: Callable[[nn.Module], None] | None = None,
) -> list[Trajectory]:
    """Train for one step a batch, at the rate of `alphas`, and return the trajectory of each named layer.

    `every`: pull is measured at every so many steps, else NaN. `spoil` is called between backward and step.
    """
    modules = dict(model.named_modules())
    watches = [Watch(name, modules[name], gain, kind, first=i == 0) for i, name in enumerate(names)]
    handles = [w.module.register_forward_hook(w.hook) for w in watches]
    starts = [_flat(w.module.bias) for w in watches]
    outputs = 1
    for t, ((x, y), alpha) in enumerate(zip(batches, alphas, strict=True)):
        x = x.clone().requires_grad_()
        for w in watches:
            w.passes = 0
        out = model(x)
        value = loss(out, y)
        outputs = out[0].numel()
        for w in watches:
            row = _gradients(w, out, value, measured=t % every == 0)
            row |= {"step": t, "loss": float(value.detach()), "alpha": alpha, "samples": len(x)}
            w.rows.append(row)
        matrices = [w.weights() for w in watches]
        for group in optimizer.param_groups:
            group["lr"] = alpha
        optimizer.zero_grad()
        value.backward()
        before = [_flat(w.module.bias) for w in watches]
        if spoil is not None:
            spoil(model)
        optimizer.step()
        for w, matrix, old, start in zip(watches, matrices, before, starts, strict=True):
            _moved(w, matrix, old, start, alpha, t % every == 0)
    for handle in handles:
        handle.remove()
    return [_trajectory(w, optimizer, plain, reason, outputs, last, flush, piecewise) for w in watches]


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().reshape(-1).numpy().copy()


def _gradients(w: Watch, out: Tensor, value: Tensor, measured: bool) -> dict[str, float]:
    """ε, pull, pulls, ‖∂ℓ/∂b‖ and ‖h‖, from one autograd.grad."""
    assert w.h is not None and w.z is not None
    g_out, g_h, g_z, g_b = torch.autograd.grad(value, (out, w.h, w.z, w.module.bias), retain_graph=True)
    per = g_h.detach().double().reshape(len(g_h), -1).numpy()
    w.g_b, w.g_z = _flat(g_b), g_z.detach().double().reshape(len(g_z), -1).numpy()
    w.pulled = per.sum(0)
    nan = float("nan")
    return {
        "epsilon": float(np.linalg.norm(g_out.detach().double().reshape(len(out), -1).numpy(), axis=1).sum()),
        "pull": float(np.linalg.norm(per.sum(0))) if measured else nan,
        "pulls": float(np.linalg.norm(per, axis=1).sum()) if measured else nan,
        "gradient": float(np.linalg.norm(w.g_b)),
        "input": float(np.linalg.norm(_flat(w.h))) if len(out) == 1 else nan,
    }


def _moved(w: Watch, matrix: np.ndarray, old: np.ndarray, start: np.ndarray, alpha: float, measured: bool) -> None:
    """The norms of the step just taken, and the singular values of the matrix before it."""
    new, g = _flat(w.module.bias), w.g_b
    values = _singular(matrix)
    total = w.g_z.sum(0)
    chosen = matrix if w.gain == "all rows" else matrix[total != 0]
    kept = _singular(chosen)
    bottom = float(kept[-1]) if len(kept) == len(chosen) > 0 else 0.0
    bottom = 0.0 if bottom <= 1e-12 * values[0] else bottom
    w.rows[-1] |= {
        "move": float(np.linalg.norm(new - old)), "residual": float(np.linalg.norm(new - old + alpha * g)),
        "distance": float(np.linalg.norm(new - start)), "bias": float(np.linalg.norm(new)),
        "frobenius": float(np.linalg.norm(matrix)), "top_lower": float(values[0]), "top_upper": float(values[0]),
        "bottom_lower": bottom, "bottom_upper": bottom, "log_product": float("nan"),
    }
    w.iterates.append(new)
    if len(g) == len(matrix) and measured and np.linalg.norm(g) > 1e-30:  # else it is all underflow
        scale = values[0] * np.linalg.norm(g)
        w.identity = max(w.identity, float(np.linalg.norm(matrix.T @ g - w.pulled) / scale))
    w.shape = matrix.shape


def _singular(matrix: np.ndarray) -> np.ndarray:
    """Singular values, NaN for those of a diverged run."""
    if not np.isfinite(matrix).all():
        return np.full(min(matrix.shape), np.nan)
    return np.linalg.svd(matrix, compute_uv=False) if len(matrix) else np.array([])


def _trajectory(
    w: Watch, optimizer: torch.optim.Optimizer, plain: bool, reason: str, outputs: int, last: str, flush: int,
    piecewise: bool | None,
) -> Trajectory:
    count = len(w.rows)
    stops = sorted({*range(flush, count, flush), count})
    parts = [np.array(w.iterates[a:b]) for a, b in zip([0, *stops[:-1]], stops, strict=True)]
    means = np.array([part.mean(0) for part in parts])
    scatters = np.array([((part - part.mean(0)) ** 2).sum() for part in parts])
    rows, inputs = w.shape
    shared = rows // len(w.iterates[0])
    layer = Layer(w.name, w.kind, f"{w.name}.weight", f"{w.name}.bias", inputs, rows, shared, w.gain)  # type: ignore[arg-type]
    setting = Setting(
        type(optimizer).__name__, plain, reason, outputs, last, isometric=w.first, piecewise=piecewise,
        once=w.passes == 1, mixing=False, identity=None if shared > 1 else w.identity,
        dtype=str(w.module.bias.dtype).removeprefix("torch."),
    )
    columns = {name: np.array([row[name] for row in w.rows], dtype=np.float64) for name in COLUMNS}
    return Trajectory(layer, setting, columns, Moments(np.array(stops, dtype=float), means, scatters))


def half_squared(out: Tensor, y: Tensor) -> Tensor:
    """½ Σ (f - y)², the paper's loss."""
    return 0.5 * ((out - y) ** 2).sum()


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=1.0, **options)


LOSSES: dict[str, Loss] = {
    "half squared": half_squared, "MSELoss": nn.MSELoss(), "BCE": nn.BCELoss(),
    "BCE with logits": nn.BCEWithLogitsLoss(),
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "leaky": nn.LeakyReLU}


def network(first: str, depth: int, activation: str, loss: str, outputs: int = 1) -> tuple[nn.Module, tuple[int, ...]]:
    """A net of `depth` layers, the first called "0", with a skip and pooling after it; and its input's shape.

    `first`: "square", "tall" (4 outputs of 6 inputs), "wide" (9 of 6), "convolution" (with unshared bias) or "shared".
    """
    act = ACTIVATIONS[activation]
    if first in ("convolution", "shared"):
        shape: tuple[int, ...] = (1, 4, 4)
        layer: nn.Module = nn.Conv2d(1, 1, 3, padding=1)
        if first == "convolution":
            layer = LocalBias(nn.Conv2d(1, 1, 3, padding=1, bias=False), (1, 4, 4))
        layers: list[nn.Module] = [layer, act(), nn.AvgPool2d(2), nn.Flatten()]
        width = 4
    else:
        shape, out = (6,), {"square": 6, "tall": 4, "wide": 9}[first]
        layers, width = [nn.Linear(6, out), act()], out
    for k in range(depth - 2):
        inner = nn.Sequential(nn.Linear(width, width), act())
        layers.append(TwoPaths(inner) if k % 2 else inner)
    if depth > 3 and width % 2 == 0:
        layers.append(nn.MaxPool1d(2))
        width //= 2
    layers.append(nn.Linear(width, outputs))
    return nn.Sequential(*layers, *([nn.Sigmoid()] if loss == "BCE" else [])), shape


def run(
    seed: int, first: str = "square", depth: int = 3, activation: str = "relu", loss: str = "half squared", *,
    steps: int = 7, rate: float = 0.05, batch: int = 1, outputs: int = 1, dtype: torch.dtype = torch.float64,
    gain: str = "all rows", every: int = 1, optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    **options: Any,
) -> Trajectory:
    """A random short run: data, weights and rates (within a factor of 4 of `rate`) by the seed."""
    torch.manual_seed(seed)
    model, shape = network(first, depth, activation, loss, outputs)
    model = model.to(dtype)
    label = torch.rand if loss.startswith("BCE") else torch.randn
    batches = [(torch.randn(batch, *shape, dtype=dtype), label(batch, outputs, dtype=dtype)) for _ in range(steps)]
    if loss.startswith("BCE"):
        batches = [(x, y.round()) for x, y in batches]
    alphas = [rate * float(r) for r in 4 ** (2 * torch.rand(steps) - 1)]
    return train(
        model, ["0"], batches, LOSSES[loss], optimizer(model), alphas=alphas, gain=gain, every=every,
        last="sigmoid" if loss == "BCE" else "linear", **options,
    )[0]
