"""Values and conditions on a batch: where is the network smooth, and which of its values must be finite?

On a sample with q_c = 0 some operation has no derivative, or no value at all. There z = 1 whatever else is measured
(Theorem 2'), so what is not finite there is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from covergraph.graph.condition_rules import condition_value
from covergraph.graph.interpreter import Context, evaluate
from covergraph.graph.learned import MASK
from covergraph.graph.operations import Call
from covergraph.measure.finite import require_finite
from covergraph.measure.wanted import Wanted
from covergraph.rounding import VALUES


def conditioned_values(
    wanted: Wanted, context: Context, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every node's value, and the lower end of q_c by node, (batch,); values that do not exist where q_c = 0 are 0."""
    values = evaluate(wanted.graph, context, inputs, {})
    conditions = _conditions(wanted, values, context)
    return without(undefined(conditions, len(next(iter(values.values())))), values), conditions


def undefined(conditions: Mapping[str, Tensor], batch: int) -> Tensor:
    """True for the samples on which a condition cannot hold, (batch,)."""
    failing = [q.cpu() <= 0 for q in conditions.values()]
    return torch.stack(failing).any(0) if failing else torch.zeros(batch, dtype=torch.bool)


def without(samples: Tensor, values: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """The values with 0 for what is not finite on these samples."""
    if not bool(samples.any()):
        return dict(values)
    return {key: _mended(samples, value) if value.is_floating_point() else value for key, value in values.items()}


def _mended(samples: Tensor, value: Tensor) -> Tensor:
    there = samples.to(value.device).reshape(-1, *[1] * (value.dim() - 1))
    return torch.where(there & ~torch.isfinite(value), 0.0, value)


def _conditions(wanted: Wanted, values: Mapping[str, Tensor], context: Context) -> dict[str, Tensor]:
    """Lower ends of q_c by node, (batch,): rounding may have moved an entry by 1e-9 of the largest one that is read.

    0 where q_c is no number.
    """
    found: dict[str, Tensor] = {}
    for name, read in wanted.conditions.items():
        node = wanted.graph[name]
        slots = [values[u] for u in node.inputs]
        q = condition_value(node.operation, node, slots, context)
        size = torch.stack([_largest_entries(slots[i]) for i in read]).amax(0)
        found[name] = torch.nan_to_num(q - VALUES * size, nan=0.0, posinf=torch.inf, neginf=0.0).clamp_min(0)
    return found


def _largest_entries(value: Tensor) -> Tensor:
    """The largest finite entry of each sample, (batch,)."""
    entries = value.abs().reshape(len(value), -1)
    return torch.where(torch.isfinite(entries), entries, 0.0).amax(1)


def require_values(wanted: Wanted, values: Mapping[str, Tensor], start: int) -> None:
    """Raise `NonFiniteError` naming the first node with NaN or infinity; masks may make and pass on -infinity."""
    graph, read = wanted.graph, wanted.read
    masked: set[str] = set()
    for node in graph.nodes:
        if node.kind != "float":
            continue
        value, constants = values[node.name], [graph.weights.constants[name] for _, name in node.constants]
        made = isinstance(node.operation, Call) or node.name in graph.data_only  # masked_fill; masks of inputs
        may_mask = made or not masked.isdisjoint(node.inputs) or any(bool((c < MASK).any()) for c in constants)
        if may_mask and node.name not in read and bool((value == -torch.inf).any()):
            masked.add(node.name)
            value = torch.where(value == -torch.inf, 0.0, value)
        require_finite({f"node {node.name!r}": value}, start)
