"""What the page says of the maps of local Lipschitz constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from epochs import Arrays
from maps import SLOW
from paragraphs import listed, table
from tasks import MAPS, Plan, Task

CAPTIONS = {
    "map": "Local Lipschitz constants of the five-layer networks on the plane of the data (above) and Theorem 2's "
    "bounds (below; gray: no statement), on one scale of colors. Dots: the sampled points; thin lines: borders between "
    "linear regions.",
    "small_map": "The same of the networks 10-10-1.",
}
INTRODUCTION = """One network for each frequency, seed {seed}, was trained for {epochs} epochs as in Task 1: the
five-layer one, and a small one, 10-10-1 with one layer of ReLUs, chosen because Theorem 2 says much of it, after three
shapes, with 15 to 100 sampled points, had been tried. Theorem 2 needs Assumption 1 (the activation patterns at the
training points stay, their slopes within 1 + γ); the paper remarks that a decaying learning rate satisfies it. So the
last pass, over {sampled} training points, is made with α = {rate:.0e}, in double precision, through an ordinary loop
under `covergraph.TrajectoryRecorder`, and the assumption is checked at every iterate of it. Each map has {resolution} ×
{resolution} points of the square [-1, 1]² of z, at x = Q z, and is of the last iterate. {assumption}"""
HEAD = ["network", "f", "training loss", "regions on the grid", "largest λ, grid", "largest λ, sampled points",
        "grid with a statement", "grid in sampled regions", "largest bound/λ", "violations"]


def section(results: Mapping[Plan, Arrays | None], tasks: Mapping[str, Task]) -> list[str]:
    """The section's paragraphs; none before the maps were computed."""
    found = {plan: arrays for plan, arrays in results.items() if plan.variant in MAPS and arrays is not None}
    if not found:
        return []
    plan, arrays = next(iter(found.items()))
    introduction = INTRODUCTION.format(
        epochs=plan.epochs, seed=plan.seeds[0], rate=SLOW * tasks[plan.task].rate, resolution=arrays["axis"].shape[1],
        sampled=" and ".join(f"{a['points'].shape[1]} ({p.variant})" for p, a in found.items()),
        assumption=assumption(list(found.values())),
    )
    rows = [row for p, a in found.items() for row in lines(p, a)]
    verdicts = [verdict(p, a) for p, a in found.items()]
    return ["## Local Lipschitz constants on the plane of the data (A.3)", introduction, table(HEAD, rows), *verdicts]


def assumption(found: list[Arrays]) -> str:
    """Where Assumption 1 holds, and what else the ledgers leave open."""
    holds, gamma = (np.concatenate([a[name] for a in found]) for name in ("holds", "gamma"))
    left = sorted({name for a in found for names in a["unproved"] for name in str(names).split(", ") if name})
    kept = " (the record keeps no inputs; this loop fed them)" if "the points are those sampled in T" in left else ""
    return (
        f"Assumption 1 holds at all iterates in {holds.sum()} of {len(holds)} passes, with γ at most "
        f"{gamma[holds].max(initial=0):.0e}. Assumptions that the ledgers do not show as true: {listed(left)}{kept}."
    )


def lines(plan: Plan, a: Arrays) -> list[list[str]]:
    """The rows of the table."""
    return [
        [plan.variant, f"{f:g}", f"{a['loss'][i]:.2g}", f"{a['count'][i]:.0f}", f"{a['lam'][i].max():.4g}",
         f"{np.nanmax(a['lam_points'][i]):.4g}", percent(a["share"][i]), percent(a["visited"][i]),
         f"{a['ratio'][i]:.4g}" if a["share"][i] else "–", f"{a['violations'][i]}"]
        for i, f in enumerate(a["complexity"])
    ]


def verdict(plan: Plan, a: Arrays) -> str:
    """How much Theorem 2 says beyond the regions that were sampled."""
    beyond = (a["share"] - a["visited"]) / np.maximum(1 - a["visited"], 1e-12)
    said = (
        f"**{plan.variant}:** the regions of the sampled points fill {percent(a['visited'].min())} to "
        f"{percent(a['visited'].max())} of the grid; of the rest, Theorem 2 has a statement on {percent(beyond.min())} "
        f"to {percent(beyond.max())}"
    )
    if beyond.max() < 0.01 and a["holds"].all():
        return (
            f"{said}: here it says next to nothing that Theorem 1 does not say of the sampled points, since elsewhere "
            "the pattern, a tensor product over all layers of ReLUs, is no combination of the sampled ones."
        )
    return f"{said}."


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
