"""Small graphs at which single terms of Theorem 2 are attained, or nearly so: one row a term.

A row cuts one node, gives it and the nodes before it values, and puts levels such that the term dominates its
release-Lipschitz constant. With a ratio above 1/2 the inequality breaks as soon as the term is halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from release import Place, Trial, slope
from strategies import Builder
from torch import Tensor

from covergraph.bound.constants import ReleaseLipschitz, release_lipschitz
from covergraph.bound.derive import derive
from covergraph.graph.augmented import AugmentedGraph, Mode
from covergraph.graph.function_rows import HARDSWISH, RELU
from covergraph.graph.functions import SIN, TANH, ScalarFunction
from covergraph.graph.losses import LipschitzLoss, Loss, MarginLoss
from covergraph.graph.operations import (
    Add,
    Divide,
    Maximum,
    MaxPool,
    Normalize,
    Operation,
    Product,
    Reshape,
    Softmax,
    VectorNorm,
)
from covergraph.passes.augment import augment
from covergraph.values import Pair, Parameters

WIDE = 1e9
"""A level that no value comes near."""

NARROW = 1e-6
"""The level and the value of Jacobians that must not matter."""

NO_LOSS = LipschitzLoss(lambda output, labels: torch.zeros(len(output), dtype=output.dtype), 1e-18, "none")
"""l = 0: only indicators are left, even where 2 * WIDE multiplies the slope of the loss."""


@dataclass(frozen=True)
class Tight:
    """A row: graph, cut node, values of it and before it, levels; missing levels are `WIDE`."""

    name: str
    least: float
    build: Callable[[Builder], str]
    place: Place
    cut: Mapping[str, object]
    s: Mapping[str, float]
    kappa: Mapping[Pair, float]
    loss: Loss = NO_LOSS
    rho: Mapping[str, float] = field(default_factory=dict)

    def trial(self, mode: Mode) -> tuple[Trial, ReleaseLipschitz]:
        builder = Builder()
        graph = builder.graph(self.build(builder))
        augmented = augment(graph, self.loss, mode)
        gamma = 1.0 if self.loss.has_margin else None
        s = {v: self.s.get(v, WIDE) for v in augmented.hidden}
        kappa = {pair: self.kappa.get(pair, WIDE) for pair in augmented.pair_names}
        values = {name: torch.tensor([value], dtype=torch.float64) for name, value in self.cut.items()}
        known = {name: value for name, value in values.items() if name in augmented.graph.by_name}
        trial = Trial(
            augmented,
            builder.state,
            tuple(torch.zeros(1, *node.shape, dtype=torch.float64) for node in graph.inputs),
            self.place,
            {name: value for name, value in known.items() if name != self.place.name},
            _members(values[self.place.name]),
            torch.zeros(1, dtype=torch.int64),
            Parameters(gamma, s, kappa, {}, {}, rho=self.rho),
        )
        return trial, constants(augmented, trial)


def constants(augmented: AugmentedGraph, trial: Trial) -> ReleaseLipschitz:
    """Theorem 2 at the trial's levels."""
    p = trial.parameters
    tau = slope(augmented.loss, augmented.base[augmented.base.output].size, p.gamma)
    return release_lipschitz(augmented, tau, p.s, p.kappa, derive(augmented).taubar(p), p.rho)


def _members(value: Tensor) -> Tensor:
    """The value, and its surroundings."""
    return torch.cat([value * factor for factor in (1.0, 1 - 1e-4, 1 + 1e-4, 1 - 1e-2, 1 + 1e-2, 0.8, 1.2, -1.0)])


def _chain(*steps: str | ScalarFunction) -> Callable[[Builder], str]:
    """x -> ...: a letter is a linear layer of width 1 with weight 1, a function is applied."""

    def build(builder: Builder) -> str:
        last = builder.input(1, name="x")
        for step in steps:
            if isinstance(step, ScalarFunction):
                last = builder.smooth(step, last, name=step.name)
            else:
                last = builder.linear(last, 1, name=step)
                builder.state[f"{step}.weight"] = torch.ones(1, 1, dtype=torch.float64)
        return last

    return build


def _logits(builder: Builder) -> str:
    return builder.linear(builder.input(1, name="x"), 2, name="f")


def _wide_pair(builder: Builder) -> str:
    return builder.linear(builder.linear(builder.input(1, name="x"), 2, name="f"), 2, name="g")


