"""What stands behind a certificate: measured numbers, other bounds, assumptions, in LaTeX."""

from __future__ import annotations

from collections.abc import Iterator

from covergraph.bound.certificate import Certificate
from covergraph.bound.paper import PaperValue
from covergraph.graph import operations as op
from covergraph.report.formulas import equation, latex, summands
from covergraph.report.frames import Measured, failing_samples, measured
from covergraph.report.measuring import assumption, ways
from covergraph.report.numbers import interval, tex
from covergraph.report.tex import ROWS_SHOWN, aligned, escape, listed, paragraphs, table

NODES_SHOWN = 12


def measurements(certificate: Certificate) -> str:
    """Every measured number with both ends, its kind and its norm."""
    data = certificate.measurements
    found = list(measured(certificate))
    rows = [
        (
            _quantity(certificate, row),
            f"${interval(row.value.lower, row.value.upper)}$",
            row.value.kind,
            escape(row.value.norm.split(" norm")[0]),
            "" if row.value.sample is None else f"${row.value.sample}$",
        )
        for row in found[:ROWS_SHOWN]
    ]
    rest = f"{len(found) - len(rows)} more rows are in measurements.csv." if len(found) > len(rows) else ""
    header = ("quantity", "[lower, upper]", "kind", "norm", "sample")
    error = data.training_error
    return paragraphs(
        rf"All $n = {data.n}$ samples were measured in {escape(data.dtype)}; reference weights: "
        f"{_REFERENCE[data.reference]}. "
        + (rf"Training error (ties count): ${tex(100 * error)}\,\%$. " if error is not None else "")
        + _failing(certificate)
        + ("Norms of total derivatives are bounds by products along edges (Proposition 2). " if data.filled else "")
        + "An exact value has a closed form, a certified one lies between its ends. Maxima run over the sample; the "
        "last column names the sample that attains one. Pairs outside $\\mathcal{P}$ serve the paper's expressions.",
        table("llllr", header, rows),
        rest,
        ways(data),
    )


def _failing(certificate: Certificate) -> str:
    """On how many samples conditions fail, by node; empty if there are no conditions."""
    data, place = certificate.measurements, certificate.bound.symbols.place
    if not data.condition_values:
        return ""
    total, failing = failing_samples(data), data.failing
    if not total:
        return "Every condition can hold on every sample. "
    largest = sorted(failing, key=lambda name: -failing[name])
    nodes = listed([f"${place(name)}$ (${failing[name]}$)" for name in largest], NODES_SHOWN)
    return rf"On ${total}$ of them a condition fails ($q_c = 0$), so $\tilde z = 1$ there; by node: {nodes}. "


def _quantity(certificate: Certificate, row: Measured) -> str:
    """A measured quantity as a formula."""
    first, *rest = (certificate.bound.symbols.place(name) for name in row.nodes)
    w, theta, beta = _letters(certificate, row.nodes[0])
    formulas = {
        "root mean square": rf"X_{{{first}}}",
        "largest norm": rf"\max \|h_{{{first}}}\|",
        "distance a": rf"\|\Delta {theta}_{{{first}}}\|",
        "distance b": rf"\|\Delta {w}_{{{first}}}\|",
        "size a": rf"\|{w}_{{{first}}}\|",
        "size b": rf"\|{w}_{{{first}}}\|",
        "operator norm": rf"\|{w}_{{{first}}}\|",
        "bias": rf"\|{beta}_{{{first}}}\|",
        "shared parameters": rf"\|\theta_{{{first}}} - \theta_{{0,{first}}}\|",
        "condition": rf"\min q_{{{first}}} > 0",
    }
    if w == "W":
        formulas |= {
            "distance a": rf"\|W_{{{first}}}^\top - A_{{{first}}}^\top\|",
            "distance b": rf"\|W_{{{first}}} - B_{{{first}}}\|",
            "size a": rf"\|W_{{{first}}}^\top\|",
        }
    if rest:
        return rf"$\max \|D_{{{first} \leftarrow {rest[0]}}}\|$"
    return f"${formulas[row.quantity]}$"


def _letters(certificate: Certificate, name: str) -> tuple[str, str, str]:
    """What multiplies a node's input, all that is learned, and what is added."""
    match certificate.bound.graph[name].operation:
        case op.Affine(scale, shift):
            return "w", {(True, False): "w", (False, True): r"\beta"}.get((scale, shift), r"(w, \beta)"), r"\beta"
        case op.ParametricReLU():
            return r"\alpha", r"\alpha", ""
        case op.Parameter():
            return r"\theta", r"\theta", ""
        case op.Embedding():
            return "E", "E", ""
        case _:
            return "W", "W", "b"


