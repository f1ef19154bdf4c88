"""Rows of tests/mutation.py: the theorems on training trajectories, and what is recorded for them."""

from __future__ import annotations

from mutation_rows import row

ROOM = "tests/trajectory"
LENGTH, COROLLARIES, BALANCE = (f"{ROOM}/test_{name}.py" for name in ("theorem1", "corollaries", "first_layer_norm"))
PASSES, STEPS, STOPS = (f"{ROOM}/test_recorder_{name}.py" for name in ("passes", "steps", "stops"))
REGIONS, ROBUST, DROPPED = (f"{ROOM}/test_{name}.py" for name in ("empty_regions", "robustness", "dropout"))
RECORDER, SPECTRUM, COMPARED = (f"{ROOM}/test_{name}.py" for name in ("recorder", "spectrum", "identity"))

THEOREM_1, COROLLARY, NORMS = (f"trajectory/{name}.py" for name in ("theorem1", "corollaries", "first_layer_norm"))
LEDGER, TRAJECTORY, SPECTRA = (f"trajectory/{name}.py" for name in ("ledger", "trajectory", "spectrum"))
EMPTY, EXACT, ROBUSTNESS = (f"trajectory/{name}.py" for name in ("empty_regions", "exact", "robustness"))

TRAJECTORIES = (
    row(
        "trajectory: shared bias without √P", THEOREM_1,
        "np.divide(np.sqrt(trajectory.layer.shared),", "np.divide(1.0,", LENGTH,
    ),
    row("trajectory: a false assumption is no obstacle", LEDGER, 'a.status != "false"', "True", LENGTH),
    row(
        "trajectory: the other end of σ_1", THEOREM_1,
        'trajectory["top_upper"] * (1', 'trajectory["bottom_lower"] * (1', LENGTH,
    ),
    row("trajectory: variance, no |T|/(|T|+1)", COROLLARY, "share = count / (count + 1)", "share = 1.0", COROLLARIES),
    row(
        "trajectory: variance, α λ/σ_1, not half", COROLLARY,
        "shrunk(trajectory) / 2)[rows]", "shrunk(trajectory))[rows]", COROLLARIES,
    ),
    row(
        "trajectory: arithmetic for harmonic mean", COROLLARY,
        "np.sum(epsilon**-2.0)", "np.mean(epsilon**-2.0)", COROLLARIES,
    ),
    row(
        "trajectory: φ is the maximum so far", TRAJECTORY,
        "self.normalized[::-1])[::-1]", "self.normalized)", COROLLARIES,
    ),
    row("trajectory: balance with + ‖b‖²", NORMS, "- bias**2", "+ bias**2", BALANCE),
    row("trajectory: sigmoid's slope 1/5", EMPTY, "return 0.25 / (least", "return 0.2 / (least", REGIONS),
    row("trajectory: no 1 + γ", EMPTY, "= (1 + gamma) * beta * phi", "= beta * phi", REGIONS),
    row(
        "trajectory: the integer identity always holds", EXACT,
        "return quadratic - 2 * denominator * linear + denominator**2 * int(square) == 0", "return True",
        REGIONS, f"{ROOM}/test_patterns.py",
    ),
    row(
        "trajectory: union over radii, ln for 2 ln", ROBUSTNESS,
        "2 * math.log1p(abs(bits))", "math.log1p(abs(bits))", ROBUST,
    ),
    row("trajectory: K = N, not 2 N", ROBUSTNESS, "math.log(4 * math.log(2))", "math.log(2 * math.log(2))", ROBUST),
    row(
        "trajectory: masks for the pattern alone", "trajectory/dropout.py",
        "dropped * (active * mask)", "dropped * mask", DROPPED,
    ),
    row(
        "trajectory: σ does not move with W", SPECTRA,
        "return (low - by).clip(0), high + by", "return low, high", SPECTRUM,
    ),
    row(
        "trajectory: ‖conv_E‖ <= ‖E‖_F", SPECTRA,
        "return up if plain else math.sqrt(self.map.taps) * up", "return up", SPECTRUM,
    ),
    row(
        "trajectory: moments lose what is between", "trajectory/buffers.py",
        ".square().sum() + between", ".square().sum()", f"{ROOM}/test_moments.py",
    ),
    row(
        "trajectory: distance to the last iterate", "trajectory/buffers.py",
        "biases - start, biases)", "moves, biases)", RECORDER,
    ),
    row(
        "trajectory: gradients are not compared", "trajectory/run.py",
        "            self._compare(row)\n", "", COMPARED,
    ),
    row(
        "recorder: passes without a gradient of the bias count", "trajectory/tally.py",
        "if self.now.gradients == self._before.gradients:", "if False:", PASSES,
    ),
    row(
        "recorder: forward passes with a frozen bias count", "trajectory/passes.py",
        "return torch.is_grad_enabled() and self.bias.requires_grad and", "return torch.is_grad_enabled() and", PASSES,
    ),
    row(
        "recorder: all runs of a closure count", "trajectory/steps.py",
        "self.run.passes.ignores = self._runs > 1", "self.run.passes.ignores = False", STEPS,
    ),
    row(
        "recorder: ∂ℓ/∂b with the scale", "trajectory/tally.py",
        "self.buffers.gradient_rows[self.row], self._unscaled(gradient)",
        "self.buffers.gradient_rows[self.row], gradient", STEPS,
    ),
    row("recorder: skipped steps are moves", "trajectory/steps.py", "bool(skips.any())", "False", STEPS),
    row(
        "recorder: an unread output is no error", "trajectory/passes.py",
        "if self.now.gradients and not self.now.versions:", "if False:", STEPS,
    ),
    row(
        "recorder: goes on after it has stopped", "trajectory/guard.py",
        "            if self.reason:\n                return None\n", "", STOPS,
    ),
)