def _product(builder: Builder) -> str:
    x = builder.input(1, name="x")
    return builder.add(Product(), builder.linear(x, 1, name="f"), builder.linear(x, 1, name="g"), name="p")


def _square(builder: Builder) -> str:
    f = builder.linear(builder.input(1, name="x"), 1, name="f")
    return builder.add(Product(), f, f, name="p")


def _residual(builder: Builder) -> str:
    """k = f + sin(f): two paths, one of them varies."""
    f = builder.linear(builder.input(1, name="x"), 1, name="f")
    return builder.add(Add(), f, builder.smooth(SIN, f, name="sin"), name="k")


STEEPEST_TANH = math.atanh(1 / math.sqrt(3))
"""|tanh''| is largest here, 4/(3 sqrt 3), and tanh' = 2/3."""

FLAT = 1e-3
"""sin'' is nearly -1 this far from pi/2."""

TOP = math.pi / 2 - FLAT
_small = {"x": [NARROW], "J[f,x]": [[NARROW]]}


def _ramp(value: float) -> float:
    """A level at whose ramp's upper end the value lies."""
    return value / (1 + 1e-6)


def _pair_of_entries(operation: Operation) -> Callable[[Builder], str]:
    """x -> f of shape (1, 2) -> the operation."""

    def build(builder: Builder) -> str:
        f = builder.linear(builder.input(1, 1, name="x"), 2, name="f")
        p = builder.add(operation, f, name="p")
        return builder.add(Reshape(), p, shape=(builder.size(p),), name="out")

    return build


def _quotient(builder: Builder) -> str:
    x = builder.input(1, name="x")
    return builder.add(Divide(), builder.linear(x, 1, name="f"), builder.linear(x, 1, name="g"), name="p")


def _condition(name: str, operation: Operation, entries: list[float]) -> Tight:
    """A condition on f, whose q lies on the ramp of its level 1."""
    cut = {"x": [[0.0]], "J[f,x]": [[NARROW], [0.0]], "f": [entries]}
    kappa = {("f", "x"): NARROW, ("out", "p"): 1.0}
    return Tight(name, 0.99, _pair_of_entries(operation), Place("f"), cut, {}, kappa, rho={"p": 1.0})


