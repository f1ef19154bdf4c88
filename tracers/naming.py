"""Names of nodes: short, stable, readable, the same for every way of tracing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from covergraph.graph.node import Node
from covergraph.graph.operations import Input


def rename(nodes: Sequence[Node], inputs: Mapping[str, str]) -> dict[str, Node]:
    """The nodes, renamed, by their old names, in order.

    An input has its argument's name (`inputs`: by old name); a module that makes one node gives it its path
    (`fc1`); a module that makes several, its path and the operation (`block1.add`); the top level, the
    operation alone. Repeated names are counted: `add`, `add_1`.
    """
    per_module = Counter(prefix for node in nodes for prefix in _prefixes(node.origin))
    taken: set[str] = set()
    names: dict[str, str] = {}
    for node in nodes:
        base = inputs.get(node.name) if isinstance(node.operation, Input) else _base(node, per_module)
        names[node.name] = _unique(base or node.name, taken)
    return {
        node.name: replace(node, name=names[node.name], inputs=tuple(names[u] for u in node.inputs))
        for node in nodes
    }


def _prefixes(path: str) -> Iterable[str]:
    parts = path.split(".") if path else []
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _base(node: Node, per_module: Mapping[str, int]) -> str:
    operation = node.operation.label.split("(")[0]
    if not node.origin:
        return operation
    return node.origin if per_module[node.origin] == 1 else f"{node.origin}.{operation}"


def _unique(base: str, taken: set[str]) -> str:
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name
