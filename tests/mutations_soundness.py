"""Rows of tests/mutation.py: what keeps a certificate from being fooled."""

from __future__ import annotations

from mutation_rows import row

JOINTS, SLOPES, MODEL = "tests/graph/test_joints.py", "tests/graph/test_slopes.py", "tests/measure/test_model.py"
REFERENCE, REPETITION = "tests/measure/test_reference.py", "tests/measure/test_repetition.py"
HELD, LEARNED = "tests/tracers/test_held.py", "tests/measure/test_learned_part.py"
LOADER, CHAIN = "tests/measure/test_loader.py", "tests/measure/test_double_chain.py"

SOUNDNESS = (
    row(
        "joints: autograd's slope at an inner kink", "graph/joints.py",
        "slope = torch.where(offset.abs() <= joint.width, expanded, slope)", "pass", JOINTS,
    ),
    row(
        "joints: one curvature on both sides", "graph/joints.py",
        "torch.where(offset < 0, joint.left, joint.right)", "joint.right", JOINTS,
    ),
    row(
        "joints: wider than the next break point", "graph/joints.py",
        "widths = [WIDTH * (1 + abs(point)), *(abs(point - other) / 4 for other in breaks if other != point)]",
        "widths = [WIDTH * (1 + abs(point))]", JOINTS,
    ),
    row(
        "joints: none where singular points are not found", "graph/joints.py",
        "        return kinks.good_parts(expression)\n    except UnsupportedOperationError:\n        pass",
        "        return kinks.good_parts(expression)\n    except UnsupportedOperationError:\n        return ()", JOINTS,
    ),
    row(
        "slopes: 1 - tanh^2", "graph/slopes.py",
        "    return 4 * e / (1 + e).square()", "    return 1 - ((1 - e) / (1 + e)).square()", JOINTS, SLOPES,
    ),
    row(
        "slopes: 1 - t^2 at the ends of asin", "graph/slopes.py",
        "return 1 / ((1 - x) * (1 + x)).sqrt()", "return 1 / (1 - x * x).sqrt()", SLOPES, JOINTS,
    ),
    row(
        "chain: the error of a part is not carried on", "measure/rounded_chains.py",
        "((size + off) * error + lost)", "lost", CHAIN, "tests/measure/test_chain.py", JOINTS,
    ),
    row(
        "model: any difference is rounding", "measure/rounding.py",
        "return SLACK * found", "return SLACK * found + torch.inf", MODEL,
    ),
    row(
        "model: rounding explains nothing", "measure/rounding.py",
        "return SLACK * found", "return 0 * found", MODEL,
    ),
    row(
        "learned: an entry below the mask's size is fixed", "graph/learned.py",
        "torch.where(self.fixed < MASK, self.learned, self.whole)",
        "torch.where(self.whole < MASK, 0.0, self.whole)", LEARNED, REFERENCE,
    ),
    row(
        "learned: integers are constants", "tracers/convert.py",
        "if numbers and held is not None and held in self.builder.reserved:", "if False:", REFERENCE,
    ),
    row(
        "constants: arrays have no names", "tracers/export.py",
        "or others.get(_identity(value)) or _made(value, arrays)", "or others.get(_identity(value))", HELD,
    ),
    row(
        "reference: a copy is taken", "measure/reference.py",
        "if learned and all(_equal(state[name], start[name]) for name in learned):", "if False:", REFERENCE,
    ),
    row(
        "reference: rounded copies are taken", "measure/reference.py",
        "return any(torch.equal(one.to(kind).double(), other.double()) for kind in NARROW)", "return False", REFERENCE,
    ),
    row(
        "reference: statistics of the sample are taken", "measure/reference.py",
        "if count or not torch.equal(start[name], fresh):", "if False:", REFERENCE,
    ),
    row(
        "reference: other constants are taken", "measure/reference.py",
        "            if _differs(graph, copied, call(few), [x.to(where) for x in few.inputs], where):\n"
        "                raise error\n", "            pass\n", REFERENCE,
    ),
    row(
        "repetition: copies are taken", "measure/repetition.py",
        "        if not repeated:\n            return\n", "        return\n", REPETITION,
    ),
    row(
        "repetition: multiples are chance", "measure/repetition.py",
        "if not _multiples(counts) and _explained", "if _explained", REPETITION,
    ),
)
