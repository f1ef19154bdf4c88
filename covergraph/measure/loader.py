"""Batches from any loader: checked, counted, and recognized when they come again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from covergraph.errors import EmptyLoaderError, LabelError, LoaderChangedError, NonFiniteError
from covergraph.graph.computation_graph import ComputationGraph


@dataclass(frozen=True)
class Batch:
    """Inputs and labels of consecutive samples; `start` is the position of the first."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    start: int

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])


@dataclass(frozen=True)
class Census:
    """How many samples a pass saw, and the sum of their digests, which does not depend on their order."""

    n: int
    digest: int

    def require_same(self, other: Census) -> None:
        """Raise `LoaderChangedError` unless another pass saw the same samples."""
        if self.n != other.n:
            raise LoaderChangedError(
                f"measure: the loader gave {self.n} samples in the first pass and {other.n} in the second, expected "
                "the same samples; pass a DataLoader (not a generator) without random drop_last"
            )
        if self.digest != other.digest:
            raise LoaderChangedError(
                f"measure: the loader changed samples between two passes over its {self.n} samples; switch off "
                "random augmentation, and drop_last where it shuffles: the bound is about the sample itself"
            )


def batches(loader: Iterable[Any], graph: ComputationGraph) -> Iterator[Batch]:
    """The loader's batches (x, y), (x1, x2, ..., y) or ((x1, x2), y), each with one input per input node.

    Raises `EmptyLoaderError` if there is no sample, `LoaderChangedError` for a batch of another form,
    `LabelError` unless there is one label per sample, and `GraphError` for a wrong number or shape of inputs.
    """
    start = 0
    for item in loader:
        batch = _as_batch(item, graph, start)
        if len(batch):
            yield batch
        start += len(batch)
    if start == 0:
        raise EmptyLoaderError("measure: the loader gave 0 samples, expected at least 1; was a generator used up?")


def _as_batch(item: Any, graph: ComputationGraph, start: int) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise LoaderChangedError(
            f"measure: the loader gave a {type(item).__name__}, expected batches (inputs, labels); wrap the dataset"
        )
    *inputs, labels = item
    if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
        inputs = list(inputs[0])
    tensors = tuple(as_tensor(x, "inputs", start) for x in inputs)
    graph.named_inputs(tensors)
    rows = {len(x) for x in tensors}
    wanted = [node.kind == "float" for node in graph.inputs]
    if len(rows) > 1 or [x.is_floating_point() for x in tensors] != wanted:
        kinds = ", ".join(f"{tuple(x.shape)} of {x.dtype}" for x in tensors)
        names = ", ".join("floating point numbers" if real else "integers" for real in wanted)
        raise LoaderChangedError(
            f"measure: the batch that starts at sample {start} has the inputs {kinds}; expected {names} and the same "
            "number of samples in each; convert the dataset"
        )
    marks = as_tensor(labels, "labels", start)
    if marks.ndim == 0 or len(marks) not in rows:
        raise LabelError(
            f"measure: the batch that starts at sample {start} has {rows.pop()} samples and labels of shape "
            f"{tuple(marks.shape)}; expected one label per sample"
        )
    return Batch(tensors, marks, start)


def as_tensor(values: Any, what: str, start: int) -> Tensor:
    """A tensor without gradient from what a loader gives; raises `LoaderChangedError` if that is no array."""
    try:
        return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoaderChangedError(
            f"measure: the {what} of the batch that starts at sample {start} are of type {type(values).__name__} "
            f"({error}), expected tensors; wrap the dataset"
        ) from None


def census(seen: Census, batch: Batch) -> Census:
    """The census with one more batch."""
    digest = seen.digest
    columns = [t.detach().cpu().reshape(len(batch), -1).contiguous() for t in (*batch.inputs, batch.labels)]
    for i in range(len(batch)):
        sample = hashlib.sha256()
        for column in columns:
            sample.update(column[i].view(torch.uint8).numpy().tobytes())
        digest = (digest + int.from_bytes(sample.digest()[:16], "big")) % 2**128
    return Census(seen.n + len(batch), digest)


def require_finite(values: dict[str, Tensor], start: int) -> None:
    """Raise `NonFiniteError` naming the first value, and its first sample, that is NaN or infinite."""
    for name, value in values.items():
        bad = ~torch.isfinite(value.reshape(value.shape[0], -1)).all(dim=1)
        if bad.any():
            i = int(bad.nonzero()[0])
            raise NonFiniteError(
                f"measure: {name} is {_worst(value[i])} on sample {start + i}, expected finite values; "
                "clean the data or lower the learning rate"
            )


def _worst(value: Tensor) -> str:
    return "NaN" if bool(torch.isnan(value).any()) else "infinite"
