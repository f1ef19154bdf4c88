"""Rows of tests/mutation.py: the rules of single operations, what is measured of them, and how layers are lowered."""

from __future__ import annotations

from mutation_rows import ATTAINED, BY_HAND, SEQUENTIAL, Edit, Mutation, row

Z = "tests/graph/test_augmented.py::test_z_is_the_product_formula"
DERIVATIVES = "tests/graph/test_augmented.py::test_derivative_nodes_equal_dense_automatic_derivatives"
ENTROPY, COVERED = "tests/rules/test_entropy.py", "tests/rules/test_entropy_parameters.py"
OVERLAP, COMPOSED, CALLED = (f"tests/rules/test_{name}.py" for name in ("overlap", "composition", "calls"))
PROFILES, PRIORS = "tests/rules/test_profiles.py", "tests/rules/test_conditions.py"
CURVED = "tests/rules/test_smoothness_curved.py"
TIGHT = f"{CURVED}::test_the_constants_are_attained"
LAYER_SIZES, EDGE_BOUNDS = "tests/measure/test_layers.py", "tests/measure/test_edges.py"
UNDEFINED = "tests/measure/test_undefined_samples.py"
ROUGH, COARSENED = "tests/bound/test_conditions.py", "tests/passes/test_coarsen.py"
UNROLLED = "tests/passes/test_lower_recurrent.py::test_every_case_of_the_operation"
VALUES = "tests/graph/test_interpreter_operations.py::test_values_are_those_of_plain_torch"
TORCH = "tests/graph/test_interpreter_torch.py"

SMOOTH, KEPT, PRIOR, COVER = (f"rules/{name}.py" for name in ("smoothness", "conditions", "norms", "entropy"))
PROFILE, LOCAL, CHAIN, CALL = (f"rules/{name}.py" for name in ("profiles", "local", "composition", "calls"))
KINKS, LOSSES, VALUE = "graph/kinks.py", "graph/losses.py", "graph/curved_rules.py"
LAYERS, EDGES, SYMBOLS, QUANTITIES, LANCZOS, TRIDIAGONAL = (
    f"measure/{n}.py" for n in ("layers", "edges", "edges_convolutions", "conditions", "lanczos", "tridiagonal")
)

PRODUCT = "{(0, 1): sympy.Integer(1), (1, 0): sympy.Integer(1)}"
GLOBAL, LOCALLY = "sympy.Rational(48, 25)", "local = 2 / (sympy.sqrt(3)"
CURVATURES = (
    row("sup|phi''| / 2", SMOOTH, "else {(0, 0): value}", "else {(0, 0): value / 2}", ATTAINED, *BY_HAND, both=True),
    row("taubar of a product / 2", SMOOTH, PRODUCT, PRODUCT.replace("Integer(1)", "Rational(1, 2)"), ATTAINED),
    row("taubar not summed over slots", SMOOTH, "total.get(key, sympy.Integer(0)) + value", "value", ATTAINED),
    row("taubar of calls not summed over slots", CALL, "total.get(key, sympy.Integer(0)) + value", "value", CALLED),
    row("taubar of a softmax / 2", SMOOTH, "sympy.sqrt(2) / (3 *", "sympy.sqrt(2) / (6 *", TIGHT),
    row("taubar of a log-softmax / 2", SMOOTH, "[operation.axis]) / 2", "[operation.axis]) / 4", TIGHT),
    row("taubar of a normalization / 2, by eps", SMOOTH, GLOBAL, "sympy.Rational(24, 25)", TIGHT),
    row("taubar of a normalization / 2, by rho", SMOOTH, LOCALLY, LOCALLY.replace("2 /", "1 /"), TIGHT),
    row("taubar of a vector norm / 2", SMOOTH, "{(0, 0): 2 / RHO}", "{(0, 0): 1 / RHO}", TIGHT),
    row("taubar of a quotient (0, 1) / 2", SMOOTH, "{(0, 1): across,", "{(0, 1): across / 2,", TIGHT),
    row("taubar of a quotient (1, 0) / 2", SMOOTH, "(1, 0): across,", "(1, 0): across / 2,", TIGHT),
    row("taubar of a quotient (1, 1) / 2", SMOOTH, "16 * radius(0)", "8 * radius(0)", TIGHT),
    row("sup|phi''| up to rho, not rho/2, closed form", PROFILE, "radius(0), RHO / 2)", "radius(0), RHO)", PROFILES),
    row("sup|phi''| up to rho, not rho/2, enclosed", PROFILE, "RHO / 2 if needs", "RHO if needs", PROFILES),
    row(
        "sup|phi''| at twice the distance",
        LOCAL,
        "[0].start + depth, -limit",
        "[0].start + 2 * depth, -limit",
        PROFILES,
    ),
    row("chains: L, not L^2", CHAIN, "curve * lipschitz**2", "curve * lipschitz", COMPOSED),
    row("chains: tau not multiplied by later slopes", CHAIN, "_up(slope * tau + ", "_up(tau + ", COMPOSED),
)

