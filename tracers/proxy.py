"""The third way: make_fx, which records what the model does with one example; its graph is then exported."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn
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
    with no_numbers():
        recorded = make_fx(Flat(), pre_dispatch=True, _allow_non_fake_inputs=True)(*tensors)
    flat = Arguments.of(recorded, tensors)
    return read(exported(recorded, flat, kept), model.traced_model, arguments.only_tensors(), "make_fx")
