"""The rows of tests/mutation.py: what is broken, and which tests have to notice."""

from __future__ import annotations

from mutation_rows import TABLES, Edit, Mutation, row, three
from mutations_rules import MEASURED, RULES, Z
from mutations_soundness import SOUNDNESS
from mutations_trajectory import TRAJECTORIES

AUGMENT = "tests/passes/test_augment.py"
RAMPED = "tests/graph/test_augmented.py::test_z_falls_to_the_loss_as_a_condition_holds"
CLOSURE = f"{AUGMENT}::test_minimal_pairs_are_the_closure_and_no_more"
MEAN = "tests/measure/test_measure.py::test_per_sample_arrays_give_the_mean_of_z_that_the_graph_computes"
ROUGH, SHARED = "tests/bound/test_conditions.py", "tests/bound/test_shared.py"
SECTION_G = f"{SHARED}::test_section_g_in_numbers"
REFUSED = "tests/bound/test_certificate_refusals.py::test_shared_parameters_must_lie_in_the_class_and_on_the_grid"
TIES = "tests/graph/test_computation_graph.py"
CERTIFICATE = "tests/bound/test_certificate.py"
RADEMACHER = "tests/bound/test_rademacher.py"
CHOOSE = "tests/bound/test_choose.py"
STATEMENT = "tests/bound/test_statement.py"

CONSTANTS, DERIVE, SYMBOLS = "bound/constants.py", "bound/derive.py", "bound/symbols.py"
CERTIFY, CHOICE, NUMBERS, THEOREM_3 = (f"bound/{m}.py" for m in ("certificate", "choose", "rademacher", "theorem"))
PASS, GRAPH, CHECKS, NEEDS = "passes/augment.py", "graph/augmented.py", "bound/checks.py", "rules/requirements.py"

HALF = "sympy.Rational(1, 2) * "
HALVED = "{symbol: self.limit(node.inputs[slot]) / 2"

THEOREM_2 = (
    *three(
        "loss term / 2",
        (CONSTANTS, "h = tau * K[k] +", "h = 0.5 * tau * K[k] +"),
        (DERIVE, "loss = tau * bar[last, v]", f"loss = {HALF}tau * bar[last, v]"),
    ),
    *three(
        "norm terms / 2",
        (CONSTANTS, "+ inverse_s @ K +", "+ 0.5 * inverse_s @ K +"),
        (DERIVE, "norms = IndexedSum(", f"norms = {HALF}IndexedSum("),
    ),
    *three(
        "1/s / 2",
        (CONSTANTS, '1 / _positive(s, name, "s")', '0.5 / _positive(s, name, "s")'),
        (SYMBOLS, "return 1 / self.s(name)", f"return {HALF}1 / self.s(name)"),
    ),
    *three(
        "curvature term / 2",
        (CONSTANTS, "+ t @ K\n", "+ 0.5 * t @ K\n"),
        (DERIVE, "curved = symbols.taubar[x, u, v1]", f"curved = {HALF}symbols.taubar[x, u, v1]"),
    ),
    *three(
        "taubar / 2",
        (CONSTANTS, "t[v] += M[x, u] * value", "t[v] += M[x, u] * value * 0.5"),
        (SYMBOLS, "return self.curved.get((x, u, v), sympy.Integer(0))", "return self.curved.get((x, u, v), 0) / 2"),
    ),
    *three(
        "kappatilde_J / 2",
        (CONSTANTS, "return float(self.J[i, j])", "return 0.5 * float(self.J[i, j])"),
        (DERIVE, "return IndexedSum(_through(", f"return {HALF}IndexedSum(_through("),
    ),
    *three(
        "M / 2 (Jacobian and curvature terms)",
        (CONSTANTS, "M = K.T @ R @ K.T", "M = 0.5 * K.T @ R @ K.T"),
        (DERIVE, "return symbols.inverse[w, a] *", f"return {HALF}symbols.inverse[w, a] *"),
    ),
    *three(
        "1/kappa / 2",
        (CONSTANTS, "np.divide(1.0, bound", "np.divide(0.5, bound"),
        (SYMBOLS, "return 1 / self.kappa(", f"return {HALF}1 / self.kappa("),
    ),
    *three(
        "kappabar = kappa, not 2 kappa",
        (CONSTANTS, "np.where(pairs, 2 * bound, 0.0)", "np.where(pairs, bound, 0.0)"),
        (SYMBOLS, "return 2 * self.kappa(", "return self.kappa("),
    ),
    *three(
        "kappabar_{w<-w} = 1/2",
        (CONSTANTS, "0.0) + np.eye(len(base))", "0.0) + 0.5 * np.eye(len(base))"),
        (SYMBOLS, "if i == j:\n            return sympy.Integer(1)", f"if i == j:\n            return {HALF}1"),
    ),
    *three(
        "condition terms / 2",
        (CONSTANTS, "+ _inverse_rho(", "+ 0.5 * _inverse_rho("),
        (DERIVE, "norms += IndexedSum(", f"norms += {HALF}IndexedSum("),
    ),
    *three(
        "2/rho is 1/rho",
        (CONSTANTS, "+= 2 / level", "+= 1 / level"),
        (SYMBOLS, "sympy.Add(*[2 * lip /", "sympy.Add(*[lip /"),
    ),
    *three(
        "Lip(q) left out",
        (CONSTANTS, "* float(slope) * CONSTANT", "* CONSTANT"),
        (SYMBOLS, "[2 * lip / self.rho", "[2 / self.rho"),
    ),
)

