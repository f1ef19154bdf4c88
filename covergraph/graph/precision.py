"""Real numbers: the model runs, and is traced, in float64, also where its code asks for a narrower type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from covergraph.errors import TracingError
from covergraph.graph.weights import default_type

NARROW = (torch.float32, torch.float16, torch.bfloat16)

CASTS: Mapping[Any, Callable[..., Any]] = dict.fromkeys(
    (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16), torch.Tensor.double
)


VIEWS = frozenset(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "data", "real", "imag"))
FORMS = frozenset(
    ("size", "dim", "numel", "stride", "storage_offset", "untyped_storage", "data_ptr", "element_size", "__len__")
)


def _reads_form(func: Any) -> bool:
    """Whether a function reads what a tensor is like, and none of its numbers, as torch's own tracing does."""
    name = getattr(func, "__name__", "")
    return name in FORMS or name.startswith(("is_", "_is_")) or (name == "__get__" and func not in VIEWS)


class _Wide(TorchFunctionMode):
    """Every float32, float16 or bfloat16 among the arguments of a torch function means float64.

    So do tensors that the model does not hold, as those of the module that its code stands in. Where the model just
    runs, one copy stands for such a tensor, so that a change of it is seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._assert_tensor_metadata.default:
            return None  # export says of what type a tensor was before it was widened
        if _reads_form(func):
            found = func(*args, **(kwargs or {}))
            return wide(found) if isinstance(found, torch.dtype) else found
        args, kwargs = pytree.tree_map_only((torch.dtype, Tensor), self._wide, (tuple(args), dict(kwargs or {})))
        return CASTS.get(func, func)(*args, **kwargs)

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return wide(value)
        if wide(value.dtype) is value.dtype:
            return value
        if value.requires_grad:
            raise TracingError(
                f"the model computes with a tensor of shape {tuple(value.shape)} that requires gradients and is not "
                "in its state; register it as a parameter (nn.Parameter as an attribute, or nn.ParameterList)"
            )
        if not _is_eager():
            return doubled(value)
        if id(value) not in self._copies:
            self._copies[id(value)] = value, doubled(value)
        return self._copies[id(value)][1]

    def require_unchanged(self) -> None:
        """Raise `TracingError` if a tensor that the model does not hold was written to."""
        for value, copied in self._copies.values():
            if not torch.equal(doubled(value).nan_to_num(), copied.nan_to_num()):
                raise TracingError(
                    f"forward changes a tensor of shape {tuple(value.shape)} that is not in the model's state, "
                    "expected a function of its arguments; compute with a copy: tensor.clone()"
                )


def _is_eager() -> bool:
    """Whether tensors hold numbers here: nothing is recorded or transformed."""
    return _get_current_dispatch_mode() is None and torch._C._functorch.peek_interpreter_stack() is None


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
    """Inside, floating numbers are float64: by default, where code asks for narrower ones, and where it finds them.

    Raises `TracingError` for what is found and may be trained, or is changed.
    """
    mode = _Wide()
    with default_type(torch.float64), mode:
        yield
    mode.require_unchanged()


def doubled(value: Tensor) -> Tensor:
    """A tensor with its floats in float64."""
    return value.to(wide(value.dtype))