GAP = "return Condition({0: sympy.sqrt(2)}, f"
RECTIFIED = "return Condition({0: sympy.sqrt(2)}, text"
CONDITIONS = (
    row("slope of a distance / 2", KEPT, "{slot: sympy.Integer(1)}", "{slot: sympy.Rational(1, 2)}", ATTAINED),
    row("slope of a gap: 1, not sqrt(2)", KEPT, GAP, GAP.replace("sqrt", "Integer").replace("(2)", "(1)"), ATTAINED),
    row(
        "slope of a rectified gap: 1, not sqrt(2)",
        KEPT,
        RECTIFIED,
        RECTIFIED.replace("sqrt(2)", "Integer(1)"),
        ATTAINED,
    ),
    row("slope of a normalization: 1/d, not 1/sqrt(d)", KEPT, "1 / sympy.sqrt(op", "1 / sympy.Integer(op", ATTAINED),
    row("slope of a vector norm / 2", KEPT, '{0: sympy.Integer(1)}, "n', '{0: sympy.Rational(1, 2)}, "n', ATTAINED),
    row("distance to one end of an interval", KINKS, "torch.minimum(depth, end - values)", "depth", PROFILES),
    row("distance to a kink * 2", KINKS, "depth, values - start)", "depth, 2 * (values - start))", PROFILES),
    row("a-priori norm of a normalization / 2", PRIOR, "sympy.sqrt(node.size)", "sympy.sqrt(node.size) / 2", PRIORS),
    row(
        "a-priori norm of one row of a softmax", PRIOR, "sqrt(node.size // node.shape[", "sqrt(1 // node.shape[", PRIORS
    ),
)

CONV_COUNT = "columns = channels * math.prod(operation.kernel)"
AFFINE_COUNT = "2 * (scales + shifts), 2 * scales"
TRANSPOSED = "// operation.groups * taps"
ENTROPIES = (
    row("matrix: count of the cover / 2", COVER, "count=2 * (weight + bias)", "count=(weight + bias)", ENTROPY),
    row("matrix: count of derivatives / 2", COVER, "count=2 * weight *", "count=weight *", ENTROPY, COVERED),
    row("matrix: one position of the bias", COVER, "bias * (node.size // rows)", "bias", ENTROPY),
    row("conv: count without the kernel", COVER, CONV_COUNT, "columns = channels", ENTROPY),
    row("conv: overlap without gcd", COVER, "-(-k * math.gcd(s, d) // s)", "-(-k // s)", OVERLAP),
    row("transposed conv: gain 1", COVER, "_matrix(node, taps,", "_matrix(node, 1,", COVERED),
    row("transposed conv: count without the kernel", COVER, TRANSPOSED, "// operation.groups", COVERED),
    row("affine: count of the cover / 2", COVER, AFFINE_COUNT, AFFINE_COUNT.removeprefix("2 * "), COVERED),
    row("affine: one position of the shift", COVER, "node.size // shifts if", "1 if", COVERED),
    row("PReLU: count of the cover / 2", COVER, "(1, 0, 2 * slopes,", "(1, 0, slopes,", COVERED),
    row("embedding: one position", COVER, "ClassEntropy(0, node.size // width,", "ClassEntropy(0, 1,", COVERED),
    row("parameter as a value: no position", COVER, "ClassEntropy(0, 1, 2", "ClassEntropy(0, 0, 2", COVERED),
)

