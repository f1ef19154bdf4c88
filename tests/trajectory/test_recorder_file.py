"""The file of a recorder: read again, cut short, damaged, and resumed with the same bits after a kill."""

from __future__ import annotations

import copy
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trajectory.recorded import batches, mlp, train

import covergraph as cg
from covergraph.errors import TrajectoryError
from covergraph.trajectory import file
from covergraph.trajectory.trajectory import COLUMNS, Trajectory

STEPS = 23


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@cache
def graph() -> cg.ComputationGraph:
    """Of the network of all loops here."""
    return cg.trace(mlp(4, 3, 5, 1), torch.randn(1, 4))


class Loop:
    """A run of `STEPS` steps that is the same whenever it is made, to be stopped and to go on."""

    def __init__(self, path: Path | None, **options: Any) -> None:
        torch.manual_seed(1)
        self.model = mlp(4, 3, 5, 1)
        self.steps = batches(STEPS, 1, (4,), 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.5)
        options = {"flush": 5, "graph": graph(), "strict": True} | options
        self.recorder = cg.TrajectoryRecorder(self.model, self.optimizer, path, **options)

    def run(self, start: int, stop: int) -> None:
        train(self.model, self.optimizer, self.steps[start:stop], nn.functional.mse_loss)

    def saved(self) -> io.BytesIO:
        parts = (self.model, self.optimizer, self.recorder)
        buffer = io.BytesIO()
        torch.save([part.state_dict() for part in parts], buffer)
        buffer.seek(0)
        return buffer

    def load(self, buffer: io.BytesIO) -> None:
        for part, state in zip((self.model, self.optimizer, self.recorder), torch.load(buffer), strict=True):
            part.load_state_dict(state)


def whole(path: Path | None, **options: Any) -> Trajectory:
    """An uninterrupted run."""
    loop = Loop(path, **options)
    with loop.recorder:
        loop.run(0, STEPS)
    return loop.recorder.trajectory


def same(one: Trajectory, other: Trajectory) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_the_file_holds_what_memory_holds(tmp_path: Path) -> None:
    written, kept = whole(tmp_path / "deep" / "run"), whole(None)
    same(written, kept)
    assert (written.layer, written.setting) == (kept.layer, kept.setting)
    np.testing.assert_array_equal(written.moments.means, kept.moments.means)
    same(file.load(tmp_path / "deep" / "run"), kept)


def test_what_was_flushed_can_be_read_during_the_run(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "run")
    with loop.recorder as recorder:
        loop.run(0, 8)
        assert len(file.load(tmp_path / "run")) == len(recorder.trajectory) == 5
        recorder.flush()
        assert len(recorder.trajectory) == 8
        loop.run(8, STEPS)
    for name in ("step", "loss", "pull", "gradient", "move", "distance"):
        np.testing.assert_array_equal(recorder.trajectory[name], whole(None)[name])


def test_a_file_cut_short_anywhere_gives_the_rows_before(tmp_path: Path) -> None:
    full = whole(tmp_path / "run")
    content, lengths = (tmp_path / "run").read_bytes(), set()
    for size in range(1, len(content), 37):
        (tmp_path / "cut").write_bytes(content[:size])
        try:
            found = file.load(tmp_path / "cut")
        except TrajectoryError as error:
            assert "holds no header" in str(error)
        else:
            lengths.add(len(found))
            prefix(found, full)
    assert lengths == {0, 5, 10, 15, 20, STEPS}


def prefix(short: Trajectory, full: Trajectory) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(short[name], full[name][: len(short)])


def test_damage_anywhere_is_an_error(tmp_path: Path) -> None:
    whole(tmp_path / "run")
    content = (tmp_path / "run").read_bytes()
    for place in range(0, len(content), 53):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(TrajectoryError, match=r"is damaged at byte|is no trajectory"):
            file.load(tmp_path / "bad")


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "thesis.tex"
    place.write_bytes(b"\\documentclass{article} and much more")
    with pytest.raises(TrajectoryError, match="is no trajectory"):
        file.load(place)
    with pytest.raises(TrajectoryError, match="cannot be read"):
        file.load(tmp_path / "missing")
    with pytest.raises(TrajectoryError, match=r"exists, with 37 bytes.*load_state_dict.*overwrite=True"):
        whole(place)
    assert place.read_bytes() == b"\\documentclass{article} and much more"
    assert len(whole(place, overwrite=True)) == STEPS


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    head = file._record(b"head", {"columns": ["more"], "layer": {}, "setting": {}})
    (tmp_path / "run").write_bytes(head)
    with pytest.raises(TrajectoryError, match="this version cannot read"):
        file.load(tmp_path / "run")


@pytest.mark.parametrize("stop", [5, 8, 20])
@pytest.mark.parametrize("options", [{}, {"every": 3, "product": 2}])
def test_a_resumed_file_has_the_same_bits(tmp_path: Path, stop: int, options: dict[str, Any]) -> None:
    """The state is taken at `stop`, the run dies three steps later without a word, and another one goes on."""
    whole(tmp_path / "whole", **options)
    dying = Loop(tmp_path / "run", **options)
    dying.recorder.__enter__()
    dying.run(0, stop)
    state = dying.saved()
    dying.run(stop, stop + 3)
    second = Loop(tmp_path / "run", **options)
    with second.recorder:
        second.load(state)
        second.run(stop, STEPS)
    dying.recorder._watch.stop()
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_state_may_be_loaded_before_the_with_and_saved_again(tmp_path: Path) -> None:
    whole(tmp_path / "whole")
    first = Loop(tmp_path / "run")
    assert first.recorder.state_dict() == {"step": 0}
    with first.recorder:
        first.run(0, 7)
        state = first.saved()
    second = Loop(tmp_path / "run")
    second.load(state)
    assert second.recorder.state_dict()["step"] == 7
    with second.recorder:
        second.run(7, 12)
        state = second.saved()
    third = Loop(tmp_path / "run")
    third.load(state)
    with third.recorder:
        third.run(12, STEPS)
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_run_in_memory_resumes() -> None:
    first = Loop(None)
    with first.recorder:
        first.run(0, 7)
        state = first.saved()
    second = Loop(None)
    second.load(state)
    with second.recorder:
        second.run(7, STEPS)
    same(second.recorder.trajectory, whole(None))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from covergraph.trajectory import file
