"""What a loader gives, read as a call of forward and labels: the forms that batches have.

    (x, y), (x1, x2, ..., y)        tensors, arrays or data frames, by position
    ((x1, x2), y), ([x1, x2], y)    by position, or as one list if forward takes one argument
    {"input_ids": ..., "labels": ...}, ({"input_ids": ...}, y)    any mapping, data class or named tuple, by keyword

`batch_to`, a function of the user's, turns what is odd into (inputs, labels), where inputs are a tensor, a tuple or a
mapping. Whatever else is given is refused, with what it is and what is taken.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torch.utils.data.dataloader import _BaseDataLoaderIter

from covergraph.errors import EmptyLoaderError, LabelError, LoaderChangedError, TracingError
from covergraph.graph.binding import fits, inner_signature

BatchTo = Callable[[Any], tuple[Any, Any]]
LABELS = ("labels", "label", "targets", "target", "y")
"""The keys under which a mapping holds its labels; the first one that is there."""
ROWS = 256
"""Samples in a batch where a whole data set was given."""


@dataclass(frozen=True)
class Call:
    """Arguments of forward, with tensors in place of arrays, and labels."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Any


class Flat(tuple[Any, ...]):
    """Inputs that stood side by side in a batch: arguments of forward one by one, never one of them."""


def as_batches(loader: Any, batch_to: BatchTo | None = None) -> Iterable[Any]:
    """Batches of a data set, of whole arrays (X, Y), of a list of samples, or of a loader, which is returned.

    Raises `LoaderChangedError`.
    """
    if isinstance(loader, Dataset):
        if not (isinstance(loader, IterableDataset) or hasattr(loader, "__len__")):
            raise LoaderChangedError(
                f"measure: the data set is a {type(loader).__name__} without __len__, expected one that knows how many "
                "samples it has; add __len__, or pass a DataLoader"
            )
        return _loaded(loader)
    if isinstance(loader, tuple) and len(loader) >= 2 and all(_is_array(part) for part in loader):
        parts = [as_tensor(part, "data", 0) for part in loader]
        rows = [len(part) for part in parts]
        if len(set(rows)) == 1 and parts[0].dim() > 1:
            return DataLoader(TensorDataset(*parts), batch_size=ROWS)
        raise LoaderChangedError(
            f"measure: the arrays {described(loader)} have {', '.join(map(str, rows))} rows, expected inputs of two "
            "axes or more and labels, as many of each; pass batches in a list, [(x, y)], if these are batches"
        )
    if _is_array(loader) or (isinstance(loader, list) and len(loader) > 1 and all(map(_is_array, loader))):
        kind = f"a {type(loader).__name__}" + (" of arrays" if isinstance(loader, list) else "")
        raise LoaderChangedError(
            f"measure: the loader is {kind}, expected inputs and labels; pass the pair (X, Y) of the whole sample, as "
            "(frame.drop(columns='y').astype('float32'), frame['y']) of a data frame"
        )
    if isinstance(loader, nn.Module) or not isinstance(loader, Iterable) or isinstance(loader, str | Mapping):
        raise LoaderChangedError(
            f"measure: the loader is of type {type(loader).__name__}, expected a DataLoader, a Dataset, batches "
            "(inputs, labels), or the pair (X, Y) of the whole sample"
        )
    if _is_read_once(loader):
        raise LoaderChangedError(
            f"measure: the loader is a {type(loader).__name__}, which gives its batches once, expected one that can be "
            "read several times; pass list(loader) if it fits into memory, else a DataLoader"
        )
    return _loaded(loader) if batch_to is None and _holds_samples(loader) else loader


def _loaded(samples: Any) -> Iterable[Any]:
    """Batches of a data set, or of a list of samples."""
    return DataLoader(samples, batch_size=ROWS, collate_fn=_collated)


def _collated(samples: list[Any]) -> Any:
    """Samples as one batch. Raises `LoaderChangedError` where torch cannot join them."""
    try:
        return default_collate(samples)
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        raise LoaderChangedError(
            f"measure: samples such as {described(samples[0])} cannot be joined to a batch ({error!s:.200}), expected "
            "tensors, arrays or numbers of the same shapes; convert them in the data set, or pass a DataLoader with a "
            "collate_fn"
        ) from error


def _is_read_once(loader: Iterable[Any]) -> bool:
    """Whether it is a generator or another iterator that cannot begin again; one of the user's may be able to."""
    of_python = inspect.isfunction(getattr(type(loader), "__iter__", None))
    return isinstance(loader, Iterator) and (not of_python or isinstance(loader, _BaseDataLoaderIter))


def _holds_samples(loader: Iterable[Any]) -> bool:
    """Whether a list holds single samples: their labels have no axis, where those of a batch have one."""
    if not isinstance(loader, list | tuple) or len(loader) < 2:
        return False
    try:
        _, label = _parts(loader[0], 0)
    except LoaderChangedError:
        return False
    return isinstance(label, int | float | np.generic) or getattr(label, "ndim", None) == 0


