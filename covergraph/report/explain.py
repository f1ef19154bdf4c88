"""A certificate in a few sentences for a human."""

from __future__ import annotations

from covergraph.bound.certificate import Certificate
from covergraph.report.frames import failing_samples
from covergraph.report.numbers import confidence, percent, plain, samples


def explain(certificate: Certificate) -> str:
    """Three sentences: what is certified, where the complexity sits, what would help.

    More of them, before the last, where the certificate assumes more than usual, or samples fail a condition.
    """
    c = certificate
    sentences = (_certified(c), repeated(c), _where(c), _failing(c), _assumed(c), _help(c))
    return " ".join(sentence for sentence in sentences if sentence)


def _certified(c: Certificate) -> str:
    what = "error rate" if c.bound.augmented.loss.has_margin else "expected loss"
    value = plain(c.value, 4, "up")
    starts = " and the random starts of the measurement" if c.delta_numeric else ""
    sure = confidence(c.delta, c.delta_numeric)
    start = f"With probability at least {sure} over the draw of the {c.n} training samples{starts}"
    if c.vacuous:
        return f"{start}, the {what} on new data is at most {value}, which is vacuous, since it cannot exceed 1."
    return f"{start}, the {what} on new data is at most {value}, which is not vacuous."


def repeated(c: Certificate) -> str:
    """What was assumed of samples that come again; empty if there are none."""
    if not c.measurements.repeated:
        return ""
    return (
        f"{c.measurements.repeated} of the samples are exact copies of earlier ones; that they were drawn "
        "independently all the same is assumed."
    )


def _where(c: Certificate) -> str:
    by_node: dict[str, float] = {}
    for share in c.shares:
        by_node[share.contribution.node] = by_node.get(share.contribution.node, 0.0) + share.share
    node = max(by_node, key=lambda name: by_node[name])
    kinds = {s.contribution.kind: s.share for s in c.shares if s.contribution.node == node}
    label = c.bound.graph[node].operation.label
    if "shared" in kinds:
        return _shared(c, node, by_node[node])
    start = f"The largest part of the complexity, {percent(by_node[node])}, sits in the node {node!r} ({label})"
    if not kinds.get("derivative"):
        return f"{start}, all of it in its values."
    return f"{start}: {percent(kinds['value'])} in its values and {percent(kinds['derivative'])} in its derivatives."


def _shared(c: Certificate, node: str, share: float) -> str:
    """Where a group that is covered together has the largest part."""
    (group,) = (group for group in c.bound.groups if group.nodes[0] == node)
    return (
        f"The largest part of the complexity, {percent(share)}, sits in the parameters that {node!r} "
        f"({c.bound.graph[node].operation.label}) shares with {_count(len(group.nodes) - 1, 'more node')}."
    )


def _failing(c: Certificate) -> str:
    """On how many samples a condition cannot hold; empty if there is none."""
    failing = c.measurements.failing
    if not failing:
        return ""
    worst = max(failing, key=lambda name: failing[name])
    return (
        f"On {failing_samples(c.measurements)} of {c.n} samples a condition cannot hold (largest: node {worst!r}, "
        f"{_count(failing[worst], 'sample')}); there z = 1."
    )


def _assumed(c: Certificate) -> str:
    """What is taken on trust; empty if nothing is."""
    return " ".join(f"This supposes that {words}." for words in c.measurements.assumed)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _help(c: Certificate) -> str:
    terms = {
        "training": c.training,
        "complexity": c.complexity_term,
        "deviation": c.deviation_term,
    }
    name = max(terms, key=lambda key: terms[key])
    start = f"Of its three terms the {name} term, {plain(terms[name], 4, 'up')}, is the largest"
    return f"{start}; {_remedy(c, name)}."


def _remedy(c: Certificate, name: str) -> str:
    if name == "training":
        return "fewer training errors and larger margins would help most"
    reach = (
        "no number of samples alone would bring the bound down to 1"
        if c.samples_needed is None
        else f"with everything else unchanged the bound would reach 1 at {samples(c.samples_needed)} samples"
    )
    if not c.vacuous:
        return "more samples would lower it"
    factor = _factor(c)
    return f"{reach}, or at this n if C were {factor} times smaller" if factor else reach


def _factor(c: Certificate) -> str:
    """By how much C must fall for the one-step route to bring the certificate to 1, if it can."""
    room = 1 - c.training - c.deviation_term
    if room <= 0:
        return ""
    return plain((c.complexity_term / room) ** 2, 3, "up")
