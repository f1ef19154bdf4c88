"""What every way of tracing yields: a torch.fx.Graph, and what its nodes stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Traced:
    """A graph whose nodes hold fake results in meta["val"].

    `inputs`: path of the argument by name of its placeholder; `state`: dotted name by name of the fx node
    that reads it; `batch`: the batch size, a number or a symbol.
    """

    way: str
    module: nn.Module
    graph: fx.Graph
    inputs: Mapping[str, str]
    state: Mapping[str, str]
    batch: int | torch.SymInt

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The leaves of the model's output, in order: fx nodes, and constants as they are."""
        (node,) = (node for node in self.graph.nodes if node.op == "output")
        return tuple(pytree.tree_leaves(node.args[0]))

    def is_batch(self, size: Any) -> bool:
        """True if `size` is the batch size itself (not a number that happens to be equal)."""
        if isinstance(size, torch.SymInt) and isinstance(self.batch, torch.SymInt):
            return bool(size.node.expr == self.batch.node.expr)
        return static(size) is not None and static(size) == static(self.batch)

    def per_sample(self, shape: torch.Size) -> tuple[int, ...] | None:
        """The shape without the batch; None if dim 0 is not the batch or another dim depends on it."""
        if not shape or not self.is_batch(shape[0]):
            return None
        rest = [static(size) for size in shape[1:]]
        return None if None in rest else tuple(size for size in rest if size is not None)

    def shown(self, shape: torch.Size) -> str:
        """A shape as text, with the word batch in the place of the batch size."""
        return f"({', '.join('batch' if self.is_batch(size) else str(size) for size in shape)})"


def static(size: Any) -> int | None:
    """A size as a number, None if it is symbolic."""
    if isinstance(size, torch.SymInt):
        return int(size.node.expr) if size.node.expr.is_number else None
    return int(size)


def holds_tensor(node: fx.Node) -> bool:
    """True unless the node's result is known to hold numbers only (sizes, shapes, flags)."""
    if "val" not in node.meta:
        return True
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(node.meta["val"]))


def module_stack(node: fx.Node) -> Mapping[str, tuple[str, Any]]:
    """The modules around a node, outermost first: key of the call -> (path, class or name of the class)."""
    stack = node.meta.get("nn_module_stack") or {}
    return {key: value for key, value in stack.items() if not str(key).startswith("_empty")}


def module_path(node: fx.Node) -> str:
    """Dotted path of the innermost module around a node, "" at the top level."""
    stack = list(module_stack(node).values())
    return str(stack[-1][0]) if stack else ""
