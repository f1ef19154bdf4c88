"""The Dropout of Theorem L3, against its formula written out."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import covergraph
from covergraph.errors import TrajectoryError
from covergraph.trajectory.dropout import Dropout, masked_forward


def mlp(*widths: int, last: nn.Module | None = None) -> nn.Sequential:
    parts: list[nn.Module] = []
    for d, n in pairwise(widths):
        parts += [nn.Linear(d, n), nn.ReLU()]
    network = nn.Sequential(*parts[:-1], *([last] if last is not None else [])).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()  # so that patterns vary, and masks would change them
    return network


def masks_of(network: nn.Sequential, count: int) -> list[Tensor]:
    """Random masks, one a hidden layer."""
    linear = [part for part in network if isinstance(part, nn.Linear)]
    return [torch.randint(0, 2, (count, part.out_features)).double() for part in linear[:-1]]


def formula(network: nn.Sequential, x: Tensor, masks: list[Tensor]) -> Tensor:
    """W_d M S (… W_1 x + b_1 …) + b_d, sample by sample, with S of the plain forward pass held fixed."""
    linear = [part for part in network if isinstance(part, nn.Linear)]
    rows = []
    for i, sample in enumerate(x):
        plain, dropped = sample, sample
        for part, mask in zip(linear[:-1], masks, strict=True):
            z = part.weight @ plain + part.bias
            S = torch.diag((z > 0).double())
            plain = S @ z
            dropped = torch.diag(mask[i]) @ S @ (part.weight @ dropped + part.bias)
        rows.append(linear[-1].weight @ dropped + linear[-1].bias)
    return torch.stack(rows)


def gradients(value: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(value.square().sum(), list(network.parameters())))


@pytest.mark.parametrize("widths", [(3, 5, 1), (3, 5, 4, 2), (2, 6, 5, 4, 1)])
def test_outputs_and_gradients_are_those_of_the_formula(widths: tuple[int, ...]) -> None:
    torch.manual_seed(sum(widths))
    network, x = mlp(*widths), torch.randn(20, widths[0], dtype=torch.float64)
    masks = masks_of(network, 20)
    found, expected = masked_forward(network, x, masks), formula(network, x, masks)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(found, network), gradients(expected, network), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def usual(network: nn.Sequential, x: Tensor, masks: list[Tensor]) -> Tensor:
    """Dropout as it is commonly done, but unscaled: h -> M relu(W h + b)."""
    given = iter(masks)
    for part in network:
        x = part(x) * next(given) if isinstance(part, nn.ReLU) else part(x)
    return x


def test_with_one_hidden_layer_it_is_the_usual_one_and_with_two_it_is_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 3, dtype=torch.float64)
    for widths, same in (((3, 6, 1), True), ((3, 6, 6, 1), False)):
        network = mlp(*widths)
        masks = masks_of(network, 50)
        ours, theirs = masked_forward(network, x, masks), usual(network, x, masks)
        assert torch.allclose(ours, theirs) == same
        both = zip(gradients(ours, network), gradients(theirs, network), strict=True)
        assert all(torch.allclose(a, b) for a, b in both) == same


def test_a_dropped_neuron_does_not_change_later_patterns() -> None:
    """z_2 = 2 h_1 - 1 > 0 in the forward pass; with h_1 dropped z_2 = -1 and still passes, as S_2 = 1."""
    network = mlp(1, 1, 1, 1)
    with torch.no_grad():
        for i, w, b in ((0, 1.0, 0.0), (2, 2.0, -1.0), (4, 1.0, 0.0)):
            network[i].weight.fill_(w)
            network[i].bias.fill_(b)
    x, off, on = (torch.tensor([[v]], dtype=torch.float64) for v in (1.0, 0.0, 1.0))
    assert masked_forward(network, x, [off, on]).item() == -1.0
    assert usual(network, x, [off, on]).item() == 0.0
    assert masked_forward(network, x, [on, off]).item() == 0.0


def test_masks_are_independent_fair_and_unscaled() -> None:
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(1, 400), nn.ReLU(), nn.Linear(400, 400), nn.Flatten()).double()
    with torch.no_grad():
        network[0].bias.fill_(5.0)  # all active, h = 5
        network[0].weight.zero_()
        network[2].weight.copy_(torch.eye(400))
        network[2].bias.zero_()
    for p in (0.5, 0.2):
        h = Dropout(network, p).train()(torch.zeros(500, 1, dtype=torch.float64))
        assert set(h.unique().tolist()) == {0.0, 5.0}
        kept = (h > 0).double()
        assert abs(kept.mean() - (1 - p)) < 0.005  # 200,000 draws: five standard deviations
        assert (kept.T.cov() - p * (1 - p) * torch.eye(400)).abs().max() < 0.12


def test_eval_mode_is_the_plain_network_also_when_traced() -> None:
    torch.manual_seed(1)
    network, x = mlp(3, 5, 4, 1, last=nn.Sigmoid()), torch.randn(7, 3, dtype=torch.float64)
    model = Dropout(network)
    assert torch.equal(model.eval()(x), network(x)) and not torch.equal(model.train()(x), network(x))
    graph = covergraph.trace(model.eval(), x[:1])
    assert graph.sequential
    torch.testing.assert_close(graph.run(model, x)[graph.output], network(x))


def test_convolutions_and_nested_modules_and_the_first_layer_runs_once() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.AvgPool2d(2), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 1),
    ).double()
    x, calls = torch.randn(5, 1, 8, 8, dtype=torch.float64), []
    network[0][0].register_forward_hook(lambda *_: calls.append(1))
    ones = [torch.ones(5, 2, 6, 6), torch.ones(5, 2, 2, 2)]
    torch.testing.assert_close(masked_forward(network, x, ones), network(x))
    calls.clear()
    Dropout(network).train()(x)
    assert len(calls) == 1


def test_a_module_that_occurs_twice_runs_twice() -> None:
    torch.manual_seed(3)
    act, square = nn.ReLU(), nn.Linear(3, 3)
    block = nn.Sequential(square, act)
    network = nn.Sequential(block, nn.Linear(3, 3), act, block, square, nn.Linear(3, 1)).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    ones = [torch.ones(9, 3)] * 3
    expected = network(x)
    torch.testing.assert_close(masked_forward(network, x, ones), expected)
    torch.testing.assert_close(Dropout(network, 0.0).train()(x), expected)
    ours, theirs = (gradients(value, network) for value in (masked_forward(network, x, ones), expected))
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))


class Twice(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


@pytest.mark.parametrize("network", [Twice(nn.Linear(3, 3)), nn.Sequential(Twice(nn.Linear(3, 3)), nn.Linear(3, 1))])
def test_a_sequential_with_a_forward_of_its_own_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(TrajectoryError, match="Twice has a forward"):
        Dropout(network)


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


@pytest.mark.parametrize(
    ("odd", "name"),
    [(nn.Dropout(), "Dropout"), (nn.MaxPool1d(2), "MaxPool1d"), (nn.Sigmoid(), "Sigmoid"), (Shift(), "Shift")],
)
def test_other_modules_are_refused_by_name(odd: nn.Module, name: str) -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 3), odd), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(TrajectoryError, match=rf"network\.0\.1 is a {name}"):
        Dropout(network)


def test_further_affine_types_may_be_named_and_p_is_checked() -> None:
    network = nn.Sequential(nn.Linear(3, 3), Shift(), nn.ReLU(), nn.Linear(3, 1))
    assert Dropout(network, affine=[Shift]).train()(torch.randn(2, 3)).shape == (2, 1)
    with pytest.raises(TrajectoryError, match="0 <= p < 1"):
        Dropout(network, 1.0, affine=[Shift])
