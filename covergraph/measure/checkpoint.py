"""Checkpoints: one file for each finished block, so that a run that was killed goes on, with the same bits."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covergraph.errors import CheckpointError
from covergraph.measure.blocks import FirstPass, Measured, Top
from covergraph.measure.plan import Plan
from covergraph.measure.wanted import Wanted

VERSION = 1
"""Of the files' format."""


def identity(wanted: Wanted, plan: Plan, first: FirstPass, settings: str, where: torch.device) -> dict[str, str]:
    """What must be equal for two runs to give the same bits, and for processes to work together."""
    loss = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(wanted.loss))  # addresses change with every start
    if where.type == "cuda":
        processor = torch.cuda.get_device_name(where)
    else:
        processor = f"{torch.backends.cpu.get_cpu_capability()} with torch.set_num_threads({torch.get_num_threads()})"
    return {
        "model": wanted.graph.fingerprint,
        "samples": f"{first.census.n}, digest {first.census.digest:032x}",
        "order of the samples": first.order,
        "loss": f"{loss}, {first.size:.6e} on average",
        "pairs": ", ".join(f"{w} <- {a} {plan.way[w, a]}" for w, a in wanted.pairs),
        "settings": f"{settings}, blocks of {plan.block} samples",
        "machine": f"{where.type} {processor}, torch {torch.__version__}, numpy {np.__version__}",
    }


class Checkpoint:
    """The folder of one run. `identity`: what must be equal for its blocks to be used again.

    Raises `CheckpointError` if the folder belongs to another run, cannot be read or written, or is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        own = {"version": str(VERSION), **identity}
        self.run = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
        header = folder / "run.json"
        require_folder(folder)
        with _accessible(folder):
            for left in folder.glob("*.part"):  # of a run that was killed
                left.unlink(missing_ok=True)
            # In this order: another process may write both, the header first.
            orphans, known = self.count(), header.read_bytes() if header.exists() else None
            if known is None and not orphans:
                _write(header, json.dumps(own, indent=1).encode())
                return
        if known is None:
            raise CheckpointError(
                f"measure: the checkpoint in {folder} has {orphans} blocks and no run.json, expected both; pass an "
                "empty folder"
            )
        self._require_same(own, known, header)

    def _require_same(self, own: Mapping[str, str], content: bytes, header: Path) -> None:
        try:
            known: dict[str, Any] = dict(json.loads(content))
        except (ValueError, TypeError) as reason:
            raise CheckpointError(
                f"measure: {header} is damaged ({reason}), expected what measure wrote; pass an empty folder"
            ) from None
        if difference := first_difference(known, own):
            key, there, here = difference
            raise CheckpointError(
                f"measure: the checkpoint in {self.folder} is of another run, with the {key} {there}, expected {here}; "
                "pass the folder of this run, or an empty one"
            )

    def count(self) -> int:
        """How many blocks are finished."""
        return sum(1 for _ in self.folder.glob("block-*.npz"))

    def save(self, number: int, digest: str, block: Measured) -> None:
        """Write one block, whose samples have this digest; a reader sees all of it or nothing."""
        keys = list(block.columns)
        meta = {
            "run": self.run,
            "number": number,
            "digest": digest,
            "columns": keys,
            "tops": [[list(pair), asdict(top)] for pair, top in block.tops.items()],
            "steps": [[list(pair), count] for pair, count in block.steps.items()],
        }
        arrays: dict[str, Any] = {f"column{i}": block.columns[key] for i, key in enumerate(keys)}
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **arrays)
        content = buffer.getvalue()
        with _accessible(self.folder):
            _write(self._file(number), hashlib.sha256(content).digest() + content)

    def load(self, number: int, digest: str) -> Measured | None:
        """A block, or None if it was not finished. Raises `CheckpointError` if it is damaged, or not of these samples.

        `digest`: of the block's samples in the loader.
        """
        file = self._file(number)
        with _accessible(self.folder):
            if not file.exists():
                return None
            content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise CheckpointError(
                f"measure: {file} is damaged: its {len(content)} bytes do not have their checksum, expected the file "
                "that measure wrote; delete it, and its block is measured again"
            )
        with np.load(io.BytesIO(content[32:]), allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            columns = {_key(key): arrays[f"column{i}"] for i, key in enumerate(meta["columns"])}
        if (meta["run"], meta["number"]) != (self.run, number):
            raise CheckpointError(
                f"measure: {file} is block {meta['number']} of the run {meta['run'][:8]}, expected block {number} of "
                f"{self.run[:8]}; it was copied here: delete it, and its block is measured again"
            )
        if meta["digest"] != digest:
            raise CheckpointError(
                f"measure: {file} holds other samples than block {number} of this loader, or in another order, "
                "expected the same; switch off shuffling (shuffle=False) and random augmentation"
            )
        tops = {(w, a): Top(**top) for (w, a), top in meta["tops"]}
        return Measured(columns, tops, {(w, a): count for (w, a), count in meta["steps"]})

    def _file(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.npz"


def opened(folder: Path | str | None, identity: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint in a folder, if there is one."""
    return None if folder is None else Checkpoint(Path(folder), identity)


@contextmanager
def going_on(store: Checkpoint | None) -> Iterator[None]:
    """Whoever stops the work within is told how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if store is None:
            stop.add_note("measure: stopped; pass checkpoint=folder, and the same call goes on where it was stopped")
        else:
            stop.add_note(
                f"measure: stopped; {store.count()} finished blocks are in {store.folder}, and the same call goes on "
                "from there"
            )
        raise


def require_folder(folder: Path) -> None:
    """Make the folder; raises `CheckpointError` unless files can be written to it."""
    with _accessible(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{secrets.token_hex(8)}.part"
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def _accessible(folder: Path) -> Iterator[None]:
    """Errors of the file system become a `CheckpointError`."""
    try:
        yield
    except OSError as reason:
        raise CheckpointError(
            f"measure: the checkpoint in {folder} cannot be read or written ({reason.strerror or reason}), expected a "
            "folder with free space that this user may write to; free space or pass another folder: finished blocks "
            "stay valid"
        ) from reason


def _key(key: Any) -> Any:
    """A key of columns, from lists in place of its tuples."""
    return key if isinstance(key, str) else tuple(map(_key, key))


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first key whose entries differ, with both entries; None if there is none."""
    for key in {**other, **one}:
        if one.get(key) != other.get(key):
            return key, _short(one.get(key), other.get(key)), _short(other.get(key), one.get(key))
    return None


def _short(value: Any, other: Any, length: int = 80) -> str:
    """The value from shortly before it differs from the other one."""
    if value is None:
        return "missing"
    text, against = str(value), str(other)
    if len(text) > length:
        same = next((i for i, (one, two) in enumerate(zip(text, against, strict=False)) if one != two), 0)
        start = max(0, min(same - length // 4, len(text) - length))
        text = "..." * (start > 0) + text[start : start + length] + "..." * (start + length < len(text))
    return repr(text)


def _write(file: Path, content: bytes) -> None:
    """Write to a file of another name first, so that a kill leaves no half of a file."""
    for last in (False, False, True):
        part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
            return
        except FileNotFoundError:  # another process has opened this checkpoint and tidied up
            if last:
                raise
        finally:
            part.unlink(missing_ok=True)
