"""Pictures of certificates, on figures of their own (no global state)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from covergraph.bound.certificate import Certificate
from covergraph.report.frames import paper_value
from covergraph.report.numbers import DASH, plain
from covergraph.values import Floats

VALUES, DERIVATIVES, SHARED, OURS, VACUOUS = "#4477aa", "#ee8866", "#44aa77", "#222222", "#c0392b"
KINDS = {
    "value": ("values", VALUES),
    "derivative": ("derivatives", DERIVATIVES),
    "shared": ("shared parameters", SHARED),
}
"""What the bars of a node stand for, by the kind of the class, with their colors."""

BARS = 24
"""More covered nodes than this are drawn as the largest ones and "others"."""

TICKS = 24
"""A heat map has at most this many ticks."""


def plot_certificate(certificate: Certificate) -> Figure:
    """Left: each covered node's share of the complexity; right: the certificate's terms against 1."""
    shares = _shares(certificate)
    figure = Figure(figsize=(9, max(2.8, 0.3 * len(shares) + 1.4)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _plot_shares(left, shares)
    _plot_terms(right, certificate)
    return figure


def _shares(certificate: Certificate) -> list[tuple[str, tuple[float, ...]]]:
    """(node, share by kind), in the order of the graph."""
    table: dict[str, dict[str, float]] = {}
    for share in certificate.shares:
        table.setdefault(share.contribution.node, {})[share.contribution.kind] = share.share
    rows = [(name, tuple(kinds.get(kind, 0.0) for kind in KINDS)) for name, kinds in table.items()]
    if len(rows) <= BARS:
        return rows
    kept = sorted(rows, key=lambda row: -sum(row[1]))[: BARS - 1]
    others = [row for row in rows if row not in kept]
    rest = (f"{len(others)} others", tuple(map(sum, zip(*(parts for _, parts in others), strict=True))))
    return [row for row in rows if row in kept] + [rest]


def _plot_shares(ax: Axes, shares: Sequence[tuple[str, tuple[float, ...]]]) -> None:
    places, left = np.arange(len(shares)), np.zeros(len(shares))
    for i, (kind, (label, color)) in enumerate(KINDS.items()):
        widths = np.array([100 * parts[i] for _, parts in shares])
        if kind != "shared" or widths.any():
            ax.barh(places, widths, left=left, color=color, label=label, height=0.65)
            left = left + widths
    ax.set_yticks(places, [_short(name) for name, _ in shares])
    ax.invert_yaxis()
    ax.set_xlabel("share of $C^{2/3}$ (%)")
    ax.set_title("where the complexity sits", size=11)
    ax.legend(frameon=False, fontsize=9, loc="best")
    _plain_frame(ax)


def _plot_terms(ax: Axes, c: Certificate) -> None:
    terms = {
        "training": c.training,
        "complexity": c.complexity_term,
        "deviation": c.deviation_term,
        "certificate": c.value,
    }
    values = [max(value, 1e-12) for value in terms.values()]
    low = min(10.0 ** math.floor(math.log10(min(values)) - 0.3), 0.1)
    high = 10.0 ** min(math.ceil(math.log10(min(max(*values, 1.0), 1e300))) + 1, 300)
    for place, (name, value) in enumerate(terms.items()):
        color = OURS if name == "certificate" else VALUES
        ax.hlines(place, low, max(value, low), color=color, linewidth=3)
        ax.plot(max(value, low), place, "o", color=color, markersize=8)
        _beside(ax, plain(value, 3, "up"), (max(value, low), place), 8)
    ax.axvline(1, color=VACUOUS, linestyle="--", linewidth=1.2)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_yticks(range(len(terms)), list(terms))
    ax.set_ylim(len(terms) - 0.5, -0.75)
    _beside(ax, "vacuous from 1 on", (1, -0.6), 4, size=8.5, color=VACUOUS)
    ax.set_title("terms of the certificate", size=11)
    _plain_frame(ax)


def plot_comparison(certificates: Mapping[str, Certificate]) -> Figure:
    """Networks side by side: ours, the products of Lipschitz constants, the paper's Theorem 5.1, on a log axis."""
    figure = Figure(figsize=(9, 1.6 + 0.9 * len(certificates)), layout="constrained")
    ax = figure.subplots()
    kinds = ("o", "s", "D", "^")
    labels = (
        "ours: $C/\\sqrt{n}$, explicit",
        "product of Lipschitz constants, explicit",
        "product of Lipschitz constants, hidden constants 1",
        "Theorem 5.1 of Wei and Ma, hidden constants 1",
    )
    colors = (OURS, VALUES, "#66ccee", DERIVATIVES)
    rows = [_logs(c) for c in certificates.values()]
    for j, (marker, label, color) in enumerate(zip(kinds, labels, colors, strict=True)):
        points = [(row[j], i + 0.14 * (j - 1.5)) for i, row in enumerate(rows) if row[j] is not None]
        ax.plot(*zip(*points, strict=True) if points else ([], []), marker, color=color, label=label, markersize=8)
    ax.axvline(0, color=VACUOUS, linestyle="--", linewidth=1.2)
    for i, c in enumerate(certificates.values()):
        if rows[i][3] is None:
            note = f"Theorem 5.1: {DASH} ({paper_value(c, 'Theorem 5.1').note})"
            _beside(ax, note, (0, i + 0.33), 6, size=8, color="#b5532a")
    ax.set_yticks(range(len(rows)), list(certificates))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("$\\log_{10}$ of the bound's leading term; vacuous at least from 0 on (dashed)")
    ax.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    _plain_frame(ax)
    return figure


