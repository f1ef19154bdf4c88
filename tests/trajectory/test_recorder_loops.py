"""The recorder in loops that are not the plain one, and around models that are not what they seem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trajectory.recorded import Case, batches, mlp, recorded, train

import covergraph as cg
from covergraph.errors import TrajectoryError
from covergraph.trajectory import spectrum, theorem1
from covergraph.trajectory.file import Store
from covergraph.trajectory.trajectory import COLUMNS

mse = nn.functional.mse_loss
STEPS = batches(8, 1, (5,), 1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.05)


def run(model: nn.Module, loop: Callable[..., None] | None = None, **options: Any) -> cg.Trajectory:
    """A recorded run of `loop(model, optimizer)`, or of the plain loop on STEPS; what refuses is raised."""
    optimizer = sgd(model)
    with cg.TrajectoryRecorder(model, optimizer, strict=True, **options) as recorder:
        if loop is None:
            train(model, optimizer, STEPS, mse)
        else:
            loop(model, optimizer)
    return recorder.trajectory


@cache
def graph() -> cg.ComputationGraph:
    """Of mlp(5, 4, 1): a trace takes longer than a run."""
    return cg.trace(mlp(5, 4, 1), torch.randn(2, 5))


def agree(found: cg.Trajectory, expected: cg.Trajectory) -> None:
    for column in COLUMNS:
        np.testing.assert_array_equal(found[column], expected[column], err_msg=column)


def test_steps_that_are_skipped_leave_no_trace_where_zero_grad_comes_after_the_forward_pass() -> None:
    model = mlp(5, 4, 1)
    expected = recorded(Case(model, STEPS), flush=100)

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            for skipped in (True, False):
                loss = mse(model(torch.randn(1, 5) if skipped else x), y)
                optimizer.zero_grad()
                loss.backward()
                if not skipped:
                    optimizer.param_groups[0]["lr"] = 0.1
                    optimizer.step()

    agree(run(copy.deepcopy(model), loop), expected)


@pytest.mark.parametrize("to_none", [True, False])
def test_clipped_gradients_survive_another_forward_pass(to_none: bool) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            optimizer.zero_grad(set_to_none=to_none)
            mse(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            (0 * model(torch.ones(1, 5))).sum().backward()
            optimizer.step()

    found = run(mlp(5, 4, 1), loop)
    np.testing.assert_array_equal(found["samples"], 2)
    assert (found["gradient"] > 0).all() and theorem1(found).lower is None


def test_gradients_that_are_zeroed_before_the_step_are_none() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for t, ((x, y),) in enumerate(STEPS):
            optimizer.zero_grad()
            mse(model(x), y).backward()
            if t % 2:
                optimizer.zero_grad()
            optimizer.step()

    found = run(mlp(5, 4, 1), loop)
    np.testing.assert_array_equal(found["samples"], [1, 0] * 4)
    np.testing.assert_array_equal(found["gradient"][1::2], 0)
    assert theorem1(found).lower is not None


def test_the_input_is_that_of_the_pass_that_trains() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            optimizer.zero_grad()
            output, other = model(x), model(torch.full((1, 5), 9.0))
            mse(output, y + 0 * other.detach()).backward()
            optimizer.step()

    sizes = [float(x.norm()) for ((x, _),) in STEPS]
    for every in (1, 3):
        np.testing.assert_allclose(run(mlp(5, 4, 1), loop, every=every)["input"], sizes, rtol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_passes_are_counted_once(reentrant: bool) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            optimizer.zero_grad()
            given = (x.clone().requires_grad_() * k for k in (1, 2))
            one, two = (checkpoint(model, h, use_reentrant=reentrant) for h in given)
            (mse(one, y) + mse(two, y)).backward()
            optimizer.step()

    def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            optimizer.zero_grad()
            (mse(model(x), y) + mse(model(x * 2), y)).backward()
            optimizer.step()

    model = mlp(5, 4, 1)
    found, expected = run(copy.deepcopy(model), loop), run(model, plain)
    for column in ("loss", "samples", "epsilon", "pull", "pulls", "gradient", "move", "input"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-5, err_msg=column)
    assert found.setting.once


@pytest.mark.parametrize("inside", [True, False])
def test_autocast_is_no_exact_layer(inside: bool) -> None:
    """W is rounded to bfloat16, which the spectrum of W does not know: nothing is stated, for shared biases, too."""
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = mse(model(x).float(), y)
                loss.backward()
                if inside:
                    optimizer.step()
            if not inside:
                optimizer.step()

    convolution = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(8, 1))
    for model in (mlp(5, 4, 1), convolution):
        found = run(model, loop)
        assert found.setting.identity is not None and found.setting.identity > 1e-3
        assert theorem1(found).instances == 0


def test_a_step_within_a_step_is_one_step() -> None:
    class Projected(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if closure is None and self.failing:
                self.failing = False
                raise ZeroDivisionError
            result = super().step(closure)
            with torch.no_grad():
                self.param_groups[0]["params"][1].mul_(0.5)
            return result

        failing = True

    model = mlp(5, 4, 1)
    optimizer = Projected(model.parameters(), 0.05)
    after = []
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        for ((x, y),) in STEPS:
            optimizer.zero_grad()
            mse(model(x), y).backward()
            try:
                optimizer.step()
            except ZeroDivisionError:
                continue
            after.append(float(model[0].bias.detach().norm()))
    np.testing.assert_allclose(recorder.trajectory["bias"], after)
    np.testing.assert_array_equal(recorder.trajectory["samples"], 1)
    assert len(after) == 7


def test_batch_norm_that_trains_only_later_is_seen() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model.eval()(torch.randn(3, 5))
        train(model.train(), optimizer, batches(3, 3, (5,), 1), mse)
        model.eval()

    setting = run(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), loop).setting
    assert setting.mixing is True and setting.piecewise is False


class Trained(nn.Module):
    """A network that computes something else in train mode, by no module that is known for it."""

    def __init__(self, change: Callable[[Tensor], Tensor], early: bool) -> None:
        super().__init__()
        self.first, self.last, self.change, self.early = nn.Linear(5, 4), nn.Linear(4, 1), change, early

    def forward(self, x: Tensor) -> Tensor:
        change = self.change if self.training else nn.Identity()
        z = self.first(change(x) if self.early else x)
        return self.last(torch.relu(z if self.early else change(z)))


def test_what_train_mode_adds_to_the_graph_is_seen() -> None:
    def dropout(x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)

    assert run(Trained(dropout, early=True)).setting.isometric is False
    assert run(nn.Sequential(nn.Dropout(0.5), *mlp(5, 4, 1))).setting.isometric is False
    mixing = run(Trained(lambda z: z - 2 * z.mean(0), early=False)).setting
    assert (mixing.mixing, mixing.piecewise, mixing.isometric) == (None, None, True)
    with pytest.raises(TrajectoryError, match="functional dropout"):
        run(Trained(dropout, early=False), product=1)
    same = run(Trained(nn.Identity(), early=False), product=1).setting
    assert (same.mixing, same.piecewise, same.isometric) == (False, True, True)


def test_hooks_that_collect_see_the_passes_of_the_loop_alone() -> None:
    seen: list[Tensor] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for ((x, y),) in STEPS:
            optimizer.zero_grad()
            (mse(model(x), y) + 0.1 * seen[-1].sum()).backward()
            optimizer.step()

    model = mlp(5, 4, 1)
    handle = model[1].register_forward_hook(lambda module, args, result: seen.append(result))
    run(model, loop)
    assert len(seen) == len(STEPS) and list(model[1]._forward_hooks) == [handle.id]


def test_a_bias_of_two_layers_is_said() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 2), nn.ReLU(), nn.Conv1d(2, 2, 2), nn.Flatten(), nn.Linear(4, 1))
    model[2].bias = model[0].bias
    found = run(model, lambda m, o: train(m, o, batches(3, 1, (2, 4), 1), mse))
    assert found.setting.once is False and theorem1(found).instances == 0


def refused(model: nn.Module, x: Tensor, match: str, **options: Any) -> None:
    optimizer = sgd(model)
    with pytest.raises(TrajectoryError, match=match), cg.TrajectoryRecorder(
        model, optimizer, strict=True, **options
    ):
        model(x).abs().sum().backward()
        optimizer.step()


class Outcome(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.change = nn.Linear(5, 1), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.first(x))


def test_refusals_say_what_to_do() -> None:
    refused(mlp(5, 4, 5), torch.randn(5), r"shape \(5,\), expected a batch in dim 0.*x\[None\]", layer="0")
    convolution = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(0), nn.Linear(8, 1))
    refused(convolution, torch.randn(1, 5), r"shape \(1, 5\), expected a batch in dim 0", layer="0")
    refused(Outcome(torch.squeeze), torch.randn(1, 5), r"squeeze\(-1\)", layer="first")
    refused(Outcome(lambda z: torch.complex(z, z)), torch.randn(2, 5), "view_as_real", layer="first")
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 1))
    refused(normed, torch.randn(1, 5), r"made of others.*: '2'$")
    refused(nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 1)), torch.randn(1, 5), "or name a layer with layer='...': '1'")
    refused(mlp(5, 4, 1), torch.randn(1, 5), "'1' is ReLU.*: '0', '2'$", layer="1")
    attending = nn.Sequential(nn.Embedding(5, 4), nn.TransformerEncoderLayer(4, 1, 8))
    refused(attending, torch.zeros(2, 3, dtype=torch.long), r"layer='\.\.\.': '1.linear1', '1.linear2'$")


def test_a_compiled_model_is_recorded() -> None:
    """torch.compile must not look into the hooks, and hooks that it does not see are said."""
    model = mlp(5, 4, 1)
    expected = run(copy.deepcopy(model))
    torch.compiler.reset()
    for given in ("compiled", "inner"):
        own = copy.deepcopy(model)
        compiled = torch.compile(own, backend="eager")
        found = run(compiled if given == "compiled" else own, lambda _, o, f=compiled: train(f, o, STEPS, mse))
        for column in ("loss", "samples", "epsilon", "pulls", "move", "input"):
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-5, err_msg=column)
        torch.compiler.reset()
    compiled(torch.randn(1, 5)).sum().backward()
    with pytest.raises(TrajectoryError, match=r"torch\.compiler\.reset"):
        run(compiled)
    torch.compiler.reset()


def resumed(path: Path, first: dict[str, Any], second: dict[str, Any], threshold: tuple[int, int]) -> cg.Trajectory:
    """A run that is stopped after 5 of 8 steps, goes on with other options, and keeps weights by other thresholds."""
    model = mlp(5, 4, 1)
    optimizer, before = sgd(model), spectrum.HISTORY
    try:
        spectrum.HISTORY = threshold[0]
        with cg.TrajectoryRecorder(model, optimizer, path, overwrite=True, graph=graph(), **first) as recorder:
            train(model, optimizer, STEPS[:5], mse)
            state = recorder.state_dict()
        spectrum.HISTORY = threshold[1]
        with cg.TrajectoryRecorder(model, optimizer, path, graph=graph(), strict=True, **second) as recorder:
            recorder.load_state_dict(state)
            train(model, optimizer, STEPS[5:], mse)
    finally:
        spectrum.HISTORY = before
    return recorder.trajectory


@pytest.mark.parametrize("threshold", [(10**6, 10**6), (10**6, 0), (0, 10**6), (0, 0)])
def test_a_run_resumes_with_another_flush(tmp_path: Path, threshold: tuple[int, int]) -> None:
    torch.manual_seed(1)
    expected = run(mlp(5, 4, 1))
    for first, second in ((6, 9), (9, 6), (3, 100)):
        torch.manual_seed(1)
        found = resumed(tmp_path / "run", {"flush": first}, {"flush": second}, threshold)
        for column in ("step", "loss", "pulls", "gradient", "move", "frobenius"):
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-5, err_msg=column)
        assert not np.isnan(found["top_upper"]).any()
    with pytest.raises(TrajectoryError, match=r"5 rows that are not written.*same flush, or a larger"):
        resumed(tmp_path / "run", {"flush": 9}, {"flush": 4}, threshold)


def test_every_may_change_when_a_run_resumes(tmp_path: Path) -> None:
    found = resumed(tmp_path / "run", {"every": 1}, {"every": 3}, (0, 0))
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(found["pulls"])), [0, 1, 2, 3, 4, 6])


def test_two_recorders_on_one_file_are_refused(tmp_path: Path) -> None:
    model, path = mlp(5, 4, 1), tmp_path / "run"
    optimizer = sgd(model)
    first = cg.TrajectoryRecorder(model, optimizer, path, flush=2, strict=True)
    second = cg.TrajectoryRecorder(model, optimizer, path, layer="2", flush=3, strict=True)
    with pytest.raises(TrajectoryError, match="something else writes to it; give each recorder a path"), first, second:
        train(model, optimizer, STEPS, mse)
    assert len(cg.Trajectory.load(path)) >= 2


def test_rows_that_could_not_be_written_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp(5, 4, 1)
    expected = run(copy.deepcopy(model), flush=3)
    optimizer, append, fails = sgd(model), Store.append, iter([True, True])

    def failing(self: Store, content: bytes, rows: int) -> None:
        if next(fails, False):
            raise TrajectoryError("no space")
        append(self, content, rows)

    monkeypatch.setattr(Store, "append", failing)
    with cg.TrajectoryRecorder(model, optimizer, tmp_path / "run", flush=3, strict=True) as recorder:
        for t, passes in enumerate(STEPS):
            if t not in (2, 3):
                train(model, optimizer, [passes], mse)
                continue
            with pytest.raises(TrajectoryError, match="no space"):
                train(model, optimizer, [passes], mse)
            if t == 3:
                optimizer.step()  # the failure came before the update
    agree(recorder.trajectory, expected)
