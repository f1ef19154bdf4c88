"""What the bound says, before any number: symbols, rules, constants, covering sum, theorem, in LaTeX."""

from __future__ import annotations

from itertools import islice

from covergraph.bound.derive import Bound
from covergraph.graph import operations as op
from covergraph.graph.node import Node
from covergraph.report.curvatures import curved_nodes
from covergraph.report.formulas import (
    covering_terms,
    entropy_bound,
    equation,
    latex,
    release_lipschitz_expressions,
    untied_sums,
)
from covergraph.report.operation_formulas import formula
from covergraph.report.side_conditions import conditions, groups
from covergraph.report.tex import (
    LINE,
    ROWS_SHOWN,
    aligned,
    code,
    display,
    escape,
    listed,
    long_table,
    paragraphs,
    shortened,
    tokens,
)

PAIRS_SHOWN, SLOTS_SHOWN, EQUATIONS_SHOWN = 60, 12, 60
WIDE = 60
"""Tokens on a line with minima, whose brackets and operators are wide."""

FORMULA = 24
"""A formula of more tokens does not fit into its column; the operation's name stands for it."""

_LETTERS = {
    "W": ("W_{", "matrices"),
    "K": ("K_{", "kernels"),
    "E": ("E_{", "tables of rows"),
    "b": (" b_{", "biases"),
    "w": (r"w_{", "scales"),
    r"\beta": (r"\beta_{", "shifts"),
    r"\alpha": (r"\alpha_{", "slopes"),
    r"\theta": (r"\theta_{", "learned values"),
    "c": ("c_{", "constants"),
    "M": ("M_{", "masks"),
}
"""How letters of `formula` occur, and what they stand for."""


def symbols_table(bound: Bound) -> str:
    """Each node's position, name, what it computes, shape per sample and module path."""
    formulas = {node.name: _formula(bound, node) for node in bound.graph.nodes}
    rows = [
        (
            f"${bound.symbols.place(node.name)}$",
            code(node.name),
            f"${formulas[node.name]}$" if formulas[node.name] else _named(bound, node),
            "${}$".format(r" {\times} ".join(map(str, node.shape)) or "1"),
            code(node.origin) if node.origin else "",
        )
        for node in bound.graph.nodes
    ]
    header = ("position", "node", "value", "shape", "module path")
    widths = r"rp{0.21\linewidth}p{0.28\linewidth}rp{0.19\linewidth}"
    return paragraphs(_letters([*formulas.values()]), long_table(widths, header, rows))


def _formula(bound: Bound, node: Node) -> str:
    """What the node computes; empty where that does not fit."""
    place = bound.symbols.place
    text = formula(node.operation, node, [f"h_{{{place(u)}}}" for u in node.inputs], str(place(node.name)))
    return "" if tokens(text) > FORMULA or r"\begin" in text or r"\frac" in text else text


def _named(bound: Bound, node: Node) -> str:
    """The operation's name and the positions of its slots."""
    places = listed([f"$h_{{{bound.symbols.place(u)}}}$" for u in node.inputs], SLOTS_SHOWN)
    return f"{escape(node.operation.label)}({places})" if places else escape(node.operation.label)


def _letters(formulas: list[str]) -> str:
    """What the letters of the table stand for."""
    used = [f"{word} ${letter}$" for letter, (sign, word) in _LETTERS.items() if any(sign in f for f in formulas)]
    signs = {
        " * ": r"$*$ is the cross-correlation with a kernel",
        r" *^\top": r"$*^\top$ is its adjoint",
        r"\odot": r"$\odot$ is the product entry by entry",
        r"\oslash": r"$\oslash$ is the quotient entry by entry",
        r"\bar": r"$\bar h$ is the mean of a group",
    }
    words = [word for sign, word in signs.items() if any(sign in f for f in formulas)]
    own = [f"parameters and constants bear the positions of their nodes: {', '.join(used)}"] if used else []
    sentence = "; ".join([*own, *words])
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def notation(bound: Bound) -> str:
    """What the letters mean."""
    k = bound.symbols.last
    return (
        rf"Nodes are named by their positions; ${k}$ is the output. $h_v$ is the value of node $v$ on one sample, "
        r"$J_{x,u} = \partial h_x / \partial h_u$ the Jacobian of an edge $u \to x$ (of the node's own rule), and "
        r"$D_{w \leftarrow a} = \sum_{u} J_{w,u} D_{u \leftarrow a}$, $D_{a \leftarrow a} = I$, the total derivative "
        r"along all paths from $a$ to $w$. $\|\cdot\|$ is the Euclidean norm of a value and "
        r"$\|\cdot\|_{\mathrm{op}}$ the spectral norm of a Jacobian."
    )


