"""Which tensors that the model holds are constants of the graph, and what does it do with them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from covergraph.tracers.forms import bind
from covergraph.tracers.values import kind_of

SELECTS = frozenset({"index", "indices", "condition", "mask", "attn_mask", "offsets", "lengths", "repeats", "offs"})
"""Arguments that say which entries are taken: the numbers in them take part in no arithmetic."""


def makes_floats(node: fx.Node) -> bool:
    """True if a call has a result of real or complex numbers."""
    leaves = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]
    return any(kind_of(leaf.dtype) != "integer" for leaf in leaves)


class HeldConstants:
    """Follows constants that the model holds, by their names in it, through calls that no input reaches.

    `all` are those that were met; `factors`, those whose numbers enter the arithmetic of a call on activations.
    """

    def __init__(self, held: Mapping[str, str]) -> None:
        self.all: list[str] = []
        self.factors: list[str] = []
        self._held = held
        self._within: dict[fx.Node, tuple[str, ...]] = {}

    def found(self, node: fx.Node) -> None:
        """A placeholder of a constant."""
        if node.name in self._held:
            self._within[node] = (self._held[node.name],)
            self.all.append(self._held[node.name])

    def passed(self, node: fx.Node) -> None:
        """A call on constants, and perhaps on state."""
        self._within[node] = tuple(name for a in node.all_input_nodes for name in self._within.get(a, ()))

    def read(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> None:
        """A call on activations: which of its operands are constants?"""
        if not makes_floats(node):
            return
        for name, argument in bind(node).items():
            for leaf in pytree.tree_leaves(argument):
                if isinstance(leaf, fx.Node) and name not in SELECTS and isinstance(values[leaf], Tensor):
                    numbers = values[leaf].dtype != torch.bool
                    self.factors += self._within.get(leaf, ()) if numbers else ()
