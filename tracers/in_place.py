"""In-place operations read as what they compute: later readers of the changed tensor read the new value."""

from __future__ import annotations

from torch import fx

from covergraph.tracers.forms import bind, is_in_place


def read_new_values(graph: fx.Graph) -> None:
    """Redirect every later use of a tensor that a call changes in place to that call's result.

    A change that is seen through another view of the memory is not followed: the check of the finished graph
    against the model finds it.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "call_method") or not node.args:
            continue
        changed = node.args[0]
        if not isinstance(changed, fx.Node) or not (is_in_place(node.target) or bind(node).get("inplace")):
            continue

        def later(user: fx.Node, position: int = order[node]) -> bool:
            return order[user] > position

        changed.replace_all_uses_with(node, delete_user_cb=later)
