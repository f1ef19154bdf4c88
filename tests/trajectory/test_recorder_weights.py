"""The weights that are watched: replaced, trained by others, changed unseen, converted, and older than a step."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from trajectory.beside import graph
from trajectory.recorded import ScaleShift, mlp
from trajectory.test_recorder_stops import warned

import covergraph as cg
from covergraph.errors import ParameterError, TrajectoryError
from covergraph.trajectory.tally import Tally

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.01)


def step(model: nn.Module, optimizer: Any, x: Tensor = X) -> None:
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def another(model: Any, optimizer: Any) -> None:
    """A second optimizer takes over."""
    second = torch.optim.Adam(model.parameters(), 0.01)
    step(model, second)
    step(model, second)


def made_again(model: Any, optimizer: Any) -> None:
    """The same optimizer, made anew."""
    step(model, sgd(model))


def another_layer(model: Any, optimizer: Any) -> None:
    """A new first layer, which a second optimizer trains."""
    model[0] = nn.Linear(5, 4)
    step(model, sgd(model))


def another_group(model: Any, optimizer: Any) -> None:
    """A new first layer, which another group of the optimizer trains."""
    model[0] = nn.Linear(5, 4)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    step(model, optimizer)


def another_weight(model: Any, optimizer: Any) -> None:
    """The bias stays, W is replaced."""
    model[0].weight = nn.Parameter(torch.randn(4, 5))
    optimizer.add_param_group({"params": [model[0].weight]})
    step(model, optimizer)


def by_hand(model: Any, optimizer: Any) -> None:
    """A new first layer, which nobody's step() trains."""
    model[0] = nn.Linear(5, 4)
    model(X).square().sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.01 * p.grad


ELSEWHERE: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "another optimizer": (another, "a step of Adam, not of the SGD, has changed '0.bias'"),
    "made again": (made_again, "a step of another SGD has changed '0.bias'"),
    "another layer": (another_layer, "'0.bias' is another parameter"),
    "another group": (another_group, "'0.bias' is another parameter"),
    "another weight": (another_weight, "'0.weight' is another parameter"),
    "by hand": (by_hand, "'0.bias' is another parameter"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("strict", [False, True])
def test_training_that_goes_on_elsewhere_is_said(name: str, strict: bool) -> None:
    """Also in the middle of a block, and where the optimizer that was given steps no more."""
    odd, match = ELSEWHERE[name]
    model = mlp(5, 4, 2)
    optimizer = sgd(model)
    with pytest.raises(TrajectoryError, match=match) if strict else warned(match):  # noqa: SIM117
        with cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=strict) as recorder:
            step(model, optimizer)
            odd(model, optimizer)
    assert len(recorder.trajectory) == 1 and (match in recorder.trajectory.setting.stopped) is not strict


def test_a_bias_that_is_trained_without_a_step_is_said() -> None:
    model = mlp(5, 4, 2)
    with warned("no step of the SGD was seen"), cg.TrajectoryRecorder(model, sgd(model), graph=graph()):
        model(X).sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad


class Around(torch.optim.Optimizer):
    """Steps by another one that holds the same parameters, and moves on from there."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base_optimizer = base

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.base_optimizer.step()
        for p in self.param_groups[0]["params"]:
            p.mul_(0.9)


@pytest.mark.parametrize("watched", ["inner", "outer"])
def test_optimizers_that_step_by_others_and_those_of_other_layers_are_none(watched: str) -> None:
    model, other = mlp(5, 4, 2), mlp(5, 4, 2)
    inner = sgd(model)
    outer, last = Around(inner), torch.optim.SGD(model[2].parameters(), 0.01)
    with cg.TrajectoryRecorder(
        model, inner if watched == "inner" else outer, graph=graph(), strict=True
    ) as recorder:
        for _ in range(3):
            step(model, outer)
            step(other, sgd(other))
            last.step()
    assert len(recorder.trajectory) == 3


class ByHand(nn.Module):
    """A linear layer in a forward() of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.W, self.b)


def test_a_recorder_that_begins_later_finds_the_parameters() -> None:
    model = ByHand()
    optimizer = sgd(model)
    with cg.TrajectoryRecorder(model, optimizer, strict=True) as first:
        step(model, optimizer)
        with cg.TrajectoryRecorder(model, optimizer, strict=True) as second:
            step(model, optimizer)
            step(model, optimizer)
    assert len(first.trajectory) == 3 and len(second.trajectory) == 2
    np.testing.assert_array_equal(first.trajectory["pull"][1:], second.trajectory["pull"])


