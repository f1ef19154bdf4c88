"""What a formula fixes is found by dependency: every size below is computed by hand from the learned numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import covergraph as cg
from covergraph.errors import NonFiniteError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.learned import split
from covergraph.graph.weights import default_type
from covergraph.measure.layers import layer_sizes

Gate = Callable[[Tensor, Tensor, Tensor], Tensor]
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Gated(nn.Module):
    """softmax(W x + f(g)): a learned g shifts scores by a formula."""

    def __init__(self, formula: Gate) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.out, self.formula = nn.Linear(3, 4), nn.Linear(4, 2), formula
        self.g = nn.Parameter(torch.tensor([0.5, -2.0, 1.0, 3.0]))
        self.register_buffer("kept", torch.tensor([True, False, True, True]), persistent=False)
        self.register_buffer("fixed", torch.tensor([7.0, 0.0, -1e31, 0.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shift = self.formula(self.g, self.kept, self.fixed)
        result: Tensor = self.out(torch.softmax(torch.tanh(self.scores(x)) + shift, -1))
        return result


def lowest(g: Tensor) -> float:
    return torch.finfo(g.dtype).min


COUNTED: dict[str, tuple[Gate, float]] = {
    "a learned gate": (lambda g, kept, fixed: torch.where(g > 0, 0.0, -1e31), 1e31),
    "a learned gate times a mask": (lambda g, kept, fixed: (1 - torch.clamp(g, 0, 1)) * -1e31, 1.5e31),
    "an exponential": (lambda g, kept, fixed: -torch.exp(g + 100), sum(map(math.exp, (100.5, 98, 101, 103)))),
    "a sum with a constant mask": (lambda g, kept, fixed: g + torch.where(kept, 0.0, lowest(g)), 6.5),
    "a sum with a constant": (lambda g, kept, fixed: 2 * g - 100.0 * ~kept, 113.0),
    "a constant mask": (lambda g, kept, fixed: g.masked_fill(~kept, lowest(g)), 4.5),
    "a selection by a constant": (lambda g, kept, fixed: torch.where(kept, -g, fixed), 4.5),
    "a constant joined": (lambda g, kept, fixed: torch.cat([g[2:], fixed[2:]]), 4.0),
    "a factor of zero": (lambda g, kept, fixed: g * kept.to(g.dtype) + fixed, 11.5),
    "moved entries": (lambda g, kept, fixed: (g.flip(0).reshape(2, 2).T + fixed.reshape(2, 2)).flatten(), 13.5),
}


@cache
def traced(formula: Gate) -> tuple[Gated, ComputationGraph, str]:
    model = Gated(formula)
    graph = cg.trace(model, X)
    (node,) = (node.name for node in graph.nodes if "g" in graph.weights.read(dict(node.parameters).get("shift", "")))
    return model, graph, node


@pytest.mark.parametrize("case", COUNTED)
def test_what_depends_on_the_state_is_counted(case: str) -> None:
    formula, expected = COUNTED[case]
    model, graph, node = traced(formula)
    found = layer_sizes(graph, graph.state(model.double()), None)[node].a
    assert found.lower <= float(expected) <= found.upper <= float(expected) * (1 + 1e-9)


@pytest.mark.parametrize("case", COUNTED)
def test_an_entry_that_no_other_state_changes_is_fixed_and_no_other_one_is_lost(case: str) -> None:
    """Brute force: the parts of two states have the same F, and sum up to the formula's own value."""
    model, graph, node = traced(COUNTED[case][0])
    name = graph[node].parameter["shift"]
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        states.append({**model.double().state_dict(), "g": torch.randn(4, dtype=torch.float64)})
    one, other = (split(graph.weights, name, graph.state(state)) for state in states)
    assert torch.equal(one.fixed, other.fixed)
    for parts, state in ((one, states[0]), (other, states[1])):
        with default_type(torch.float64):
            expected = model.formula(state["g"], model.kept, model.fixed)
        assert torch.equal(parts.whole.flatten(), expected.flatten())


@pytest.mark.parametrize("case", [c for c in COUNTED if c not in ("a learned gate", "an exponential")])
def test_distances_to_a_reference_are_those_of_what_is_learned(case: str) -> None:
    """Beside -1e31 a difference of 1/2 would be lost."""
    model, graph, node = traced(COUNTED[case][0])
    start = {**model.double().state_dict(), "g": model.g.detach() + 0.5}
    found = layer_sizes(graph, graph.state(model), graph.state(start))[node].a
    counted = {"a factor of zero": 1.5, "a constant mask": 1.5, "a selection by a constant": 1.5}
    counted |= {"a sum with a constant": 4.0, "a constant joined": 1.0, "a learned gate times a mask": 5e30}
    expected = counted.get(case, 2.0)
    assert found.lower <= expected * (1 + 1e-12) and found.upper >= expected * (1 - 1e-12)
    assert found.upper <= expected * (1 + 1e-9)


@pytest.mark.parametrize("fill", [None, -torch.inf])
def test_a_mask_that_training_chose_beyond_all_numbers_is_refused_by_name(fill: float | None) -> None:
    _, graph, node = traced(lambda g, kept, fixed: torch.where(g > -1, 0.0, lowest(g) if fill is None else fill))
    state = graph.state(Gated(lambda g, kept, fixed: g).double())
    state = {**state, graph[node].parameter["shift"]: torch.zeros(4)}
    with pytest.raises(NonFiniteError, match=rf"node '{node}': the entries of 'shift' = where\(gt\(g.* go up to"):
        layer_sizes(graph, state, None)


def test_a_certificate_pays_for_a_learned_gate() -> None:
    """With the gate closed by a constant of the architecture C is that of the other entries alone."""
    loader = [(X, torch.arange(6) % 2)]
    learned = cg.analyze(Gated(lambda g, kept, fixed: torch.where(g > 0, 0.0, -1e31)), loader).certificate.C
    fixed = cg.analyze(Gated(lambda g, kept, fixed: g.masked_fill(~kept, -1e31)), loader).certificate.C
    assert learned > 1e25 * fixed