def _logs(c: Certificate) -> tuple[float | None, ...]:
    theorem = paper_value(c, "Theorem 5.1").value
    return c.log10, c.product.log10, c.product.log10_unit, None if theorem is None else math.log10(theorem)


def plot_jacobian_norms(certificate: Certificate) -> Figure:
    """The largest norms of the total derivatives of P, as a matrix: rows w, columns a."""
    rows, columns, matrix = _norm_matrix(certificate)
    figure = Figure(figsize=(min(2.4 + 0.62 * len(columns), 14), min(1.8 + 0.5 * len(rows), 12)), layout="constrained")
    ax = figure.subplots()
    data = certificate.measurements
    what = "bounds along edges of " if data.filled else "upper ends of " if data.failure else ""
    ax.set_title(what + r"$\max \| D_{w \leftarrow a} \|_{\mathrm{op}}$ over the sample", size=11)
    if not matrix.size:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no pairs", ha="center", va="center")
        return figure
    shown = matrix[matrix > 0]
    norm = LogNorm(shown.min(), max(shown.max(), shown.min() * 1.01)) if shown.size else None
    image = ax.imshow(matrix, norm=norm, cmap="viridis", aspect="auto")
    figure.colorbar(image, ax=ax)
    if matrix.size <= 400:
        _write_numbers(ax, matrix, float(np.sqrt(shown.min() * shown.max())) if shown.size else 1.0)
    for axis, places in ((ax.xaxis, columns), (ax.yaxis, rows)):
        shown_places = range(0, len(places), -(-len(places) // TICKS))
        axis.set_ticks(shown_places, [str(places[i]) for i in shown_places])
    ax.set_xlabel("position of $a$")
    ax.set_ylabel("position of $w$")
    return figure


def _norm_matrix(certificate: Certificate) -> tuple[list[int], list[int], Floats]:
    """Positions w, positions a, and the measured norms; NaN where a pair is not in P."""
    place, pairs = certificate.bound.symbols.place, certificate.bound.augmented.pair_names
    rows, columns = (sorted({place(pair[i]) for pair in pairs}) for i in (0, 1))
    matrix = np.full((len(rows), len(columns)), np.nan)
    for w, a in pairs:
        matrix[rows.index(place(w)), columns.index(place(a))] = certificate.measurements.pairs[w, a].upper
    return rows, columns, matrix


def _write_numbers(ax: Axes, matrix: Floats, middle: float) -> None:
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            color = "white" if value < middle else "black"
            ax.text(j, i, plain(value, 2), ha="center", va="center", size=8, color=color)


def _beside(ax: Axes, text: str, point: tuple[float, float], points: float, **look: Any) -> None:
    """Text to the right of a point of the plot."""
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.annotate(text, point, xytext=(points, 0), textcoords="offset points", va="center", bbox=paper, **look)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:12]}…{name[-15:]}"


def _plain_frame(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
