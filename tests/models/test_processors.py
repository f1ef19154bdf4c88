"""The demo's digits do not depend on the processor: its networks come out alike with other instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from covergraph.models.demo import NETWORKS
from covergraph.models.digits import load_digits
from covergraph.models.training import GRID, one_thread

EPOCHS = 1
OTHER = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
}
"""What torch and its libraries are told, so that they take the oldest instructions that they know."""
SCRIPT = "import sys, models.test_processors as t; print(*map(t.digits, sys.argv[1:]))"
TESTS = Path(__file__).parents[1]


def digits(name: str) -> str:
    """All weights and statistics after an epoch, times 1, 2, ...: a sum of integers below 2^53."""
    row = replace(NETWORKS[name], epochs=EPOCHS)
    with one_thread():
        state = row.trained(load_digits()[0], progress=False).state_dict()
    vector = torch.cat([value.reshape(-1).double() for value in state.values()])
    return float((vector * torch.arange(1, len(vector) + 1) / GRID).sum()).hex()


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_stay_on_a_grid_of_single_precision(name: str) -> None:
    row = NETWORKS[name]
    with one_thread():
        trained = replace(row, epochs=1).trained(load_digits()[0], progress=False)
    for model in (row.initial(), trained):
        values = [value for value in model.state_dict().values() if value.is_floating_point()]
        assert {value.dtype for value in values} == {torch.float32}
        assert all(torch.equal(value / GRID, (value / GRID).round()) for value in values)
    assert any(not torch.equal(a, b) for a, b in zip(row.initial().parameters(), trained.parameters(), strict=True))


def test_another_instruction_set_trains_the_same_networks() -> None:
    own = [digits(name) for name in NETWORKS]
    command = [sys.executable, "-c", SCRIPT, *NETWORKS]
    done = subprocess.run(command, env=os.environ | OTHER, cwd=TESTS, capture_output=True, text=True, check=True)
    assert done.stdout.split() == own
