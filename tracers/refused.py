"""Models that no way of tracing can follow, refused by name before any is tried."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from covergraph.errors import TracingError


def refuse_modules(model: nn.Module) -> None:
    """Raise `TracingError` for quantized modules and for state that is not dense, with path and remedy."""
    for path, module in model.named_modules():
        package = type(module).__module__
        if package.startswith("torch.ao.nn.") and "quantized" in package:
            raise TracingError(
                f"module {path or 'at the top level'!r} is {package}.{type(module).__name__}, whose weights are packed "
                "integers that torch does not trace; trace the model from before quantization, or a module that keeps "
                "the integers as a buffer and computes with weight.to(x.dtype) * scale"
            )
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if value.layout != torch.strided or value.is_quantized:
            raise TracingError(
                f"{name!r} of the model is {value.layout} of {value.dtype}, expected a dense tensor; "
                "register value.to_dense(), or value.dequantize(), in its place"
            )