def _is_array(values: Any) -> bool:
    return isinstance(values, Tensor | np.ndarray) or hasattr(values, "to_numpy")


def call_of(item: Any, model: Any, batch_to: BatchTo | None, start: int) -> Call:
    """One batch as a call of the model's forward. Raises `LoaderChangedError` for a form that is not one of these."""
    signature = inner_signature(model) if isinstance(model, nn.Module) else None
    inputs, labels = _parts(item if batch_to is None else _converted(batch_to, item), start)
    args, kwargs = _arguments(inputs, signature, start)
    if isinstance(inputs, Flat) and signature is not None and _is_optional(signature, len(args) - 1):
        _require_clear(item, inputs[-1], labels, start)
    args, kwargs = pytree.tree_map(lambda leaf: _leaf(leaf, start), (args, kwargs))
    return Call(args, kwargs, labels)


def _converted(batch_to: BatchTo, item: Any) -> tuple[Any, Any]:
    made = batch_to(item)
    if not isinstance(made, tuple) or len(made) != 2:
        raise LoaderChangedError(
            f"measure: batch_to gave {described(made)}, expected the pair (inputs, labels), where inputs are a tensor, "
            "a tuple of tensors, or a mapping of forward's names to tensors"
        )
    return made


def _parts(item: Any, start: int) -> tuple[Any, Any]:
    """Inputs and labels of a batch."""
    fields = _fields(item)
    if fields is not None:
        key = next((name for name in LABELS if name in fields), None)
        if key is not None and len(fields) > 1:
            return {name: value for name, value in fields.items() if name != key}, fields[key]
        wanted = f"a key for the labels ({', '.join(LABELS)}) and at least one input"
    elif isinstance(item, tuple | list) and len(item) >= 2:
        *inputs, labels = item
        return (inputs[0] if len(inputs) == 1 else Flat(inputs)), labels
    else:
        wanted = "batches (inputs, labels) or mappings with labels"
    raise LoaderChangedError(
        f"measure: the batch that starts at sample {start} is {described(item)}, expected {wanted}; pass "
        "batch_to=lambda batch: (inputs, labels)"
    )


def _is_optional(signature: inspect.Signature, place: int) -> bool:
    """Whether forward does without its positional argument at a place."""
    places = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return place >= len(places) or places[place].default is not inspect.Parameter.empty


def _require_clear(item: Any, last: Any, labels: Any, start: int) -> None:
    """Raise `LoaderChangedError` where the last argument, which forward need not have, may be the labels."""
    if _may_be_labels(last) and _may_be_labels(labels):
        raise LoaderChangedError(
            f"measure: the batch that starts at sample {start} is {described(item)}, of which the last two may both be "
            "labels, indices or weights, expected (inputs, labels); say which is which, for instance "
            "batch_to=lambda batch: (batch[0], batch[1])"
        )


def _may_be_labels(values: Any) -> bool:
    """One whole number for each sample."""
    if not _is_array(values):
        return False
    tensor = as_tensor(values, "inputs", 0)
    return tensor.dim() == 1 and not tensor.is_complex() and bool((tensor == tensor.double().round()).all())


def _fields(item: Any) -> dict[str, Any] | None:
    """The entries of a mapping, a data class or a named tuple that has labels, by name; None for anything else."""
    if isinstance(item, Mapping) or (hasattr(item, "keys") and hasattr(item, "__getitem__") and not _is_array(item)):
        return {str(key): item[key] for key in item.keys()}  # noqa: SIM118  (not every one of them can be iterated)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    names = getattr(item, "_fields", ())
    return dict(zip(names, item, strict=True)) if isinstance(item, tuple) and set(names) & set(LABELS) else None


