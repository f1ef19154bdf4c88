"""Graph networks of torch_geometric on a fixed ring with chords; a sample is a matrix (nodes, features)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zoo.entry import Case, floats

NODES, FEATURES, HIDDEN, CLASSES = 8, 5, 6, 3

# "static": the layer itself takes (batch, nodes, features); "flat": the samples become one graph without edges between.
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GCNConv": ("static", {}),
    "SAGEConv": ("static", {}),
    "GraphConv": ("static", {}),
    "ChebConv": ("static", {"K": 3}),
    "SGConv": ("static", {"K": 2}),
    "LEConv": ("flat", {}),
    "ARMAConv": ("flat", {"num_stacks": 2}),
    "GATConv": ("flat", {"heads": 2, "concat": False}),
    "GATv2Conv": ("flat", {"heads": 2, "concat": False}),
    "TransformerConv": ("flat", {"heads": 2, "concat": False}),
}


def edges() -> Tensor:
    """A ring in both directions with chords of length three: (2, edges)."""
    i = torch.arange(NODES)
    pairs = [torch.stack([i, (i + step) % NODES]) for step in (1, NODES - 1, 3)]
    return torch.cat(pairs, dim=1)


class GraphNetwork(nn.Module):
    """Two graph layers, then the mean over the nodes and a linear head."""

    def __init__(self, first: nn.Module, second: nn.Module, flat: bool) -> None:
        super().__init__()
        self.first, self.second, self.head, self.flat = first, second, nn.Linear(HIDDEN, CLASSES), flat
        self.register_buffer("edges", edges())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.convolve(self.first, x))
        return self.head(torch.relu(self.convolve(self.second, h)).mean(1))

    def convolve(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One layer on all samples."""
        if not self.flat:
            return layer(x, self.edges)
        shift = NODES * torch.arange(len(x))
        edge_index = (self.edges[:, None] + shift[:, None]).flatten(1)
        return layer(x.flatten(0, 1), edge_index).unflatten(0, (len(x), NODES))


def build(name: str, way: str, options: dict[str, Any]) -> Case:
    """Two layers of one kind."""
    layer = getattr(importlib.import_module("torch_geometric.nn"), name)
    first, second = layer(FEATURES, HIDDEN, **options), layer(HIDDEN, HIDDEN, **options)
    return Case(GraphNetwork(first, second, way == "flat"), floats(NODES, FEATURES))


def isomorphism() -> Case:
    """GIN, whose layers hold a network each."""
    layer = importlib.import_module("torch_geometric.nn").GINConv
    sizes = ((FEATURES, HIDDEN), (HIDDEN, HIDDEN))
    layers = [layer(nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b)), train_eps=True) for a, b in sizes]
    return Case(GraphNetwork(*layers, flat=False), floats(NODES, FEATURES))


CASES: dict[str, Callable[[], Case]] = {
    **{name: partial(build, name, *rest) for name, rest in LAYERS.items()},
    "GINConv": isomorphism,
}
"""Builders by name."""
