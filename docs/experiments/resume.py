"""Kill a measurement several times, let it go on, and compare with one that nobody disturbed, bit by bit."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg
from covergraph.errors import CheckpointError
from covergraph.models import NETWORKS, load_digits

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from elsewhere import bits

SAMPLES = 1000
KILLS = 4


def measured(folder: Path | None, **options: Any) -> cg.Measurements:
    """A convolutional network on digits, in small blocks; the reference weights are its initial ones."""
    torch.set_num_threads(1)
    train = TensorDataset(*(tensor[:SAMPLES] for tensor in load_digits()[0].tensors))
    model = NETWORKS["cnn"].initial().eval()
    bound = cg.derive(cg.augment(cg.trace(model, train.tensors[0][:2])))
    return cg.measure(bound, model, DataLoader(train, batch_size=64), memory=2**20, checkpoint=folder, **options)


def killed(folder: Path, delay: float) -> str:
    """Start it in another process, and kill that `delay` seconds after its first block appeared, or a new one."""
    before = finished(folder)
    child = subprocess.Popen([sys.executable, __file__, str(folder)])
    while finished(folder) == before and child.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    child.kill()
    end = "killed" if child.wait() else "had finished before it could be killed"
    return f"{end}, {finished(folder)} blocks and {len([*folder.glob('*.part')])} half-written files are there"


def finished(folder: Path) -> int:
    """How many blocks are finished."""
    return len([*folder.glob("block-*.npz")])


def refused(folder: Path, **options: Any) -> str:
    """The message with which a checkpoint is refused."""
    try:
        measured(folder, **options)
    except CheckpointError as error:
        return str(error).replace(str(folder), "FOLDER")
    return "accepted"


def main(folder: Path) -> None:
    """The experiment."""
    delays = random.Random(0)
    began = time.perf_counter()
    expected = measured(None)
    print(f"undisturbed: {expected}, {sum(expected.steps.values())} Lanczos steps, {time.perf_counter() - began:.1f} s")
    for run in range(KILLS):
        print(f"run {run + 1}: {killed(folder, delays.uniform(0, 1))}")
    began, before = time.perf_counter(), finished(folder)
    found = measured(folder)
    seconds = time.perf_counter() - began
    print(f"run {KILLS + 1}: went on from {before} blocks to {finished(folder)} in {seconds:.1f} s")
    one, two = dict(bits(expected)), dict(bits(found))
    arrays = sum(isinstance(entry, tuple) for entry in one.values())
    print(f"{len(one)} numbers and texts, {arrays} of them arrays, have the same bits: {one == two}")
    began = time.perf_counter()
    again = dict(bits(measured(folder)))
    print(f"once more, with nothing left to do: {again == one}, {time.perf_counter() - began:.1f} s")
    print(f"with another seed: {refused(folder, seed=1)}")
    block = folder / "block-000003.npz"
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.write_bytes(content)
    print(f"with one bit of a file flipped: {refused(folder)}")
    block.unlink()
    print(f"with this file deleted: the same bits: {dict(bits(measured(folder))) == one}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
