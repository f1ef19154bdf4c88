"""What the certificate says in numbers: terms, contributions, parameters, in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterator

from covergraph.bound.certificate import Certificate
from covergraph.bound.rademacher import LOG_Z
from covergraph.report.formulas import latex
from covergraph.report.frames import condition
from covergraph.report.latex import certificate_fragment
from covergraph.report.numbers import interval, tex
from covergraph.report.tex import ROWS_SHOWN, code, display, long_table, paragraphs, table
from covergraph.values import Measurement


def terms(certificate: Certificate) -> str:
    """The certificate as one displayed formula, and what it takes to reach 1."""
    needed = certificate.samples_needed
    word = "vacuous, since a loss in $[0, 1]$ never exceeds $1$" if certificate.vacuous else "not vacuous"
    reach = (
        rf"With the same $C$, training value and cost it would reach $1$ at $n = {tex(needed, 4, 'up')}$."
        if needed and math.isfinite(needed)
        else "With the same $C$, training value and cost it would reach $1$ beyond $n = 10^{260}$."
        if needed
        else "No number of samples would bring it down to $1$ with the same $C$, training value and cost."
    )
    return paragraphs(
        display(certificate_fragment(certificate)),
        rf"The certificate is {word}. $C = {tex(certificate.C, 4, 'up')}$, $C / \sqrt{{n}} = "
        rf"{tex(certificate.normalized, 4, 'up')}$, by the {certificate.route.replace(' ', '-')} route. {reach}",
    )


def contributions(certificate: Certificate) -> str:
    """Each covered class with its numbers and its share of the sum C^(2/3)."""
    place = certificate.bound.symbols.place
    rows = [
        (
            f"${place(share.contribution.node)}$",
            code(share.contribution.node),
            share.contribution.kind,
            f"${tex(share.weight)}$",
            f"${tex(share.root)}$",
            rf"${tex(100 * share.share, 3)}\,\%$",
        )
        for share in certificate.shares
    ]
    header = ("position", "node", "class", r"$\tilde\kappa_g$", "$E_g$", "share of $C^{2/3}$")
    return long_table("rp{0.3\\linewidth}lrrr", header, rows)


def parameters(certificate: Certificate) -> str:
    """Each parameter with what was measured, its value on the grid, and what it costs."""
    bound, p = certificate.bound, certificate.parameters
    place, data = bound.symbols.place, certificate.measurements
    covered, pairs, groups = bound.graph.covered, bound.augmented.pair_names, [g.nodes[0] for g in bound.groups]
    rows = [
        *_gamma_row(certificate),
        *(_row(f"s_{{{place(v)}}}", p.s[v], data.hidden[v], p.grid) for v in bound.augmented.hidden),
        *(_row(f"a_{{{place(v)}}}", p.a[v], data.layers[v].a, p.grid) for v in covered),
        *(_row(f"b_{{{place(v)}}}", p.b[v], data.layers[v].b, p.grid) for v in covered if v in p.b),
        *(_row(latex(bound.symbols.t(v)), p.shared[v], data.shared[v], p.grid) for v in groups),
        *(_level_row(certificate, name) for name in bound.augmented.conditions),
        *(_row(latex(bound.symbols.kappa(pair)), p.kappa[pair], data.pairs[pair], p.grid) for pair in pairs),
    ]
    left_out = len(rows) - ROWS_SHOWN
    rest = f"{left_out} more levels of pairs were chosen in the same way." if left_out > 0 else ""
    header = ("", "value", "measured: [lower, upper]", "$m$", "cost in $U$")
    return paragraphs(_chosen(certificate), table("llllr", header, rows[:ROWS_SHOWN]), rest)


def _chosen(certificate: Certificate) -> str:
    p = certificate.parameters
    if p.grid is None:
        return r"By the user's word the parameters were fixed before the sample was seen, so they cost nothing."
    quantile = (
        rf" $\gamma$ is the ${tex(100 * p.quantile)}\,\%$ quantile of the margins, rounded down; choosing among "
        "quantiles costs no more than the grid point, because all grid points are paid for."
        if p.quantile is not None
        else ""
    )
    levels = (
        rf" The levels $\rho_c$ of conditions give up at most ${tex(100 * (p.condition_quantile or 0))}\,\%$ of the "
        "samples, in equal parts: each is that quantile of the positive $q_c$ of the sample, rounded down."
        if p.rho
        else ""
    )
    extra = certificate.union_cost - p.union_cost
    choices = rf" The user chose among several augmented losses, which adds ${tex(extra)}$." if extra > 0 else ""
    return (
        rf"Levels and radii lie on the grid $\beta^m$, $\beta = {tex(p.grid)}$: the measured maxima, at least the "
        rf"floor $\xi = {tex(p.floor)}$, rounded up, unless the user raised them.{levels}{quantile} Together the "
        rf"choices cost $U = {tex(certificate.union_cost, 4, 'up')}$.{choices}"
    )


def _gamma_row(certificate: Certificate) -> Iterator[tuple[str, ...]]:
    p, margins = certificate.parameters, certificate.measurements.margins
    if p.gamma is not None and margins is not None:
        seen = rf"margins in ${interval(float(margins.min()), float(margins.max()), 4)}$"
        yield (r"$\gamma$", f"${tex(p.gamma)}$", seen, *_grid_cells(p.gamma, p.grid))


def _row(symbol: str, value: float, measurement: Measurement, grid: float | None) -> tuple[str, ...]:
    seen = f"${interval(measurement.lower, measurement.upper)}$"
    return (f"${symbol}$", f"${tex(value)}$", seen, *_grid_cells(value, grid))


def _level_row(certificate: Certificate, name: str) -> tuple[str, ...]:
    """rho_c beside the smallest positive q_c."""
    p, symbol = certificate.parameters, latex(certificate.bound.symbols.rho(name))
    seen = condition(certificate.measurements, name).lower
    text = rf"smallest $q_c > 0$: ${tex(seen, 6, 'down')}$" if seen else "$q_c = 0$ on all samples"
    return (f"${symbol}$", f"${tex(p.rho[name])}$", text, *_grid_cells(p.rho[name], p.grid))


def _grid_cells(value: float, grid: float | None) -> tuple[str, str]:
    """The exponent m of beta^m and its cost (Proposition 6)."""
    if grid is None:
        return "", "$0$"
    m = round(math.log(value) / math.log(grid))
    return f"${m}$", f"${tex(LOG_Z + 2 * math.log1p(abs(m)))}$"
