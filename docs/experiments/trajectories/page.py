"""Writes docs/trajectories.md and its figures; every number on the page comes from the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import figures
import map_page
import measures
import numpy as np
from epochs import Arrays
from paragraphs import listed, table, wrapped
from tasks import MAPS, Plan, Task

Results = Mapping[Plan, Arrays | None]
HEADS = {"sinusoid": "Task 1: sinusoids", "images": "Task 2: images with corrupted labels"}
OPTIMIZERS = ("momentum", "adam")

INTRODUCTION = """# What training reveals: the experiments

Made by `make trajectories`; every number and figure on this page is computed from the runs in `build/trajectories`. An
interrupted run goes on where it stopped. `make trajectories FULL=--full` takes as many images as the paper and trains
the variants as long as the main runs: a day or more, not tried to its end (`FULL="--full --cifar DIR"` for CIFAR-10).

[LPJ] (Loukas, Poiitis, Jegelka, *What training reveals about neural network complexity*, 2021) relates how the bias of
the first layer moves to the Lipschitz constant of the network on the linear regions of the training points. With
α the learning rate, ε_t = |∂ℓ/∂ŷ| and λ_t = ‖∇_x f(x^t)‖, a_t = ‖b_1^{t+1} − b_1^t‖/(α ε_t). Here W_1 = I, so that
Theorem 1 says a_t = λ_t at each step of plain SGD on single samples. The *per-epoch trajectory* is Σ a_t over an epoch.
"""

DEFINITIONS = {
    "sinusoid": """{runs} runs: frequencies {complexities}, {seeds} seeds. z is uniform on [-1, 1]²,
