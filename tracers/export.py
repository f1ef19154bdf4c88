"""The first way: torch.export, not strict, with a symbolic batch size where the model allows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind, TensorArgument

from covergraph.tracers.arguments import Arguments
from covergraph.tracers.traced import Traced


def trace_by_export(model: nn.Module, arguments: Arguments) -> Traced:
    """Export with a symbolic batch; where that fails, with the batch size of the example."""
    try:
        return _read(_export(model, arguments, dynamic=True), model, arguments, "export")
    except Exception:  # torch raises many types here, and the second attempt's reason is the clearer one
        return _read(_export(model, arguments, dynamic=False), model, arguments, "export with a fixed batch")


def _export(model: nn.Module, arguments: Arguments, dynamic: bool) -> ExportedProgram:
    args, kwargs = arguments.call()
    shapes: Any = None
    if dynamic:
        shapes, batch = ShapesCollection(), Dim("batch", min=2)  # type: ignore[no-untyped-call]
        for tensor in arguments.tensors.values():
            shapes[tensor] = {0: batch}
    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def _read(program: ExportedProgram, model: nn.Module, arguments: Arguments, way: str) -> Traced:
    signature = program.graph_signature
    specs = [s.arg for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
    placeholders = [arg.name for arg in specs if isinstance(arg, TensorArgument)]
    nodes = {node.name: node for node in program.graph.nodes}
    return Traced(
        way=way,
        module=model,
        graph=program.graph,
        inputs=dict(zip(placeholders, arguments.tensors, strict=True)),
        state={**signature.inputs_to_parameters, **signature.inputs_to_buffers},
        batch=nodes[placeholders[0]].meta["val"].shape[0],
    )
