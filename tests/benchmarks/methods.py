"""What `bench_norms.py` times: each method takes a case and says what it found, and with how many products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from contenders import Products, dense, golub_kahan_lanczos, power_iteration
from networks import Case, Ends, Traced
from sharpened import sharpened
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from covergraph.graph.interpreter import evaluate
from covergraph.measure.engine import Engine
from covergraph.measure.plan import plan


@dataclass
class Found:
    """Largest norms over the samples by pair, all of them from below; `upper`: certified upper ends.

    products: how often J v and J' c were formed, by pair, all samples together. estimate: seconds of the whole, where
    only a part was done.
    """

    lower: dict[Ends, float] = field(default_factory=dict)
    upper: dict[Ends, float] | None = None
    products: dict[Ends, float] = field(default_factory=dict)
    estimate: float | None = None


@dataclass(frozen=True)
class Method:
    """A method, how often it runs, its arithmetic without products of J (operations), and a word on it."""

    name: str
    run: Callable[[], Found]
    runs: int = 1
    double: bool = False
    note: str = ""
    others: float = 0.0


def ours(case: Case, traced: Traced, width: float, block: int = 2**20) -> Found:
    """The engine, from the inputs on: the plan, forward passes, derivatives and Lanczos in double precision.

    At most `block` samples at once, if the plan does not take fewer.
    """
    graph, n = traced.graph, len(case.inputs)
    names = {(traced.names[w], traced.names[a]): (w, a) for w, a in case.pairs}
    chosen = plan(graph, list(names), n, 2**30, "lanczos")
    engine, block = Engine(chosen, traced.context, width), min(block, chosen.block)
    levels = dict.fromkeys(names, 0.0)
    found = Found(upper=dict.fromkeys(case.pairs, 0.0), products=dict.fromkeys(case.pairs, 0.0))
    with torch.no_grad():
        for first in range(0, n, block):
            inputs = case.inputs[first : first + block].double()
            values = evaluate(graph, traced.context, graph.named_inputs([inputs]), {})
            norms = engine.block(values, first, levels, torch.ones(len(inputs), dtype=torch.bool))
            for pair, ends in names.items():
                levels[pair] = max(levels[pair], norms.lower[pair])
                found.upper[ends] = max(found.upper[ends], float(norms.upper[pair].max()))
                found.products[ends] += norms.steps.get(pair, 0)
    found.lower = {ends: levels[pair] for pair, ends in names.items()}
    return found


def iterated(case: Case, method: Callable[..., Tensor], steps: int, sharp: bool = False) -> Found:
    """Power iteration or Golub-Kahan-Lanczos, pair by pair."""
    found = Found()
    change = sharpened if sharp else lambda module: module
    stages: list[nn.Module] = [change(stage) for stage in case.stages]
    for w, a in case.pairs:
        norms = method(nn.Sequential(*stages[a:w]), case.boundaries[a], steps)
        found.lower[w, a] = float(norms.max())
        found.products[w, a] = steps * len(norms)
    return found


def formed(case: Case, forward: bool, samples: int | None, pairs: int | None) -> Found:
    """Dense Jacobians and their singular values: of all, or of some samples and the smallest pairs, and how long all
    would take: forming grows with samples, products and rows (columns), decomposing with m n min(m, n)."""
    found, n = Found(), len(case.inputs)
    ordered = sorted(case.pairs, key=lambda pair: (_cubed(case, pair), operations(case)[pair]))
    done, forming, decomposing = ordered[:pairs], 0.0, 0.0
    for pair in done:
        norms, *seconds = dense(case.part(pair), case.boundaries[pair[1]][:samples], forward)
        forming, decomposing = forming + seconds[0], decomposing + seconds[1]
        if samples is None:
            found.lower[pair] = float(norms.max())
    if len(done) < len(ordered) or samples is not None:
        forming *= _share(ordered, done, lambda p: operations(case)[p] * case.size(p[1 if forward else 0]))
        decomposing *= _share(ordered, done, partial(_cubed, case))
        found.estimate = (forming + decomposing) * n / (samples or n)
    return found


def _cubed(case: Case, pair: Ends) -> float:
    m, d = case.size(pair[0]), case.size(pair[1])
    return float(m * d * min(m, d))


def _share(all_pairs: Sequence[Ends], done: Sequence[Ends], cost: Callable[[Ends], float]) -> float:
    return sum(map(cost, all_pairs)) / sum(map(cost, done))


_COUNTED: dict[str, Mapping[Ends, float]] = {}


def operations(case: Case) -> Mapping[Ends, float]:
    """Operations in matrix products and convolutions for J v and J' c at one sample, by pair: twice those of J' c."""
    if case.title not in _COUNTED:
        counts = {}
        for pair in case.pairs:
            products = Products(case.part(pair), case.boundaries[pair[1]][:1])
            with FlopCounterMode(display=False) as counter:
                products.pull(products.y.detach())
            counts[pair] = 2.0 * counter.get_total_flops()
        _COUNTED[case.title] = counts
    return _COUNTED[case.title]


def dense_operations(case: Case, forward: bool) -> float:
    """Rows (columns) times one product, and the bidiagonalization of each matrix: 4 m n^2 - 4 n^3 / 3, n <= m."""
    total = 0.0
    for w, a in case.pairs:
        m, n = sorted((case.size(w), case.size(a)), reverse=True)
        total += case.size(a if forward else w) * operations(case)[w, a] / 2 + 4 * m * n**2 - 4 * n**3 / 3
    return total * len(case.inputs)


def methods(case: Case, traced: Traced, quick: bool) -> list[Method]:
    """Those of a case, in the order in which a round runs them."""
    samples, pairs = {"a": (None, None), "b": (1, 1), "c": (2, None)}[case.name]
    often = 1 if quick else {"a": 5, "b": 2, "c": 3}[case.name]
    rare = math.ceil(often / 2)
    widths = [
        Method(f"ours, {width}", partial(ours, case, traced, width), often if width > 1.005 else rare, True)
        for width in (1.05, 1.01, 1.001)
    ]
    gkl = Method("GKL, 12 steps", partial(iterated, case, golub_kahan_lanczos, 12), often)
    power = Method("power iteration, 30 steps", partial(iterated, case, power_iteration, 30), rare)
    listed = [widths[0], gkl, widths[1], power, widths[2]]
    if case.name == "b":
        sharp = partial(iterated, case, golub_kahan_lanczos, 12, True)
        listed.insert(1, Method("GKL, 12 steps, own convolutions", sharp, often))
    parts = [f"{samples} of {len(case.inputs)} samples"] * (samples is not None)
    parts += [f"{pairs} of {len(case.pairs)} pairs"] * (pairs is not None)
    note = f"extrapolated from {', '.join(parts)}" if parts else ""
    for forward, name in ((False, "jacrev + SVD"), (True, "jacfwd + SVD")):
        run = partial(formed, case, forward, samples, pairs)
        listed.append(Method(name, run, note=note, others=dense_operations(case, forward)))
    return listed
