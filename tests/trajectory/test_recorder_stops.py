"""What refuses within a training loop ends the recording, not the training; wrong arguments are refused before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from trajectory.beside import graph
from trajectory.recorded import batches, mlp, train
from trajectory.test_adapters import X, Y, working

import covergraph as cg
from covergraph.errors import TrajectoryError
from covergraph.trajectory.file import Store

mse = nn.functional.mse_loss


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@contextmanager
def warned(match: str) -> Iterator[None]:
    """Exactly one warning comes, and no error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    found = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(found) == 1 and match in found[0] and "the training goes on" in found[0], found


def full_disk(self: Store, content: bytes, rows: int) -> None:
    raise OSError(28, "No space left on device")


def hidden(model: nn.Sequential) -> None:
    """The loss reads the parameters alone."""
    model[0].bias.square().sum().backward()


def unbatched(model: nn.Sequential) -> None:
    """One sample without a batch dimension."""
    model(torch.randn(5)).sum().backward()


def broken(model: nn.Sequential) -> None:
    """A fault of our own, which no refusal foresees."""
    def fails(*args: Any) -> None:
        raise RuntimeError("a fault")

    torch.Tensor.view_as, kept = fails, torch.Tensor.view_as  # type: ignore[assignment,method-assign]
    try:
        model(torch.randn(2, 5, requires_grad=True)).sum().backward()
    finally:
        torch.Tensor.view_as = kept  # type: ignore[method-assign]


def replaced(model: nn.Sequential) -> None:
    """Another layer in the place of the watched one, which trains no more."""
    model[0] = nn.Linear(5, 4)
    model(torch.randn(2, 5)).sum().backward()


REFUSALS: dict[str, tuple[Callable[[nn.Sequential], None], str]] = {
    "hidden": (hidden, "none has come through"),
    "unbatched": (unbatched, "shape (5,), expected a batch in dim 0"),
    "replaced": (replaced, "'0.bias' is another parameter than when recording began"),
    "broken": (broken, "RuntimeError: a fault"),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_refusal_stops_the_recording_alone(name: str, in_file: bool, tmp_path: Path) -> None:
    """The weights are those of an unrecorded run; the rows before stay, with the reason, and nothing comes after."""
    odd, match = REFUSALS[name]
    steps, ends = batches(7, 2, (5,), 2), []
    for records in (False, True):
        torch.manual_seed(1)
        model = mlp(5, 4, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        path = tmp_path / "run" if in_file else None
        recorder = cg.TrajectoryRecorder(model, optimizer, path, flush=2 if in_file else 4, graph=graph())
        if records:
            with warned(match), recorder:
                loop(model, optimizer, steps, odd)
        else:
            loop(model, optimizer, steps, odd)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    found = recorder.trajectory
    assert len(found) == 4 and match in found.setting.stopped
    assert f"Recording stopped after 4 steps, before the training did: {found.setting.stopped}" in found.explain()
    assert recorder.state_dict() == {"step": 4, "stopped": found.setting.stopped}
    if in_file:
        assert cg.Trajectory.load(tmp_path / "run").setting == found.setting


def loop(model: Any, optimizer: Any, steps: Any, odd: Callable[[nn.Sequential], None]) -> None:
    train(model, optimizer, steps[:4], mse)
    optimizer.zero_grad()
    torch.manual_seed(2)
    odd(model)
    optimizer.step()
    train(model, optimizer, steps[4:], mse)


def test_strict_raises() -> None:
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True)
    with pytest.raises(TrajectoryError, match="none has come through"), recorder:
        loop(model, optimizer, batches(7, 2, (5,), 2), hidden)
    assert len(recorder.trajectory) == 4 and not recorder.trajectory.setting.stopped


def test_a_disk_that_is_full_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warned("lost"), cg.TrajectoryRecorder(model, optimizer, tmp_path / "run", flush=2, graph=graph()) as recorder:
        train(model, optimizer, batches(3, 2, (5,), 2), mse)
        monkeypatch.setattr(Store, "append", full_disk)
        train(model, optimizer, batches(5, 2, (5,), 2), mse)
        recorder.flush()
        assert "No space left" in recorder.state_dict()["stopped"]
    assert len(cg.Trajectory.load(tmp_path / "run")) == 2


def test_a_first_pass_that_refuses_leaves_files_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warned("exists, with 4 bytes"), cg.TrajectoryRecorder(model, optimizer, tmp_path / "run") as recorder:
        train(model, optimizer, batches(3, 2, (5,), 2), mse)
    assert (tmp_path / "run").read_text() == "mine"
    with pytest.raises(TrajectoryError, match=r"nothing is recorded, .*exists, with 4 bytes"):
        assert recorder.trajectory


def test_a_run_that_stopped_does_not_go_on(tmp_path: Path) -> None:
    """Rows are missing in between: its file stays as it is."""
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warned("none has come"), cg.TrajectoryRecorder(model, optimizer, tmp_path / "run", graph=graph()) as first:
        loop(model, optimizer, batches(7, 2, (5,), 2), hidden)
    before = (tmp_path / "run").read_bytes()
    second = cg.TrajectoryRecorder(model, optimizer, tmp_path / "run", graph=graph(), overwrite=True)
    with warned("had stopped recording after 4 steps (trajectory: '0.bias' has a gradient"), second:
        second.load_state_dict(first.state_dict())
        train(model, optimizer, batches(3, 2, (5,), 2), mse)
        assert second.state_dict()["step"] == 4
    assert (tmp_path / "run").read_bytes() == before


def test_a_layer_that_is_never_trained_is_said_at_the_end() -> None:
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model[0].requires_grad_(False)
    with warned("'0.bias' is frozen"), cg.TrajectoryRecorder(model, optimizer, graph=graph()):
        train(model, optimizer, batches(3, 2, (5,), 2), mse)


def test_errors_of_the_loop_pass_through_unchanged() -> None:
    class OwnError(Exception):
        pass

    model, error = mlp(5, 4, 2), OwnError("mine")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def closure() -> Tensor:
        raise error

    for fails in (lambda: optimizer.step(closure), closure):
        with pytest.raises(OwnError) as caught, cg.TrajectoryRecorder(model, optimizer, graph=graph()) as recorder:
            train(model, optimizer, batches(2, 2, (5,), 2), mse)
            fails()
        assert caught.value is error and not getattr(error, "__notes__", None)
        assert len(recorder.trajectory) == 2 and not recorder.trajectory.setting.stopped


def test_arguments_of_another_kind_are_refused_at_once() -> None:
    model: Any = mlp(5, 4, 2)
    sgd: Any = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, 1)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((model, [sgd, sgd]), {}, r"a list of SGD, SGD, expected one torch\.optim\.Optimizer"),
        ((model, schedule), {}, r"of type StepLR, expected one .*pass its \.optimizer"),
        ((sgd, model), {}, r"expected them the other way round"),
        ((model, None), {}, r"of type NoneType, expected one torch\.optim\.Optimizer"),
        ((model.state_dict(), sgd), {}, r"the model is of type OrderedDict, expected a torch\.nn\.Module"),
        ((model, sgd, 3), {}, r"path is of type int \(3\), expected a file's path"),
        ((model, sgd), {"layer": model[0]}, r"layer is of type Linear, expected the dotted name"),
        ((model, sgd), {"layer": "first"}, r"no module and no parameter 'first'.*: '0', '2'$"),
        ((model, sgd), {"subspace": [[1.0]]}, r"subspace is a list of list, expected a tensor"),
        ((model, sgd), {"output": 1.5}, r"output is of type float \(1\.5\), expected a key or an index"),
        ((model, sgd), {"flush": None}, "flush = None, expected a whole number"),
        ((model, sgd), {"every": True}, "every = True, expected a whole number"),
    ]
    for args, options, match in wrong:
        with pytest.raises(TrajectoryError, match=match):
            cg.TrajectoryRecorder(*args, **options)


