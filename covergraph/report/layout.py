"""Where nodes go in a drawing: layers by longest path, order by barycenters, positions by least squares.

An edge that spans several layers is cut by invisible way points, one a layer, so that it gets its own room. All
steps are deterministic: ties keep the order of the graph.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from covergraph.graph.augmented import AUGMENTING, is_augmented
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.operations import Input

Point = tuple[float, float]
Key = str | tuple[str, str, int]
"""A node's name, or the way point (tail, head, layer) of a long edge; head is "" where a node's edges share them."""

SWEEPS = 12
BACKBONE = 1e4
NODE_GAP, WAY_POINT_GAP, LINE_GAP = 1.0, 0.6, 0.2
"""Distances between two nodes, between a node and a way point, and between two way points."""


@dataclass(frozen=True)
class Arrangement:
    """Positions of nodes and routes of edges; x is the layer, y grows upwards from the first node,
    and nodes of a layer are at least 1 apart.

    `columns[x]` lists the layer's nodes and way points from the top down; `routes[tail, head]` are the points of
    an edge, ends included.
    """

    columns: tuple[tuple[Key, ...], ...]
    positions: Mapping[str, Point]
    routes: Mapping[tuple[str, str], tuple[Point, ...]]


def layout(graph: ComputationGraph) -> dict[str, Point]:
    """The position (x, y) of each node: x is its layer, y its height."""
    return dict(arrange(graph).positions)


def arrange(graph: ComputationGraph, breaks: Sequence[int] = ()) -> Arrangement:
    """Layers, order, positions and routes of a graph.

    A page breaks before each of the layers `breaks`. A long edge over a break runs elsewhere: it has no way points.
    """
    layers, shared = layers_of(graph), not is_augmented(graph)
    apart = _apart(graph, layers, breaks)
    columns, links = _columns(graph, layers, shared, apart)
    columns = _order(columns, links)
    base = frozenset(node.name for node in graph.nodes if not isinstance(node.operation, AUGMENTING))
    places = straightened(columns, links if shared else (), _heights(columns, links, base))
    routes = {
        (u, node.name): tuple(places[key] for key in _stations(u, node.name, layers, shared, apart))
        for node in graph.nodes
        for u in node.predecessors
    }
    positions = {node.name: places[node.name] for node in graph.nodes}
    return Arrangement(tuple(map(tuple, columns)), positions, routes)


def layers_of(graph: ComputationGraph) -> dict[str, int]:
    """The number of edges of the longest path that ends at a node.

    What no input leads to (labels, parameters and constants used as values) stands right before its first use.
    """
    layers: dict[str, int] = {}
    uses: dict[str, list[str]] = {}
    moved: set[str] = set()
    for node in graph.nodes:
        layers[node.name] = 1 + max((layers[u] for u in node.predecessors), default=-1)
        for u in node.predecessors:
            uses.setdefault(u, []).append(node.name)
        if moved.issuperset(node.inputs) and not isinstance(node.operation, Input):
            moved.add(node.name)
    for node in reversed(graph.nodes):
        if node.name in moved:
            layers[node.name] = min((layers[user] - 1 for user in uses.get(node.name, ())), default=layers[node.name])
    return layers


Edge = tuple[str, str]


def _apart(graph: ComputationGraph, layers: Mapping[str, int], breaks: Sequence[int]) -> frozenset[Edge]:
    """The edges over a break that pass a layer."""
    edges = ((u, node.name) for node in graph.nodes for u in node.predecessors)
    long = ((u, v) for u, v in edges if layers[v] - layers[u] > 1)
    return frozenset((u, v) for u, v in long if bisect(breaks, layers[u]) < bisect(breaks, layers[v]))


def _stations(u: str, v: str, layers: Mapping[str, int], shared: bool, apart: Collection[Edge]) -> list[Key]:
    """What an edge passes: its tail, its way points (`shared` by the edges of the tail), its head."""
    if (u, v) in apart:
        return [u, v]
    return [u, *((u, "" if shared else v, layer) for layer in range(layers[u] + 1, layers[v])), v]


def _columns(
    graph: ComputationGraph, layers: Mapping[str, int], shared: bool, apart: Collection[Edge]
) -> tuple[list[list[Key]], list[list[tuple[Key, Key]]]]:
    """Nodes and way points of each layer in depth-first order, and the links from each layer to the next."""
    depth = 1 + max(layers.values())
    columns: list[dict[Key, None]] = [{} for _ in range(depth)]
    links: list[dict[tuple[Key, Key], None]] = [{} for _ in range(depth - 1)]
    for u, v in _depth_first(graph):
        if (u, v) in apart:
            columns[layers[u]].setdefault(u)
            continue
        stations = _stations(u, v, layers, shared, apart) if u else [v]
        for layer, key in enumerate(stations, layers[u or v]):
            columns[layer].setdefault(key)
        for step, link in enumerate(pairwise(stations)):
            links[layers[u] + step].setdefault(link)
    return [list(column) for column in columns], [list(pairs) for pairs in links]


def _depth_first(graph: ComputationGraph) -> Iterator[tuple[str, str]]:
    """All edges in the order of a search from the ends backwards; an end itself comes as ("", end)."""
    seen: set[str] = set()
    used = {u for node in graph.nodes for u in node.inputs}
    stack = [("", node.name) for node in graph.nodes if node.name not in used]
    while stack:
        tail, head = stack.pop()
        yield tail, head
        start = tail or head
        if start not in seen:
            seen.add(start)
            stack += [(u, start) for u in reversed(graph[start].predecessors)]


def _order(columns: list[list[Key]], links: list[list[tuple[Key, Key]]]) -> list[list[Key]]:
    """The order with the fewest crossings among barycenter sweeps backwards and forwards."""
    best, fewest = columns, crossings(columns, links)
    current = columns
    for sweep in range(SWEEPS):
        current = [list(column) for column in current]
        forwards = sweep % 2 == 1
        order = range(1, len(columns)) if forwards else range(len(columns) - 2, -1, -1)
        for i in order:
            beside = current[i - 1] if forwards else current[i + 1]
            pairs = links[i - 1] if forwards else [(head, tail) for tail, head in links[i]]
            current[i] = _by_barycenter(current[i], beside, pairs)
        found = crossings(current, links)
        if found < fewest:
            best, fewest = current, found
    return best


def _by_barycenter(column: list[Key], beside: list[Key], pairs: Sequence[tuple[Key, Key]]) -> list[Key]:
    """Sort by the mean position of the neighbors in `beside`; what has none keeps its relative height."""
    rank = {key: (i + 0.5) / len(beside) for i, key in enumerate(beside)}
    found: dict[Key, list[float]] = {}
    for near, key in pairs:
        found.setdefault(key, []).append(rank[near])
    own = {key: (i + 0.5) / len(column) for i, key in enumerate(column)}
    return sorted(column, key=lambda key: float(np.mean(found.get(key, [own[key]]))))


def crossings(columns: Sequence[Sequence[Key]], links: Sequence[Sequence[tuple[Key, Key]]]) -> int:
    """How many pairs of links cross."""
    total = 0
    for i, pairs in enumerate(links):
        left = {key: j for j, key in enumerate(columns[i])}
        right = {key: j for j, key in enumerate(columns[i + 1])}
        ends = np.array([(left[u], right[v]) for u, v in pairs]).reshape(-1, 2)
        before = np.sign(ends[:, None] - ends[None, :])
        total += int((before[..., 0] * before[..., 1] < 0).sum()) // 2
    return total


def _heights(
    columns: list[list[Key]], links: list[list[tuple[Key, Key]]], backbone: frozenset[str]
) -> dict[Key, Point]:
    """Pull each node towards its neighbors, sweep by sweep, and keep the order and the distances.

    Edges within the backbone (the network itself) pull harder, which straightens it. The first sweeps look at the
    side that they come from, which carries a height through the whole graph; the last ones at both sides.
    """
    before, after = _pulls(links, backbone), _pulls([[(v, u) for u, v in pairs] for pairs in links], backbone)
    height = {key: (len(column) - 1) / 2 - i for column in columns for i, key in enumerate(column)}
    for sweep in range(2 * SWEEPS):
        forwards = sweep % 2 == 1
        for column in columns if forwards else reversed(columns):
            pulls = [_sides(key, before, after, forwards, sweep < SWEEPS) or [(key, 1.0)] for key in column]
            weights = [sum(pull for _, pull in beside) for beside in pulls]
            wanted = [
                sum(pull * height[other] for other, pull in beside) / weight
                for beside, weight in zip(pulls, weights, strict=True)
            ]
            height |= zip(column, spaced(wanted, weights, _gaps(column)), strict=True)
    start = height[columns[0][0]]
    layers = {key: i for i, column in enumerate(columns) for key in column}
    return {key: (float(i), round(height[key] - start, 2) + 0.0) for key, i in layers.items()}


def straightened(
    columns: Sequence[Sequence[Key]], links: Sequence[Sequence[tuple[Key, Key]]], places: Mapping[Key, Point]
) -> dict[Key, Point]:
    """The same places, but way points of an edge, and nodes in a chain of `links`, stand straight if there is room."""
    found = dict(places)
    beside = {key: (column, i, _gaps(column)) for column in columns for i, key in enumerate(column)}
    for tail, keys, head in _lines(columns, links):
        rooms = [_room(*beside[key], found) for key in keys]
        for start, end, low, high in _runs(rooms):
            before, after = (tail, *keys)[start], (*keys, head)[end]
            wanted = [(found[near][1], min(max(found[near][1], low), high)) for near in (before, after)]
            height = min(wanted, key=lambda pair: abs(pair[0] - pair[1]))[1]
            found.update({key: (found[key][0], round(height, 2)) for key in keys[start:end]})
    return found


def _lines(
    columns: Sequence[Sequence[Key]], links: Sequence[Sequence[tuple[Key, Key]]]
) -> Iterator[tuple[Key, list[Key], Key]]:
    """Chains of nodes, then the way points of each edge; before and after them the nodes whose height they keep."""
    near = [(u, v) for pairs in links for u, v in pairs if isinstance(u, str) and isinstance(v, str)]
    into, out_of = Counter(v for _, v in near), Counter(u for u, _ in near)
    chains: dict[Key, list[Key]] = {}
    for u, v in near:
        if into[v] == out_of[u] == 1:
            chains[v] = [*chains.pop(u, [u]), v]
    yield from ((keys[len(keys) // 2], keys, keys[len(keys) // 2]) for keys in chains.values())
    edges: dict[tuple[str, str], list[Key]] = {}
    for key in (key for column in columns for key in column):
        if not isinstance(key, str):
            edges.setdefault(key[:2], []).append(key)
    yield from ((tail, keys, head or tail) for (tail, head), keys in edges.items())


def _room(column: Sequence[Key], i: int, gaps: Sequence[float], places: Mapping[Key, Point]) -> tuple[float, float]:
    """The heights between which an item of a column can move."""
    low = places[column[i + 1]][1] + gaps[i] if i + 1 < len(column) else -np.inf
    high = places[column[i - 1]][1] - gaps[i - 1] if i else np.inf
    return min(low, places[column[i]][1]), max(high, places[column[i]][1])


def _runs(rooms: Sequence[tuple[float, float]]) -> Iterator[tuple[int, int, float, float]]:
    """Longest runs (start, end) of rooms that have heights (low, high) in common, from the first on."""
    start, low, high = 0, -np.inf, np.inf
    for i, (lowest, highest) in enumerate(rooms):
        if max(low, lowest) > min(high, highest):
            yield start, i, low, high
            start, low, high = i, -np.inf, np.inf
        low, high = max(low, lowest), min(high, highest)
    yield start, len(rooms), low, high


Pulls = Mapping[Key, Sequence[tuple[Key, float]]]


def _pulls(links: Sequence[Sequence[tuple[Key, Key]]], backbone: frozenset[str]) -> Pulls:
    """By the second end of a link: the first end and how hard it pulls."""
    pulls: dict[Key, list[tuple[Key, float]]] = {}
    for u, v in (link for pairs in links for link in pairs):
        pulls.setdefault(v, []).append((u, BACKBONE if u in backbone and v in backbone else 1.0))
    return pulls


def _sides(key: Key, before: Pulls, after: Pulls, forwards: bool, one: bool) -> list[tuple[Key, float]]:
    near, far = (before, after) if forwards else (after, before)
    return [*near.get(key, ()), *(() if one and near.get(key) else far.get(key, ()))]


def spaced(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The heights nearest to the wanted ones (weighted least squares) that descend by at least the gaps.

    `gaps[i]` is the room between the items i and i + 1. Pools adjacent violators.
    """
    below = [0.0, *accumulate(gaps)]
    blocks: list[tuple[float, float, int]] = []
    for value, weight, offset in zip(wanted, weights, below, strict=True):
        mean, total, count = value + offset, weight, 1
        while blocks and blocks[-1][0] < mean:
            other, heavy, size = blocks.pop()
            mean, total, count = (mean * total + other * heavy) / (total + heavy), total + heavy, count + size
        blocks.append((mean, total, count))
    flat = [mean for mean, _, count in blocks for _ in range(count)]
    return [value - offset for value, offset in zip(flat, below, strict=True)]


def _gaps(column: Sequence[Key]) -> list[float]:
    nodes = [isinstance(key, str) for key in column]
    return [(LINE_GAP, WAY_POINT_GAP, NODE_GAP)[a + b] for a, b in pairwise(nodes)]
