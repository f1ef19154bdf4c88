"""Which backward passes a row counts, in loops that are not the plain one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trajectory.beside import Truth, data, graph, watch
from trajectory.recorded import mlp

import covergraph as cg

mse = nn.functional.mse_loss


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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
