"""The conditions of an augmented loss, and the groups of nodes that share parameters, in LaTeX."""

from __future__ import annotations

import re

from covergraph.bound.derive import Bound, Group
from covergraph.report.formulas import latex
from covergraph.report.tex import aligned, code, escape, listed, long_table, paragraphs, shortened
from covergraph.rules.conditions import Condition

NODES_SHOWN, TERMS_SHOWN, GROUPS_SHOWN = 12, 24, 12


def conditions(bound: Bound) -> str:
    """Each condition with its node, q_c, and the Lipschitz constants of q_c; empty if there is none."""
    rows = [_condition(bound, name, condition) for name, condition in bound.augmented.conditions.items()]
    if not rows:
        return ""
    header = ("position", "node", "$q_c$", r"$\mathrm{Lip}(q_c)$ in")
    return paragraphs(
        r"$\mathcal{C}$ has the nodes below: $q_c \geq \rho_c$ keeps what the node reads away from the points at which "
        r"it is not smooth, and $q_c$ is Lipschitz in the values that it reads (Lemma 10). $M_i \geq M_{2,i}$ are the "
        "two largest entries of window or group $i$.",
        long_table(r"rp{0.24\linewidth}p{0.44\linewidth}l", header, rows),
    )


def _condition(bound: Bound, name: str, condition: Condition) -> tuple[str, ...]:
    place, inputs = bound.symbols.place, bound.graph[name].inputs
    formula = re.sub(r"h_(\{?)(\d+)", lambda found: _slot(found, [place(u) for u in inputs]), condition.latex)
    slopes = ", ".join(f"$h_{{{place(inputs[slot])}}}$: ${latex(lip)}$" for slot, lip in condition.slopes.items())
    return f"${place(name)}$", code(name), f"${formula}$ ({escape(condition.text)})", slopes


def _slot(found: re.Match[str], places: list[int]) -> str:
    """h_{0,i} as h_{7,i} where slot 0 holds node 7."""
    place = places[int(found[2])]
    return f"h_{{{place}" if found[1] else f"h_{{{place}}}"


def groups(bound: Bound) -> str:
    """Each group of nodes that share parameters, with its class and its weight; empty if there is none."""
    if not bound.groups:
        return ""
    header = ("nodes", "at positions", "parameters", "$A$", r"$\Gamma$")
    return paragraphs(
        r"Nodes that share parameters $\theta$ may be covered together: one choice of $\theta$ serves all of them "
        r"(Theorem 1'). The class of such a group has $A = t_g^2$, where $t_g$ bounds $\|\theta - \theta_0\|_1$, and "
        r"$\Gamma = 2 \dim \theta$; its weight $\tilde\kappa_g$ is the sum of the weights of its nodes, each times "
        r"what a change of $\theta$ by $1$ does to the class: at most $(\rho^2 \bar s^2 + P)^{1/2}$ to values, where "
        r"$\bar s$ bounds the norm that the node reads ($2 s_u$, or the largest that it can be; the root mean square "
        r"$X_u$ of a value that is a function of the data alone), and $\rho$ to Jacobians:",
        long_table(
            r"p{0.26\linewidth}p{0.16\linewidth}p{0.26\linewidth}rr", header, [_group(bound, g) for g in bound.groups]
        ),
        aligned(*(_weight(group) for group in bound.groups[:GROUPS_SHOWN])),
    )


def _group(bound: Bound, group: Group) -> tuple[str, ...]:
    places = [f"${bound.symbols.place(name)}$" for name in group.nodes]
    return (
        listed([code(name) for name in group.nodes], NODES_SHOWN),
        listed(places, TERMS_SHOWN),
        listed([code(name) for name in group.parameters], NODES_SHOWN),
        f"${latex(group.contribution.coefficient)}$",
        f"${group.contribution.entropy.count}$",
    )


def _weight(group: Group) -> tuple[str, list[str]]:
    """K_g and its terms."""
    terms = [latex(r * c.weight) for r, c in group.parts[: TERMS_SHOWN + 1]]
    return latex(group.contribution.weight), shortened(terms, TERMS_SHOWN)
