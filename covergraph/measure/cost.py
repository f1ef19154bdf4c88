"""What will it cost? Said before the work starts, with the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from covergraph.errors import ParameterError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.measure.plan import SPEED, Plan
from covergraph.values import Pair

BYTES = 8 * 2**30
"""The derivatives of one sample in one node may take so much."""
PATIENCE = 600.0
"""Seconds from which on the user is warned."""
REMEDY = "pass fill=True, which bounds the norms along edges (larger, in seconds), or checkpoint=... to go on later"


def require_affordable(graph: ComputationGraph, pairs: Sequence[Pair]) -> None:
    """Raise `ParameterError` if the derivatives of a single sample in some node are beyond `BYTES`."""
    sources = {a for _, a in pairs}
    if not sources:
        return
    largest = max(sources, key=lambda a: graph[a].size)
    last = graph.index[largest]
    needed = 8 * graph[largest].size * max(node.size for node in graph.nodes[last:])
    if needed > BYTES:
        raise ParameterError(
            f"measure: the Jacobian of a node in {largest!r} ({graph[largest].origin or 'top level'}) has "
            f"{needed // 8:,} entries, {needed / 2**30:.0f} GiB for one sample, expected at most {BYTES // 2**30} GiB; "
            "pass exact=False, which certifies norms without forming Jacobians"
        )


def warn_of_hours(chosen: Plan, n: int) -> None:
    """Warn if all pairs on n samples take longer than `PATIENCE`."""
    seconds = n * chosen.operations / SPEED
    if seconds > PATIENCE:
        warnings.warn(
            f"measure: the norms of {len(chosen.way):,} Jacobians on {n} samples ({chosen!r}) take about "
            f"{seconds / 3600:.1f} hours on two cores; {REMEDY}",
            stacklevel=3,
        )
