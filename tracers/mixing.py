"""Where does a model look across the samples of a batch? Asked only after a graph was found to differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from covergraph.errors import BatchMixingError, TracingError
from covergraph.graph.precision import real_numbers
from covergraph.tracers.arguments import Arguments

REMEDY = "a bound needs a function of one sample: use operations that treat the samples separately"


def difference(model: nn.Module, case: Arguments, found: str) -> TracingError:
    """The error for a graph that is not the model: with the module that mixes samples, if one does."""
    return mixing(model, case, found) or TracingError(
        f"the graph does not compute what the model computes at batch size {case.batch} ({found}); look for code that "
        "depends on values or on the batch size"
    )


def require_separate(model: nn.Module, batches: tuple[Arguments, Arguments], leaf: int) -> None:
    """Raise `BatchMixingError` if the first two samples' outputs depend on the third, in which the batches differ."""
    try:
        first, second = (pytree.tree_leaves(_run(model, batch))[leaf] for batch in batches)
    except Exception:  # the model does not take such inputs: nothing is known
        return
    if not isinstance(first, Tensor) or first.shape != second.shape or first.shape[:1] != (3,):
        return
    for i in (0, 1):
        a, b = first[i], second[i]
        same = (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= 1e-9 * a.abs())
        size = float(a[a.isfinite()].abs().max()) if bool(a.isfinite().any()) else 0.0
        if not bool((same | ((a - b).abs() <= 1e-9 * size)).all()):
            path = mixing_module(model, batches[1]) or ""
            raise _mixes(path, "seen with a large third sample")


def _run(model: nn.Module, arguments: Arguments) -> Any:
    args, kwargs = arguments.at(arguments.batch).call()
    with real_numbers(), torch.no_grad():
        return model(*args, **kwargs)


def mixing(model: nn.Module, case: Arguments, found: str) -> BatchMixingError | None:
    """The error that names the module that mixes samples; None if none does."""
    try:
        path = mixing_module(model, case.at(max(case.batch, 2)))
    except Exception:  # the model cannot be watched (vmap, compiled code): then nothing is known
        return None
    return None if path is None else _mixes(path, found)


def _mixes(path: str, found: str) -> BatchMixingError:
    where = f"module {path!r}" if path else "the model's top level"
    return BatchMixingError(
        f"{where}: its output for one sample depends on the other samples of the batch, or on its place in the "
        f"batch ({found}); {REMEDY}"
    )


def mixing_module(model: nn.Module, arguments: Arguments) -> str | None:
    """Path of the module whose forward first makes a tensor that does not hold the samples side by side."""
    samples = (0, arguments.batch - 1)
    base = _values(model, arguments)
    moved = {i: _values(model, _changed(arguments, i)) for i in samples}
    for key, value in base.items():
        others = {i: values.get(key) for i, values in moved.items()}
        if any(other is None or other.shape != value.shape for other in others.values()):
            continue
        reached = {i: _differs(value, other) for i, other in others.items() if other is not None}
        if not _side_by_side(reached, arguments.batch, leading=key == "0@"):
            return key.partition("@")[2]
    return None


def _differs(value: Tensor, other: Tensor) -> Tensor:
    return (~((value == other) | (value.isnan() & other.isnan()))).reshape(-1)


def _side_by_side(reached: Mapping[int, Tensor], batch: int, leading: bool) -> bool:
    """True if there is a stride at which entry e belongs to sample (e // stride) % batch, for all that was reached.

    That is so for a batch axis anywhere, also where it is merged with other axes; `leading` asks for dim 0.
    """
    size = next(iter(reached.values())).numel()
    if not any(bool(mask.any()) for mask in reached.values()):
        return True
    if size % batch:
        return False
    rest = size // batch
    strides = [rest] if leading else [s for s in range(rest, 0, -1) if rest % s == 0]
    return any(all(_only(mask.reshape(-1, batch, s), i) for i, mask in reached.items()) for s in strides)


def _only(mask: Tensor, sample: int) -> bool:
    """True if the mask (blocks, batch, stride) is False for all other samples."""
    return int(mask.sum()) == int(mask[:, sample].sum())


def _changed(arguments: Arguments, sample: int) -> Arguments:
    """The arguments with one sample changed: floats moved, integers reversed or taken from elsewhere."""
    generator = torch.Generator().manual_seed(1)

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape[1:], generator=generator, dtype=torch.float64).to(tensor)
            tensor[sample] += (1 + tensor.abs().max()) * noise
        else:
            values = torch.unique(tensor)
            drawn = torch.randint(len(values), tensor.shape[1:], generator=generator)
            tensor[sample] = values[drawn.to(values.device)]
        return tensor

    return arguments.with_tensors(change(t) for t in arguments.tensors.values())


def _values(model: nn.Module, arguments: Arguments) -> Mapping[str, Tensor]:
    """What enters and leaves every module, in order; keys are "number@path of the module that made it".

    The model's own result has the key "0@" and comes last.
    """
    found: dict[str, Tensor] = {}
    args, kwargs = arguments.call()
    try:
        with _recording(model, found), real_numbers(), torch.random.fork_rng(), torch.no_grad():
            result = model(*args, **kwargs)
    except Exception:  # the first modules' results are there
        return found
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return found | ({"0@": leaves[0].detach()} if len(leaves) == 1 else {})


@contextmanager
def _recording(model: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    """Inside, every call of a module adds its arguments, made by its caller, and its result to `found`."""
    running: list[str] = []
    handles = []

    def record(path: str, values: Any) -> None:
        for leaf in pytree.tree_leaves(values):
            if isinstance(leaf, Tensor):
                found[f"{len(found) + 1}@{path}"] = leaf.detach().clone()

    for path, module in model.named_modules():

        def enter(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            if running:
                record(running[-1], (args, kwargs))
            running.append(path)

        def leave(_: nn.Module, __: Any, result: Any, path: str = path) -> None:
            running.pop()
            record(path, result)

        handles += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