ABSENT_PAIRS = (
    row("absent pairs are 0, matrix form", CONSTANTS, "= reach & ~known", "= reach & ~reach", TABLES),
    row("absent pairs are 0, expressions", SYMBOLS, 'Missing(rf"', '0 * sympy.Symbol(rf"', TABLES),
    row("minimal mode forgets (w, x)", PASS, "pairs[later, x] = True", "pairs[later, x] |= False", AUGMENT),
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
SLOPE = "(2 - value / threshold).clamp(0, 1)"
RISE, RISEN = "2 * measurements.condition_values[name]", "measurements.condition_values[name]"
FACTORS = "(loss, *norms, *pairs, *conditions))"
AUGMENTATION = (
    row("soft indicator: slope / 2", GRAPH, SLOPE, "(1.5 - value / threshold / 2).clamp(0, 1)", Z),
    row("condition's indicator: 1/rho", GRAPH, "(2 * value / threshold - 1)", "(value / threshold)", RAMPED),
    row("certificate's indicator: slope / 2", CERTIFY, RAMP, RAMP.replace("2 - ", "1.5 - 0.5 * "), MEAN),
    row("certificate's condition: 1/rho", CERTIFY, f"{RISE} * (1 - allowance) / level - 1", f"{RISEN} / level", ROUGH),
    row("certificate's z without conditions", CERTIFY, "n bound.augmented.conditions:", "n ():", ROUGH),
    row("z without the norms", GRAPH, FACTORS, FACTORS.replace(" *norms,", ""), Z),
    row("z without the conditions", GRAPH, FACTORS, FACTORS.replace(", *conditions", ""), RAMPED),
    row("no pairs for conditions", PASS, "*hidden, *_conditioned(base, rules))", "*hidden)", CLOSURE, TABLES),
    row("S without radii of taubar", NEEDS, "chosen |= rule.radii(base[name])", "pass", AUGMENT, TABLES),
    row("condition dropped that a taubar reads", NEEDS, "if varies or read else", "if varies else", AUGMENT, TABLES),
    row("a-priori norm / 2 where it is used", SYMBOLS, "else prior\n", "else prior / 2\n", ROUGH, TABLES),
    row(
        "radius in taubar s, not 2 s",
        SYMBOLS,
        "{symbol: self.limit(node.inputs[slot])",
        HALVED,
        f"{ROUGH}::test_curvatures_are_stated_at_twice_the_levels_of_their_radii",
    ),
    row("rho rounded up", CHOICE, "grid_down(float(np.quantile(usable", "grid_up(float(np.quantile(usable", ROUGH),
    row("rho off the grid accepted", CHECKS, "parameters.rho, parameters.shared)", "parameters.shared)", ROUGH),
    row("t off the grid accepted", CHECKS, "parameters.rho, parameters.shared)", "parameters.rho)", REFUSED),
)

DERIVATIVE_PARTS = "for c in contributions if c.node in nodes)"
VALUE_PARTS = 'for c in contributions if c.node in nodes and c.kind == "value")'
ROUND_UP = '"shared": up({group.nodes[0]: measured.shared[group.nodes[0]] for group in bound.groups})'
ROUND_DOWN = (
    '"shared": {group.nodes[0]: grid_down(measured.shared[group.nodes[0]].upper, grid) for group in bound.groups}'
)
SMALLER, LARGER = "if _size(*together[1:]) < sum(", "if _size(*together[1:]) > sum("
TOGETHER = (
    row("T1': K_g without Jacobians", DERIVE, DERIVATIVE_PARTS, VALUE_PARTS, SECTION_G),
    row(
        "T1': r_v without positions, number",
        CERTIFY,
        "math.hypot(root * radius, ",
        "max(root * radius, 0 * ",
        SECTION_G,
    ),
    row(
        "T1': r_v without positions, expression",
        DERIVE,
        "radius**2 + c.entropy.positions)",
        "radius**2)",
        f"{SHARED}::test_the_expression_of_the_group_is_its_number",
    ),
    row("T1': the largest part, not the sum", CERTIFY, "K = sum(w * self", "K = max(w * self", SECTION_G),
    row("T1': count / 2", DERIVE, "count = 2 * sum(", "count = sum(", SECTION_G),
    row("T1': E_g without 2", CERTIFY, "return K, t * math.sqrt(2 *", "return K, t * math.sqrt(", SECTION_G),
    row("T1': t rounded down", CHOICE, ROUND_UP, ROUND_DOWN, REFUSED),
    row("T1': t below the distance accepted", CHECKS, "in measurements.shared.items():", "in ():", REFUSED),
    row("T1': the larger of two covers, number", CERTIFY, SMALLER, LARGER, f"{SHARED}::test_the_smaller_cover_counts"),
    row("T1': the larger of two covers, expression", DERIVE, "sympy.Min(untied", "sympy.Max(untied", STATEMENT),
    row("T1': no groups", "graph/groups.py", "if len(group) > 1)", "if len(group) > len(graph))", SECTION_G),
    row(
        "groups by name, not by storage",
        "graph/computation_graph.py",
        "linked(self.nodes, self.weights.sources)",
        "linked(self.nodes, lambda name: (name,))",
        TIES,
    ),
)

ROUTES = (
    row("E_g: no 2 for the ceiling, expression", DERIVE, "sqrt(2 * self.", "sqrt(self.", STATEMENT),
    row("E_g of values: no 2, number", CERTIFY, "size * math.sqrt(2 *", "size * math.sqrt(", CERTIFICATE),
    row("E_g of derivatives: no 2, number", CERTIFY, "sqrt(2 * entropy.gain", "sqrt(entropy.gain", CERTIFICATE),
    row("radius s, not 2 s, expression", SYMBOLS, "return 2 * self.s(u)", "return self.s(u)", STATEMENT),
    row("radius s, not 2 s, number", CERTIFY, "return 2 * lookup(", "return lookup(", CERTIFICATE),
    row("Dudley: 6, not 12, number", NUMBERS, "return 12 * ratio * (1", "return 6 * ratio * (1", RADEMACHER),
    row("Dudley: 6, not 12, expression", THEOREM_3, "(12 * _ratio * (1", "(6 * _ratio * (1", STATEMENT),
    row("one step / 2, number", NUMBERS, "2**0.75 *", "2**-0.25 *", RADEMACHER),
    row("one step / 2, expression", THEOREM_3, "Rational(3, 4)", "Rational(-1, 4)", STATEMENT),
    row("deviation: 1.5, not 3, number", NUMBERS, "return 3 * math.sqrt(", "return 1.5 * math.sqrt(", RADEMACHER),
    row("deviation: 1, not 3, expression", THEOREM_3, "+ 3 * sympy.sqrt(", "+ sympy.sqrt(", STATEMENT),
    row("Rad_S, not 2 Rad_S, number", CERTIFY, "2 * routes[route],", "routes[route],", CERTIFICATE),
    row("Rad_S, not 2 Rad_S, expression", THEOREM_3, "+ 2 * sympy.Min(", "+ sympy.Min(", STATEMENT),
    row("C: exponent 1/3, not 2/3", NUMBERS, "** (2 / 3)) ** 1.5", "** (1 / 3)) ** 3", RADEMACHER),
    row("union cost: ln, not 2 ln", NUMBERS, "LOG_Z + 2 * math.log1p", "LOG_Z + math.log1p", RADEMACHER),
    row("s, kappa, a, b rounded down", CHOICE, "{key: grid_up(max(", "{key: grid_down(max(", CHOOSE),
    row("gamma rounded up", CHOICE, "else grid_down(gamma", "else grid_up(gamma", CHOOSE),
)

MUTATIONS = (
    *THEOREM_2, *ABSENT_PAIRS, *AUGMENTATION, *RULES, *MEASURED, *ROUTES, *TOGETHER, *TRAJECTORIES, *SOUNDNESS,
)
