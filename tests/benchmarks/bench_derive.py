"""How long do augment(), derive() and the constants of Theorem 2 take, and how do they grow?

Run `python tests/benchmarks/bench_derive.py [nodes ...]`. The goals: at 200 nodes derive() below 5 s and its
numeric evaluation below 1 s.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from covergraph.bound.constants import release_lipschitz
from covergraph.bound.derive import derive
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import TANH
from covergraph.graph.node import Node
from covergraph.passes.augment import augment

SIZES = (25, 50, 100, 200, 400)
WIDTH = 4
STEPS = ("augment", "derive", "constants")


def chain(count: int) -> ComputationGraph:
    """linear, tanh, linear, ... with `count` nodes, the last one linear."""
    nodes = [Node("x", op.Input(), (), (WIDTH,))]
    while len(nodes) < count:
        nodes.append(linear(nodes) if len(nodes) % 2 or len(nodes) == count - 1 else tanh(nodes))
    return ComputationGraph(nodes, nodes[-1].name)


def residual(count: int) -> ComputationGraph:
    """Blocks of linear, tanh, linear and add, every second one with a product as gate, then a linear head."""
    nodes = [Node("x", op.Input(), (), (WIDTH,))]
    nodes.append(linear(nodes))
    while len(nodes) < count - 5:
        start = nodes[-1].name
        for layer in (linear, tanh, linear):
            nodes.append(layer(nodes))
        if len(nodes) % 8 < 4:
            nodes.append(Node(f"n{len(nodes)}", op.Product(), (nodes[-1].name, nodes[-2].name), (WIDTH,)))
        nodes.append(Node(f"n{len(nodes)}", op.Add(), (nodes[-1].name, start), (WIDTH,)))
    while len(nodes) < count:
        nodes.append(linear(nodes) if len(nodes) == count - 1 else tanh(nodes))
    return ComputationGraph(nodes, nodes[-1].name)


def linear(nodes: Sequence[Node]) -> Node:
    """A linear node without bias after the last one."""
    name = f"n{len(nodes)}"
    return Node(name, op.Linear(False), (nodes[-1].name,), (WIDTH,), (("weight", f"{name}.weight"),))


def tanh(nodes: Sequence[Node]) -> Node:
    """A tanh after the last node."""
    return Node(f"n{len(nodes)}", op.Elementwise(TANH), (nodes[-1].name,), (WIDTH,))


def seconds(graph: ComputationGraph, mode: str) -> dict[str, float]:
    """Seconds of each step; derive() includes every expression of a covered node and all of its edges."""
    gc.collect()
    times = [perf_counter()]
    augmented = augment(graph, mode=mode)  # type: ignore[arg-type]
    times.append(perf_counter())
    bound = derive(augmented)
    for name in graph.covered:
        bound.kappa_h[name], bound.kappa_J[name, graph[name].inputs[0]]
    assert bound.C.free_symbols
    times.append(perf_counter())
    ones = dict.fromkeys(augmented.hidden, 1.0), dict.fromkeys(augmented.pair_names, 1.0)
    release_lipschitz(augmented, 1.0, *ones, bound.taubar)
    times.append(perf_counter())
    return dict(zip(STEPS, np.diff(times), strict=True))


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """The slope p of log(seconds) over log(nodes): time ~ nodes^p."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def report(name: str, make: Callable[[int], ComputationGraph], mode: str, sizes: Sequence[int]) -> bool:
    """Print one table; True if the goals are met at the sizes up to 200 nodes."""
    print(f"\n{name}, {mode} mode\n{'nodes':>6} {'pairs':>8}" + "".join(f"{step:>12}" for step in STEPS))
    rows = []
    for size in sizes:
        graph = make(size)
        rows.append(seconds(graph, mode))
        pairs = int(augment(graph, mode=mode).pairs.sum())  # type: ignore[arg-type]
        print(f"{len(graph):>6} {pairs:>8}" + "".join(f"{rows[-1][step]:>10.3f} s" for step in STEPS))
    if len(sizes) > 1:
        slopes = [exponent(sizes, [row[step] for row in rows]) for step in STEPS]
        print(f"{'growth':>15}" + "".join(f"{f'nodes^{slope:.2f}':>12}" for slope in slopes))
    small = [row for size, row in zip(sizes, rows, strict=True) if size <= 200]
    return all(row["derive"] < 5 and row["constants"] < 1 for row in small)


def main(arguments: Sequence[str]) -> int:
    """Print the tables; the exit status is 1 if a goal is missed."""
    sizes = [int(word) for word in arguments] or list(SIZES)
    warm_up = chain(9)
    seconds(warm_up, "minimal")
    kinds = {"chain of linear and tanh": chain, "residual blocks with products": residual}
    met = [report(name, make, mode, sizes) for name, make in kinds.items() for mode in ("minimal", "paper")]
    print("\ngoals met" if all(met) else "\na goal is missed")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