from trajectory.test_recorder_file import Loop

class Dying:
    def __init__(self, stream): self.stream = stream
    def __getattr__(self, name): return getattr(self.stream, name)
    def __enter__(self): return self
    def __exit__(self, *args): self.stream.close()
    def write(self, content):
        self.stream.write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

loop = Loop(Path(sys.argv[1]))
with loop.recorder:
    loop.run(0, 12)
    Path(sys.argv[2]).write_bytes(loop.saved().getvalue())
    opened = Path.open
    Path.open = lambda self, *args, **kwargs: Dying(opened(self, *args, **kwargs))
    loop.run(12, 23)
"""


def test_a_run_that_is_killed_while_it_writes_resumes_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(tmp_path / "state")]
    tests = Path(__file__).parents[1]
    places = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    known = {**os.environ, "PYTHONPATH": places}
    died = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    whole(tmp_path / "whole")
    assert len(file.load(tmp_path / "run")) == 10
    loop = Loop(tmp_path / "run")
    with loop.recorder:
        loop.load(io.BytesIO((tmp_path / "state").read_bytes()))
        loop.run(12, STEPS)
    assert (tmp_path / "run").read_bytes() == (tmp_path / "whole").read_bytes()


def test_ctrl_c_during_a_write_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first write of a block stops half way; the `with` writes the rows again when it ends."""
    loop, opened = Loop(tmp_path / "run"), Path.open

    class Stopping(io.FileIO):
        def write(self, content: Any) -> int:
            monkeypatch.undo()
            super().write(content[:100])
            raise KeyboardInterrupt

    def stopping(self: Path, *args: Any, **kwargs: Any) -> Any:
        return Stopping(self, "r+") if kwargs.get("buffering") == 0 else opened(self, *args, **kwargs)

    with pytest.raises(KeyboardInterrupt), loop.recorder:
        loop.run(0, 7)
        monkeypatch.setattr(Path, "open", stopping)
        loop.run(7, STEPS)
    found = file.load(tmp_path / "run")
    assert len(found) == 10
    prefix(found, whole(None))
    assert found.moments.stops[-1] == 10


def test_a_write_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    loop = Loop(tmp_path / "run")
    with pytest.raises(TrajectoryError, match=r"No space left on device.*free space"), loop.recorder:
        loop.run(0, 3)
        monkeypatch.setattr(Path, "open", full)
        loop.run(3, STEPS)


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[io.BytesIO]:
    loop = Loop(tmp_path / "run")
    with loop.recorder:
        loop.run(0, 7)
        yield loop.saved()


def resumed(path: Path, state: io.BytesIO, load: str = "all", **options: Any) -> None:
    loop = Loop(path, **options)
    with loop.recorder:
        if load == "all":
            loop.load(state)
        else:
            loop.recorder.load_state_dict(torch.load(state)[2])
        loop.run(7, STEPS)


def test_states_that_do_not_fit_are_refused(tmp_path: Path, saved: io.BytesIO) -> None:
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(TrajectoryError, match="load the model's and the optimizer's state"):
        resumed(tmp_path / "run", saved, "recorder")
    saved.seek(0)
    with pytest.raises(TrajectoryError, match=r"the state is of '0\.bias'.*expected one of '2\.bias'"):
        resumed(tmp_path / "run", saved, layer="2")
    saved.seek(0)
    with pytest.raises(TrajectoryError, match="does not begin with"):
        resumed(tmp_path / "other", saved)
    saved.seek(0)
    (tmp_path / "copy").write_bytes(before[:40] + bytes([before[40] ^ 1]) + before[41:])
    with pytest.raises(TrajectoryError, match="does not begin with"):
        resumed(tmp_path / "copy", saved)
    assert (tmp_path / "run").read_bytes() == before


def test_a_state_after_the_first_step_is_refused(saved: io.BytesIO) -> None:
    loop = Loop(None)
    with pytest.raises(TrajectoryError, match="load_state_dict after 2 steps"), loop.recorder:
        loop.run(0, 2)
        loop.recorder.load_state_dict(torch.load(saved)[2])
    with pytest.raises(TrajectoryError, match="the state has the keys"):
        Loop(None).recorder.load_state_dict({"model": 1})


def test_a_state_without_steps_overwrites_nothing(tmp_path: Path) -> None:
    whole(tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    loop = Loop(tmp_path / "run")
    with pytest.raises(TrajectoryError, match="exists"), loop.recorder:
        loop.recorder.load_state_dict({"step": 0})
        loop.run(0, 1)
    assert (tmp_path / "run").read_bytes() == before


def test_a_state_does_not_change_with_the_run(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "run")
    with loop.recorder as recorder:
        loop.run(0, 7)
        state = recorder.state_dict()
        before = copy.deepcopy(state)
        loop.run(7, STEPS)
    assert torch.equal(before["buffers"]["biases"], state["buffers"]["biases"])
    assert torch.equal(before["spectrum"]["base"], state["spectrum"]["base"])
