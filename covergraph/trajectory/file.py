"""The file of a trajectory: one header, then blocks of columns, each written by one call and never changed.

    record := head (tag, length of the body, CRC of these, CRC of the body) body
    tags   := b"head" (JSON: format, columns, layer, setting)
            | b"rows" (JSON line: layer and setting as far as known; then columns x rows float64)
            | b"mean" (JSON line; then n_1 float64: the mean of the iterates since the last border)

A write that was cut short leaves a tail that is shorter than it says; readers drop it. Everything else that does not
fit its CRC is damage, which is an error.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from covergraph.errors import ParameterError, TrajectoryError
from covergraph.kinds import PATH, require
from covergraph.trajectory.trajectory import COLUMNS, Layer, Moments, Setting, Trajectory
from covergraph.values import Floats

FORMAT = "covergraph trajectory 1"
_HEAD = struct.Struct("<4sQI")
_CRC = struct.Struct("<I")
START = _HEAD.size + _CRC.size
"""Bytes before a record's body."""


def load(path: Path | str) -> Trajectory:
    """The trajectory in a file, up to the last block that was written whole.

    Raises `TrajectoryError` if there is no such file, if it is none of a recorder's, or if it is damaged.
    """
    require("Trajectory.load", {"path": PATH}, path=path)
    try:
        content = Path(path).read_bytes()
    except OSError as reason:
        raise TrajectoryError(
            f"trajectory: {path} cannot be read ({reason.strerror}), expected a file that TrajectoryRecorder wrote"
        ) from None
    return decoded(content, str(path))


def decoded(content: bytes, name: str) -> Trajectory:
    """The trajectory in the bytes of a file."""
    layer, setting = None, None
    blocks: list[Floats] = [np.empty((len(COLUMNS), 0))]
    moments: list[tuple[int, float, Floats]] = []
    for tag, body in records(content, name):
        text, _, numbers = body.partition(b"\n")
        try:
            facts = json.loads(text)
            if tag == b"head":
                if facts["columns"] != list(COLUMNS):
                    raise ValueError(f"columns {facts['columns']}")
                layer, setting = Layer(**facts["layer"]), Setting(**facts["setting"])
            elif tag == b"rows":
                layer, setting = Layer(**facts["layer"]), Setting(**facts["setting"])
                blocks.append(np.frombuffer(numbers, "<f8").reshape(len(COLUMNS), -1))
            elif tag == b"mean":
                moments.append((facts["stop"], facts["scatter"], np.frombuffer(numbers, "<f8")))
        except (ValueError, TypeError, KeyError) as reason:
            raise TrajectoryError(
                f"trajectory: {name} has a record {tag!r} that this version cannot read ({reason}), expected "
                f"{FORMAT!r}; read it with the version of covergraph that wrote it"
            ) from None
    if layer is None or setting is None:
        raise TrajectoryError(f"trajectory: {name} holds no header, expected {FORMAT!r}; nothing was recorded in it")
    columns = np.concatenate(blocks, axis=1)
    return Trajectory(layer, setting, dict(zip(COLUMNS, columns, strict=True)), _moments(moments))


