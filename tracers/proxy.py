"""The third way: make_fx, which records what the model does with one example; its graph is then exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import make_fx

from covergraph.graph.precision import no_numbers
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.export import exported, read
from covergraph.tracers.outputs import Chosen
from covergraph.tracers.traced import Traced


def trace_by_make_fx(model: Chosen, arguments: Arguments, kept: Collection[str]) -> Traced:
    """Record the operations on the example; a value that steers control flow makes it fail, as it should."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            args, kwargs = arguments.with_tensors(tensors).call()
            return self.model(*args, **kwargs)

    tensors = tuple(arguments.tensors.values())
    with no_numbers(), _known_modules(model.traced_model):
        recorded = make_fx(Flat(), pre_dispatch=True, _allow_non_fake_inputs=True)(*tensors)
    flat = Arguments.of(recorded, tensors)
    return read(exported(Chosen(recorded, 0), flat, kept), model.traced_model, arguments.only_tensors(), "make_fx")


@contextmanager
def _known_modules(model: nn.Module) -> Iterator[None]:
    """Inside, every call that is recorded knows the modules around it, as torch.export would have noted them."""
    stack: dict[str, tuple[str, type]] = {}
    calls: Counter[str] = Counter()

    def enter(path: str, module: nn.Module) -> None:
        calls[path] += 1  # each call of a module is another one
        stack[f"{path}@{calls[path]}"] = (path, type(module))
        traceback.get_current_meta()["nn_module_stack"] = dict(stack)

    def leave(path: str) -> None:
        stack.pop(f"{path}@{calls[path]}", None)
        traceback.get_current_meta()["nn_module_stack"] = dict(stack)

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda module, _, path=path: enter(path, module)))
        handles.append(module.register_forward_hook(lambda *_, path=path: leave(path), always_call=True))
    try:
        with traceback.preserve_node_meta():
            yield
    finally:
        for handle in handles:
            handle.remove()
