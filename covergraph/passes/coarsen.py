"""Fewer, larger nodes: chains of operations without parameters, and the blocks that a user names.

Both passes keep names: a `Composite` is called like the node that leaves it and has its value, so the coarser graph
computes what the finer one does, node by node. Bounds are derived on the finer graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import takewhile

from covergraph.errors import GraphError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.node import Node
from covergraph.graph.operations import Input
from covergraph.kinds import GRAPH, NAMES, WHOLE, require
from covergraph.passes.prune import prune
from covergraph.passes.regions import Region, components, cones, contract, leaving, users_of

LONGEST = 28
"""The name of a chain is abbreviated beyond this many characters."""

SHOWN = 6
"""So many names are listed in an error."""


def merge_chains(graph: ComputationGraph) -> ComputationGraph:
    """Each maximal chain of two or more nodes without parameters becomes one node, relu·maxpool2d·reshape.

    In a chain every node reads one node, and each but the last is read by the next one alone and is not the output.
    """
    require("merge_chains", {"graph": GRAPH}, graph=graph)
    users = users_of(graph)
    chains: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.learned or len(node.predecessors) != 1:
            continue
        before = node.predecessors[0]
        alone = users[before] == (node.name,) and before != graph.output
        chains[node.name] = [*(chains.pop(before, []) if alone else []), node]
    return contract(graph, (Region(tuple(c), _chain_name(c), _common_path(c)) for c in chains.values()))


def _chain_name(chain: list[Node]) -> str:
    labels = [node.operation.label for node in chain]
    name = "·".join(labels)
    return name if len(name) <= LONGEST else f"{labels[0]}·…·{labels[-1]} ({len(labels)})"


def _common_path(chain: list[Node]) -> str:
    parts = zip(*(node.origin.split(".") for node in chain), strict=False)
    return ".".join(same[0] for same in takewhile(lambda level: len(set(level)) == 1, parts))


def coarsen(graph: ComputationGraph, blocks: str | Iterable[str], split: bool = False) -> ComputationGraph:
    """Each block, the nodes at or below one module path, becomes one node that is labeled with the path.

    Nodes that the output does not use go. A module that is called several times becomes a node per call (calls
    that feed each other directly become one); a block of a single node stays as it is, with its rules.

    Args: `blocks`: module paths, or patterns whose parts may hold wildcards: "layer1.*" are the paths of two parts
    below layer1. Where chosen paths lie within each other, the outermost counts. `split`: cut a block that several
    values leave into the fewest nodes with one value each.
    Raises `GraphError` for a pattern that matches nothing, and for a block that several values leave.
    """
    require("coarsen", {"graph": GRAPH, "blocks": NAMES}, graph=graph, blocks=blocks)
    graph = prune(graph)
    chosen = _chosen(graph, [blocks] if isinstance(blocks, str) else blocks)
    members: dict[str, list[str]] = {}
    for node in graph.nodes:
        path = next((path for path in _prefixes(node.origin) if path in chosen), None)
        if path is not None and not isinstance(node.operation, Input):
            members.setdefault(path, []).append(node.name)
    return contract(graph, (region for path in members for region in _regions(graph, path, members[path], split)))


def blocks(graph: ComputationGraph, depth: int) -> tuple[str, ...]:
    """The module paths of `depth` parts, in the order of the graph; `coarsen(graph, blocks(graph, 2))` merges them.

    Raises `GraphError` if there is none.
    """
    require("blocks", {"graph": GRAPH, "depth": WHOLE}, graph=graph, depth=depth)
    paths = _paths(graph)
    found = tuple(path for path in paths if _depth(path) == depth)
    if not found:
        deepest = max(map(_depth, paths), default=0)
        raise GraphError(f"blocks: no module path has depth {depth!r}; choose a depth from 1 to {deepest}")
    return found


def _regions(graph: ComputationGraph, path: str, names: list[str], split: bool) -> Iterable[Region]:
    for part in components(graph, names):
        ends = leaving(graph, part)
        pieces = cones(graph, part)
        if len(ends) > 1 and not split:
            raise GraphError(_refusal(graph, path, ends, len(pieces)))
        yield from (Region(piece, path, path) for piece in pieces)


def _refusal(graph: ComputationGraph, path: str, ends: list[str], count: int) -> str:
    users = users_of(graph)
    read = [f"{end!r} (read by {_listed(users[end])})" if users[end] else f"{end!r} (the output)" for end in ends]
    smaller = [p for p in _paths(graph) if p.startswith(f"{path}.") and _depth(p) == _depth(path) + 1]
    remedy = f"name smaller blocks ({_listed(smaller)}), or" if smaller else "leave it out, or"
    return (
        f"coarsen: {len(ends)} values of the block {path!r} are used outside it, expected one: {'; '.join(read)}; "
        f"{remedy} pass split=True, which makes {count} nodes of it"
    )


def _chosen(graph: ComputationGraph, patterns: Iterable[str]) -> frozenset[str]:
    paths, chosen = _paths(graph), set[str]()
    for pattern in patterns:
        found = {path for path in paths if _matches(path, pattern)}
        if not found:
            raise GraphError(
                f"coarsen: the block {pattern!r} matches no module path; a wildcard stands for one part of a path, "
                f"and the paths are {_listed(list(paths)) or 'none'}"
            )
        chosen |= found
    return frozenset(chosen)


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _paths(graph: ComputationGraph) -> Mapping[str, None]:
    """All module paths that nodes come from, and those above them, in order."""
    return dict.fromkeys(path for node in graph.nodes for path in _prefixes(node.origin))


def _prefixes(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _depth(path: str) -> int:
    return path.count(".") + 1


def _listed(names: Iterable[str]) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