TIGHT = (
    Tight(
        "loss, at the output",
        0.99,
        _logits,
        Place("f"),
        {"x": [0.0], "J[f,x]": [[0.0], [0.0]], "f": [0.3, 0.0]},
        {},
        {},
        MarginLoss(),
    ),
    Tight(
        "loss, one logit",
        0.99,
        _chain("f"),
        Place("f"),
        {"x": [0.0], "J[f,x]": [[0.0]], "f": [-0.3]},
        {},
        {},
        LipschitzLoss(lambda h, y: h[:, 0].abs().clamp(0, 1), 1.0, "absolute"),
    ),
    Tight(
        "norm",
        0.99,
        _chain("f", "g"),
        Place("f"),
        {**_small, "f": [1.5]},
        {"f": 1.0},
        {("g", "f"): 1.0},
    ),
    Tight(
        "Jacobian, one edge",
        0.99,
        _wide_pair,
        Place("g", "f"),
        {"x": [0.0], "J[f,x]": [[NARROW], [0.0]], "f": [0.0, 0.0], "J[g,f]": [[1.5, 0.0], [0.0, 0.2]]},
        {},
        {("g", "f"): 1.0, ("f", "x"): NARROW, ("g", "x"): 1.0},
    ),
    Tight(
        "curvature, tanh",
        0.99,
        _chain("f", TANH),
        Place("f"),
        {**_small, "f": [STEEPEST_TANH]},
        {},
        {("tanh", "f"): _ramp(2 / 3), ("f", "x"): NARROW, ("tanh", "x"): 1.0},
    ),
    Tight(
        "curvature, sin",
        0.99,
        _chain("f", SIN),
        Place("f"),
        {**_small, "f": [TOP]},
        {},
        {("sin", "f"): _ramp(math.sin(FLAT)), ("f", "x"): NARROW, ("sin", "x"): 1.0},
    ),
    Tight(
        "curvature, product",
        0.99,
        _product,
        Place("g"),
        {"x": [0.0], "J[f,x]": [[0.0]], "J[g,x]": [[0.0]], "f": [0.0], "g": [1.5]},
        {},
        {("p", "f"): 1.0, ("p", "g"): WIDE, ("f", "x"): NARROW, ("g", "x"): NARROW, ("p", "x"): 1.0},
    ),
    Tight(
        "curvature, x * x",
        0.99,
        _square,
        Place("f"),
        {**_small, "f": [1.5]},
        {},
        {("p", "f"): _ramp(3.0), ("f", "x"): NARROW, ("p", "x"): 1.0},
    ),
    Tight(
        "curvature, residual",
        0.45,
        _residual,
        Place("f"),
        {**_small, "f": [TOP]},
        {},
        {
            ("k", "f"): _ramp(1 + math.sin(FLAT)),
            ("k", "sin"): 1.0,
            ("sin", "f"): 1e4,
            ("f", "x"): NARROW,
            ("sin", "x"): 1.0,
            ("k", "x"): 1.0,
        },
    ),
    Tight(
        "2 in kappabar: loss through a pair",
        0.49,
        _chain("f", "g"),
        Place("f"),
        {**_small, "f": [0.5]},
        {},
        {("g", "f"): 1.0},
        LipschitzLoss(lambda h, y: h[:, 0].abs().clamp(0, 1), 1.0, "absolute"),
    ),
    Tight(
        "2 in kappabar: Jacobian between two pairs",
        0.24,
        _chain("e", "f", "g", "h"),
        Place("g", "f"),
        {"x": [0.0], "J[e,x]": [[0.0]], "e": [0.0], "J[f,e]": [[1.0]], "f": [0.0], "J[g,f]": [[1.5]]},
        {},
        {("f", "e"): 1.0, ("h", "g"): 1.0, ("h", "e"): 1.0, ("e", "x"): NARROW, ("f", "x"): NARROW},
    ),
    Tight(
        "2 in kappabar: curvature, the same pair twice",
        0.29,
        _chain("f", "g", SIN),
        Place("f"),
        {**_small, "f": [TOP]},
        {},
        {
            ("g", "f"): 3 / 4,
            ("sin", "f"): _ramp(math.sin(FLAT)),
            ("f", "x"): NARROW,
            ("g", "x"): 2 * NARROW,
            ("sin", "x"): 1.0,
        },
    ),
    Tight(
        "curvature, softmax",
        0.99,
        lambda builder: builder.add(Softmax(0), _logits(builder), name="p"),
        Place("f"),
        {"x": [0.0], "J[f,x]": [[NARROW], [0.0]], "f": [math.log(2 + math.sqrt(3)), 0.0]},
        {},
        {("p", "f"): _ramp(1 / 3), ("f", "x"): NARROW, ("p", "x"): 1.0},
    ),
    Tight(
        "curvature, hardswish",
        0.95,
        _chain("f", HARDSWISH),
        Place("f"),
        {**_small, "f": [-1.45]},
        {},
        {("hardswish", "f"): 0.1 / 6 / (2 - 1e-6), ("f", "x"): NARROW, ("hardswish", "x"): 1.0},
        rho={"hardswish": 1.55},
    ),
    Tight(
        "condition, ReLU",
        0.99,
        _chain("f", RELU),
        Place("f"),
        {**_small, "f": [-0.7]},
        {},
        {("relu", "f"): 1.0},
        rho={"relu": 1.0},
    ),
    Tight(
        "condition, through a layer",
        0.49,
        _chain("f", "g", RELU),
        Place("f"),
        {**_small, "f": [0.7]},
        {},
        {("g", "f"): 1.0, ("relu", "f"): 1.0},
        rho={"relu": 1.0},
    ),
    Tight(
        "condition, divisor",
        0.99,
        _quotient,
        Place("g"),
        {"x": [0.0], "J[f,x]": [[0.0]], "J[g,x]": [[0.0]], "f": [0.0], "g": [-0.7]},
        {"f": NARROW},
        {("f", "x"): NARROW, ("g", "x"): NARROW},
        rho={"p": 1.0},
    ),
    _condition("condition, maximum", Maximum((1,)), [1.0, 0.3]),
    _condition("condition, max-pool", MaxPool((2,), (1,), (0,), (1,)), [-0.3, 0.4]),
    _condition("condition, rectified max-pool", MaxPool((2,), (1,), (0,), (1,), rectify=True), [1.7, 1.0]),
    _condition("condition, vector norm", VectorNorm((1,)), [0.42, 0.56]),
    _condition("condition, root mean square", Normalize(2, 0.0, center=False), [0.98, -0.14]),
    _condition("condition, standard deviation", Normalize(2, 0.0), [2.7, 1.3]),
)