def comparison(certificate: Certificate) -> str:
    """The product of Lipschitz constants, and the paper's own expressions with values or reasons."""
    product = certificate.product
    if product.log10 is None:
        text = f"The product of Lipschitz constants has no value here: {escape(product.reason)}."
    else:
        assert product.log10_unit is not None
        text = (
            rf"Theorem 1 without augmentation, with worst-case Lipschitz constants (Proposition 7, after Bartlett, "
            rf"Foster and Telgarsky 2017): $C / \sqrt{{n}} = 10^{{{product.log10:.2f}}}$, and "
            rf"$10^{{{product.log10_unit:.2f}}}$ with hidden constants $1$; here $10^{{{certificate.log10:.2f}}}$."
        )
    rows = [(escape(v.expression.name), _value(v), escape(v.note)) for v in certificate.paper]
    return paragraphs(
        text,
        "The expressions of Wei and Ma (2019) themselves, with hidden constants $1$ where the last "
        "column does not say explicit, and without any claim of validity:",
        table("llp{0.55\\linewidth}", ("expression", "value", ""), rows),
        *_paper_formulas(certificate),
    )


def _value(value: PaperValue) -> str:
    return "---" if value.value is None else f"${tex(value.value)}$"


def _paper_formulas(certificate: Certificate) -> Iterator[str]:
    """The formulas of the expressions that have a value, with their definitions."""
    for value in certificate.paper:
        expression = value.expression
        if value.value is not None:
            formulas = [("", [latex(term) for term in summands(expression.formula)])]
            formulas += [equation(left, right) for left, right in expression.definitions]
            body = aligned(*formulas).replace(" = {}&", "&", 1)
            yield rf"\textit{{{escape(expression.name)}:}}" + "\n" + body


def assumptions(certificate: Certificate) -> str:
    """What the statement supposes, and which of it the program has checked."""
    data, p = certificate.measurements, certificate.parameters
    grid = "the parameters" if p.grid is None else rf"the grid ($\beta = {tex(p.grid)}$), the floor"
    cost = tex(certificate.union_cost, 4, "up")
    conditioned = bool(certificate.bound.augmented.conditions)
    conditions = r", the conditions $\mathcal{C}$" if conditioned else ""
    lower = ", the $q_c$ of conditions by lower ends" if conditioned else ""
    items = [
        (
            "The sample is independent, identically distributed and not augmented. Preprocessing and constants inside "
            "the model (numbers in its code, tensors that are not learned) do not depend on it.",
            f"Not checkable from the data. Checked: two passes over the loader gave the same {data.n} samples, "
            + (
                f"of which {data.repeated} are exact copies of earlier ones: duplicates='iid' says that they were "
                "drawn independently."
                if data.repeated
                else "none of which is an exact copy of another."
            ),
        ),
        (
            rf"Reference weights (here: {_REFERENCE[data.reference]}), the sets $\mathcal{{S}}$ and "
            rf"$\mathcal{{P}}${conditions}, the ramp of the indicators, {grid} do not depend on the sample. "
            "A random initialization may serve as a reference, "
            "weights pretrained on the sample may not.",
            "The sets are computed from the graph alone. Where the reference weights come from, and that the settings "
            "were fixed before the data, is the user's word.",
        ),
        (
            "The network runs in eval mode and treats samples separately.",
            "Tracing compares the graph with the model on two inputs at two batch sizes; measuring compares them on "
            "every batch, in double precision. The certificate is about the network evaluated in double precision.",
        ),
        (
            rf"What was chosen after seeing the sample is paid for: $U = {cost}$.",
            "Complete if this is the only analysis; whoever reports the best of $M$ adds $\\ln M$ with choices=M.",
        ),
        (
            "Every operation has a rule of Section 3 of docs/mathematics.md, or one that the user registered and "
            "vouches for, and an element-wise function is what its expression says.",
            "Operations without a rule are refused; tracing compares a user's function with its expression, and "
            "with its derivative, at some points.",
        ),
        (
            f"Norms enter by their upper ends{lower}, and the trained network lies in the class.",
            "By construction: $a$ and $b$ are not below the measured distances. Rounding is allowed for by a relative "
            "$10^{-9}$ of each norm, which is not proved to suffice.",
        ),
    ]
    taken = [(f"{escape(words[:1].upper() + words[1:])}.", "The user's word.") for words in data.assumed]
    items += taken
    if certificate.delta_numeric:
        items.append(assumption())
    if not certificate.bound.augmented.loss.has_margin:
        items.append(("The loss has values in $[0, 1]$ and is $\\tau_\\ell$-Lipschitz.", _USER_LOSS))
    body = "\n".join(rf"\item {claim} \emph{{{check}}}" for claim, check in items)
    return f"\\begin{{enumerate}}\n{body}\n\\end{{enumerate}}"


_REFERENCE = {
    "initial weights": "given by the user as the weights before training",
    "zero": "zero",
}
_USER_LOSS = "The range was checked on the sample; the constant is the user's word."
