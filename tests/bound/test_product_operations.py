"""The product of Lipschitz constants of a graph with tables, tokens, norms and constant maps, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dense import spectral
from operation_cases import random

from covergraph.bound.derive import Bound, derive
from covergraph.bound.product import lipschitz_to_output, product_of_lipschitz, worst_case_radii
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.function_rows import UNARY
from covergraph.graph.losses import MarginLoss
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.passes.augment import augment
from covergraph.values import LayerSize, Measurement, Measurements

MIX, MASK = random(2, 3, seed=70), torch.tensor([0.5, -0.25, 0, 0.125]).double()
N = 100


def flat(value: float) -> Measurement:
    return Measurement(value, value, "exact", "")


def size(a: float, norm: float, shift: float | None = None) -> LayerSize:
    return LayerSize(flat(a), flat(1), flat(1), flat(1), flat(norm), None if shift is None else flat(shift))


SIZES = {
    "e": size(2.0, 0.0, 1.5),  # the largest row of the table
    "pos": size(0.5, 0.0, 0.75),
    "s": size(3.0, 1.25, 0.3),
    "f": size(4.0, 0.7, 0.2),
}


def model() -> tuple[Bound, Measurements]:
    """Tokens -> table + positions -> norm with affine part -> constant mask -> mixed positions -> relu -> layer."""
    nodes = [
        Node("tokens", op.Input(), (), (3,), kind="integer"),
        Node("e", op.Embedding(), ("tokens",), (3, 4), (("weight", "E"),)),
        Node("pos", op.Parameter(), (), (3, 4), (("value", "P"),)),
        Node("h", op.Add(), ("e", "pos"), (3, 4)),
        Node("n", op.Normalize(4, 0.25), ("h",), (3, 4)),
        Node("s", op.Affine(True, True), ("n",), (3, 4), (("scale", "w"), ("shift", "b"))),
        Node("c", op.Affine(True, False), ("s",), (3, 4), (), "", (("scale", "mask"),)),
        Node("m", op.AxisMap(0, "mix"), ("c",), (2, 4), (), "", (("weight", "mix"),)),
        Node("r", op.Elementwise(UNARY["relu"]), ("m",), (2, 4)),
        Node("f", op.Linear(True), ("r",), (2, 2), (("weight", "f.weight"), ("bias", "f.bias"))),
        Node("o", op.Reshape(), ("f",), (4,)),
    ]
    shapes = {"E": (7, 4), "P": (3, 4), "w": (4,), "b": (4,), "f.weight": (2, 4), "f.bias": (2,)}
    weights = Weights(constants={"mask": MASK, "mix": MIX}, shapes=shapes)
    bound = derive(augment(ComputationGraph(nodes, "o", "hand", weights)))
    found = Measurements(N, MarginLoss(), "hand", "float64", "zero", {}, {}, {}, SIZES, np.ones(N), None, {}, {})
    return bound, found


SLOPES = {"f": 1.0, "r": 0.7, "m": 0.7, "c": 0.7 * spectral(MIX)}
SLOPES["s"] = SLOPES["c"] * 0.5
SLOPES["n"] = SLOPES["s"] * 1.25
SLOPES |= dict.fromkeys(("h", "pos", "e"), SLOPES["n"] / math.sqrt(0.25))

RADII = {"e": math.sqrt(3) * 1.5, "pos": 0.75, "n": math.sqrt(12)}
RADII["h"] = RADII["e"] + RADII["pos"]
RADII["s"] = 1.25 * RADII["n"] + math.sqrt(3) * 0.3
RADII["c"] = 0.5 * RADII["s"]
RADII |= dict.fromkeys(("m", "r"), spectral(MIX) * RADII["c"])
RADII["f"] = 0.7 * RADII["r"] + math.sqrt(2) * 0.2


def test_constants_and_radii_by_hand() -> None:
    bound, found = model()
    slopes, radii = lipschitz_to_output(bound, found), worst_case_radii(bound, found)
    for name, expected in SLOPES.items():
        assert float(slopes[name]) == pytest.approx(expected, rel=1e-12)
    for name, expected in RADII.items():
        assert float(radii[name]) == pytest.approx(expected, rel=1e-12)


def test_the_bound_by_hand() -> None:
    """Of a table and of a parameter the radius is not read: gain 0."""
    bound, found = model()
    parts = {
        "e": SLOPES["e"] * 2.0 * math.sqrt(3),
        "pos": SLOPES["pos"] * 0.5,
        "s": SLOPES["s"] * 3.0 * math.sqrt(12 + 3),
        "f": SLOPES["f"] * 4.0 * math.sqrt(RADII["r"] ** 2 + 2),
    }
    counts = {"e": 2 * 28, "pos": 2 * 12, "s": 2 * 8, "f": 2 * 10}
    tau = 1.7
    unit = tau * sum(p ** (2 / 3) for p in parts.values()) ** 1.5 / math.sqrt(N)
    roots = [p * math.sqrt(2 * math.log(counts[name])) for name, p in parts.items()]
    explicit = tau * sum(p ** (2 / 3) for p in roots) ** 1.5 / math.sqrt(N)
    got = product_of_lipschitz(bound, found, tau)
    assert (got.reason, got.log10_unit) == ("", pytest.approx(math.log10(unit), abs=1e-12))
    assert got.log10 == pytest.approx(math.log10(explicit), abs=1e-12)


def test_a_mask_of_infinity_gives_a_dash() -> None:
    nodes = [
        Node("x", op.Input(), (), (3,)),
        Node("f", op.Linear(False), ("x",), (3,), (("weight", "w"),)),
        Node("m", op.Affine(False, True), ("f",), (3,), (), "", (("shift", "mask"),)),
        Node("g", op.Linear(False), ("m",), (2,), (("weight", "v"),)),
    ]
    weights = Weights(constants={"mask": torch.tensor([0.0, -math.inf, 0.0])})
    bound = derive(augment(ComputationGraph(nodes, "g", "hand", weights)))
    sizes = dict.fromkeys(("f", "g"), size(1, 1))
    found = Measurements(
        N, MarginLoss(), "hand", "float64", "zero", {}, {}, {"x": flat(1)}, sizes, np.ones(N), None, {}, {}
    )
    got = product_of_lipschitz(bound, found, 1.0)
    assert got.log10 is None and "'shift' 'm'" in got.reason