y = sin(πf z_1 + ψ_1) sin(πf z_2 + ψ_2), f periods to a side of the square; x = Q z with a random Q (10 × 2) of
orthonormal columns. This form is our choice: the paper's Appendix A.1 was not at hand. Seeds fix z, Q, ψ, the start of
the network and the order of the samples, the same at all frequencies. {train} training points, {held} held out. The
network is 10-10-100-100-100-1 with ReLU between its layers, none after the last (a sinusoid takes negative values),
W_1 = I frozen, torch's own starts. SGD with α = {rate:g}, single samples drawn with replacement, loss (f − y)², so
ε = 2|f − y|. A run ends when the training loss is below {fitted:g} at the end of an epoch ({train} steps), or after
{cap} epochs.""",
    "images": """{runs} runs: a share {complexities} of the training labels drawn anew at random, {seeds} seeds.
{source}; {train} images to train on, {held} held out, whose labels are never corrupted. Pixels are standardized. The
network: x + b_1 with one bias a pixel, ReLU, two 3 × 3 convolutions of stride 2 with 16 and 32 channels, each with
ReLU, linear, sigmoid. `nn.BCELoss` on the probability, with torch's conventions: its gradient divides by f(1 − f) of at
least 1e-12, and where f is rounded to the label ε = 0 and the step counts as one without gradient. SGD with
α = {rate:g}, single samples drawn with replacement, {cap} epochs of {train} steps for every run. "Fitted" is a training
loss below {fitted:g}.""",
}


def main_group(results: Results, name: str) -> tuple[Plan, Arrays]:
    """The main runs of a task."""
    for plan, found in results.items():
        if plan.task == name and plan.variant == "main" and found is not None:
            return plan, found
    raise ValueError(f"no main runs of {name}: let run.py train them first")


def definition(task: Task, plan: Plan, source: str) -> str:
    data = task.data(task.complexities[0], 0)
    shares = [f"{c:g}" for c in task.complexities]
    return DEFINITIONS[task.name].format(
        runs=len(plan.seeds) * len(shares), complexities=listed(shares), seeds=len(plan.seeds), train=len(data.train),
        held=len(data.held), rate=task.rate, fitted=task.fitted, cap=plan.epochs, source=source,
    )


def claims(task: Task, plan: Plan, found: Arrays) -> str:
    """The table of orderings and what it says in words."""
    orders = measures.claims(found, task, steps(task, plan))
    rows = [
        [name, *(f"{mean:.3g}" if mean < 1000 else f"{mean:.0f}" for mean in o.means), "yes" if o.grows else "**no**",
         f"{o.seeds} of {o.of}"]
        for name, o in orders.items()
    ]
    head = ["", *(figures.label(task, i) for i in range(len(task.complexities))), "means grow", "seeds that grow"]
    failed = [name for name, o in orders.items() if not o.grows]
    epochs = measures.by_complexity(found, measures.fitted(found, task.fitted))
    missed = [f"{np.isinf(row).mean():.0%} ({figures.label(task, i)})" for i, row in enumerate(epochs)]
    verdict = f"What does **not** grow with complexity: {'; '.join(failed)}." if failed else "All means grow."
    return "\n\n".join([
        table(head, rows),
        f"{verdict} Runs that did not fit within {plan.epochs} epochs: {listed(missed)}; they count with "
        f"{plan.epochs}, and for the order the one with the larger training loss as the slower. Spearman's correlation "
        f"of the mean per-epoch trajectory with the held-out loss at the end, over all runs: "
        f"{measures.together(found):.2f}; of the mean per-epoch path Σ‖Δb‖: {measures.together(found, 'move'):.2f}.",
        early(task, found),
    ])


def early(task: Task, found: Arrays) -> str:
    """Since when the mean per-epoch trajectories are in order."""
    lengths = measures.by_complexity(found, found["length"])
    lengths = lengths[np.isfinite(lengths).any(2).all(1)]
    ordered = np.all(np.diff(np.nanmean(lengths, axis=2), axis=1) > 0, axis=1)
    third = max(1, len(ordered) // 3)
    return (
        f"Epoch by epoch, while all four kinds train ({len(ordered)} epochs), the means of the per-epoch trajectory "
        f"grow with complexity in {ordered.mean():.0%} of the epochs: {ordered[:third].mean():.0%} of the first third, "
        f"{ordered[-third:].mean():.0%} of the last."
    )


def steps(task: Task, plan: Plan) -> int:
    """Steps of an epoch."""
    return len(task.data(task.complexities[0], 0).train) // plan.batch


def theorem(results: Results) -> str:
    """How often Theorem 1 was looked at, by kind of run."""
    rows = []
    kinds = {
        "plain SGD, single samples: λ ≤ a ≤ λ": lambda p: p.batch == 1 and p.optimizer == "sgd",
        "plain SGD, batches: ‖Σ∂ℓ/∂x_i‖ ≤ ‖Δb‖/α ≤ Σ‖∂ℓ/∂x_i‖": lambda p: p.batch > 1,
        "momentum and Adam: λ ≤ ‖∂ℓ/∂b‖/ε ≤ λ": lambda p: p.optimizer != "sgd",
    }
    for kind, chosen in kinds.items():
        groups = [f for p, f in results.items() if f is not None and p.by_epoch and chosen(p)]
        instances, violations, still = (
            sum(int(np.nansum(f[name], dtype=float)) for f in groups) for name in ("instances", "violations", "still"))
        gap = max((float(np.nanmax(f["gap"])) for f in groups), default=0.0)
        shown = f"{gap:.1e}" if "batches" not in kind else "not equal"
        rows.append([kind, f"{instances:,}", f"{violations:,}", f"{still:,}", shown])
    head = ["inequalities", "instances", "violated", "steps with ε = 0", "largest relative difference"]
    return "\n\n".join([
        "## Theorem 1, step by step",
        "Every step of every run was checked on both sides. ‖Δb‖ is the difference of the stored biases in single "
        "precision; a violation is one beyond the rounding of b^{t+1} and 1000 units of autograd's own. The largest "
        "difference is over the steps where that allowance is below 1 % of λ. In the last row both sides come from one "
        "backward pass, so that it can hardly fail.",
        table(head, rows),
    ])


def agreement(results: Results) -> str:
    """The stacked runs beside the ordinary loop."""
    rows = [
        [HEADS[plan.task], f"{found['steps']}", precision, *(f"{found[k][i]:.1e}" for k in ("a", "lambda", "b"))]
        for plan, found in results.items() if plan.variant == "agreement" and found is not None
        for i, precision in enumerate(("single", "double"))
    ]
    return "\n\n".join([
        "## The stack and the ordinary loop",
        "The runs are trained side by side by `torch.func`. The most complex run of seed 0 was begun again by an "
        "ordinary loop (`nn.Module`, `optim.SGD`, `loss.backward()`) under `covergraph.TrajectoryRecorder`. Largest "
        "differences, relative to the largest value:",
        table(["", "steps", "precision", "a_t", "λ_t", "b_1"], rows),
    ])


def variants(results: Results, task: Task) -> str:
    """Which claims hold in which variant, beside the main runs cut to the same seeds and epochs."""
    groups = panels(results, task)
    orders = {name: measures.claims(found, task, steps(task, plan)) for name, (plan, found) in groups.items()}
    chosen = {
        "slows": "epochs until", "per-epoch Σa": "per-epoch trajectory", "last 10": "the same",
        "Σ‖Δb‖": "per-epoch path", "held-out": "held-out", "variance": "variance", "distance": "distance",
    }
    rows = [
        [name, *(next(o for key, o in of.items() if key.startswith(start)).cell for start in chosen.values()),
         f"{measures.together(groups[name][1]):.2f}"]
        for name, of in orders.items()
    ]
    failed = [name for name, of in orders.items() if not list(of.values())[1].grows]
    epochs = min(plan.epochs for plan, _ in groups.values())
    return "\n\n".join([
        f"**{HEADS[task.name]}**, {epochs} epochs at most. Do the means grow, and in how many seeds; ρ is Spearman's "
        "correlation of the mean per-epoch trajectory with the held-out loss.",
        table(["", *chosen, "ρ"], rows),
        f"Means of the per-epoch trajectory that do not grow: {listed(failed)}.",
    ])


def panels(results: Results, task: Task) -> dict[str, tuple[Plan, Arrays]]:
    """The variants of a task, the main runs cut to their size first."""
    plan, found = main_group(results, task.name)
    others = {
        p.variant: (p, f) for p, f in results.items()
        if p.task == task.name and p.by_epoch and p.variant not in ("main", "parameters") and f is not None
    }
    if others:
        size = next(iter(others.values()))[0]
        found = measures.cut(found, len(size.seeds), size.epochs)
        plan = Plan(plan.task, "main", size.seeds, size.epochs)
    return {"main": (plan, found), **others}


def open_questions(results: Results, tasks: Mapping[str, Task]) -> str:
    """Optimizers, LayerNorm, other parameters: the mean per-epoch trajectories."""
    rows, others = [], []
    for task in tasks.values():
        for name, (_, found) in panels(results, task).items():
            if name in ("main", *OPTIMIZERS, "layer norm"):
                forms = [("‖∂ℓ/∂b‖/ε", "length_gradient")] + [("‖Δb‖/(αε)", "length")] * (name in OPTIMIZERS)
                rows += [line(task, f"{name}: {form}", found, column) for form, column in forms]
        found = watched(results, task)
        others += [line(task, measures.symbol(found, key), found, key) for key in found if key.startswith("of ")]
    head = ["", "", "1st", "2nd", "3rd", "4th complexity", "means grow", "seeds that grow"]
    return "\n\n".join([
        "## The paper's open questions",
        "**Optimizers and layer normalization.** Under momentum and Adam the step is no multiple of the gradient, so "
        "Theorem 1 says nothing of ‖Δb‖/(αε), but ‖∂ℓ/∂b_1‖/ε = λ_t still holds; both are shown. Mean per-epoch sums:",
        table(head, rows),
        "**Other parameters** (plain SGD, the variant \"parameters\"): mean per-epoch Σ‖∂ℓ/∂w‖/ε_t, which is "
        "Σ‖Δw‖/(α ε_t); the biases of deeper layers are those of the paper's A.7.",
        table(head, others),
        f"In {sum(row[-2] == 'yes' for row in others)} of {len(others)} parameters the means grow with complexity. "
        "(For the last bias of the MLP ∂f/∂b is 1 whatever is learned.)",
    ])


def watched(results: Results, task: Task) -> Arrays:
    """The runs in which the gradients of all parameters were watched."""
    return next((f for p, f in results.items() if p.task == task.name and p.watch_all and f is not None), {})


def line(task: Task, name: str, found: Arrays, column: str) -> list[str]:
    per_run = np.nansum(found[column], 0, dtype=float) / measures.ended(found)
    o = measures.order(measures.by_complexity(found, per_run))
    shown = [f"{mean:.3g}" for mean in o.means]
    return [task.name, name, *shown, "yes" if o.grows else "**no**", f"{o.seeds} of {o.of}"]


def write(results: Results, tasks: Mapping[str, Task], docs: Path, source: str) -> Path:
    """The page and its figures in `docs`; the page's path."""
    mains = {name: main_group(results, name) for name in tasks}
    shown = {name: (tasks[name], found) for name, (_, found) in mains.items()}
    of_variants = {n: {k: (tasks[n], f) for k, (_, f) in panels(results, tasks[n]).items()} for n in tasks}
    made = {
        "figure2": figures.figure_2(shown),
        "figure3": figures.figure_3(shown, {name: steps(tasks[name], plan) for name, (plan, _) in mains.items()}),
        "length": figures.cumulative(shown),
        "variants": figures.variants(of_variants),
    }
    others = {name: (task, watched(results, task)) for name, task in tasks.items()}
    if all(found for _, found in others.values()):
        made["parameters"] = figures.parameters(others)
    maps = {plan.variant: found for plan, found in results.items() if plan.variant in MAPS and found is not None}
    made |= {name.replace(" ", "_"): figures.maps(found) for name, found in maps.items()}
    folder = docs / "figures" / "trajectories"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in made.items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    page = docs / "trajectories.md"
    page.write_text(text(results, tasks, source, list(made)))
    return page


