"""Runs that were stopped go on with the same bits; what does not belong to them, or is damaged, is refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import elsewhere
import numpy as np
import pytest
import torch
from handmade import NETWORKS, mlp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from covergraph.bound.derive import derive
from covergraph.errors import CheckpointError, CovergraphError, LoaderChangedError
from covergraph.graph.losses import LipschitzLoss
from covergraph.measure import checkpoint
from covergraph.measure.blocks import CONDITION, LOSS, Measured, Top
from covergraph.measure.checkpoint import Checkpoint
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.tracers import trace

NET = mlp()
(X,), Y = NET.sample(elsewhere.N)
BLOCKS = 14


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished checkpoint, to be copied."""
    folder = tmp_path_factory.mktemp("done")
    elsewhere.measured(NET, folder)
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def refused(pattern: str, folder: Path, error: type[CovergraphError] = CheckpointError, **options: Any) -> None:
    with elsewhere.watched() as starts, pytest.raises(error, match=pattern):
        elsewhere.measured(options.pop("net", NET), folder, **options)
    assert starts == []


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    script = [sys.executable, elsewhere.__file__, "kills", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["equal partly done", "half-written files 0", "two at once [0, 0]", "equal 0"]


def test_a_finished_run_does_no_work(folder: Path) -> None:
    expected = elsewhere.measured(NET)
    with elsewhere.watched() as starts:
        assert elsewhere.measured(NET, folder) == expected
    assert starts == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"fill": True}, {"dense": True}, {"width": 2.0, "failure": 0.5}], ids=repr)
def test_it_goes_on_where_an_error_stopped_it(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    net = NETWORKS[name]()
    with elsewhere.watched(lambda start: 1 / (start != 18)), pytest.raises(ZeroDivisionError):
        elsewhere.measured(net, tmp_path, **options)
    with elsewhere.watched() as starts:
        found = elsewhere.measured(net, tmp_path, **options)
    assert starts == list(range(18, elsewhere.N, 3))
    assert found == elsewhere.measured(net, **options)


def test_conditions_come_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).double()
    bound = derive(augment(trace(model, X[:2])))
    first, second = (
        dict(elsewhere.bits(measure(bound, model, [(X, Y)], checkpoint=tmp_path / "new"))) for _ in range(2)
    )
    assert first == second
    assert any(key.startswith("condition_values[") for key in first)


