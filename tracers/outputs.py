"""Which of the model's outputs the graph computes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.binding import dotted

INNER = "traced_model"
"""The path of the model inside `Chosen`."""


class Chosen(nn.Module):
    """A model that returns one leaf of another's result, so that the other leaves (caches) need not be traced."""

    def __init__(self, model: nn.Module, leaf: int) -> None:
        super().__init__()
        self.traced_model, self.leaf = model, leaf

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The leaf; calls that know the modules they come from (of an exported program) go on knowing them."""
        model = self.traced_model
        knows = isinstance(model, fx.GraphModule) and any("nn_module_stack" in node.meta for node in model.graph.nodes)
        if not knows or kwargs:
            return pytree.tree_leaves(model(*args, **kwargs))[self.leaf]
        with fx.traceback.preserve_node_meta():
            return pytree.tree_leaves(fx.Interpreter(model).run(*args))[self.leaf]


def choose_output(result: Any, output: int | str | None) -> int:
    """Position of the chosen tensor among the leaves of a model's result.

    `output` is an index, a key or a dotted path of these; None stands for the only tensor. Raises
    `TracingError` with the choices if there is no such tensor, or more than one.
    """
    found, _ = pytree.tree_flatten_with_path(result)
    paths = {dotted(path): i for i, (path, leaf) in enumerate(found) if isinstance(leaf, Tensor)}
    if not paths:
        raise TracingError(
            f"the model returns {type(result).__name__}, expected a tensor, or a tuple or dict of tensors"
        )
    wanted = [i for path, i in paths.items() if output is None or _matches(path, str(output))]
    if len(wanted) != 1:
        said = "no output was chosen" if output is None else f"output={output!r} names {len(wanted)} of them"
        raise TracingError(
            f"the model returns {len(paths)} tensors, {said}; pass output= one of {sorted(paths)}"
        )
    return wanted[0]


def _matches(path: str, output: str) -> bool:
    return path == output or path.startswith(f"{output}.")
