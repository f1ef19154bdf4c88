"""Hooks that copies of a model leave behind; the loss that backward() is called on, and its scale."""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._pytree import tree_leaves


class Hook:
    """A hook on a module. `copy.deepcopy` and `torch.save` of the module make of it one that does nothing.

    `torch.compile` does not look into it: it would compile anew for every row. `apart`: what it calls instead.
    """

    __slots__ = ("apart", "function")

    def __init__(self, function: Callable[..., Any], apart: Callable[..., Any] | None = None) -> None:
        compiles, other = "torch._dynamo" in sys.modules, apart or function  # to import it takes seconds
        self.function = function
        self.apart = torch.compiler.disable(other) if compiles else other  # type: ignore[no-untyped-call]

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


def transformed() -> bool:
    """Whether torch.func.grad, vmap and the like run, or the model is traced: what passes is none of the training's."""
    return torch._C._functorch.peek_interpreter_stack() is not None or traced()


def traced() -> bool:
    """Whether torch.jit.trace, torch.export, make_fx or fake tensors follow the model."""
    if torch._C._get_tracing_state() is not None:
        return True
    modes = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(mode) is not None for mode in (modes.FAKE, modes.PROXY))


class BackwardWatch:
    """Between `start` and `stop`: is a backward pass under way, and on what?

    `begun` counts them; `on_begin` and `on_end` are told, and `on_scale` gets 1 over the scale that a gradient scaler
    has put on the loss of the pass, with the scaler. `torch.autograd.backward`, through which `Tensor.backward` goes,
    and `GradScaler.scale` are replaced as long as any watch runs.
    """

    def __init__(self) -> None:
        self.depth, self.begun = 0, 0
        self.loss: Tensor | None = None
        self.on_begin: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.on_scale: Callable[[Tensor, object], None] | None = None

    def begin(self, tensors: Any, weights: Any = None) -> None:
        """A backward pass begins, perhaps inside of another one, as for checkpointed activations."""
        self.depth += 1
        if self.depth == 1:
            self.loss, self.begun = _scalar(tensors, weights), self.begun + 1
            if self.on_begin is not None:
                self.on_begin()

    def end(self) -> None:
        """It is over, or has failed."""
        self.depth -= 1
        if self.depth == 0:
            self.loss = None
            if self.on_end is not None:
                self.on_end()

    def start(self) -> None:
        """Begin to watch."""
        if not _WATCHES:
            _install()
        _WATCHES.append(self)

    def stop(self) -> None:
        """Cease to watch; the last one puts back what was replaced, unless others have replaced it since."""
        if self in _WATCHES:
            _WATCHES.remove(self)
        if _WATCHES:
            return
        for owner, name in (*((kind, "scale") for kind in _scalers()), (torch.autograd, "backward")):
            replaced = getattr(vars(owner)[name], "_covergraph", None)
            if replaced is not None:
                setattr(owner, name, replaced)


_WATCHES: list[BackwardWatch] = []


def _install() -> None:
    original = torch.autograd.backward

    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        watches, told = tuple(_WATCHES), 0
        try:
            for watch in watches:
                told += 1
                watch.begin(tensors, args[0] if args else kwargs.get("grad_tensors"))
            original(tensors, *args, **kwargs)
        finally:
            for watch in watches[:told]:
                watch.end()

    backward._covergraph = original  # type: ignore[attr-defined]
    torch.autograd.backward = backward
    for kind in _scalers():
        _install_scale(kind)


def _scalers() -> list[type]:
    """GradScaler, and the classes made of it that scale in their own way."""
    found: list[type] = [GradScaler]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if "scale" in vars(kind)]


def _install_scale(kind: Any) -> None:
    original = kind.scale

    @functools.wraps(original)
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        if self.is_enabled() and isinstance(getattr(self, "_scale", None), Tensor):
            inverse = self._scale.detach().double().reciprocal()  # a copy: update() changes the scale in place
            if isinstance(outputs, Tensor) and isinstance(result, Tensor):  # the product may overflow in their type
                result._covergraph = outputs.detach().double() / inverse.to(outputs.device)  # type: ignore[attr-defined]
            for value in tree_leaves(result):
                if isinstance(value, Tensor) and value.requires_grad:
                    tell = functools.partial(_tell_scale, self, inverse)
                    value.register_hook(tell)  # type: ignore[no-untyped-call]
        return result

    scale._covergraph = original  # type: ignore[attr-defined]
    kind.scale = scale


def _tell_scale(scaler: object, inverse: Tensor, gradient: Tensor) -> None:
    """A backward pass goes through a scaled loss; what is before it is reached later."""
    for watch in tuple(_WATCHES):
        if watch.depth and watch.on_scale is not None:
            watch.on_scale(inverse, scaler)


def _scalar(tensors: Any, weights: Any) -> Tensor | None:
    """What is differentiated, Σ w_k ℓ_k, if each ℓ_k has one entry."""
    several = list(tensors) if isinstance(tensors, (tuple, list)) else [tensors]
    factors = list(weights) if isinstance(weights, (tuple, list)) else [weights] * len(several)
    if not several or any(not isinstance(t, Tensor) or t.numel() != 1 for t in several):
        return None
    losses = [getattr(t, "_covergraph", t.detach()).squeeze() for t in several]
    weighted = [t if w is None else t * w.detach().squeeze() for t, w in zip(losses, factors, strict=False)]
    return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()
