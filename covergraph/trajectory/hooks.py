"""Hooks that copies of a model leave behind, and the loss that backward() is called on."""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Hook:
    """A hook on a module. `copy.deepcopy` and `torch.save` of the module make of it one that does nothing.

    `torch.compile` does not look into it: it would compile anew for every row.
    """

    __slots__ = ("apart", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        compiles = "torch._dynamo" in sys.modules  # to import it takes seconds
        self.function = function
        self.apart = torch.compiler.disable(function) if compiles else function  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # only then, for `apart` costs some microseconds
            return self.apart(*args)
        return self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


def _nothing() -> Hook:
    return Hook(_ignore)


def _ignore(*args: Any) -> None:
    return None


@contextmanager
def silenced(model: nn.Module) -> Iterator[None]:
    """No forward hooks of the user's, who may collect what passes by; those before a module may make its weights."""
    kept = [(module, module._forward_hooks) for module in model.modules()]
    try:
        for module, _ in kept:
            module._forward_hooks = OrderedDict()
        yield
    finally:
        for module, hooks in kept:
            module._forward_hooks = hooks


class BackwardWatch:
    """Between `start` and `stop`: is a backward pass under way, and on what? `begun` counts them, `on_begin` is told.

    `torch.autograd.backward`, through which `Tensor.backward` goes, is replaced as long as any watch runs.
    """

    def __init__(self) -> None:
        self.depth, self.begun = 0, 0
        self.loss: Tensor | None = None
        self.on_begin: Callable[[], None] | None = None

    def begin(self, tensors: Any) -> None:
        """A backward pass begins, perhaps inside of another one, as for checkpointed activations."""
        if self.depth == 0:
            self.loss, self.begun = _scalar(tensors), self.begun + 1
            if self.on_begin is not None:
                self.on_begin()
        self.depth += 1

    def start(self) -> None:
        """Begin to watch."""
        if not _WATCHES:
            _install()
        _WATCHES.append(self)

    def stop(self) -> None:
        """Cease to watch; the last one puts back what was replaced, unless others have replaced it since."""
        if self in _WATCHES:
            _WATCHES.remove(self)
        replaced = getattr(torch.autograd.backward, "_covergraph", None)
        if not _WATCHES and replaced is not None:
            torch.autograd.backward = replaced


_WATCHES: list[BackwardWatch] = []


def _install() -> None:
    original = torch.autograd.backward

    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        watches = tuple(_WATCHES)
        for watch in watches:
            watch.begin(tensors)
        try:
            original(tensors, *args, **kwargs)
        finally:
            for watch in watches:
                watch.depth -= 1
                if watch.depth == 0:
                    watch.loss = None

    backward._covergraph = original  # type: ignore[attr-defined]
    torch.autograd.backward = backward


def _scalar(tensors: Any) -> Tensor | None:
    """The only tensor, if it has one entry."""
    single = tensors[0] if isinstance(tensors, (tuple, list)) and len(tensors) == 1 else tensors
    return single.detach().squeeze() if isinstance(single, Tensor) and single.numel() == 1 else None
