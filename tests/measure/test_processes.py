"""Several processes give exactly what one gives, and all end with an error in one of them. See tests/elsewhere.py."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import elsewhere
import pytest
import torch
from handmade import NETWORKS, mlp

from covergraph.errors import ProcessError
from covergraph.measure import processes

SCRIPT = Path(elsewhere.__file__)
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
Results = list[dict[str, Any]]
HANGING = 3600
"""Seconds; no verdict, only an end."""


def run(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *map(str, arguments)], env={**os.environ, "OMP_NUM_THREADS": "1"})


def results(folder: Path, rank: int) -> Any:
    return pickle.loads((folder / f"results-{rank}").read_bytes())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """As the processes: products may have other bits with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def new() -> None:
    if processes.old():
        pytest.skip("several processes need torch 2.9")


@pytest.fixture(scope="module")
def two(folder: Path, _one_thread: None, new: None) -> Results:
    """What two processes that torchrun started found, by scenario; one third of a checkpoint was there already."""
    elsewhere.half_done(folder / "half")
    assert run(*LAUNCHER, SCRIPT, "together", folder).wait(HANGING) == 0
    return [results(folder, rank) for rank in range(2)]


@pytest.mark.parametrize("name", NETWORKS)
def test_random_starts_give_the_bits_of_one_process(two: Results, name: str) -> None:
    expected = elsewhere.measured(NETWORKS[name]())
    assert [found[f"random starts: {name}"] == expected for found in two] == [True, True]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dense", {"dense": True}),
        ("filled", {"fill": True}),
        ("checkpoint", {}),
        ("resumed", {}),
        ("few blocks", {"rows": elsewhere.N}),
        ("after errors", {}),
    ],
)
def test_the_bits_are_those_of_one_process(two: Results, name: str, options: dict[str, Any]) -> None:
    expected = elsewhere.measured(mlp(), **options)
    assert [found[name] == expected for found in two] == [True, True]


def test_one_process_goes_on_where_two_were(two: Results, folder: Path) -> None:
    with elsewhere.watched() as starts:
        assert elsewhere.measured(mlp(), folder / "new") == two[0]["checkpoint"]
        assert starts == []
        (folder / "new" / "block-000001.npz").unlink()
        assert elsewhere.measured(mlp(), folder / "new") == two[0]["checkpoint"]
        assert starts == [3]


def test_the_same_shuffling_in_all_processes_does_no_harm(two: Results) -> None:
    expected = elsewhere.measured(mlp(), loader=elsewhere.Turned(mlp(), 0, 0))
    assert [found["shuffled in the same way"] == expected for found in two] == [True, True]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("shards", "in the samples: '20, digest"),
        ("shuffled", "in the order of the samples: "),
        ("shuffled later", "in the order of the samples: "),
        ("arguments", "in the settings: 'width 1.11"),
    ],
)
def test_processes_that_do_not_do_the_same_all_end_with_one_error(two: Results, name: str, what: str) -> None:
    for kind, message, _ in (found[name] for found in two):
        assert kind == "ProcessError"
        assert f"process 1 differs from process 0 {what}" in message
        assert "shuffle=False and no DistributedSampler" in message
    assert two[0][name] == two[1][name]


def test_a_foreign_checkpoint_is_refused_in_all(two: Results) -> None:
    for kind, message, _ in (found["folder"] for found in two):
        assert kind == "CheckpointError"
        assert "seed 0" in message and "seed 1" in message


def test_an_error_in_one_process_ends_all_with_it_at_once(two: Results) -> None:
    here, there = two[1]["error"], two[0]["error"]
    assert here == ("NonFiniteError", "measure: too large", [])
    assert there == (*here[:2], ["measure: raised in process 1 of 2, and therefore in all"])
    assert two[0]["error: blocks"] in (1, 2)  # the first, and the one before which it waits for the news


def test_an_error_that_cannot_be_sent_is_told(two: Results) -> None:
    assert two[1]["foreign error"][:2] == ("LocalError", "1 and 2")
    assert two[0]["foreign error"][:2] == ("ProcessError", "LocalError: 1 and 2")


def test_a_process_that_ends_early_ends_all(two: Results) -> None:
    assert two[1]["device"][0] == "ParameterError"
    kind, message, _ = two[0]["device"]
    assert kind == "ProcessError" and "another process has ended" in message and "its own error" in message


def test_a_process_that_dies_ends_all(tmp_path: Path, new: None) -> None:
    """Three of them, more than there are blocks at first."""
    (tmp_path / "die").touch()
    started = [run(SCRIPT, "together", tmp_path, rank, 3) for rank in range(3)]
    assert [process.wait(HANGING) for process in started] == [0, 9, 0]
    expected = elsewhere.measured(mlp(), rows=elsewhere.N)
    for rank in (0, 2):
        found = results(tmp_path, rank)
        assert found["few blocks"] == expected
        kind, message, _ = found["death"]
        assert kind == "ProcessError" and "another process has ended" in message


@pytest.mark.gpu
def test_nccl_gives_the_bits_of_one_process(tmp_path: Path, new: None) -> None:
    (tmp_path / "nccl").touch()
    assert run(*LAUNCHER, SCRIPT, "together", tmp_path).wait(HANGING) == 0
    expected = elsewhere.measured(mlp(), device="cuda")
    assert [results(tmp_path, rank)["cuda"] == expected for rank in range(2)] == [True, True]


def test_several_processes_of_an_old_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world", lambda: 2)
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    words = r"torch 2\.6\.0\+cpu with 2 processes, expected torch 2\.9 or later"
    with pytest.raises(ProcessError, match=words), processes.team():
        pass


def test_one_process_alone_needs_no_group() -> None:
    with processes.team() as team:
        assert (team.rank, team.size, team.group) == (0, 1, None)
        assert team.together(lambda: "done") == ["done"]
        with pytest.raises(ZeroDivisionError):
            team.together(lambda: 1 / 0)