def passes_of_a_graph(model: nn.Module, optimizer: Any) -> None:
    """The second loss of one forward pass is differentiated after a step, which nothing else on the graph forbids."""
    out = model(X)
    out.sum().backward(retain_graph=True)
    optimizer.step()
    optimizer.zero_grad()
    out.square().sum().backward()
    optimizer.step()
    step(model, optimizer)


OLDER: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Linear(5, 2)),
    "itself": lambda: nn.Linear(5, 2),
    "by hand": lambda: ByHand(),
    "scale": lambda: ScaleShift(5),
}


@pytest.mark.parametrize("name", OLDER)
def test_a_graph_that_is_older_than_a_step_may_be_differentiated(name: str) -> None:
    """The run is that without a recorder; its ∂ℓ/∂h is not known, and the row is of another W."""
    ends = []
    for records in (False, True):
        torch.manual_seed(0)
        model = OLDER[name]()
        optimizer = sgd(model)
        if records:
            with cg.TrajectoryRecorder(model, optimizer, strict=True) as recorder:
                passes_of_a_graph(model, optimizer)
        else:
            passes_of_a_graph(model, optimizer)
        ends.append([p.detach().clone() for p in model.parameters()])
        assert all(isinstance(p, nn.Parameter) for m in model.modules() for p in m._parameters.values())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    found = recorder.trajectory
    assert list(np.isnan(found["pull"])) == [False, True, False] and found.setting.once is False


def test_a_layer_that_fails_gets_its_weight_back() -> None:
    model = mlp(5, 4, 2)
    optimizer, weight = sgd(model), model[0].weight
    with cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True) as recorder:
        step(model, optimizer)
        with pytest.raises(RuntimeError, match="must have the same dtype"):
            model(X.double())
        assert model[0].weight is weight
        step(model, optimizer)
    assert len(recorder.trajectory) == 2


@pytest.mark.parametrize("way", ["data", "no_grad"])
def test_passes_at_other_weights_are_said_however_these_were_changed(way: str) -> None:
    """As a sharpness-aware loop does: the gradient is one at b^t + e."""
    model = mlp(5, 4, 2)
    optimizer = sgd(model)

    @torch.no_grad()
    def moves(by: float) -> None:  # not at all by 0, which versions count
        for p in model.parameters() if by else ():
            (p.data if way == "data" else p).add_(by)

    runs = {}
    for perturbs in (False, True):
        with cg.TrajectoryRecorder(model, optimizer, graph=graph(), every=2, strict=True) as recorder:
            for t in range(2):
                moves(0.5 * perturbs * t)
                optimizer.zero_grad()
                model(X).square().sum().backward()
                moves(-0.5 * perturbs * t)
                optimizer.step()
        runs[perturbs] = recorder.trajectory.setting.once, recorder.state_dict()["setting"]["once"]
    assert runs == {False: (True, True), True: (False, False)}


def test_an_optimizer_that_moves_data_before_its_closure_is_refused() -> None:
    class Sharpness(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                p.data.add_(0.01)
            with torch.enable_grad():
                closure()
            for p in self.param_groups[0]["params"]:
                p.data.sub_(0.01)
            return super().step()

    model = mlp(5, 4, 2)
    optimizer = Sharpness(model.parameters(), 0.1)
    with pytest.raises(TrajectoryError, match="before it ran its closure"), \
            cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True):
        model(X).sum().backward()
        optimizer.step(lambda: model(X).sum().backward())


class Twice(nn.Module):
    """A layer that runs three times in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()) + self.b(self.a(x + 1).tanh()) + self.b(self.a(x - 1).sigmoid())


@pytest.mark.parametrize("casts", [False, True])
def test_what_stands_in_for_the_weight_changes_no_bit(casts: bool) -> None:
    """Under autocast, too, which keeps its casts of parameters for all passes of a step; with two recorders."""
    ends, kept = [], (dict(_global_optimizer_pre_hooks), dict(_global_optimizer_post_hooks))
    for records in (0, 1, 2):
        torch.manual_seed(0)
        model = Twice()
        optimizer = sgd(model)
        with ExitStack() as stack:
            for _ in range(records):
                stack.enter_context(cg.TrajectoryRecorder(model, optimizer, layer="a", strict=True))
            for _ in range(4):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=casts):
                    loss = model(X).float().square().sum() + model(2 * X).float().square().sum()
                loss.backward()
                optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    assert kept == (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)


def test_a_recorder_that_has_stopped_leaves_no_hook_on_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that stops within a backward pass."""
    model = mlp(5, 4, 2)
    optimizer = sgd(model)

    def fails(*args: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Tally, "add_gradient", fails)
    with warned("a fault"), cg.TrajectoryRecorder(model, optimizer, graph=graph()):
        step(model, optimizer)
        assert not model[0].bias._backward_hooks and not model[0].bias._post_accumulate_grad_hooks
        step(model, optimizer)