def records(content: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """(tag, body) of every whole record. Raises `TrajectoryError` on damage, and for files of another kind."""
    place = 0
    while place + START <= len(content):
        tag, length, crc = _HEAD.unpack_from(content, place)
        (own,) = _CRC.unpack_from(content, place + _HEAD.size)
        whole = own == zlib.crc32(content[place : place + _HEAD.size])
        if place == 0 and (not whole or tag != b"head"):
            raise TrajectoryError(f"trajectory: {name} is no trajectory, expected {FORMAT!r}; it was left as it is")
        body = content[place + START : place + START + length]
        if not whole or (len(body) == length and zlib.crc32(body) != crc):
            raise TrajectoryError(
                f"trajectory: {name} is damaged at byte {place} of {len(content)}: a record does not have its "
                f"checksum; restore the file, or keep what comes before with its first {place} bytes"
            )
        if len(body) < length:
            return  # cut short by a kill
        yield tag, body
        place += START + length


def header(layer: Layer, setting: Setting) -> bytes:
    """The first record."""
    facts = {"format": FORMAT, "columns": list(COLUMNS), "layer": asdict(layer), "setting": asdict(setting)}
    return _record(b"head", facts)


def rows(columns: Floats, layer: Layer, setting: Setting) -> bytes:
    """A block of rows: columns (number of columns, rows) in the order of `COLUMNS`."""
    return _record(b"rows", {"layer": asdict(layer), "setting": asdict(setting)}, columns)


def border(stop: int, mean: Floats, scatter: float) -> bytes:
    """The moments of the iterates up to row `stop`, from the last border on."""
    return _record(b"mean", {"stop": stop, "scatter": scatter}, mean)


def _record(tag: bytes, facts: dict[str, Any], numbers: Floats | None = None) -> bytes:
    body = json.dumps(facts).encode() + b"\n"
    if numbers is not None:
        body += np.ascontiguousarray(numbers, "<f8").tobytes()
    head = _HEAD.pack(tag, len(body), zlib.crc32(body))
    return head + _CRC.pack(zlib.crc32(head)) + body


def _moments(found: list[tuple[int, float, Floats]]) -> Moments:
    width = len(found[0][2]) if found else 0
    means = np.stack([mean for _, _, mean in found]) if found else np.empty((0, width))
    stops, scatters = ([row[i] for row in found] for i in (0, 1))
    return Moments(np.array(stops, dtype=np.float64), means, np.array(scatters, dtype=np.float64))


@dataclass(frozen=True)
class Written:
    """So many bytes, with this CRC, hold so many rows."""

    size: int = 0
    crc: int = 0
    rows: int = 0


@dataclass
class Store:
    """What has been written: to a file, or without a path to memory. `written` changes only after a whole write.

    `interrupted`: the last write did not come to its end.
    """

    path: Path | None
    written: Written = field(default_factory=Written)
    memory: bytearray = field(default_factory=bytearray, repr=False)
    interrupted: bool = False

    def require_writable(self) -> None:
        """Raise `ParameterError` if no file can be written there; nothing is touched."""
        if self.path is None:
            return
        if "\0" in str(self.path):
            raise ParameterError(f"trajectory: path is {str(self.path)!r}, expected one without a null character")
        if self.path.exists():
            reason = _unusable(self.path)
        else:
            above = next((folder for folder in self.path.absolute().parents if folder.exists()), Path(os.sep))
            fits = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
            reason = "" if fits else f"{above} is no folder to write in"
        if reason:
            raise ParameterError(
                f"trajectory: path is {str(self.path)!r}, and {reason}, expected a file that can be written; pass "
                "another path, or None to keep the run in memory"
            )

    def require_new(self) -> None:
        """Raise `TrajectoryError` if there is a file already."""
        if self.path is not None and self.path.exists() and self.path.stat().st_size:
            raise TrajectoryError(
                f"trajectory: {self.path} exists, with {self.path.stat().st_size} bytes, expected a new file; to go "
                "on with its run, call load_state_dict with the state that was saved with the run's checkpoint; or "
                "pass another path, or overwrite=True"
            )

    def clear(self) -> None:
        """Begin an empty file."""
        self.written, self.memory = Written(), bytearray()
        if self.path is not None:
            with _accessible(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(b"")

    def append(self, content: bytes, new_rows: int) -> None:
        """Write after what has been written; what an interrupted write left there is overwritten."""
        old = self.written
        if self.path is None:
            self.memory[old.size :] = content
        else:
            with _accessible(self.path), self.path.open("r+b", buffering=0) as stream:
                self._require_alone(stream.seek(0, os.SEEK_END))
                stream.seek(old.size)
                left, self.interrupted = memoryview(content), True
                while left:
                    left = left[stream.write(left) :]
                stream.truncate()
        self.written = Written(old.size + len(content), zlib.crc32(content, old.crc), old.rows + new_rows)
        self.interrupted = False

    def _require_alone(self, size: int) -> None:
        """Raise `TrajectoryError` if the file is not as long as this store left it."""
        if size != self.written.size and not self.interrupted:
            raise TrajectoryError(
                f"trajectory: {self.path} has {size} bytes, expected the {self.written.size} that this recorder wrote: "
                "something else writes to it; give each recorder a path of its own"
            )

    def trajectory(self) -> Trajectory:
        """What has been written so far."""
        return decoded(bytes(self.memory), "the recorder") if self.path is None else load(self.path)

    def sync(self) -> None:
        """Have the disk hold what has been written."""
        if self.path is not None and self.path.exists():
            with _accessible(self.path), self.path.open("r+b", buffering=0) as stream:
                os.fsync(stream.fileno())

    def go_back(self, written: Written, memory: bytes) -> None:
        """Drop what was written after a state. Raises `TrajectoryError` if the file does not begin as it did then."""
        if self.path is None:
            content = memory[: written.size]
        else:
            with _accessible(self.path):
                content = self.path.read_bytes()[: written.size] if self.path.exists() else b""
        if len(content) != written.size or zlib.crc32(content) != written.crc:
            raise TrajectoryError(
                f"trajectory: {self.path or 'the state'} does not begin with the {written.size} bytes of the run's "
                f"checkpoint ({written.rows} rows), but has {len(content)} others; restore the file that belongs to "
                "the checkpoint, or begin anew with another path, without load_state_dict"
            )
        if self.path is None:
            self.memory = bytearray(content)
        elif written.size == 0:
            self.clear()
        else:
            with _accessible(self.path):
                os.truncate(self.path, written.size)
        self.written = written


def _unusable(path: Path) -> str:
    """Why what is there is no file to write."""
    if not path.is_file():
        return "it is a folder" if path.is_dir() else "it is no file"
    return "" if os.access(path, os.R_OK | os.W_OK) else "it cannot be read and written"


@contextmanager
def _accessible(path: Path) -> Iterator[None]:
    """Errors of the file system become a `TrajectoryError`."""
    try:
        yield
    except OSError as reason:
        raise TrajectoryError(
            f"trajectory: {path} cannot be read or written ({reason.strerror or reason}), expected a file with free "
            "space around it; free space or pass another path: the rows that are in it stay valid"
        ) from reason
