"""Make torchvision importable where its compiled operators are missing: its pure-Python models need none of them."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch

# The import of torchvision registers fake kernels for these two, and fails if nobody has declared them.
OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def declare_operators() -> torch.library.Library | None:
    """Declare torchvision's two operators if its own library does not load; the cache keeps the declaration alive."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(name + SCHEMA)
        return library
    return None


def load(module: str) -> ModuleType:
    """Import a module that is torchvision or may use it; raises ImportError if `module` is not installed."""
    declare_operators()
    return importlib.import_module(module)
