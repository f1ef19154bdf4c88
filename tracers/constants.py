"""Which tensors that the model holds are constants of the graph, and what does it do with them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from covergraph.graph.weights import Weights
from covergraph.tracers.forms import bind, canonical_name
from covergraph.tracers.traced import module_path
from covergraph.tracers.values import State, kind_of

SELECTS = frozenset({"index", "indices", "condition", "mask", "attn_mask", "offsets", "lengths", "repeats", "offs"})
"""Arguments that say which entries are taken: the numbers in them take part in no arithmetic."""

ADDS = frozenset({"add", "sub", "rsub", "baddbmm", "addmm", "where", "masked_fill", "scaled_dot_product_attention"})
"""Operations in which a mask of booleans says what is dropped, as 0 or -inf."""


def makes_floats(node: fx.Node) -> bool:
    """True if a call has a result of real or complex numbers."""
    leaves = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]
    return any(kind_of(leaf.dtype) != "integer" for leaf in leaves)


def looks_up(node: fx.Node, name: str) -> bool:
    """True if the argument `name` is the table of an embedding, whose rows are numbers, also if they are integers."""
    return name == "weight" and canonical_name(node.target) == "embedding"


class HeldConstants:
    """Follows constants that the model holds, by their names in it, through calls that no input reaches.

    Masks of booleans count where they are factors. `numbers` are the plain ones of the model's modules, which are known
    by their value where they are read.
    """

    def __init__(self, held: Mapping[str, str], numbers: Mapping[tuple[str, float], Sequence[str]]) -> None:
        self._masks: set[str] = set()
        self._all: list[str] = []
        self._factors: list[str] = []
        self._read: list[str] = []
        self._numbers = numbers
        self._held = held
        self._within: dict[fx.Node, tuple[str, ...]] = {}

    def found(self, node: fx.Node, value: Tensor) -> None:
        """A placeholder of a constant."""
        if node.name in self._held:
            name = self._held[node.name]
            self._within[node] = (name,)
            self._all.append(name)
            self._masks |= {name} if value.dtype == torch.bool else set()

    def buffer(self, node: fx.Node, name: str) -> None:
        """A placeholder of a buffer of real numbers, which activations may compare."""
        self._within[node] = (name,)

    def named(self, weights: Weights) -> Weights:
        """With the names of those that were met, that enter the arithmetic of a call on activations, and of numbers."""
        held, factors, numbers = (tuple(dict.fromkeys(names)) for names in (self._all, self._factors, self._read))
        return replace(weights, held=held, factors=factors, numbers=numbers)

    def passed(self, node: fx.Node) -> None:
        """A call on constants, and perhaps on state."""
        self._of_modules(node)
        self._within[node] = tuple(name for a in node.all_input_nodes for name in self._within.get(a, ()))

    def read(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> None:
        """A call on activations: which of its operands are constants?"""
        self._of_modules(node)
        hidden = self._masks if canonical_name(node.target) in ADDS else set()
        for name, argument in bind(node).items():
            for leaf in pytree.tree_leaves(argument):
                if isinstance(leaf, fx.Node) and isinstance(value := values[leaf], State) and value.compared:
                    self._factors += self._within.get(leaf, ())
            if name in SELECTS or looks_up(node, name):
                continue
            for leaf in pytree.tree_leaves(argument):
                if isinstance(leaf, fx.Node) and _fixed(values[leaf], node):
                    self._factors += [name for name in self._within.get(leaf, ()) if name not in hidden]

    def _of_modules(self, node: fx.Node) -> None:
        """The plain numbers of the module around a call that are among its arguments."""
        path = module_path(node)
        for leaf in pytree.tree_leaves([list(node.args), dict(node.kwargs)]):
            if isinstance(leaf, float):
                self._read += self._numbers.get((path, leaf), ())


def _fixed(value: Any, node: fx.Node) -> bool:
    """True if a call reads an operand as a constant: also integers of the state, if its own result is of integers."""
    known = isinstance(value, State) and value.known is not None and not value.dtype.is_floating_point
    return isinstance(value, Tensor) or (known and not makes_floats(node))
