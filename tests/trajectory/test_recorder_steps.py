"""Steps with closures and with gradient scalers, and those that have no row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trajectory.beside import Truth, data, graph, watch
from trajectory.recorded import mlp

import covergraph as cg
from covergraph.errors import TrajectoryError

mse = nn.functional.mse_loss


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ["lbfgs", "searching", "once", "nested"])
def test_of_a_closure_that_runs_again_the_first_run_counts(kind: str) -> None:
    class Searching(torch.optim.SGD):
        """Looks at the loss elsewhere before it moves, and moves twice."""

        def step(self, closure: Any = None) -> Any:
            with torch.enable_grad():
                first = closure()
            if kind == "searching":
                super().step()
                with torch.enable_grad():
                    closure()
            return super().step() or first

    def make(model: nn.Module) -> torch.optim.Optimizer:
        if kind == "lbfgs":
            return torch.optim.LBFGS(model.parameters(), 0.3, max_iter=3)
        return (torch.optim.SGD if kind == "once" else Searching)(model.parameters(), 0.05)

    def loop(model: nn.Module, optimizer: Any, truth: Truth) -> None:
        for t, (x, y) in enumerate(data()):
            truth.passes(x, lambda f, y=y: mse(f, y))

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = mse(model(x), y)
                loss.backward()
                return loss

            if t == 2:
                for fails in (lambda: 1 / 0, lambda run=closure: run() / "0"):
                    with pytest.raises((ZeroDivisionError, TypeError)):
                        optimizer.step(fails)
            truth.steps(lambda run=closure: optimizer.step(closure=run) if kind == "once" else optimizer.step(run))

    found = watch(loop, make)
    again = kind in ("lbfgs", "searching")
    assert found.setting.once and found.setting.closures is again and ("first run" in found.explain()) is again


def test_an_optimizer_that_moves_before_its_closure_is_refused() -> None:
    class Sharpness(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(0.01)
            with torch.enable_grad():
                closure()
            return super().step()

    def loop(model: nn.Module, optimizer: Any, truth: Truth) -> None:
        (x, y), *_ = data()
        mse(model(x), y).backward()
        optimizer.step(lambda: mse(model(x), y).backward())

    with pytest.raises(TrajectoryError, match="before it ran its closure"):
        watch(loop, lambda model: Sharpness(model.parameters(), 0.1))
    with pytest.raises(TrajectoryError, match="has not run its closure"):
        watch(lambda m, o, t: (m(torch.ones(1, 5)), o.step(lambda: None)), Idle)  # type: ignore[arg-type]


def test_gradients_that_no_backward_made_are_refused() -> None:
    """They are assigned, or the step is taken while they are made."""
    def assigned(model: nn.Module, optimizer: Any, truth: Truth) -> None:
        parameters = list(model.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(model(torch.ones(2, 5)).sum(), parameters), strict=True):
            p.grad = gradient
        optimizer.step()

    def inside(model: nn.Module, optimizer: Any, truth: Truth) -> None:
        model[0].bias.register_post_accumulate_grad_hook(lambda p: optimizer.step())
        model(torch.ones(2, 5)).sum().backward()

    for loop, match in ((assigned, "came neither by"), (inside, r"inside of backward\(\)")):
        with pytest.raises(TrajectoryError, match=match):
            watch(loop)


class Idle(torch.optim.SGD):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), 0.1)

    def step(self, closure: Any = None) -> None:
        return None


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scale", [1024.0, 1000.0])
def test_scaled_losses_are_divided_by_their_scale(fused: bool, scale: float) -> None:
    """Steps that a scaler skips, for a gradient was infinite, are no rows; the scale halves then, and grows later."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    turned = []

    def loop(model: nn.Module, optimizer: Any, truth: Truth) -> None:
        for t, (x, y) in enumerate(data()):
            if t in (1, 2):
                optimizer.zero_grad()
                scaler.scale(mse(model(x), y) * torch.inf).backward()
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
            truth.passes(x, lambda f, y=y: mse(f, y) / 2)
            (scaler.scale(mse(model(x), y)) / 2).backward()  # accumulated, and divided after it was scaled
            truth.passes(x[:1], lambda f: f.square().sum())
            scaler.scale(model(x[:1]).square().sum()).backward()
            if t == 3:
                scaler.unscale_(optimizer)
            turned.append(scaler.get_scale())
            truth.steps(lambda: scaler.step(optimizer))
            scaler.update()

    found = watch(loop, lambda model: torch.optim.SGD(model.parameters(), 0.05, fused=fused))
    assert turned[0] > turned[1] > turned[2] and turned[2] == turned[3]
    assert found.setting.scaled and "scale" in found.explain() and np.all(found["residual"] < 1e-8)
    assert not hasattr(torch.amp.GradScaler.scale, "_covergraph")


def test_a_scaled_loss_that_overflows_in_half_precision_is_known() -> None:
    """Its gradients are finite; the loss is the half precision number, off by 2^-11 of it at most."""
    model, x = mlp(5, 4, 2), torch.randn(3, 5)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 1e-6), torch.amp.GradScaler("cpu", init_scale=2.0**14)
    with cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True) as recorder:
        loss = 100 + model(x).square().sum()
        scaled = scaler.scale(loss.half().reshape(1))  # a loss without dimensions becomes a float
        scaled.backward()
        scaler.step(optimizer)
    assert scaled.isinf() and np.isfinite(recorder.trajectory["gradient"]).all()
    assert abs(recorder.trajectory["loss"][0] - float(loss.detach())) <= 2**-11 * float(loss.detach())


def test_two_scalers_in_one_pass_are_refused() -> None:
    scalers = [torch.amp.GradScaler("cpu", init_scale=s) for s in (2.0, 4.0)]

    def loop(model: nn.Module, optimizer: Any, truth: Truth) -> None:
        x = torch.randn(2, 5)
        sum(s.scale(model(x).sum()) for s in scalers).backward()

    with pytest.raises(TrajectoryError, match="two gradient scalers"):
        watch(loop)


class Inside(nn.Module):
    """The loss is made within, and what is returned is another tensor than the loss reads."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.change = mlp(5, 4, 2), change

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.body(x)
        return {"loss": z.square().sum(), "logits": self.change(z)}


@pytest.mark.parametrize("change", [torch.clone, torch.detach, torch.Tensor.float])
def test_an_output_that_the_loss_does_not_read_is_an_error(change: Callable[[Tensor], Tensor]) -> None:
    model = Inside(change)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def trains() -> None:
        model(torch.randn(2, 5))["loss"].backward()
        optimizer.step()

    options: dict[str, Any] = {"output": "logits", "layer": "body.0"}
    with (
        pytest.raises(TrajectoryError, match=r"none has come through .* output 'logits'"),
        cg.TrajectoryRecorder(model, optimizer, strict=True, **options),
    ):
        trains()
    with cg.TrajectoryRecorder(model.body, optimizer, graph=graph()) as recorder:  # the remedy
        trains()
    assert recorder.trajectory["epsilon"] > 0