def _arguments(
    inputs: Any, signature: inspect.Signature | None, start: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of forward."""
    fields = _fields(inputs)
    if fields is not None:
        fields = {name: value for name, value in fields.items() if value is not None}
        if signature is None or fits(signature, (), fields):
            return (), fields
        if len(fields) == 1 and fits(signature, tuple(fields.values()), {}):
            return tuple(fields.values()), {}
        if fits(signature, (inputs,), {}):
            return (inputs if isinstance(inputs, dict) else fields,), {}
        raise _unfit(f"the inputs {', '.join(map(repr, fields))}", signature, start)
    named = dict(zip(getattr(inputs, "_fields", ()), inputs, strict=False)) if hasattr(inputs, "_fields") else {}
    if named and signature is not None and set(named) <= set(signature.parameters):
        return (), named
    args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    if signature is None or fits(signature, args, {}):
        return args, {}
    if fits(signature, (inputs,), {}) and not isinstance(inputs, Flat):
        return (inputs,), {}
    raise _unfit(f"{len(args)} inputs {described(args)}", signature, start)


def _unfit(what: str, signature: inspect.Signature, start: int) -> LoaderChangedError:
    return LoaderChangedError(
        f"measure: the batch that starts at sample {start} has {what}, expected what forward{signature} takes, then "
        "the labels; pass batch_to=lambda batch: (inputs, labels), where inputs are a tensor, a tuple or a mapping"
    )


def _leaf(leaf: Any, start: int) -> Any:
    return leaf if leaf is None or isinstance(leaf, bool | int | float) else as_tensor(leaf, "inputs", start)


def as_tensor(values: Any, what: str, start: int) -> Tensor:
    """A dense tensor without gradient from an array, a data frame or a list; raises `LoaderChangedError`."""
    try:
        # A copy: what pandas and memory maps give may be read-only.
        array = values if isinstance(values, Tensor | list | tuple) else np.array(_plain(values))
        tensor = torch.as_tensor(array).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise LoaderChangedError(
            f"measure: the {what} of the batch that starts at sample {start} are of type {type(values).__name__} "
            f"({error}), expected tensors; wrap the dataset, or pass batch_to=lambda batch: (inputs, labels)"
        ) from None
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise LoaderChangedError(
            f"measure: the {what} of the batch that starts at sample {start} are {tensor.layout} of {tensor.dtype}, "
            "expected dense tensors; convert them with to_dense() or dequantize()"
        )
    return tensor


def _plain(values: Any) -> Any:
    return values.to_numpy() if hasattr(values, "to_numpy") else values


def require_rows(marks: Tensor, rows: int, start: int) -> None:
    """Raise `LabelError` unless there is one label per sample."""
    if marks.ndim == 0 or len(marks) != rows:
        raise LabelError(
            f"measure: the batch that starts at sample {start} has {rows} samples and labels of shape "
            f"{tuple(marks.shape)}; expected one label per sample; if it is one sample and no batch, pass "
            "DataLoader(samples, batch_size=64)"
        )


def described(item: Any) -> str:
    """The type of a batch, and the forms of what is in it."""
    kind = type(item).__name__
    if isinstance(item, Tensor):
        return f"a Tensor of shape {tuple(item.shape)}"
    fields = _fields(item)
    if fields is not None:
        return f"a {kind} with the keys {', '.join(map(repr, fields))}"
    if isinstance(item, tuple | list):
        shown = [f"{tuple(x.shape)}" if hasattr(x, "shape") else type(x).__name__ for x in item[:6]]
        return f"a {kind} of {', '.join(shown) or 'nothing'}"
    return f"a {kind}"


def example(
    loader: Any, model: nn.Module, batch_to: BatchTo | None, device: torch.device, dtype: torch.dtype
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of forward for two samples of the first batch, on a device and with a floating type.

    Raises `EmptyLoaderError` if there is no sample.
    """

    def two(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf[:2].to(device, dtype if leaf.is_floating_point() else leaf.dtype)

    for item in loader:
        call = call_of(item, model, batch_to, 0)
        tensors = [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
        if tensors and tensors[0].dim() and len(tensors[0]):
            require_rows(as_tensor(call.labels, "labels", 0), len(tensors[0]), 0)
            args, kwargs = pytree.tree_map(two, (call.args, call.kwargs))
            return args, kwargs
    raise EmptyLoaderError("measure: the loader gave no batch, expected at least one sample")


@contextmanager
def advice(call: tuple[tuple[Any, ...], dict[str, Any]], model: nn.Module) -> Iterator[None]:
    """Adds to an error of tracing that the example is the loader's batch, and what to do if it was read wrong."""
    try:
        yield
    except TracingError as error:
        whole = unnamed(*call, model)
        if "the example" not in str(error) and not whole:
            raise
        kinds = {leaf.dtype for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor)}
        bytes_ = ", such as lambda batch: (batch[0] / 255, batch[1]) for bytes" if torch.uint8 in kinds else ""
        raise TracingError(
            f"{error}; the loader's batch was read as these arguments, of {', '.join(sorted(map(str, kinds)))}{whole}; "
            f"if that is wrong, pass batch_to=lambda batch: (inputs, labels){bytes_}"
        ) from error


def unnamed(args: tuple[Any, ...], kwargs: Mapping[str, Any], model: nn.Module) -> str:
    """In words, where a mapping became one argument: which of its keys forward lacks, and the names that it has."""
    if kwargs or len(args) != 1 or not isinstance(args[0], Mapping):
        return ""
    names = list(inner_signature(model).parameters)
    lacking = ", ".join(repr(key) for key in args[0] if key not in names)
    return (
        f": forward has no argument {lacking} (its arguments are {', '.join(map(repr, names))}), so all keys were "
        f"passed as one mapping, {names[0]!r}; rename keys to forward's arguments and drop others"
    )