LENGTHS = 'math.hypot(_length(change, "scale"), _entries(change, "shift"))'
UNTIED = ".transpose(1, 2).flatten(0, 1)"
MEASURED = (
    row("a of a layer without the bias", LAYERS, 'torch.hypot(rows, change["bias"])', "rows", LAYER_SIZES),
    row("a of an affine map: max, not hypot", LAYERS, LENGTHS, LENGTHS.replace("math.hypot", "max"), LAYER_SIZES),
    row("a of an embedding by rows", LAYERS, '["weight"].mT)', '["weight"])', LAYER_SIZES),
    row("a of a transposed conv by inputs", LAYERS, UNTIED, ".flatten(0, 1)", LAYER_SIZES),
    row("edge of a conv without overlap", SYMBOLS, "min(rho * patches.upper", "min(patches.upper", EDGE_BOUNDS),
    row("edge of a conv at the frequencies alone", SYMBOLS, "1 / math.cos(", "1 / (lambda _: 1)(", EDGE_BOUNDS),
    row(
        "edge of a matrix product: the smallest norm",
        EDGES,
        "-1).amax(1) * (1 + rounding(o",
        "-1).amin(1) * (1 + rounding(o",
        EDGE_BOUNDS,
    ),
    row("edge of a softmax: 1/4, not 1/2", EDGES, ".clamp_max(0.5)", ".clamp_max(0.25)", EDGE_BOUNDS),
    row(
        "edge of a softmax: variance / 2", EDGES, "torch.minimum(2 * _variance", "torch.minimum(_variance", EDGE_BOUNDS
    ),
    row(
        "edge of a max-pool without overlap",
        EDGES,
        "math.sqrt(math.prod(-(-k * ",
        "math.sqrt(math.prod(0 * -(-k * ",
        EDGE_BOUNDS,
    ),
    row(
        "edge of a quotient: one divisor",
        EDGES,
        "numerator / denominator / denominator",
        "numerator / denominator",
        EDGE_BOUNDS,
    ),
    row("q is not lowered for rounding", QUANTITIES, "q - VALUES * size", "q", UNDEFINED),
    row("samples with q = 0 do not count as failing", "values.py", "values <= 0", "values < 0", ROUGH),
)

STARTS = "tests/measure/test_lanczos.py"
FORMULA, HIDDEN = f"{STARTS}::test_the_certificate_is_the_formula", f"{STARTS}::test_products_as_wrong_as_allowed"
RANDOM = (
    row("overlap without sqrt(2d/pi)", LANCZOS, "failure / math.sqrt(2 * size / math.pi)", "failure", STARTS),
    row("overlap with sqrt(d/pi)", LANCZOS, "math.sqrt(2 * size /", "math.sqrt(size /", STARTS),
    row("every sample starts alike", LANCZOS, "key.encode()", 'b""', STARTS),
    row("a Ritz value as upper end", LANCZOS, "torch.where(proven, ends, torch.inf)", "ends / goal.width", STARTS),
    row("J is not scaled", LANCZOS, "for s in SCALES:", "for s in ():", STARTS),
    row(
        "no rounding of products", TRIDIAGONAL, "3 * PRODUCT * level * total", "0 * level * total",
        f"{HIDDEN}_hide_nothing",
    ),
    row("rounding: the diagonal of the inverse", TRIDIAGONAL, "level * total", "level / pivots[:, 0]", STARTS),
    row("pivots: beta's sign", TRIDIAGONAL, "alpha[:, j] - before", "alpha[:, j] + before", FORMULA),
    row("pivots: the next beta", TRIDIAGONAL, "beta[:, j - 1] / ratios[-1]", "beta[:, j] / ratios[-1]", FORMULA),
    row(
        "q: without the last beta", TRIDIAGONAL, "logs[:, -1] + left", "logs[:, -1] + beta[:, -1].log() + left", FORMULA
    ),
    row("q: without the first pivot", TRIDIAGONAL, "logs[:, -1] + left", "(logs[:, -1] - logs[:, 0]) + left", FORMULA),
    row("no slack", TRIDIAGONAL, "+ left > LENGTHS", "+ left > -LENGTHS", FORMULA),
    Mutation(
        "pivots of any sign",
        (Edit(TRIDIAGONAL, "ratios.log()", "ratios.abs().log()"), Edit(TRIDIAGONAL, "(pivots > 0).all(1) & (r", "(r")),
        (STARTS,),
    ),
    row("asymmetry is not watched", TRIDIAGONAL, " & (self.asymmetry.amax(1) <= 5 * PRODUCT * level)", "", STARTS),
    row(
        "NaN is not noticed", TRIDIAGONAL, "torch.isfinite(self.alpha + self.beta)", "(self.scale > 0)[:, None]", STARTS
    ),
)

LOWERED = (
    row("GRU: n - z (h - n)", "passes/recurrence.py", "Add(), n, kept)", "Subtract(), n, kept)", UNROLLED),
    row("causal mask off by one", VALUE, ".triu(1)", ".triu(2)", VALUES, TORCH),
    row("J of x * x with one slot", VALUE, "stack(terms).sum(0)", "stack(terms)[0]", DERIVATIVES),
    row("margin loss: slope / 2", LOSSES, "sympy.sqrt(2)) / GAMMA", "1 / sympy.sqrt(2)) / GAMMA", SEQUENTIAL),
    row("fingerprint by blocks", "graph/fingerprint.py", "sorted(_leaves(nodes),", "sorted(nodes,", COARSENED),
)

RULES = (*CURVATURES, *CONDITIONS, *ENTROPIES, *LOWERED, *RANDOM)
