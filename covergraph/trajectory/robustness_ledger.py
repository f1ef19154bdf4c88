"""The assumptions of Theorem L3, checked as far as the run and the samples show them."""

from __future__ import annotations

import numpy as np
from torch import nn

from covergraph.trajectory.dropout import Dropout, in_order
from covergraph.trajectory.ledger import Assumption, Ledger, Statement, Status
from covergraph.trajectory.pathways import pathways_covered
from covergraph.trajectory.patterns import Patterns
from covergraph.trajectory.region_ledger import Consistency, run_assumptions
from covergraph.trajectory.trajectory import Trajectory


def robustness_ledger(
    model: object, trained: Patterns, at: Patterns, phi: float, beta: float, gamma: float, zeta: float,
    consistent: Consistency | None, trajectory: Trajectory | None, rows: slice,
) -> Ledger:
    """All that Theorem L3 rests on, the paper's own conclusion on λ_f among it."""
    last: Status = "true" if trained.sigmoid else "false"
    unseen = Consistency(True, 0.0, 0, False, "no snapshots")
    neurons = sum(layer.shape[1] for layer in trained.layers)
    many: Status = "not checkable" if neurons > 1 else "false"  # log 1 = 0 would bound every slope by 0
    derived = "printed as the paper's expression, not as a certificate"
    return Ledger((
        Assumption("a chain of affine maps and ReLUs, then a sigmoid", last, "f is a probability"),
        dropout_half(model, len(trained.layers) + 1),
        Assumption("binary cross entropy", "not checkable", "the theorem is stated for it"),
        *run_assumptions(beta, trajectory, rows),
        steady(phi, trajectory, rows),
        (consistent or unseen).assumption(gamma),
        active(trained),
        pathways(trained, at),
        confident(trained, zeta),
        Assumption("λ_f <= λ_steady with o(1) = 0", many, derived, f"not derived again; log {neurons} for log Σ n_l"),
        Assumption("𝒳 convex, samples independent", "not checkable", "slopes bound differences of f along segments"),
        Assumption("N of 𝒳 is that of the cover", "not checkable", "a cover of samples says nothing of unseen points"),
    ))


def dropout_half(model: object, depth: int) -> Assumption:
    """Whether the model trains with the paper's Dropout, p = 1/2, on all its layers; torch's own only where d <= 2."""
    name = "Dropout 1/2, masks after the forward pass, unscaled"
    if not isinstance(model, nn.Module):
        return Assumption(name, "not checkable", "the theorem is about networks trained so", "a state was given")
    own = [m for m in model.modules() if isinstance(m, Dropout)]
    usual = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    rates = {m.p for m in own} | {m.p for m in usual if isinstance(m.p, float)}
    if rates != {0.5}:
        return Assumption(name, "false", "without it the theorem says nothing", f"rates found: {rates or 'none'}")
    masked = [sum(isinstance(part, nn.ReLU) for _, part in in_order(m.network)) for m in own]
    if own and max(masked) < depth - 1:
        what = "one Dropout around the whole network gives each of its layers masks after the same forward pass"
        return Assumption(name, "false", what, f"{max(masked)} of {depth - 1} layers are in one")
    if not usual:
        return Assumption(name, "true", "training sees the slopes of masked networks", "covergraph's Dropout")
    if depth > 2:
        what = "nn.Dropout changes the patterns of later layers: beyond two layers it is not covered"
        return Assumption(name, "false", what, f"d = {depth}")
    what = "nn.Dropout of the hidden layer doubles what it keeps: the theorem's network has 2 W_2 in training"
    return Assumption(name, "not checkable", what, f"d = {depth}")


def steady(phi: float, trajectory: Trajectory | None, rows: slice) -> Assumption:
    """(τ, φ)-steadiness over the rows, the first of which is τ."""
    name, means = "(τ, φ)-steady", "φ bounds all a_t from τ on"
    if trajectory is None:
        return Assumption(name, "not checkable", means, f"φ = {phi:.4g}, no trajectory given")
    seen = trajectory.normalized[rows]
    most = float(np.nanmax(seen, initial=0.0))
    fits: Status = "true" if most <= phi else "false"
    return Assumption(name, fits, means, f"φ = {phi:.4g}, largest a_t of {len(seen)} steps {most:.4g}")


def sound(steady: Statement) -> Assumption:
    """λ_steady against the slopes that were looked at."""
    status: Status = "false" if steady.violations else "not checkable"
    seen = "" if steady.upper is None else f"{steady.value:.4g} against λ_steady = {steady.upper:.4g}"
    means = "the radius is made of λ_steady: where a slope exceeds it, nothing is stated of generalization"
    return Assumption("no sampled slope exceeds λ_steady", status, means, seen)


def decided(trained: Patterns) -> Assumption:
    """Whether some ball around each training point is classified as the point is."""
    even = int(np.sum(trained.logits == 0))
    means = "there the radius is 0, and nothing is stated of generalization"
    return Assumption("no training point at f = 1/2", "false" if even else "true", means, f"{even} are")


def active(trained: Patterns) -> Assumption:
    """p_min > 0."""
    dead = sum(int(np.sum(~layer.any(axis=0))) for layer in trained.layers)
    status: Status = "false" if dead or not trained.layers else "true"
    means = "p_min is divided by: where a neuron is never active there is no statement"
    return Assumption("p_min > 0", status, means, f"{dead} neurons are active at no training point")


def pathways(trained: Patterns, at: Patterns) -> Assumption:
    """Condition (b), on the samples `at`."""
    name = "(b) every pathway is active at some training point"
    means = "otherwise some slopes were never seen in training"
    if np.all([layer.all(axis=1) for layer in trained.layers], axis=0).any():
        return Assumption(name, "true", means, "all neurons are active at one training point")
    found = pathways_covered(trained, at)
    failing, open_ = found.count(False), found.count(None)
    seen = f"holds at {found.count(True)} of {len(found)} samples, fails at {failing}, not settled at {open_}"
    return Assumption(name, "false" if failing else "not checkable", means, seen)


def confident(trained: Patterns, zeta: float) -> Assumption:
    """Condition (d), at the time of the model."""
    least = float(trained.indecision.min())
    status: Status = "false" if least < zeta else "not checkable"
    return Assumption("(d) f^t(x^t) in [ζ, 1-ζ]", status, "slopes of f and of its logit differ by f(1-f)",
                      f"ζ = {zeta:.4g}; at the training points now: {least:.4g}")