def augmented_loss(bound: Bound) -> str:
    """Definition 2 with the sets S and P of this graph, and its conditions."""
    graph, place = bound.augmented, bound.symbols.place
    hidden = listed([f"${place(v)}$" for v in graph.hidden], PAIRS_SHOWN)
    start = rf"$\mathcal{{S}}$ has the nodes {hidden}" if hidden else r"$\mathcal{S}$ is empty"
    size = len(graph.pair_names)
    pairs = ", ".join(rf"${place(w)} {{\leftarrow}} {place(a)}$" for w, a in graph.pair_names[:PAIRS_SHOWN])
    more = rf" and ${size - PAIRS_SHOWN}$ more" if size > PAIRS_SHOWN else ""
    return paragraphs(
        "The loss $\\ell$ with values in $[0, 1]$ is replaced by the larger",
        *_definition(bool(graph.conditions)),
        rf"which is constant where the network is rougher than on its sample (Definition 2, {graph.mode} mode). "
        rf"{start}; $\mathcal{{P}}$ has ${size}$ pairs $w {{\leftarrow}} a$: {pairs}{more}. "
        rf"The loss ({escape(graph.loss.name)}) is $\tau_\ell$-Lipschitz in the output, "
        rf"$\tau_\ell = {latex(bound.tau)}$.",
        conditions(bound),
    )


def _definition(conditioned: bool) -> tuple[str, ...]:
    """The augmented loss and its soft indicators."""
    loss = (
        r"\tilde z = 1 + (\ell - 1) \prod_{v \in \mathcal{S}} \mathbf{1}_{\leq s_v}(\|h_v\|) "
        r"\prod_{(w,a) \in \mathcal{P}} \mathbf{1}_{\leq \kappa_{w \leftarrow a}}"
        r"(\|D_{w \leftarrow a}\|_{\mathrm{op}})"
    )
    ramp = r"\mathbf{1}_{\leq \kappa}(t) = \min(1, \max(0, 2 - t/\kappa)),"
    if not conditioned:
        return (display(rf"{loss}, \qquad {ramp}"),)
    product = r"\prod_{c \in \mathcal{C}} \mathbf{1}_{\geq \rho_c}(q_c),"
    other = r"\mathbf{1}_{\geq \rho}(q) = \min(1, \max(0, 2q/\rho - 1)),"
    return display(f"{loss} {product}"), display(rf"{ramp} \qquad {other}")


def rules(bound: Bound) -> str:
    """Each covered class with its entropy, each non-linear node with its constant, each group."""
    others = _other_distances(bound)
    rows = [
        (
            f"${bound.symbols.place(c.node)}$",
            code(c.node),
            c.kind,
            *(f"${part}$" for part in entropy_bound(c)),
            f"${c.entropy.gain}$",
            f"${c.entropy.positions}$" if c.kind == "value" else "",
        )
        for c in bound.contributions
    ]
    header = ("position", "node", "class", "$A$", r"$\Gamma$", r"$\rho^2$", "$P$")
    derivatives = "Lemma 4, or the same" if others else "Lemma 4"
    sources = {bound.graph[c.node].operation.label: c.entropy.source for c in bound.contributions}
    return paragraphs(
        r"The class of a learned node has metric entropy at most $\lceil A / \varepsilon^2 \rceil \ln \Gamma$ at scale "
        r"$\varepsilon$, and $0$ once $A \leq \varepsilon^2$; so has the class of its Jacobians in spectral norm. "
        r"$a_v$, $b_v$ bound $\|W^\top - A^\top\|_{2,1}$ (a bias is one more column of $W$) and $\|W - B\|_{1,1}$; "
        + others
        + r"$2 s_u$ bounds the norm that the node reads where nothing has collapsed, "
        + _prior_norms(bound)
        + r"and $X_u$ is the root mean square "
        r"of the norm of a value that is a function of the data alone; $\rho^2$ is the number of patches that an entry "
        r"can lie in, and $P$ the number of positions that share a bias.",
        long_table("rp{0.26\\linewidth}lrrrr", header, rows),
        f"Sources: {'; '.join(f'{escape(label)}: {escape(source)}' for label, source in sources.items())}; "
        f"derivatives: {derivatives}.",
        groups(bound),
        curved_nodes(bound),
    )


def _other_distances(bound: Bound) -> str:
    """What a_v and b_v are where a node has no matrix (Lemma 11)."""
    words = {
        op.Affine: r"of scales $w$ and shifts $\beta$, $(\|\Delta w\|_1^2 + \|\Delta \beta\|_1^2)^{1/2}$ and "
        r"$\|\Delta w\|_1$",
        op.ParametricReLU: r"of slopes $\alpha$, both $\|\Delta \alpha\|_1$",
        op.Parameter: r"of a learned value $\theta$, $a_v$ bounds $\|\Delta \theta\|_1$",
        op.Embedding: r"of a table $E$, $a_v$ bounds $\|\Delta E\|_{2,1}$",
    }
    used = {type(bound.graph[name].operation) for name in bound.graph.covered}
    return "".join(f"{text}; " for kind, text in words.items() if kind in used)


def _prior_norms(bound: Bound) -> str:
    """How a value enters whose norm is bounded whatever the weights are (Lemma 18); empty if no node reads one."""
    limited = {*bound.augmented.hidden, *bound.graph.data_only}
    read = [bound.graph[c.node].inputs[0] for c in bound.contributions if c.kind == "value" and c.entropy.gain]
    return "" if limited.issuperset(read) else "or the largest norm that such a value can have (Lemma 18), "