CONVERSIONS: dict[str, Callable[[nn.Module], Any]] = {
    "double": lambda model: model.double(), "bfloat16": lambda model: model.bfloat16(),
    "meta": lambda model: model.to("meta"),
}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("where", ["between", "before the step"])
@pytest.mark.parametrize("layer", ["0", "0.bias"])
def test_a_model_that_is_converted_within_is_said(name: str, where: str, layer: str) -> None:
    model = mlp(5, 4, 2)
    optimizer = sgd(model)
    match = "'0.bias' is (float64|bfloat16) (4,) on cpu by now, expected float32 (4,) on cpu"
    match = "'0.bias' is another parameter" if name == "meta" else match  # there torch makes new ones
    with pytest.warns(RuntimeWarning, match=match.replace("(4,)", r"\(4,\)")) as caught, \
            cg.TrajectoryRecorder(model, optimizer, graph=graph(), layer=layer) as recorder:
        step(model, optimizer)
        if where == "before the step":
            model(X).sum().backward()
        CONVERSIONS[name](model)
        if where == "before the step":
            optimizer.step()
        for _ in range(2):
            step(model, optimizer, X.to(model[0].weight))
    assert len(caught) == 1 and len(recorder.trajectory) == 1


def test_a_model_that_stays_where_it_is_goes_on() -> None:
    model = mlp(5, 4, 2)
    optimizer = sgd(model)
    with cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True) as recorder:
        step(model, optimizer)
        model.float().to("cpu")
        copy.deepcopy(model).double()
        step(model, optimizer)
        with torch.no_grad():
            model.bfloat16()(X.bfloat16())
        model.float()
        step(model, optimizer)
        model.half()  # to be saved
    assert len(recorder.trajectory) == 3


def test_a_path_where_nothing_can_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    model = mlp(5, 4, 2)
    for path, match in (
        (tmp_path, "it is a folder"), ("", "it is a folder"), (tmp_path / "file" / "run", "file is no folder"),
        (tmp_path / "file" / "below" / "run", "file is no folder"), (tmp_path / "pipe", "it is no file"),
        ("a\0b", "null character"),
    ):
        with pytest.raises(ParameterError, match=match):
            cg.TrajectoryRecorder(model, sgd(model), path)
    cg.TrajectoryRecorder(model, sgd(model), tmp_path / "file")
    cg.TrajectoryRecorder(model, sgd(model), tmp_path / "new" / "run")
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "new").exists()


def test_a_scale_in_a_module_of_its_own_is_watched_as_before() -> None:
    model = nn.Sequential(ScaleShift(5), nn.Linear(5, 1))
    optimizer = sgd(model)
    with cg.TrajectoryRecorder(model, optimizer, strict=True) as recorder:
        step(model, optimizer)
    assert np.isfinite(recorder.trajectory["pull"]).all()


def by_data(model: nn.Module) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad.data.zero_()


def by_others(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)


def in_place(model: nn.Module) -> None:
    model.zero_grad(set_to_none=False)


@pytest.mark.parametrize("zero", [by_data, by_others, in_place])
def test_gradients_that_are_zeroed_leave_no_trace(zero: Callable[[nn.Module], None]) -> None:
    """However they are: neither before another pass, nor right before a step."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = sgd(model)
    with cg.TrajectoryRecorder(model, optimizer, strict=True) as recorder:
        model(X).square().sum().backward()
        zero(model)
        loss = model(X[:2]).square().sum()
        loss.backward()
        optimizer.step()
        zero(model)
        model(X).square().sum().backward()
        zero(model)
        optimizer.step()
    run = recorder.trajectory
    assert run["samples"].tolist() == [2, 0] and run["gradient"][1] == 0 and run["loss"][0] == loss.item()
    assert max(run["residual"]) < 1e-7


def test_gradients_that_are_zero_count() -> None:
    """Dead units have such gradients, also where clipping changes them in place."""
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.constant_(model[0].bias, -100)  # type: ignore[arg-type]
    optimizer = sgd(model)
    with cg.TrajectoryRecorder(model, optimizer, strict=True) as recorder:
        for x in X.split(1):
            model(x).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
    assert recorder.trajectory["samples"].tolist() == [3] and recorder.trajectory["gradient"].tolist() == [0]
