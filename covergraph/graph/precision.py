"""Real numbers: the model runs, and is traced, in float64, also where its code asks for a narrower type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from covergraph.graph.weights import default_type

NARROW = (torch.float32, torch.float16, torch.bfloat16)

CASTS: Mapping[Any, Callable[..., Any]] = dict.fromkeys(
    (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16), torch.Tensor.double
)


class _Wide(TorchFunctionMode):
    """Every float32, float16 or bfloat16 among the arguments of a torch function means float64.

    Not where torch describes a tensor that code holds, a global one, say, without its numbers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty_strided and torch.device((kwargs or {}).get("device", "cpu")).type == "meta":
            return func(*args, **kwargs)
        args, kwargs = pytree.tree_map_only(torch.dtype, wide, (tuple(args), dict(kwargs or {})))
        return CASTS.get(func, func)(*args, **kwargs)


def wide(dtype: torch.dtype) -> torch.dtype:
    """float64 for a narrower floating type, complex128 for a narrower complex one, else the type itself."""
    if dtype in (torch.complex64, torch.complex32):
        return torch.complex128
    return torch.float64 if dtype in NARROW else dtype


READS = ("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__", "__complex__")
"""Methods of a tensor that give Python its values."""


class _NoNumbers(TorchFunctionMode):
    """Refuses to read numbers from floating tensors: a graph that is recorded would keep their present values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = getattr(func, "__name__", "") in READS and args and isinstance(args[0], Tensor)
        if read and (args[0].is_floating_point() or args[0].is_complex() or args[0].dtype == torch.bool):
            raise RuntimeError(f"control flow or numbers are data-dependent: {func.__name__} of a tensor")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_numbers() -> Iterator[None]:
    """Inside, no number may be read from a floating tensor. Raises `RuntimeError` there."""
    with _NoNumbers():
        yield


@contextmanager
def real_numbers() -> Iterator[None]:
    """Inside, floating numbers are float64: by default, and where code asks for narrower ones."""
    with default_type(torch.float64), _Wide():
        yield


def doubled(value: Tensor) -> Tensor:
    """A tensor with its floats in float64."""
    return value.to(wide(value.dtype))
