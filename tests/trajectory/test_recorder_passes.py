"""Which passes a row counts, in loops that are not the plain one: every column against a copy of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trajectory.recorded import mlp

import covergraph as cg
from covergraph.errors import TrajectoryError

mse = nn.functional.mse_loss
Score = Callable[[Tensor], Tensor]
COLUMNS = ("loss", "samples", "epsilon", "pull", "pulls", "gradient", "move", "bias", "alpha", "frobenius", "top_upper")


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@cache
def graph() -> cg.ComputationGraph:
    """Of mlp(5, 4, 2): a trace takes longer than a run."""
    return cg.trace(mlp(5, 4, 2), torch.randn(2, 5))


class Truth:
    """The rows, from autograd.grad on copies of the network, which no recorder sees."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.rows: list[dict[str, float]] = []
        self.forget()

    def forget(self) -> None:
        """The gradients are zeroed."""
        self.sums: dict[str, Any] = {"loss": 0.0, "samples": 0, "epsilon": 0.0, "pulls": 0.0}
        self.gradient, self.pulled = torch.zeros(4), torch.zeros(5)

    def passes(self, x: Tensor, loss: Score) -> None:
        """loss(model(x)).backward() at the present weights."""
        twin, h = mlp(5, 4, 2), x.detach().clone().requires_grad_()
        twin.load_state_dict(self.model.state_dict())
        output = twin(h)
        value = loss(output)
        at_h, at_output, at_bias = torch.autograd.grad(value, (h, output, twin[0].bias))
        self.sums["loss"] += float(value.detach())
        self.sums["samples"] += len(x)
        self.sums["epsilon"] += float(at_output.norm(dim=1).sum())
        self.sums["pulls"] += float(at_h.norm(dim=1).sum())
        self.gradient, self.pulled = self.gradient + at_bias, self.pulled + at_h.sum(0)

    def steps(self, step: Callable[[], Any]) -> None:
        """The optimizer's step, which ends the row."""
        weight = self.model.get_parameter("0.weight").detach().clone()
        bias, rate = self.model.get_parameter("0.bias"), self.optimizer.param_groups[0]["lr"]
        before = bias.detach().clone()
        step()
        self.rows.append({
            **self.sums, "pull": float(self.pulled.norm()), "gradient": float(self.gradient.norm()), "alpha": rate,
            "move": float((bias.detach() - before).norm()), "bias": float(bias.detach().norm()),
            "frobenius": float(weight.norm()), "top_upper": float(torch.linalg.matrix_norm(weight, 2)),
        })
        self.forget()


def watch(
    loop: Callable[[nn.Module, Any, Truth], None], make: Callable[[nn.Module], Any] | None = None, **options: Any
) -> cg.Trajectory:
    """The trajectory of the loop, every column compared."""
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.05) if make is None else make(model)
    truth = Truth(model, optimizer)
    known = {"graph": graph(), "flush": 1, "strict": True} | options
    with cg.TrajectoryRecorder(model, optimizer, **known) as recorder:
        loop(model, optimizer, truth)
    found = recorder.trajectory
    for name in COLUMNS:
        expected = [row[name] for row in truth.rows]
        np.testing.assert_allclose(found[name], expected, rtol=1e-8, atol=1e-13, err_msg=name)
    return found


def data() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(3, 5), torch.randn(3, 2)) for _ in range(4)]


def trains(model: nn.Module, optimizer: Any, truth: Truth, x: Tensor, y: Tensor) -> None:
    """One step of the plain loop."""
    optimizer.zero_grad()
    truth.passes(x, lambda f: mse(f, y))
    mse(model(x), y).backward()
    truth.steps(optimizer.step)


def frozen_passes(model: nn.Module, optimizer: Any, truth: Truth, first: bool) -> None:
    """As a generator learns through a discriminator."""
    other = nn.Linear(5, 5)
    for x, y in data():
        for generates in (first, not first):
            if generates:
                model.requires_grad_(False)
                model(other(x)).square().sum().backward()
                model.requires_grad_(True)
            else:
                trains(model, optimizer, truth, x, y)


