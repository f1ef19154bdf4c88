"""Checkpoints: one file for each finished block, so that a run that was killed goes on, with the same bits."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from covergraph.errors import CheckpointError
from covergraph.measure.blocks import Measured, Top

VERSION = 1
"""Of the files' format."""


class Checkpoint:
    """The folder of one run. `identity`: what must be equal for its blocks to be used again.

    Raises `CheckpointError` if the folder belongs to another run, or cannot be read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        own = {"version": str(VERSION), **identity}
        folder.mkdir(parents=True, exist_ok=True)
        header = folder / "run.json"
        if not header.exists():
            if any(folder.glob("block-*.npz")):
                raise CheckpointError(f"measure: {folder} holds blocks without run.json, expected both; empty it")
            _write(header, json.dumps(own, indent=1).encode())
            return
        try:
            known: dict[str, Any] = dict(json.loads(header.read_bytes()))
        except (ValueError, TypeError) as reason:
            raise CheckpointError(f"measure: {header} is damaged ({reason}); pass an empty folder") from None
        for key in {**own, **known}:
            if known.get(key) != own.get(key):
                raise CheckpointError(
                    f"measure: the checkpoint in {folder} is of another run: its {key} is {_short(known.get(key))}, "
                    f"expected {_short(own.get(key))}; pass the folder of this run, or an empty one"
                )

    def save(self, number: int, digest: int, block: Measured) -> None:
        """Write one block; a reader sees all of it or nothing."""
        keys = list(block.columns)
        meta = {
            "digest": f"{digest:x}",
            "columns": keys,
            "tops": [[list(pair), asdict(top)] for pair, top in block.tops.items()],
            "steps": [[list(pair), count] for pair, count in block.steps.items()],
        }
        arrays: dict[str, Any] = {f"column{i}": block.columns[key] for i, key in enumerate(keys)}
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **arrays)
        content = buffer.getvalue()
        _write(self._file(number), hashlib.sha256(content).digest() + content)

    def load(self, number: int, digest: int) -> Measured | None:
        """A block, or None if it was not finished. Raises `CheckpointError` if it is damaged, or of other samples."""
        file = self._file(number)
        if not file.exists():
            return None
        content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise CheckpointError(
                f"measure: {file} is damaged: its checksum is not that of its content ({len(content)} bytes); delete "
                "this file, and its block is measured again"
            )
        with np.load(io.BytesIO(content[32:]), allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            columns = {_key(key): arrays[f"column{i}"] for i, key in enumerate(meta["columns"])}
        if meta["digest"] != f"{digest:x}":
            raise CheckpointError(
                f"measure: {file} holds other samples than block {number} of this loader, which has the same samples "
                "in another order; switch off shuffling"
            )
        tops = {(w, a): Top(**top) for (w, a), top in meta["tops"]}
        return Measured(columns, tops, {(w, a): count for (w, a), count in meta["steps"]})

    def _file(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.npz"


def _key(key: str | list[str]) -> str | tuple[str, ...]:
    return key if isinstance(key, str) else tuple(key)


def _short(value: str | None) -> str:
    return "missing" if value is None else repr(value if len(value) <= 80 else value[:77] + "...")


def _write(file: Path, content: bytes) -> None:
    """Write to a file of another name first, so that a kill leaves no half of a file."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