def text(results: Results, tasks: Mapping[str, Task], source: str, made: list[str]) -> str:
    captions = {
        "figure2": "Figure 2. Curves are medians with quartiles over the seeds that still train, drawn while half of "
        "them do. The gray line is the loss that counts as fitted. In (c) and (f) one line a run, marked at its end.",
        "figure3": "Figure 3. Dots are seeds, diamonds and bars their medians and quartiles; with BCE the "
        "distance is the paper's A.2.",
        "length": "The length so far (the paper's A.4).",
        "variants": "Variants: mean per-epoch sums against the task's complexity, three seeds, medians and quartiles.",
        "parameters": "Other parameters: means relative to the least complex task.",
        **map_page.CAPTIONS,
    }
    pictures = {name: f"![{name}](figures/trajectories/{name}.png)\n\n*{captions[name]}*" for name in made}
    seconds = sum(float(found["seconds"]) for found in results.values() if found is not None)
    parts = [INTRODUCTION.strip()]
    for name, task in tasks.items():
        plan, found = main_group(results, name)
        parts += [f"## {HEADS[name]}", definition(task, plan, source), claims(task, plan, found)]
        parts.append(f"These runs took {float(found['seconds']):.0f} seconds on one thread.")
    parts += [pictures.pop("figure2"), pictures.pop("figure3"), pictures.pop("length")]
    parts += [theorem(results), agreement(results), *map_page.section(results, tasks)]
    parts += [pictures.pop(name) for name in map_page.CAPTIONS if name in pictures]
    parts += ["## Variants", VARIANTS.strip()]
    parts += [*(variants(results, task) for task in tasks.values()), pictures.pop("variants")]
    parts += [open_questions(results, tasks), *pictures.values()]
    parts.append(f"All groups together took {seconds / 60:.0f} minutes of one thread each, two at a time.")
    return "\n\n".join(wrapped(part) for part in "\n\n".join(parts).split("\n\n")) + "\n"


VARIANTS = """
Three seeds each. Batches of 4 and 16 with 4 and 16 times the learning rate (A.6); half and twice the width, two more
layers (MLP) or one more convolution (CNN) (A.5); `nn.Dropout(0.5)` before the last layer of the CNN; momentum 0.9 with
a tenth of the learning rate; Adam with 1e-4; LayerNorm before each ReLU but the first. "main": the first three seeds
of the main runs, cut to as many epochs. Compare a variant with this row, not with the full runs: what has not set in
there by then is not the variant's doing.
"""
