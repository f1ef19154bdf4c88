"""What every way of tracing yields: a torch.fx.Graph for a batch of one sample, and what its nodes stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from covergraph.tracers.outputs import INNER


@dataclass(frozen=True)
class Traced:
    """A functional graph whose nodes hold fake results in meta["val"], all for a batch of one sample.

    By name of the placeholder: `inputs`, the path of the argument; `state`, the dotted name; `constants`, the value;
    `held`, the dotted name of a constant that the model holds.
    """

    way: str
    module: nn.Module
    graph: fx.Graph
    inputs: Mapping[str, str]
    state: Mapping[str, str]
    constants: Mapping[str, Tensor]
    held: Mapping[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Any:
        """The last leaf of what the graph returns, an fx node or a constant: first come changed buffers, if any."""
        (node,) = (node for node in self.graph.nodes if node.op == "output")
        return pytree.tree_leaves(node.args[0])[-1]


def holds_tensor(node: fx.Node) -> bool:
    """True if the node's result is a tensor or holds one."""
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(node.meta.get("val")))


def module_stack(node: fx.Node) -> Mapping[str, tuple[str, Any]]:
    """The modules around a node, outermost first: key of the call -> (path, class or name of the class)."""
    stack = node.meta.get("nn_module_stack") or {}
    plain = {key: (str(path), kind) for key, (path, kind) in stack.items() if not str(key).startswith("_empty")}
    wrapped = {key: (_inside(path), kind) for key, (path, kind) in plain.items()}
    inner = {key: (path, kind) for key, (path, kind) in wrapped.items() if path is not None}
    return inner or plain  # the calls of an exported program know its own modules


def _inside(path: str) -> str | None:
    """A path as the model knows it; None for what is around the model."""
    parts = path.split(".")
    return ".".join(parts[parts.index(INNER) + 1 :]) if INNER in parts else None


def place(node: fx.Node) -> str:
    """Words for messages: the innermost module around a node."""
    path = module_path(node)
    return f"module {path!r}" if path else "the model's top level"


def module_path(node: fx.Node) -> str:
    """Dotted path of the innermost module around a node, "" at the top level."""
    stack = list(module_stack(node).values())
    return stack[-1][0] if stack else ""
