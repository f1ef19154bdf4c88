"""Batches from any loader: checked, counted, and recognized when they come again."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from covergraph.errors import EmptyLoaderError, LoaderChangedError
from covergraph.graph.binding import fits, leaves
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.losses import Loss
from covergraph.measure.finite import require_finite
from covergraph.measure.labels import read_labels
from covergraph.measure.reading import BatchTo, Call, call_of


@dataclass(frozen=True)
class Batch:
    """Inputs and labels of consecutive samples; `start`: position of the first, `call`: how the loader gave them."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    start: int
    call: Call | None = None

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


@dataclass(frozen=True)
class Reader:
    """A loader whose batches are read for a graph: one input per input node, labels as the loss takes them.

    `model`: whose forward says by which names; without it, inputs are taken in order.
    """

    loader: Iterable[Any]
    graph: ComputationGraph
    model: Any = None
    loss: Loss | None = None
    batch_to: BatchTo | None = None

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for item in self.loader:
            batch = self._batch(item, start)
            if len(batch):
                yield batch
            start += len(batch)
        if start == 0:
            raise EmptyLoaderError(
                "measure: the loader gave 0 samples, expected at least 1; if it was used up by an earlier pass, pass "
                "one that begins again: list(loader), or a DataLoader"
            )

    def _batch(self, item: Any, start: int) -> Batch:
        call = call_of(item, self.model, self.batch_to, start)
        inputs = tuple(_doubled(x) for x in self._inputs(call))
        self.graph.named_inputs(inputs)
        _require_fitting(self.graph, inputs, start)
        if not len(inputs[0]):
            return Batch(inputs, torch.zeros(0), start)
        names = (f"node {node.name!r}" for node in self.graph.inputs)
        require_finite({n: x for n, x in zip(names, inputs, strict=True) if x.is_floating_point()}, start)
        return Batch(inputs, read_labels(call.labels, len(inputs[0]), self.graph, self.loss, start), start, call)

    def _inputs(self, call: Call) -> tuple[Tensor, ...]:
        """By the names of forward's arguments; in order if there are as many, as for a graph with other names."""
        signature = inspect.signature(self.model.forward) if isinstance(self.model, torch.nn.Module) else None
        if signature is None or not fits(signature, call.args, call.kwargs):
            found = {str(i): leaf for i, leaf in enumerate(pytree.tree_leaves((call.args, call.kwargs)))}
        else:
            found = leaves(signature, call.args, call.kwargs)
        tensors = {name: leaf for name, leaf in found.items() if isinstance(leaf, Tensor)}
        names = [node.name for node in self.graph.inputs]
        if set(names) <= set(tensors):
            return tuple(tensors[name] for name in names)
        return tuple(tensors.values())


def first_samples(batch: Batch, rows: int) -> Batch:
    """The first samples of a batch, as the loader gave them."""
    labels, call = batch.labels[:rows], None
    if batch.call is not None:
        args, kwargs = pytree.tree_map_only(Tensor, lambda x: x[:rows], (batch.call.args, batch.call.kwargs))
        call = Call(args, kwargs, labels)
    return Batch(tuple(x[:rows] for x in batch.inputs), labels, batch.start, call)


def batches(loader: Iterable[Any], graph: ComputationGraph) -> Iterator[Batch]:
    """The batches of a loader for a graph; see `Reader`.

    Raises `EmptyLoaderError` if there is no sample, `LoaderChangedError` for a batch of another form, `LabelError`
    unless there is one label per sample, `NonFiniteError`, and `GraphError` for a wrong number or shape of inputs.
    """
    return iter(loader if isinstance(loader, Reader) else Reader(loader, graph))


def _doubled(x: Tensor) -> Tensor:
    """Reals in double precision, so that a sample is the same in whatever type it comes; whole numbers in int64."""
    if x.is_floating_point():
        return x.double() + 0.0  # -0 is 0
    return x.long() if x.dtype in (torch.int32, torch.int16) else x


def _require_fitting(graph: ComputationGraph, inputs: tuple[Tensor, ...], start: int) -> None:
    """Raise `LoaderChangedError` unless inputs have one number of samples, and are real where the graph's are."""
    rows = {len(x) for x in inputs}
    wanted = [node.kind == "float" for node in graph.inputs]
    if len(rows) > 1 or [x.is_floating_point() for x in inputs] != wanted:
        kinds = ", ".join(f"{tuple(x.shape)} of {x.dtype}" for x in inputs)
        names = ", ".join("floating point numbers" if real else "integers" for real in wanted)
        raise LoaderChangedError(
            f"measure: the batch that starts at sample {start} has the inputs {kinds}; expected {names} and the same "
            "number of samples in each; convert the dataset, or pass batch_to, such as lambda batch: "
            "(batch[0].float() / 255, batch[1]) for bytes"
        )


def digests(batch: Batch) -> list[bytes]:
    """16 bytes for each sample, which hold its inputs and its label."""
    columns = [t.detach().cpu().reshape(len(batch), -1).contiguous() for t in (*batch.inputs, batch.labels)]
    found = []
    for i in range(len(batch)):
        sample = hashlib.sha256()
        for column in columns:
            sample.update(column[i].view(torch.uint8).numpy().tobytes())
        found.append(sample.digest()[:16])
    return found


def census(seen: Census, batch: Batch, known: list[bytes] | None = None) -> Census:
    """The census with one more batch; `known`: its digests."""
    total = sum(int.from_bytes(digest, "big") for digest in (digests(batch) if known is None else known))
    return Census(seen.n + len(batch), (seen.digest + total) % 2**128)
