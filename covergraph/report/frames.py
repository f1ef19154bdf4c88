"""Tables for programs (pandas) and for notebooks (HTML)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covergraph.bound.paper import PaperValue
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.report.numbers import confidence, percent, plain
from covergraph.values import Measurement, Measurements

if TYPE_CHECKING:
    from covergraph.bound.certificate import Certificate


def contributions_frame(certificate: Certificate) -> pd.DataFrame:
    """One row a covered class: node, class, K_g, E_g, its share of C^(2/3), and the entropy's integers and source."""
    rows = [
        {
            "node": share.contribution.node,
            "class": share.contribution.kind,
            "K": share.weight,
            "E": share.root,
            "share": share.share,
            "gain": share.contribution.entropy.gain,
            "positions": share.contribution.entropy.positions,
            "count": _count(share.contribution.kind, share.contribution.entropy),
            "source": share.contribution.entropy.source,
        }
        for share in certificate.shares
    ]
    return pd.DataFrame(rows)


def _count(kind: str, entropy: object) -> int:
    return int(getattr(entropy, "derivative_count" if kind == "derivative" else "count"))


def graph_frame(graph: ComputationGraph) -> pd.DataFrame:
    """One row a node: position, name, operation, inputs, shape, size, parameters, module path."""
    first = 1 - len(graph.inputs)
    rows = [
        {
            "position": first + i,
            "node": node.name,
            "operation": node.operation.label,
            "inputs": ", ".join(node.inputs),
            "shape": "x".join(map(str, node.shape)),
            "size": node.size,
            "parameters": ", ".join(name for _, name in node.parameters),
            "module": node.origin,
        }
        for i, node in enumerate(graph.nodes)
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Measured:
    """A measured number, what it is, and the nodes that it belongs to; of pairs, how it was measured."""

    quantity: str
    nodes: tuple[str, ...]
    value: Measurement
    way: str = ""
    steps: int | None = None


def measured(certificate: Certificate) -> Iterator[Measured]:
    """Every measured number of a certificate: norms, sizes of layers, pairs."""
    data = certificate.measurements
    for name in sorted(data.root_mean_square, key=certificate.bound.symbols.place):
        yield Measured("root mean square", (name,), data.root_mean_square[name])
    for name, value in data.hidden.items():
        yield Measured("largest norm", (name,), value)
    for name, layer in data.layers.items():
        yield Measured("distance a", (name,), layer.a)
        yield Measured("distance b", (name,), layer.b)
        yield Measured("size a", (name,), layer.a_zero)
        yield Measured("size b", (name,), layer.b_zero)
        yield Measured("operator norm", (name,), layer.operator)
        if layer.bias is not None:
            yield Measured("bias", (name,), layer.bias)
    for name, value in data.shared.items():
        yield Measured("shared parameters", (name,), value)
    for name in data.condition_values:
        yield Measured("condition", (name,), condition(data, name))
    in_bound = set(certificate.bound.augmented.pair_names)
    for pair, value in data.pairs.items():
        what = "total derivative" if pair in in_bound else "total derivative (paper only)"
        yield Measured(what, pair, value, data.way(pair), data.steps.get(pair, 0))


def condition(data: Measurements, name: str) -> Measurement:
    """The smallest positive q of a condition (a lower end), with the number of samples that fail it; 0 if all do."""
    values, fails = data.condition_values[name], data.failing.get(name, 0)
    positive = values[values > 0]
    smallest = float(positive.min()) if len(positive) else 0.0
    sample = int(np.flatnonzero(values == smallest)[0])
    return Measurement(smallest, smallest, "certified", f"lower end; {fails} of {data.n} samples fail", sample)


def measurements_frame(certificate: Certificate) -> pd.DataFrame:
    """One row a measured number: quantity, node, ancestor, lower, upper, kind, norm, sample, way, steps.

    Ancestor, way and steps (of Lanczos, all samples together) are those of pairs.
    """
    rows = [
        {
            "quantity": row.quantity,
            "node": row.nodes[0],
            "ancestor": row.nodes[1] if len(row.nodes) > 1 else "",
            "lower": row.value.lower,
            "upper": row.value.upper,
            "kind": row.value.kind,
            "norm": row.value.norm,
            "sample": row.value.sample,
            "way": row.way,
            "steps": row.steps,
        }
        for row in measured(certificate)
    ]
    return pd.DataFrame(rows).astype({"sample": "Int64", "steps": "Int64"})


def comparison_frame(certificates: Mapping[str, Certificate]) -> pd.DataFrame:
    """One row a network, by its name: certificate, its confidence and terms, the paper's expression, products.

    `theorem_5_1` is None off the theorem's domain, and `theorem_5_1_note` says why.
    """
    return pd.DataFrame({name: _comparison(c) for name, c in certificates.items()}).T.rename_axis("network")


def _comparison(c: Certificate) -> dict[str, object]:
    theorem = paper_value(c, "Theorem 5.1")
    return {
        "n": c.n,
        "training": c.training,
        "complexity_term": c.complexity_term,
        "deviation_term": c.deviation_term,
        "certificate": c.value,
        "confidence": c.confidence,
        "vacuous": c.vacuous,
        "samples_needed": c.samples_needed,
        "log10_C_over_sqrt_n": c.log10,
        "log10_product": c.product.log10,
        "log10_product_constants_1": c.product.log10_unit,
        "theorem_5_1": theorem.value,
        "theorem_5_1_note": theorem.note,
    }


def failing_samples(data: Measurements) -> int:
    """On how many samples some condition cannot hold (q = 0); there z = 1."""
    fails = [values <= 0 for values in data.condition_values.values()]
    return int(np.any(fails, axis=0).sum()) if fails else 0


def paper_value(certificate: Certificate, name: str) -> PaperValue:
    """The paper's expression of that name."""
    return next(value for value in certificate.paper if value.expression.name == name)


def certificate_html(certificate: Certificate) -> str:
    """A short self-contained HTML table: the certificate, its terms, the covered classes by share."""
    word = "vacuous" if certificate.vacuous else "not vacuous"
    sure = f" at confidence {confidence(certificate.delta, certificate.delta_numeric)}, random starts included"
    terms = (
        ("mean of z̃ over the sample", certificate.training),
        (f"complexity, by the {certificate.route} route", certificate.complexity_term),
        (f"deviation at confidence {confidence(certificate.delta)}", certificate.deviation_term),
        (f"certificate ({word}){sure if certificate.delta_numeric else ''}", certificate.value),
    )
    head = _html_row("th", "term", "at most")
    body = "".join(_html_row("td", name, plain(value, 4, "up")) for name, value in terms)
    shares = sorted(certificate.shares, key=lambda share: -share.share)[:8]
    below = _html_row("th", "covered class", "share of the complexity") + "".join(
        _html_row("td", f"{s.contribution.node}, {s.contribution.kind}", percent(s.share)) for s in shares
    )
    note = f"n = {certificate.n}, C/√n = {plain(certificate.normalized, 4, 'up')}"
    if failing := failing_samples(certificate.measurements):
        note += f", z̃ = 1 on {failing} samples on which a condition fails"
    return f"<div><table>{head}{body}</table><p>{escape(note)}</p><table>{below}</table></div>"


def _html_row(tag: str, *cells: str) -> str:
    styles = ("text-align:left", "text-align:right")
    inner = "".join(f'<{tag} style="{style}">{escape(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{inner}</tr>"
