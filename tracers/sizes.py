"""Shapes that torch.export leaves open, because they depend on the values of constants (a mask, a list of edges)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from covergraph.errors import TracingError
from covergraph.graph.interpreter import state_of
from covergraph.graph.precision import real_numbers
from covergraph.tracers.forms import canonical_name
from covergraph.tracers.traced import Traced, place


def settle_sizes(traced: Traced, example: Mapping[str, Tensor]) -> None:
    """Give every fx node the shape that it has on the example, if a shape is open.

    `example`: a batch of one, by name of the placeholder. Raises `TracingError` where the values of the inputs or of
    parameters decide about a shape or a number.
    """
    if not any(_open(node) for node in traced.graph.nodes):
        return
    steered = _steered(traced)
    if steered is not None:
        raise steering(steered)
    values: dict[fx.Node, Any] = {}
    state = {**state_of(traced.module), **traced.constants}
    with torch.no_grad(), real_numbers():
        for node in traced.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                name = traced.state.get(node.name, node.name)
                values[node] = example.get(node.name, state.get(name))
            elif node.op == "call_function" and (node.users or not node.is_impure()):
                args, kwargs = map_aggregate((node.args, node.kwargs), lambda a: _read(values, a))
                values[node] = node.target(*args, **kwargs)
            if node.op != "output" and node in values:
                node.meta["val"] = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), values[node])


def _read(values: Mapping[fx.Node, Any], argument: Any) -> Any:
    return values[argument] if isinstance(argument, fx.Node) else argument


def _open(node: fx.Node) -> set[Any]:
    """The symbols for unknown numbers in a node's result."""
    result = node.meta.get("val")
    return set(free_unbacked_symbols(result)) if result is not None else set()


def _steered(traced: Traced) -> fx.Node | None:
    """The first node that makes an unknown number of what the inputs or the parameters reach."""
    reached: set[fx.Node] = set()
    known: set[Any] = set()
    for node in traced.graph.nodes:
        if node.name in traced.inputs or node.name in traced.state or any(a in reached for a in node.all_input_nodes):
            reached.add(node)
            if _open(node) - known and any(a in reached for a in _deciding(node)):
                return node
        known |= _open(node)
    return None


def _deciding(node: fx.Node) -> Sequence[Any]:
    """The arguments whose values decide about the result's shape: of x[i, j], the indices alone."""
    if canonical_name(node.target) == "index":
        return [leaf for leaf in pytree.tree_leaves(node.args[1:]) if isinstance(leaf, fx.Node)]
    return node.all_input_nodes


def steering(node: fx.Node) -> TracingError:
    """The error for a call whose result decides about shapes or control flow."""
    return TracingError(
        f"{place(node)}: operation {canonical_name(node.target)!r} makes control flow or shapes depend on values "
        "of the data or of parameters, expected the same operations for all values; use masks or torch.where, and "
        "no .item(), float() or x[mask]"
    )