def passes_that_end_elsewhere(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """backward(inputs=...) on the input, or on other parameters, before, between and after what counts."""
    for x, y in data():
        optimizer.zero_grad()
        attacked = x.clone().requires_grad_()
        mse(model(attacked), y).backward(inputs=[attacked])
        truth.passes(x, lambda f, y=y: mse(f, y))
        mse(model(x), y).backward()
        mse(model(attacked), y).backward(inputs=[attacked])
        mse(model(x), y).backward(inputs=list(model[2].parameters()))
        truth.steps(optimizer.step)


def one_backward_of_both(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """One forward pass with a frozen layer and one without, in the same backward(); and one frozen after its pass."""
    for x, y in data():
        optimizer.zero_grad()
        model[0].requires_grad_(False)
        still = model(7 * x)
        model[0].requires_grad_(True)
        truth.passes(x, lambda f, y=y: mse(f, y))
        (mse(model(x), y) + 0 * still.sum()).backward()
        late = model(x).sum()
        model[0].bias.requires_grad_(False)
        late.backward()
        model[0].bias.requires_grad_(True)
        truth.steps(optimizer.step)


def retained(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """A graph that is differentiated twice counts its samples twice; with create_graph, too."""
    for x, y in data():
        optimizer.zero_grad(set_to_none=False)
        output = model(x)
        for score in (lambda f, y=y: mse(f, y), lambda f: f.square().sum()):
            truth.passes(x, score)
            score(output).backward(retain_graph=True, create_graph=y[0, 0] > 0)
        truth.steps(optimizer.step)
        model.zero_grad()


def groups_and_schedules(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """The learning rate is that of the bias's group, at the step."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    for x, y in data():
        trains(model, optimizer, truth, x, y)
        with torch.no_grad():
            model.eval()(torch.randn(9, 5))
        model.train()
        schedule.step()
        optimizer.zero_grad()


def passes_with_other_parameters(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """functional_call with what is not trained, and the transforms of torch.func, before, in between and within."""
    def call(parameters: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    for x, y in data():
        own = dict(model.named_parameters())
        others = {name: (p.detach() + 0.1).requires_grad_() for name, p in own.items()}
        call(others, x).backward()
        torch.func.vmap(torch.func.grad(call), in_dims=(None, 0))(own, x[:, None])
        torch.func.jacrev(lambda h: model(h))(x)
        optimizer.zero_grad()
        truth.passes(x, lambda f, y=y: mse(f, y))
        call(own, x)  # never differentiated
        (mse(model(x), y) + 0 * call(others, x)).backward()
        torch.func.hessian(lambda h, own=own: call(own, h))(x[:1])
        truth.steps(optimizer.step)


def weighted_losses(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """torch.autograd.backward of several losses, with weights of their own."""
    for x, y in data():
        optimizer.zero_grad()
        truth.passes(x, lambda f, y=y: 3 * mse(f, y))
        truth.passes(2 * x, lambda f: -f.sum())
        torch.autograd.backward([mse(model(x), y), model(2 * x).sum()], [torch.tensor(3.0), torch.tensor(-1.0)])
        truth.passes(x, lambda f: 0.5 * f.square().sum())
        model(x).square().sum().backward(torch.tensor(0.5))
        truth.steps(optimizer.step)


def empty_batches(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """No samples are seen, by a loss that reads the output."""
    for x, y in data():
        optimizer.zero_grad()
        truth.passes(x[:0], lambda f: f.sum())
        model(x[:0]).sum().backward()
        truth.steps(optimizer.step)
        trains(model, optimizer, truth, x, y)


def errors_that_the_loop_survives(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """In a backward pass, before and after the layer's gradient."""
    def fails(gradient: Tensor) -> None:
        raise ZeroDivisionError

    for x, y in data():
        for broken in (model[0].weight, model[2].weight):
            handle = broken.register_hook(fails)
            optimizer.zero_grad()
            with pytest.raises(ZeroDivisionError):
                mse(model(9 * x), y).backward()
            handle.remove()
        trains(model, optimizer, truth, x, y)


def frozen_at_first(model: nn.Module, optimizer: Any, truth: Truth) -> None:
    """The head is trained before the whole network is: rows begin with the first step that trains the layer."""
    for frozen in (True, False):
        model[0].requires_grad_(not frozen)
        for x, y in data():
            if frozen:
                optimizer.zero_grad()
                mse(model(x), y).backward()
                optimizer.step()
            else:
                trains(model, optimizer, truth, x, y)


LOOPS = {
    "generator first": lambda *known: frozen_passes(*known, first=True),
    "generator last": lambda *known: frozen_passes(*known, first=False),
    **{
        loop.__name__: loop for loop in (
            passes_that_end_elsewhere, one_backward_of_both, retained, groups_and_schedules,
            errors_that_the_loop_survives, frozen_at_first, passes_with_other_parameters, weighted_losses,
            empty_batches,
        )
    },
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_rows_count_what_trains_the_bias(name: str) -> None:
    def groups(model: nn.Module) -> torch.optim.Optimizer:
        own, other = list(model[0].parameters()), list(model[2].parameters())
        return torch.optim.SGD([{"params": own, "lr": 0.03}, {"params": other, "lr": 0.2}])

    found = watch(LOOPS[name], groups)
    assert np.all(found["residual"] < 1e-15) and found.setting.once and found.setting.plain


def test_a_pass_that_does_not_reach_the_input_leaves_lambda_open() -> None:
    """backward(inputs=[b]) makes no ∂ℓ/∂h: its sum would lack a part."""
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with cg.TrajectoryRecorder(model, optimizer, graph=graph()) as recorder:
        for only in ([model[0].bias], None):
            optimizer.zero_grad()
            model(torch.randn(2, 5)).sum().backward()
            model(torch.randn(2, 5)).sum().backward(inputs=only)
            optimizer.step()
    found = recorder.trajectory
    for name in ("pull", "pulls"):
        np.testing.assert_array_equal(np.isnan(found[name]), [True, False])
    np.testing.assert_allclose(found["epsilon"], 4 * np.sqrt(2))


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
