"""The lines that show how near gradients come to their release-Lipschitz constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def lines(properties: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line per mode of the random graphs, then one per named graph with the ratio in each mode."""
    named: dict[str, dict[str, float]] = {}
    for p in properties:
        if "named" in p:
            named.setdefault(p["named"], {})[p["mode"]] = p["ratio"]
            continue
        yield f"random DAGs, {p['mode']}: {p['active']} of {p['gradients']} gradients not 0 ({p['share']:.0%})"
        for term, ratio in sorted(p["largest"].items()):
            yield f"    {term:<10} {ratio:.5f}  ({p['seen'][term]} cut nodes where it is the largest term)"
    for name, ratios in named.items():
        yield f"{name:<48} " + "  ".join(f"{mode} {ratio:.5f}" for mode, ratio in sorted(ratios.items()))
