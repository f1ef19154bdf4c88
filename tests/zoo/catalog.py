"""The zoo's catalog: every entry, by family.

Only torch is needed to read it; a family's package is imported when one of its entries is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zoo import (
    family_geometric,
    family_timm,
    family_torchvision,
    family_transformers_text,
    family_transformers_vision,
    own_layers,
    own_refused,
    own_sequences,
    own_tensors,
)
from zoo.entry import Case, Entry


def _entries(family: str, cases: Mapping[str, Callable[[], Case]], refused: bool = False) -> tuple[Entry, ...]:
    return tuple(Entry(name, family, build, refused) for name, build in cases.items())


ENTRIES: tuple[Entry, ...] = (
    *_entries("own", own_layers.CASES | own_tensors.CASES | own_sequences.CASES),
    *_entries("torchvision", family_torchvision.CASES),
    *_entries("timm", family_timm.CASES),
    *_entries("transformers", family_transformers_text.CASES | family_transformers_vision.CASES),
    *_entries("torch_geometric", family_geometric.CASES),
)
"""Architectures that should be traced."""

_SMALL = {
    *("bidirectional_lstm", "dense_concatenation", "dict_output", "fourier_filter", "handwritten_attention"),
    *("hypernetwork_of_data", "in_place_through_views", "norm_layers", "tied_embedding", "weight_norm"),
}
SMALL: tuple[Entry, ...] = tuple(entry for entry in ENTRIES if entry.family == "own" and entry.name in _SMALL)
"""Ten that need torch alone and two seconds each, for the ordinary tests."""

REFUSED: tuple[Entry, ...] = _entries("refused", own_refused.CASES | family_transformers_text.REFUSED, refused=True)
"""Networks that must be refused."""

SPOTTED: frozenset[str] = frozenset(
    entry.key
    for family in dict.fromkeys(entry.family for entry in ENTRIES)
    for entry in [e for e in ENTRIES if e.family == family][:: 1 if family in ("own", "torch_geometric") else 3]
)
"""Keys of those whose bounds are checked against Theorem 2: all small ones, every third of the others."""

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(entry.family for entry in ENTRIES + REFUSED))
"""The families, in the catalog's order."""


def find(key: str) -> Entry:
    """The entry of a key family/name; raises KeyError."""
    return {entry.key: entry for entry in ENTRIES + REFUSED}[key]