@given(
    arrays(np.float64, st.integers(0, 5), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.floats(0, allow_infinity=True), st.integers(0, 2**40),
)
def test_a_block_comes_back_bit_by_bit(done: Path, x: Any, low: float, count: int) -> None:
    store = object.__new__(Checkpoint)
    store.folder, store.run = done.parent, "run"
    keys = ("node", ("w", "a"), LOSS, (CONDITION, "node"), ("loss", "loss"))
    block = Measured(dict.fromkeys(keys, x), {("w", "a"): Top(low, np.inf, count)}, {("w", "a"): count})
    store.save(3, "digest", block)
    found = store.load(3, "digest")
    assert found is not None
    assert (found.tops, found.steps, list(found.columns)) == (block.tops, block.steps, list(keys))
    assert all(found.columns[key].tobytes() == x.tobytes() for key in keys)
    assert store.load(2, "digest") is None


def flipped(bit: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        place = bit % (8 * len(content))
        return content[: place // 8] + bytes([content[place // 8] ^ 1 << place % 8]) + content[place // 8 + 1 :]

    return change


@pytest.mark.parametrize(
    "change",
    [lambda c: b"", lambda c: c[:31], lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda c: c + b"\0"]
    + [flipped(bit) for bit in (0, 255, 256, 7001, 20011, -1)],
)
def test_a_damaged_block_is_named(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "block-000003.npz"
    file.write_bytes(change(file.read_bytes()))
    refused(r"block-000003\.npz is damaged.*checksum, expected.*delete it", folder)
    file.unlink()
    assert elsewhere.measured(NET, folder) == elsewhere.measured(NET)


@pytest.mark.parametrize(
    "change",
    [lambda c: b"", lambda c: c[:-2], lambda c: b"\xff" + c, lambda c: b"[1, 2]", lambda c: b"17", lambda c: b"null"],
)
def test_a_damaged_header_is_named(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "run.json"
    file.write_bytes(change(file.read_bytes()))
    refused(r"run\.json is damaged.*pass an empty folder", folder)


@given(st.integers(0, 2**30))
def test_no_flipped_bit_of_the_header_goes_unnoticed(done: Path, bit: int) -> None:
    content = (done / "run.json").read_bytes()
    changed = flipped(bit)(content)
    try:
        same = json.loads(changed) == json.loads(content)  # a bit of white space
    except ValueError:
        same = False
    store = object.__new__(Checkpoint)
    store.folder = done
    if not same:
        with pytest.raises(CheckpointError):
            store._require_same(json.loads(content), changed, done / "run.json")


def test_blocks_without_a_header_are_refused(folder: Path) -> None:
    (folder / "run.json").unlink()
    refused(f"has {BLOCKS} blocks and no run.json, expected both; pass an empty folder", folder)


def test_a_block_of_another_number_is_refused(folder: Path) -> None:
    shutil.copy(folder / "block-000001.npz", folder / "block-000002.npz")
    refused(r"block-000002\.npz is block 1 .*expected block 2.*delete it", folder)


def test_a_block_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    elsewhere.measured(NET, tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other" / "block-000002.npz", folder / "block-000002.npz")
    refused(r"block-000002\.npz is block 2 of the run .*copied here", folder)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"width": 1.02}, "settings 'width 1.01.*expected 'width 1.02"),
        ({"failure": 1e-4}, "settings .*failure 0.001.*failure 0.0001"),
        ({"seed": 1}, "settings"),
        ({"dtype": torch.float32}, "settings"),
        ({"fill": True}, "settings"),
        ({"rows": 4}, "settings .*blocks of 3 samples.*blocks of 4 samples"),
        ({"dense": True}, "pairs .*lanczos.*dense"),
        ({"net": mlp(seed=1), "loader": [(X, Y)]}, "model"),
        ({"net": mlp(bias=True), "loader": [(X, Y)]}, "model"),
        ({"loader": [(X[:-1], Y[:-1])]}, "samples '40, .*expected '39, "),
        ({"loader": [(X * 2, Y)]}, "samples"),
        ({"loader": [(X, (Y + 1) % 3)]}, "samples"),
        ({"loader": [(X.flip(0), Y.flip(0))]}, "order of the samples"),
    ],
)
def test_another_run_is_refused_by_what_is_different(folder: Path, options: dict[str, Any], key: str) -> None:
    refused(f"is of another run, with the {key}.*pass the folder of this run, or an empty one", folder, **options)


def test_another_number_of_threads_is_refused(folder: Path) -> None:
    """It may change bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        refused(rf"machine .*set_num_threads\({before}\).*set_num_threads\({before + 1}\)", folder)
    finally:
        torch.set_num_threads(before)


def test_batches_may_be_others(folder: Path) -> None:
    expected = elsewhere.measured(NET)
    with elsewhere.watched() as starts:
        assert elsewhere.measured(NET, folder, loader=NET.loader(elsewhere.N, 11)) == expected
    assert starts == []


def test_losses_of_the_user_are_recognized_by_their_values(tmp_path: Path) -> None:
    def run(scale: float) -> Any:
        loss = LipschitzLoss(lambda h, y: (h[:, 0].abs() * scale).clamp(0, 1), 1.0)
        return dict(elsewhere.bits(measure(NET.bound(loss=loss), NET.module, [(X, Y)], checkpoint=tmp_path / "new")))

    first = run(1.0)
    assert {k: v for k, v in run(1.0).items() if k != "loss"} == {k: v for k, v in first.items() if k != "loss"}
    with pytest.raises(CheckpointError, match="loss"):
        run(0.5)


def test_a_loader_that_shuffles_is_refused_when_it_goes_on(tmp_path: Path) -> None:
    elsewhere.measured(NET, tmp_path, loader=elsewhere.Turned(NET, 0, 0))
    refused("order of the samples", tmp_path, loader=elsewhere.Turned(NET, 1, 0))
    elsewhere.measured(NET, tmp_path, loader=elsewhere.Turned(NET, 0, 0))


@pytest.mark.parametrize("rows", [3, 512], ids=["blocks", "within one block"])
def test_a_loader_that_shuffles_in_the_second_pass_is_refused(tmp_path: Path, rows: int) -> None:
    elsewhere.measured(NET, tmp_path, loader=elsewhere.Turned(NET, 0, 1), rows=rows)
    other = elsewhere.Turned(NET, 1, 1)
    refused("holds other samples.*another order.*shuffle=False", tmp_path, loader=other, rows=rows)


def test_blocks_of_augmented_samples_are_not_taken_for_the_sample(tmp_path: Path) -> None:
    class Noisy:
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            yield X + 1e-6 * (self.passes == 2), Y

    with pytest.raises(LoaderChangedError, match="random augmentation"):
        elsewhere.measured(NET, tmp_path, loader=Noisy())
    refused("holds other samples.*random augmentation", tmp_path, loader=[(X, Y)])


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused("file cannot be read or written.*expected a folder.*pass another folder", tmp_path / "file")


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused("cannot be read or written", tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_pass(tmp_path: Path) -> None:
    class Unread:
        def __iter__(self) -> Any:
            raise AssertionError("the loader was read")

    refused("cannot be read or written", Path("/proc/covergraph"), loader=Unread())
    (tmp_path / "file").touch()
    refused("cannot be read or written", tmp_path / "file", loader=Unread())


def test_a_block_that_is_a_folder(folder: Path) -> None:
    (folder / "block-000003.npz").unlink()
    (folder / "block-000003.npz").mkdir()
    refused("cannot be read or written", folder)


def test_a_full_disk_ends_the_run_and_what_was_written_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(file)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*free space.*finished blocks stay valid"):
            elsewhere.measured(NET, tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*")) == [*(f"block-{i:06d}.npz" for i in range(4)), "run.json"]
    with elsewhere.watched() as starts:
        assert elsewhere.measured(NET, tmp_path) == elsewhere.measured(NET)
    assert starts[0] == 4 * 3


def test_half_written_files_of_killed_runs_are_tidied_up(folder: Path) -> None:
    for name in ("block-000001.npz.12ab.part", "block-000099.npz.1.part", "run.json.3.part"):
        (folder / name).write_bytes(b"half")
    elsewhere.measured(NET, folder)
    assert list(folder.glob("*.part")) == []


def test_a_file_that_another_process_tidied_up_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = os.fsync, []

    def tidied(file: int) -> None:
        plain(file)
        calls.append(file)
        if len(calls) % 2:
            for left in tmp_path.glob("*.part"):
                left.unlink()

    monkeypatch.setattr(checkpoint.os, "fsync", tidied)
    assert elsewhere.measured(NET, tmp_path) == elsewhere.measured(NET)
    assert len(calls) == 2 * (BLOCKS + 1)


def test_a_folder_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    def vanish(start: int) -> None:
        if start == 6:
            shutil.rmtree(tmp_path / "run")

    with elsewhere.watched(vanish), pytest.raises(CheckpointError, match="cannot be read or written"):
        elsewhere.measured(NET, tmp_path / "run")


@pytest.mark.parametrize("kept", [True, False])
def test_whoever_interrupts_is_told_how_to_go_on(tmp_path: Path, kept: bool) -> None:
    def stop(start: int) -> None:
        if start == 9:
            raise KeyboardInterrupt

    with elsewhere.watched(stop), pytest.raises(KeyboardInterrupt) as stopped:
        elsewhere.measured(NET, tmp_path if kept else None)
    expected = f"3 finished blocks are in {tmp_path}, and the same call" if kept else "pass checkpoint=folder"
    assert re.search(re.escape(expected), stopped.value.__notes__[0])
    assert elsewhere.measured(NET, tmp_path) == elsewhere.measured(NET)


def test_the_header_says_what_the_run_was(folder: Path) -> None:
    known = json.loads((folder / "run.json").read_text())
    assert known["model"] == NET.graph.fingerprint
    assert known["samples"].startswith(f"{elsewhere.N}, ")
    assert known["version"] == "1" and torch.__version__ in known["machine"]
