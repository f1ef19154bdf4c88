"""The rows of tests/mutation.py: what is broken, and which tests have to notice."""

from __future__ import annotations

from dataclasses import dataclass

RELEASE = "tests/bound/test_release_lipschitz.py"
ATTAINED = f"{RELEASE}::test_each_term_is_attained"
SEQUENTIAL = "tests/bound/test_sequential.py"
TABLES = "tests/bound/test_tables.py"
AUGMENT = "tests/passes/test_augment.py"
AUGMENTED = "tests/graph/test_augmented.py"
CERTIFICATE = "tests/bound/test_certificate.py"
RADEMACHER = "tests/bound/test_rademacher.py"
CHOOSE = "tests/bound/test_choose.py"
STATEMENT = "tests/bound/test_statement.py"
ENTROPY = "tests/rules/test_entropy.py"
OVERLAP = "tests/rules/test_overlap.py"

CONSTANTS, DERIVE, SYMBOLS = "bound/constants.py", "bound/derive.py", "bound/symbols.py"
CERTIFY, CHOICE, NUMBERS, THEOREM_3 = (f"bound/{m}.py" for m in ("certificate", "choose", "rademacher", "theorem"))
LOSSES = "graph/losses.py"
PASS, GRAPH, SMOOTH, COVER = "passes/augment.py", "graph/augmented.py", "rules/smoothness.py", "rules/entropy.py"


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which occurs exactly once in `file` (below covergraph/), by `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """A named break; `both`: in the matrix form and in the expressions."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    both: bool = False


def _row(name: str, file: str, old: str, new: str, *tests: str, both: bool = False) -> Mutation:
    return Mutation(name, (Edit(file, old, new),), tests, both)


def _three(term: str, matrix: tuple[str, str, str], expression: tuple[str, str, str]) -> tuple[Mutation, ...]:
    """A term of Theorem 2 broken in the matrix form, in the expressions, and in both."""
    one, two = Edit(*matrix), Edit(*expression)
    return (
        Mutation(f"T2: {term}, matrix form", (one,), (ATTAINED, TABLES)),
        Mutation(f"T2: {term}, expressions", (two,), (SEQUENTIAL, TABLES)),
        Mutation(f"T2: {term}, both", (one, two), (ATTAINED, SEQUENTIAL), both=True),
    )


HALF = "sympy.Rational(1, 2) * "

THEOREM_2 = (
    *_three(
        "loss term / 2",
        (CONSTANTS, "h = tau * K[k] +", "h = 0.5 * tau * K[k] +"),
        (DERIVE, "loss = tau * bar[last, v]", f"loss = {HALF}tau * bar[last, v]"),
    ),
    *_three(
        "norm terms / 2",
        (CONSTANTS, "+ inverse_s @ K +", "+ 0.5 * inverse_s @ K +"),
        (DERIVE, "norms = IndexedSum(", f"norms = {HALF}IndexedSum("),
    ),
    *_three(
        "1/s / 2",
        (CONSTANTS, '1 / _positive(s, name, "s")', '0.5 / _positive(s, name, "s")'),
        (SYMBOLS, "return 1 / self.s(name)", f"return {HALF}1 / self.s(name)"),
    ),
    *_three(
        "curvature term / 2",
        (CONSTANTS, "+ t @ K\n", "+ 0.5 * t @ K\n"),
        (DERIVE, "curved = symbols.taubar[x, u, v1]", f"curved = {HALF}symbols.taubar[x, u, v1]"),
    ),
    *_three(
        "taubar / 2",
        (CONSTANTS, "t[v] += M[x, u] * value", "t[v] += M[x, u] * value * 0.5"),
        (SYMBOLS, "return self.curved.get((x, u, v), sympy.Integer(0))", "return self.curved.get((x, u, v), 0) / 2"),
    ),
    *_three(
        "kappatilde_J / 2",
        (CONSTANTS, "return float(self.J[i, j])", "return 0.5 * float(self.J[i, j])"),
        (DERIVE, "return IndexedSum(_through(", f"return {HALF}IndexedSum(_through("),
    ),
    *_three(
        "M / 2 (Jacobian and curvature terms)",
        (CONSTANTS, "M = K.T @ R @ K.T", "M = 0.5 * K.T @ R @ K.T"),
        (DERIVE, "return symbols.inverse[w, a] *", f"return {HALF}symbols.inverse[w, a] *"),
    ),
    *_three(
        "1/kappa / 2",
        (CONSTANTS, "np.divide(1.0, bound", "np.divide(0.5, bound"),
        (SYMBOLS, "return 1 / self.kappa(", f"return {HALF}1 / self.kappa("),
    ),
    *_three(
        "kappabar = kappa, not 2 kappa",
        (CONSTANTS, "np.where(pairs, 2 * bound, 0.0)", "np.where(pairs, bound, 0.0)"),
        (SYMBOLS, "return 2 * self.kappa(", "return self.kappa("),
    ),
    *_three(
        "kappabar_{w<-w} = 1/2",
        (CONSTANTS, "0.0) + np.eye(len(base))", "0.0) + 0.5 * np.eye(len(base))"),
        (SYMBOLS, "if i == j:\n            return sympy.Integer(1)", f"if i == j:\n            return {HALF}1"),
    ),
)

ABSENT_PAIRS = (
    _row("absent pairs are 0, matrix form", CONSTANTS, "= reach & ~known", "= reach & ~reach", TABLES),
    _row("absent pairs are 0, expressions", SYMBOLS, 'Missing(rf"', '0 * sympy.Symbol(rf"', TABLES),
    _row("minimal mode forgets (w, x)", PASS, "pairs[later, x] = True", "pairs[later, x] |= False", AUGMENT),
    Mutation(
        "minimal mode forgets (u, a) and (u', v)",  # one of them alone implies the other for today's operations
        (
            Edit(PASS, "pairs[u, earlier] = True", "pairs[u, earlier] |= False"),
            Edit(PASS, "pairs[v] |= above[v] & covered", "pairs[v] |= False"),
        ),
        (AUGMENT,),
    ),
)

RAMP = "2 - values * (1 + allowance) / threshold"
CONV_COUNT = "// rows),\n        count=2 *"
SLOPE = "(2 - value / threshold).clamp(0, 1)"
FACTORS = "factors = tuple(node.name for node in (loss, *norms, *pairs))"
RULES = (
    _row("sup|phi''| / 2", SMOOTH, "(operation).value}", "(operation).value / 2}", ATTAINED, SEQUENTIAL, both=True),
    _row(
        "taubar of a product / 2",
        SMOOTH,
        "{(0, 1): sympy.Integer(1), (1, 0): sympy.Integer(1)}",
        "{(0, 1): sympy.Rational(1, 2), (1, 0): sympy.Rational(1, 2)}",
        ATTAINED,
    ),
    _row("taubar not summed over slots", SMOOTH, "total.get(key, sympy.Integer(0)) + value", "value", ATTAINED),
    _row("J of x * x with one slot", "graph/curved_rules.py", "stack(terms).sum(0)", "stack(terms)[0]", AUGMENTED),
    _row("margin loss: slope / 2", LOSSES, "sympy.sqrt(2)) / GAMMA", "1 / sympy.sqrt(2)) / GAMMA", SEQUENTIAL),
    _row("linear: count of the cover / 2", COVER, "[:-1]),\n        count=2 *", "[:-1]),\n        count=1 *", ENTROPY),
    _row("conv: count of the cover / 2", COVER, CONV_COUNT, CONV_COUNT.replace("count=2", "count=1"), ENTROPY),
    _row("conv: overlap without gcd", COVER, "-(-k * math.gcd(s, d) // s)", "-(-k // s)", OVERLAP),
    _row("soft indicator: slope / 2", GRAPH, SLOPE, "(1.5 - value / threshold / 2).clamp(0, 1)", AUGMENTED),
    _row("certificate's indicator: slope / 2", CERTIFY, RAMP, RAMP.replace("2 - ", "1.5 - 0.5 * "), AUGMENTED),
    _row("z without the norms", GRAPH, FACTORS, FACTORS.replace(" *norms,", ""), AUGMENTED),
)

ROUTES = (
    _row("E_g: no 2 for the ceiling, expression", DERIVE, "sqrt(2 * self.", "sqrt(self.", STATEMENT),
    _row("E_g of values: no 2, number", CERTIFY, "size * math.sqrt(2 *", "size * math.sqrt(", CERTIFICATE),
    _row("E_g of derivatives: no 2, number", CERTIFY, "sqrt(2 * entropy.gain", "sqrt(entropy.gain", CERTIFICATE),
    _row("radius s, not 2 s, expression", SYMBOLS, "else 2 * self.s(u)", "else self.s(u)", STATEMENT),
    _row("radius s, not 2 s, number", CERTIFY, "else 2 * lookup(", "else lookup(", CERTIFICATE),
    _row("Dudley: 6, not 12, number", NUMBERS, "return 12 * ratio * (1", "return 6 * ratio * (1", RADEMACHER),
    _row("Dudley: 6, not 12, expression", THEOREM_3, "(12 * _ratio * (1", "(6 * _ratio * (1", STATEMENT),
    _row("one step / 2, number", NUMBERS, "2**0.75 *", "2**-0.25 *", RADEMACHER),
    _row("one step / 2, expression", THEOREM_3, "Rational(3, 4)", "Rational(-1, 4)", STATEMENT),
    _row("deviation: 1.5, not 3, number", NUMBERS, "return 3 * math.sqrt(", "return 1.5 * math.sqrt(", RADEMACHER),
    _row("deviation: 1, not 3, expression", THEOREM_3, "+ 3 * sympy.sqrt(", "+ sympy.sqrt(", STATEMENT),
    _row("Rad_S, not 2 Rad_S, number", CERTIFY, "2 * routes[route],", "routes[route],", CERTIFICATE),
    _row("Rad_S, not 2 Rad_S, expression", THEOREM_3, "+ 2 * sympy.Min(", "+ sympy.Min(", STATEMENT),
    _row("C: exponent 1/3, not 2/3", NUMBERS, "** (2 / 3)) ** 1.5", "** (1 / 3)) ** 3", RADEMACHER),
    _row("union cost: ln, not 2 ln", NUMBERS, "LOG_Z + 2 * math.log1p", "LOG_Z + math.log1p", RADEMACHER),
    _row("s, kappa, a, b rounded down", CHOICE, "{key: grid_up(max(", "{key: grid_down(max(", CHOOSE),
    _row("gamma rounded up", CHOICE, "else grid_down(gamma", "else grid_up(gamma", CHOOSE),
)

MUTATIONS = (*THEOREM_2, *ABSENT_PAIRS, *RULES, *ROUTES)
