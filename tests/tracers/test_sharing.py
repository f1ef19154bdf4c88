"""What parameters stand for: the model's state, formulas on it, shared storage."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.tracers import trace


def with_other_weights(model: nn.Module) -> nn.Module:
    """A copy with other parameters and other floating buffers, the same sharing."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            if value.is_floating_point():
                value.mul_(0.5 + torch.rand(value.shape, generator=generator))
    return other


def assert_follows(graph: ComputationGraph, model: nn.Module, x: Tensor) -> None:
    """The graph computes another model of the same class from the other model's state."""
    other = with_other_weights(model).eval()
    expected = other(x)
    assert not torch.allclose(expected, model.eval()(x))
    torch.testing.assert_close(graph.run(other, x)[graph.output], expected)


class Tied(nn.Module):
    """An embedding and a head with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(tokens)).tanh())  # type: ignore[no-any-return]


def test_tied_embedding_and_head_form_one_group() -> None:
    model, tokens = Tied(), torch.randint(9, (2, 4))
    graph = trace(model, tokens)
    assert graph.groups == (("embed", "head"), ("mix",))
    assert graph["tokens"].kind == "integer"
    assert graph["head"].parameter["weight"] in model.state_dict()
    torch.testing.assert_close(graph.run(model, tokens)[graph.output], model(tokens))


class Twice(nn.Module):
    """One layer at two places, another one once, then a view of the first one's storage."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.part = nn.Parameter(self.fc.weight.detach()[:3])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(self.other(self.fc(x)).tanh()).tanh(), self.part)


def test_sharing_is_by_storage_not_by_name() -> None:
    graph = trace(Twice(), torch.randn(2, 6))
    shared, alone = sorted(graph.groups, key=len, reverse=True)
    assert [graph[name].parameter["weight"] for name in shared] == ["fc.weight", "fc.weight", "part"]
    assert alone == ("other",)


class Sides(nn.Module):
    """One matrix used as it is, transposed, scaled and in part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.alone = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.weight)
        h = torch.tanh(F.linear(h, 2 * self.weight)) * self.alone.exp()
        return torch.tanh(h @ self.weight[:, :3]) + self.weight[0, :3]


def test_formulas_of_one_matrix_form_one_group() -> None:
    torch.manual_seed(0)
    model, x = Sides(), torch.randn(2, 6)
    graph = trace(model, x)
    assert_follows(graph, model, x)
    sources = {name: {s for _, p in graph[name].parameters for s in graph.weights.sources(p)} for name in graph.covered}
    for group in graph.groups:
        assert len({frozenset(sources[name] - {"alone"}) for name in group}) == 1
    assert sorted(graph.state_names) == ["alone", "weight"]
    assert max(len(group) for group in graph.groups) >= 3


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "batch norm": (
        lambda: nn.BatchNorm2d(3),
        (3, 4, 4),
        ("weight", "running_mean", "running_var", "bias"),
    ),
    "plain batch norm": (lambda: nn.BatchNorm1d(6, affine=False), (6,), ("running_mean", "running_var")),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
        (6,),
        ("parametrizations.weight.original0", "parametrizations.weight.original1", "bias"),
    ),
    "weight norm of a convolution": (
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 2, bias=False)),
        (3, 4, 4),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"),
        (4,),
        ("parametrizations.weight.original", "bias"),
    ),
}


@pytest.mark.parametrize("case", NETS)
def test_effective_parameters_follow_the_state(case: str) -> None:
    """One covered node, made of these entries of the state."""
    make, shape, names = NETS[case]
    torch.manual_seed(0)
    model, x = make(), torch.randn(5, *shape)
    model.train()(x * 2 + 1)
    model.eval()
    graph = trace(model, x)
    assert_follows(graph, model, x)
    (covered,) = graph.covered
    assert set(names) <= set(graph.state_names)
    assert graph.groups == ((covered,),)
    assert graph[covered].parameters


class Named(nn.Module):
    """Its entries have the names that effective parameters and constants like to have."""

    def __init__(self, names: tuple[str, str, str]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.register_buffer(name, torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, weight = (getattr(self, name) for name in self.names)
        return torch.tanh(F.batch_norm(x, mean, variance.exp(), weight)) * torch.arange(6.0)


@pytest.mark.parametrize("names", [("shift", "scale", "weight"), ("constant_0", "constant_1", "constant")])
def test_no_name_of_the_state_is_taken_for_another_tensor(names: tuple[str, str, str]) -> None:
    torch.manual_seed(0)
    model, x = Named(names).eval(), torch.randn(3, 6)
    graph = trace(model, x)
    torch.testing.assert_close(graph.run(model, x)[graph.output], model(x))
    assert_follows(graph, model, x)


class Values(nn.Module):
    """A class token, a positional embedding, LayerScale, a constant mask."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 4, 6))
        self.gamma = nn.Parameter(torch.randn(6))
        self.register_buffer("mask", torch.tensor([True, True, False, True, True]).view(1, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), x + self.position], 1) * self.gamma
        return h.masked_fill(~self.mask, 0.0)


def test_parameters_as_values() -> None:
    """The token is a node of its own, what is added or multiplied is an affine map, the mask a constant."""
    model, x = Values(), torch.randn(3, 4, 6)
    graph = trace(model, x)
    assert_follows(graph, model, x)
    token = next(node for node in graph.nodes if isinstance(node.operation, op.Parameter))
    assert token.parameters == (("value", "token"),) or graph.weights.read(token.parameter["value"]) == ("token",)
    assert set(graph.state_names) == {"token", "position", "gamma"}
    assert len(graph.weights.constants) == 1
    assert all(not node.learned for node in graph.nodes if node.constants and not node.parameters)
