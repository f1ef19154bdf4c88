"""The second way: torch.fx symbolic tracing, which runs forward on proxies; its graph is then exported."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from covergraph.graph.precision import no_numbers
from covergraph.tracers.arguments import Arguments
from covergraph.tracers.export import exported, read
from covergraph.tracers.outputs import Chosen
from covergraph.tracers.traced import Traced


def trace_by_fx(model: Chosen, arguments: Arguments, kept: Collection[str]) -> Traced:
    """Trace symbolically with the arguments that are no tensors as constants, then export the flat module."""
    given = dict(zip(arguments.paths, arguments.leaves, strict=True))
    tensors = arguments.tensors
    constants = {
        name: given.get(name, parameter.default)
        for name, parameter in arguments.signature.parameters.items()
        if name not in tensors
    }
    if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(constants)) or "." in "".join(tensors):
        raise ValueError("tensors inside containers are not followed by torch.fx")
    inner = model.traced_model
    with no_numbers():
        graph = fx.Tracer().trace(inner, concrete_args=constants or None)
    for node in reversed(list(graph.nodes)):
        constant = node.op == "placeholder" and node.target not in tensors
        if not node.users and (constant or node.op not in ("placeholder", "output")):
            graph.erase_node(node)
    flat = Arguments.of(module := fx.GraphModule(inner, graph), tuple(tensors.values()))
    return read(exported(Chosen(module, model.leaf), flat, kept), model.traced_model, arguments.only_tensors(), "fx")
