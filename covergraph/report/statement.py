"""What the bound says, before any number: symbols, rules, constants, covering sum, theorem, in LaTeX."""

from __future__ import annotations

from covergraph.bound.derive import Bound
from covergraph.graph.operations import Elementwise, Product
from covergraph.report.formulas import (
    covering_terms,
    entropy_bound,
    equation,
    latex,
    release_lipschitz_expressions,
)
from covergraph.report.numbers import tex
from covergraph.report.tex import aligned, code, display, escape, paragraphs, table
from covergraph.rules.smoothness import curvature

PAIRS_SHOWN = 60


def symbols_table(bound: Bound) -> str:
    """Each node's position, name, operation, shape per sample and module path."""
    place = bound.symbols.place
    rows = [
        (
            f"${place(node.name)}$",
            code(node.name),
            escape(node.operation.label) + _arguments(bound, node.inputs),
            "${}$".format(r" {\times} ".join(map(str, node.shape)) or "1"),
            code(node.origin) if node.origin else "",
        )
        for node in bound.graph.nodes
    ]
    header = ("position", "node", "operation (of positions)", "shape", "module path")
    return table("rp{0.26\\linewidth}lrp{0.22\\linewidth}", header, rows)


def _arguments(bound: Bound, inputs: tuple[str, ...]) -> str:
    places = ", ".join(str(bound.symbols.place(u)) for u in inputs)
    return f" $({places})$" if inputs else ""


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
    """Definition 2 with the sets S and P of this graph."""
    graph, place = bound.augmented, bound.symbols.place
    hidden = ", ".join(f"${place(v)}$" for v in graph.hidden)
    start = rf"$\mathcal{{S}}$ has the nodes {hidden}" if hidden else r"$\mathcal{S}$ is empty"
    size = len(graph.pair_names)
    listed = ", ".join(rf"${place(w)} {{\leftarrow}} {place(a)}$" for w, a in graph.pair_names[:PAIRS_SHOWN])
    more = rf" and ${size - PAIRS_SHOWN}$ more" if size > PAIRS_SHOWN else ""
    return paragraphs(
        "The loss $\\ell$ with values in $[0, 1]$ is replaced by the larger",
        display(
            r"\tilde z = 1 + (\ell - 1) \prod_{v \in \mathcal{S}} \mathbf{1}_{\leq s_v}(\|h_v\|) "
            r"\prod_{(w,a) \in \mathcal{P}} \mathbf{1}_{\leq \kappa_{w \leftarrow a}}"
            r"(\|D_{w \leftarrow a}\|_{\mathrm{op}}), "
            r"\qquad \mathbf{1}_{\leq \kappa}(t) = \min(1, \max(0, 2 - t/\kappa)),"
        ),
        rf"which is constant where the network is rougher than on its sample (Definition 2, {graph.mode} mode). "
        rf"{start}; $\mathcal{{P}}$ has ${size}$ pairs $w {{\leftarrow}} a$: {listed}{more}. "
        rf"The loss ({escape(graph.loss.name)}) is $\tau_\ell$-Lipschitz in the output, "
        rf"$\tau_\ell = {latex(bound.tau)}$.",
    )


def rules(bound: Bound) -> str:
    """Each covered class with its entropy, each non-linear node with its constant."""
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
    sources = {bound.graph[c.node].operation.label: c.entropy.source for c in bound.contributions}
    return paragraphs(
        r"The class of a learned node has metric entropy at most $\lceil A / \varepsilon^2 \rceil \ln \Gamma$ at scale "
        r"$\varepsilon$, and $0$ once $A \leq \varepsilon^2$; so has the class of its Jacobians in spectral norm. "
        r"$a_v$, $b_v$ bound $\|W^\top - A^\top\|_{2,1}$ (a bias is one more column of $W$) and $\|W - B\|_{1,1}$; "
        r"$2 s_u$ bounds the norm that the node reads where nothing has collapsed, and $X_u$ is the root mean square "
        r"of the norm of a value that is a function of the data alone; $\rho^2$ is the number of patches that an entry "
        r"can lie in, and $P$ the number of positions that share a bias.",
        table("rp{0.26\\linewidth}lrrrr", header, rows),
        f"Sources: {'; '.join(f'{escape(label)}: {escape(source)}' for label, source in sources.items())}; "
        "derivatives: Lemma 4.",
        _curved_nodes(bound),
    )


def _curved_nodes(bound: Bound) -> str:
    """taubar of the non-linear nodes and where it comes from."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for node in bound.graph.nodes:
        operation, place = node.operation, str(bound.symbols.place(node.name))
        if isinstance(operation, Elementwise) and not operation.function.is_affine:
            found = curvature(operation)
            value = latex(found.value) if found.kind == "exact" else tex(found.upper(), 8, "up")
            formula = rf"\rule[-2ex]{{0pt}}{{5ex}}$\displaystyle {latex(operation.function.expression)}$"
            key = (formula, f"${value}$", found.kind, f"Lemma 5: {escape(found.argument)}")
            rows.setdefault(key, []).append(place)
        elif isinstance(operation, Product):
            factor = 2 if len(node.predecessors) == 1 else 1
            why = "Lemma 6, across the two slots" + (" (both filled by one node: Lemma 8)" if factor == 2 else "")
            rows.setdefault(("product", f"${factor}$", "exact", why), []).append(place)
    if not rows:
        return r"All nodes are affine: $\bar\tau = 0$."
    header = ("operation", "positions", r"$\bar\tau$", "kind", "why")
    body = [(key[0], ", ".join(f"${place}$" for place in places), *key[1:]) for key, places in rows.items()]
    return paragraphs(
        r"Where nothing has collapsed, $\|\Delta J_{x,u}\|_{\mathrm{op}} \leq "
        r"\sum_{u'} \bar\tau_{x;u,u'} \|\Delta h_{u'}\|$. For an element-wise function, $\bar\tau = \sup |\varphi''|$. "
        r"All other nodes are affine: $\bar\tau = 0$.",
        table("lp{0.12\\linewidth}llp{0.38\\linewidth}", header, body),
    )


def constants(bound: Bound) -> str:
    """The release-Lipschitz constants of the covered nodes (Theorem 2)."""
    return paragraphs(
        r"With $\bar\kappa_{w \leftarrow w} = 1$, $\bar\kappa_{w \leftarrow a} = 2 \kappa_{w \leftarrow a}$ for "
        r"$(w, a) \in \mathcal{P}$ and $0$ if $a$ does not reach $w$; $\varrho_{w \leftarrow a} = "
        r"1 / \kappa_{w \leftarrow a}$ on $\mathcal{P}$, else $0$; $\varsigma_w = 1 / s_w$ on $\mathcal{S}$, "
        r"else $0$; the augmented loss is $\tilde\kappa_{h_v}$-Lipschitz in $h_v$ and $\tilde\kappa_{J_v}$-Lipschitz "
        r"(in spectral norm) in the Jacobian $J_v$ of node $v$, whatever the values of earlier nodes (Theorem 2):",
        aligned(*(equation(*pair) for pair in release_lipschitz_expressions(bound))),
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
        aligned(("C^{2/3}", covering_terms(bound))),
    )


def theorem(bound: Bound) -> str:
    """Theorem 3 with Proposition 6."""
    margin = bound.augmented.loss.has_margin
    loss = r"\ell_{01}" if margin else r"\ell"
    note = r" Here $\ell_{01}$ is the error: $1$ if the margin is not positive, else $0$." if margin else ""
    return paragraphs(
        r"\textbf{Theorem 3.} With probability at least $1 - \delta$ over the sample of size $n$,",
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
