"""From what the blocks gave to `Measurements`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covergraph.graph.learned import split
from covergraph.graph.weights import Weights
from covergraph.measure.blocks import CONDITION, LOSS, Columns, Measured, Top
from covergraph.measure.layers import layer_sizes
from covergraph.measure.norms import exact, largest, rounding
from covergraph.measure.plan import Plan
from covergraph.measure.reference import reference_state
from covergraph.measure.wanted import Wanted
from covergraph.values import Floats, Measurement, Measurements, Pair

EXACT = ("zero", "edge")
"""Ways whose norms are closed forms: a few roundings of the values that they read."""


def collect(
    wanted: Wanted,
    weights: Mapping[str, Tensor],
    init_model: Any,
    blocks: Sequence[Measured],
    dtype: torch.dtype,
    plan: Plan | None,
    width: float,
    failure: float,
) -> Measurements:
    """Measurements from the blocks in order; `plan` is None if the pairs were filled in along edges."""
    graph = wanted.graph
    joined = _joined([block.columns for block in blocks])
    n = len(joined[LOSS])
    steps = Counter[Pair]()
    for block in blocks:
        steps.update(block.steps)
    pairs: dict[Pair, Floats] = {pair: joined[pair] for pair in wanted.pairs if pair in joined}
    hidden: dict[str, Floats] = {node.name: joined[node.name] for node in graph.nodes if node.name in joined}
    hidden = {name: values for name, values in hidden.items() if len(values) == n}
    cpu = torch.device("cpu")
    start = None if init_model is None else cast(reference_state(graph, init_model), cpu, torch.float64)
    reference = None if start is None else graph.state(start)
    margin = wanted.loss.has_margin
    random = plan is not None and any(way in ("lanczos", "fixed") for way in plan.way.values())
    return Measurements(
        n=n,
        loss=wanted.loss,
        fingerprint=graph.fingerprint,
        dtype=str(dtype).removeprefix("torch."),
        reference="zero" if init_model is None else "initial weights",
        hidden={
            name: largest(value, rounding(torch.float64, 1, graph[name].size), "Euclidean")
            for name, value in hidden.items()
        },
        pairs={pair: _operator(pair, blocks, plan) for pair in wanted.pairs},
        root_mean_square={
            name: exact(
                _root_mean_square(hidden[name]),
                rounding(torch.float64, 1, 8) + 2 * rounding(torch.float64, 1, graph[name].size),
                "root mean square",
            )
            for name in graph.data_only
            if name in hidden
        },
        layers=layer_sizes(graph, weights, reference),
        shared={
            first: _distance(parameters, graph.weights, weights, reference)
            for first, parameters in wanted.groups.items()
        },
        filled=plan is None,
        condition_values={name: joined[CONDITION, name] for name in wanted.conditions},
        margins=joined[LOSS] if margin else None,
        losses=None if margin else joined[LOSS],
        hidden_values=hidden,
        pair_values=pairs,
        failure=failure if random else 0.0,
        width=width if random else 1.0,
        ways={} if plan is None else dict(plan.way),
        steps=dict(steps),
    )


def _joined(columns: Sequence[Columns]) -> Columns:
    return {key: np.concatenate([part[key] for part in columns if key in part]) for key in columns[0]}


def _operator(pair: Pair, blocks: Sequence[Measured], plan: Plan | None) -> Measurement:
    top: Top = blocks[0].tops[pair]
    for block in blocks[1:]:
        top = top.or_larger(block.tops[pair])
    way = "filled" if plan is None else plan.way[pair]
    return Measurement(top.lower, top.upper, "exact" if way in EXACT else "certified", "operator", top.sample)


def _distance(
    names: Sequence[str], known: Weights, state: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None
) -> Measurement:
    """||theta - theta_0||_1 of the named parameters together."""
    values = {name: split(known, name, state) for name in names}
    if reference is None:
        changes = [value.counted for value in values.values()]
    else:
        changes = [value.learned - split(known, name, reference).learned for name, value in values.items()]
    total = sum(float(change.abs().sum()) for change in changes)
    slack = torch.finfo(torch.float64).eps * sum(change.numel() for change in changes)
    return exact(total, slack, "(1,1) norm of the distance")


def _root_mean_square(values: Floats) -> float:
    """(mean of squares)^(1/2), without under- or overflow of the squares."""
    scale = float(values.max())
    return scale * float(np.sqrt(np.mean((values / scale) ** 2))) if scale > 0 else 0.0


def cast(state: Any, device: torch.device | str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state on a device, its real tensors in `dtype`."""
    return {
        name: value.detach().to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
        for name, value in state.items()
    }
