"""LaTeX fragments: the statement of a bound, and the numbers of a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from covergraph.bound.derive import Bound
from covergraph.report import statement as say
from covergraph.report.numbers import tex

if TYPE_CHECKING:
    from covergraph.bound.certificate import Certificate


def statement(bound: Bound) -> str:
    """The bound as a LaTeX fragment (amsmath, longtable): symbols, rules, constants, covering sum, theorem."""
    parts = {
        "Symbols": f"{say.notation(bound)}\n\n{say.symbols_table(bound)}",
        "Augmented loss": say.augmented_loss(bound),
        "Rules": say.rules(bound),
        "Release-Lipschitz constants": say.constants(bound),
        "Covering": say.covering_sum(bound),
        "Certificate": say.theorem(bound),
    }
    return "\n\n".join(rf"\paragraph{{{title}.}} {body}" for title, body in parts.items())


def certificate_fragment(certificate: Certificate) -> str:
    """Theorem 3 with the numbers of every term, for a displayed formula (`aligned`); the bound is rounded up.

    Where norms were measured from random starts a last line says with which probability it holds.
    """
    margin = certificate.bound.augmented.loss.has_margin
    loss = r"\ell_{01}" if margin else r"\ell"
    delta, cost, n = tex(certificate.delta), tex(certificate.union_cost), certificate.n
    terms = (certificate.training, certificate.complexity_term, certificate.deviation_term)
    lines = [
        rf"\mathbf{{E}}[{loss}] \leq \mathbf{{E}}[\tilde z] \leq {{}}& \hat{{\mathbf{{E}}}}_S[\tilde z] "
        r"+ 2 \mathrm{Rad}_S + 3 \sqrt{\frac{\ln(2/\delta) + U}{2n}}",
        rf"\approx {{}}& {tex(certificate.training, 5)} + {rademacher(certificate)} "
        rf"+ 3 \sqrt{{\frac{{\ln(2/{delta}) + {cost}}}{{2 \cdot {n}}}}}",
        rf"\approx {{}}& {' + '.join(tex(term, 5) for term in terms)}",
        rf"\leq {{}}& {tex(certificate.value, 4, 'up')}",
    ]
    if certificate.delta_numeric:
        sure = rf"1 - {delta} - {tex(certificate.delta_numeric, 4, 'up')}"
        lines.append(rf"& \text{{with probability at least }} {sure}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def rademacher(certificate: Certificate) -> str:
    """2 Rad_S by the smaller route, with the number C / sqrt(n)."""
    c = tex(certificate.normalized)
    if certificate.route == "Dudley":
        return rf"24 \cdot {c} \left( 1 - \ln(12 \cdot {c}) \right)"
    return rf"2 \cdot 2^{{3/4}} \sqrt{{{c}}}"
