"""How norms of Jacobians were measured, and what random starts add to the probability of failure, in LaTeX."""

from __future__ import annotations

from collections import Counter

from covergraph.bound.certificate import Certificate
from covergraph.report.numbers import tex
from covergraph.report.tex import paragraphs, table
from covergraph.values import Measurements

WAYS = {
    "zero": "no path through reals: the norm is $0$",
    "edge": "one operation with a closed form",
    "dense": "the largest singular value of the Jacobian, with its rounding",
    "lanczos": "Lanczos from a random start for each sample",
    "fixed": "Lanczos from one random start: no sample changes the Jacobian",
    "filled": "bounds along paths, from upper ends of others (Proposition 2)",
}


def ways(data: Measurements) -> str:
    """How many pairs were measured which way, and how close their ends are; empty if all are bounds along edges."""
    counts = Counter(data.ways.values())
    if not counts:
        return ""
    rows = [
        (name, text, f"${counts[name]}$", _steps(data, name), _ratio(data, name))
        for name, text in WAYS.items()
        if counts[name]
    ]
    header = ("way", "the largest norm of a pair over the sample", "pairs", "steps", "upper/lower")
    text = "How the norms of total derivatives were measured:"
    if data.failure:
        text = (
            rf"The upper ends of the largest norms of all pairs hold except with probability ${tex(data.failure)}$ "
            rf"over random starts (Lemma 21); upper/lower was aimed at ${tex(data.width, 6)}$. {text}"
        )
    return paragraphs(text, table("lp{0.5\\linewidth}rrr", header, rows))


def _steps(data: Measurements, way: str) -> str:
    """Of Lanczos, over all pairs and samples; empty if there were none."""
    total = sum(count for pair, count in data.steps.items() if data.ways.get(pair) == way)
    return f"${total}$" if total else ""


def _ratio(data: Measurements, way: str) -> str:
    """The largest upper/lower among the pairs of a way; empty if all their norms are 0."""
    found = [data.pairs[pair] for pair, name in data.ways.items() if name == way]
    ratios = [m.upper / m.lower if m.lower else float("inf") for m in found if m.upper]
    return f"${tex(max(ratios), 6, 'up')}$" if ratios else ""


def starts(certificate: Certificate) -> str:
    """What delta_numeric is and where it comes from; empty if it is 0."""
    data, numeric = certificate.measurements, certificate.delta_numeric
    if not numeric:
        return ""
    reason = (
        rf"; it is ${tex(data.failure)}$ for each of $n = {data.n}$ samples, because some $\kappa$ lies below the "
        r"largest norm of its pair, so that $\tilde z$ reads the norm of every sample"
        if numeric > data.failure
        else ""
    )
    return (
        rf"Here $\delta = {tex(certificate.delta)}$, and $\delta_{{\mathrm{{num}}}} = {tex(numeric, 4, 'up')}$ bounds, "
        r"whatever the sample is, the probability over the random starts that a norm which $\tilde z$ reads exceeds "
        rf"the upper end by which it enters (Lemma 21){reason}."
    )


def assumption() -> tuple[str, str]:
    """What the random starts are supposed to be, and what of it is checked."""
    return (
        "The random starts of the measurement are independent of the sample and the weights, and have uniform "
        "directions.",
        "They are pseudo-random normal numbers, from the seed, the pair and the number of the sample; that the seed "
        "was not chosen by what came out is the user's word. A relative rounding of $2^{-40}$ of products with "
        "Jacobians is allowed for (Lemma 22).",
    )