def test_what_other_packages_wrap_around_an_optimizer_is_taken_off() -> None:
    class Wrapped(torch.optim.Optimizer):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def step(self, closure: Any = None) -> None:
            self.optimizer.step()

    model = mlp(5, 4, 2)
    optimizer = Wrapped(torch.optim.SGD(model.parameters(), 0.1))
    with cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True) as recorder:
        model(torch.randn(2, 5)).sum().backward()
        optimizer.step()
    assert recorder.trajectory["move"] > 0


REFUSED: list[tuple[int, dict[str, Any], str]] = [
    (2, {}, "2 optimizers"), (1, {"model": "absent"}, "no module 'absent'.*'net'"),
    (1, {"wrong": 1}, "argument 'wrong'"), (1, {"layer": "absent"}, "no parameter 'absent'"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("count", "options", "match"), REFUSED)
def test_lightning_fits_whatever_the_recorder_says(count: int, options: dict[str, Any], match: str) -> None:
    lightning = working("lightning.pytorch")
    from covergraph.adapters.lightning import TrajectoryCallback

    class Pair(lightning.LightningModule):  # type: ignore[misc,name-defined]
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(5, 4, 1)

        def training_step(self, batch: Any, index: int) -> None:
            for optimizer in self.optimizers() if count > 1 else [self.optimizers()]:
                optimizer.zero_grad()
                mse(self.net(batch[0]), batch[1]).backward()
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), 0.05) for layer in (self.net[0], self.net[2])[:count]]

    module, data = Pair(), torch.utils.data.TensorDataset(X, Y)
    before = module.net[0].weight.detach().clone()
    callback = TrajectoryCallback(**options)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[callback],
        enable_model_summary=False, accelerator="cpu",
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8))
    assert not torch.equal(module.net[0].weight, before)
    with pytest.raises(TrajectoryError, match=rf"nothing is recorded yet \(.*{match}"):
        assert callback.trajectory


def test_nans_count_as_seen() -> None:
    """A run that diverges is no refusal."""
    model = mlp(5, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer, graph=graph(), strict=True) as recorder:
        for _ in range(2):
            optimizer.zero_grad()
            (model(torch.randn(2, 5)).sum() * torch.nan).backward()
            optimizer.step()
    assert np.isnan(recorder.trajectory["epsilon"]).all() and (recorder.trajectory["samples"] == 2).all()


def exported(model: nn.Module, x: Tensor) -> None:
    torch.export.export(model, (x,), strict=False)  # the strict way compiles, and refuses hooks that are apart


def jitted(model: nn.Module, x: Tensor) -> None:
    torch.jit.trace(model, x)


def made(model: nn.Module, x: Tensor) -> None:
    make_fx(model)(x)


def faked(model: nn.Module, x: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model(mode.from_tensor(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*deprecated.*:FutureWarning")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("follow", [exported, jitted, made, faked])
def test_tracing_a_model_that_is_recorded(follow: Callable[[nn.Module, Tensor], None], first: bool) -> None:
    """Neither is the user's trace disturbed, nor does what passes in it count."""
    model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer, strict=True) as recorder:
        for t in range(3):
            if (t == 0) is first:
                follow(model, x)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert recorder.trajectory["samples"].tolist() == [3, 3, 3]
