"""The fingerprint that ties a graph, and everything measured on it, to one set of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from covergraph.errors import ForeignModelError
from covergraph.graph.interpreter import state_of
from covergraph.graph.node import Node
from covergraph.graph.operations import Composite
from covergraph.graph.weights import Weights


def fingerprint(nodes: Iterable[Node], model: Any, weights: Weights | None = None) -> str:
    """Digest of the nodes' whole records and of the values of their parameters.

    Neither the order of the nodes nor their grouping into blocks counts: a coarsened graph is the same model. Reals
    are cast to float64, so that `.double()` does not make another model. Raises `ForeignModelError` if a parameter is
    missing.
    """
    state = state_of(model)
    digest = hashlib.sha256()
    weights = weights or Weights()
    if weights:
        digest.update(weights.digest())
    for node in sorted(_leaves(nodes), key=lambda node: node.name):
        digest.update(repr(node).encode())
        for name in (source for _, entry in node.parameters for source in weights.read(entry)):
            if name not in state:
                raise ForeignModelError(
                    f"node {node.name!r}: the model has no parameter {name!r}; pass the model that was traced"
                )
            value = state[name].detach().cpu()
            value = value.to(_wide(value.dtype)).resolve_conj().contiguous()
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:32]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The widest type of the kind; integers stay."""
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def _leaves(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes with those inside of blocks in place of the blocks."""
    for node in nodes:
        if isinstance(node.operation, Composite):
            yield from _leaves(node.operation.nodes)
        else:
            yield node
