"""The fingerprint that ties a graph, and everything measured on it, to one set of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from covergraph.errors import ForeignModelError
from covergraph.graph.interpreter import state_of
from covergraph.graph.node import Node


def fingerprint(nodes: Iterable[Node], model: Any) -> str:
    """Digest of the nodes' whole records and of the values of their parameters.

    Values are cast to float64, so that `.double()` does not make another model. Raises `ForeignModelError` if a
    parameter is missing.
    """
    state = state_of(model)
    digest = hashlib.sha256()
    for node in nodes:
        digest.update(repr(node).encode())
        for _, name in node.parameters:
            if name not in state:
                raise ForeignModelError(
                    f"node {node.name!r}: the model has no parameter {name!r}; pass the model that was traced"
                )
            value = state[name].detach().to("cpu", torch.float64).contiguous()
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:32]