def constants(bound: Bound) -> str:
    """The release-Lipschitz constants of the covered nodes (Theorem 2)."""
    rest = len(bound.contributions) - EQUATIONS_SHOWN
    slopes = (
        r"$\vartheta_w = \sum 2 \, \mathrm{Lip}_w(q_c) / \rho_c$ over the conditions $c \in \mathcal{C}$ that read "
        r"$h_w$; "
    )
    conditioned = bool(bound.augmented.conditions)
    number = "2'" if conditioned else "2"
    return paragraphs(
        r"With $\bar\kappa_{w \leftarrow w} = 1$, $\bar\kappa_{w \leftarrow a} = 2 \kappa_{w \leftarrow a}$ for "
        r"$(w, a) \in \mathcal{P}$ and $0$ if $a$ does not reach $w$; $\varrho_{w \leftarrow a} = "
        r"1 / \kappa_{w \leftarrow a}$ on $\mathcal{P}$, else $0$; $\varsigma_w = 1 / s_w$ on $\mathcal{S}$, "
        rf"else $0$; {slopes if conditioned else ''}the augmented loss is "
        r"$\tilde\kappa_{h_v}$-Lipschitz in $h_v$ and $\tilde\kappa_{J_v}$-Lipschitz "
        r"(in spectral norm) in the Jacobian $J_v$ of node $v$, whatever the values of earlier nodes "
        f"(Theorem {number}):",
        aligned(*(equation(*pair) for pair in islice(release_lipschitz_expressions(bound), EQUATIONS_SHOWN))),
        rf"The other ${rest}$ constants have the same form at their positions." if rest > 0 else "",
    )


def covering_sum(bound: Bound) -> str:
    """Theorem 1 with the optimal scales of Proposition 3."""
    return paragraphs(
        r"Covers of the classes make a cover of all augmented losses (Theorem 1): "
        r"$\ln \mathcal{N}(\sum_g \tilde\kappa_g \varepsilon_g) \leq \sum_g E_g^2 / \varepsilon_g^2$ with "
        r"$E_g^2 = 2 A_g \ln \Gamma_g$ ($2$ pays for the ceiling; where $\tilde\kappa_g = 0$ no cover is needed). "
        r"The best scales $\varepsilon_g \propto (E_g^2 / \tilde\kappa_g)^{1/3}$ give (Proposition 3)",
        display(
            r"\ln \mathcal{N}(\varepsilon) \leq \frac{C^2}{\varepsilon^2}, \qquad "
            r"C = \left( \sum_g (\tilde\kappa_g E_g)^{2/3} \right)^{3/2},"
        ),
        "which for this network is",
        aligned(("C^{2/3}", shortened(covering_terms(bound), ROWS_SHOWN)), line=WIDE if bound.groups else LINE),
        _untied(bound),
    )


def _untied(bound: Bound) -> str:
    """What the smaller one of two covers is taken of, per group; empty without groups."""
    sums = [(left, shortened(terms, EQUATIONS_SHOWN)) for left, terms in untied_sums(bound)[:EQUATIONS_SHOWN]]
    return (
        paragraphs(
            r"Nodes that share parameters are covered one by one or together (Theorem 1'), whichever costs less; one "
            "by one they cost",
            aligned(*sums),
        )
        if sums
        else ""
    )


def theorem(bound: Bound, random: bool = False) -> str:
    """Theorem 3 with Proposition 6; `random`: for norms that were measured from random starts (Lemma 21)."""
    margin = bound.augmented.loss.has_margin
    loss = r"\ell_{01}" if margin else r"\ell"
    note = r" Here $\ell_{01}$ is the error: $1$ if the margin is not positive, else $0$." if margin else ""
    probability = r"$1 - \delta - \delta_{\mathrm{num}}$" if random else r"$1 - \delta$"
    starts = " and the random starts of the measurement" if random else ""
    return paragraphs(
        rf"\textbf{{Theorem 3.}} With probability at least {probability} over the sample of size $n${starts},",
        display(
            rf"\mathbf{{E}}[{loss}] \leq \mathbf{{E}}[\tilde z] \leq \hat{{\mathbf{{E}}}}_S[\tilde z] "
            r"+ 2 \mathrm{Rad}_S + 3 \sqrt{\frac{\ln(2/\delta) + U}{2n}},"
        ),
        display(
            r"\mathrm{Rad}_S \leq \min\left( \frac{12 C}{\sqrt{n}} \left( 1 + \ln \frac{\sqrt{n}}{12 C} \right) "
            r"\ \mathrm{if}\ 12 C < \sqrt{n},\ \ 2^{3/4} \left( \frac{C}{\sqrt{n}} \right)^{1/2} \right)."
        ),
        r"$U$ pays for what is chosen after seeing the sample: $\ln Z + 2 \ln(1 + |m|)$, $Z = \pi^2/3 - 1$, for each "
        rf"parameter that is read off the data and rounded to $\beta^m$ (Proposition 6).{note}",
    )
