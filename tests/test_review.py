"""Ways to obtain an invalid certificate that were found by attacking the program, each closed for good."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg
from covergraph.errors import (
    BatchMixingError,
    ForeignModelError,
    GraphError,
    LoaderChangedError,
    ParameterError,
    UnsupportedOperationError,
)
from covergraph.graph.functions import ROWS, ScalarFunction, T
from covergraph.rules.suprema import supremum

KINKED = {
    "relu": (sympy.Piecewise((0, T < 0), (T, True)), torch.relu, nn.ReLU()),
    "leaky": (sympy.Piecewise((T / 100, T < 0), (T, True)), nn.functional.leaky_relu, nn.LeakyReLU()),
    "hardtanh": (sympy.Piecewise((-1, T < -1), (1, T > 1), (T, True)), nn.functional.hardtanh, nn.Hardtanh()),
}


def sample(n: int = 24) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long())


def network(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), activation or nn.Tanh(), nn.Linear(5, 2))


def path(model: nn.Module, loss: cg.graph.losses.Loss | None = None) -> cg.Bound:
    example = torch.zeros(2, 4, dtype=next(model.parameters()).dtype)
    return cg.derive(cg.augment(cg.trace(model, example), loss))


@pytest.mark.parametrize("name", KINKED)
def test_a_piecewise_linear_function_is_no_smooth_one(name: str) -> None:
    """Its symbolic second derivative is 0, but its derivative jumps: that takes a condition."""
    expression, evaluate, module = KINKED[name]
    row = ScalarFunction(name, expression, evaluate)
    assert not row.is_affine
    graph = cg.trace(network(module), torch.zeros(2, 4), functions={type(module): row})
    augmented = cg.augment(graph)
    (conditioned,) = augmented.conditions
    assert augmented.base[conditioned].operation.label == name and not augmented.rules[conditioned].taubar
    with pytest.raises(UnsupportedOperationError, match="kink"):
        supremum(expression, 2)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_what_its_expression_says(row: ScalarFunction) -> None:
    row.check()


def test_a_wrong_expression_is_noticed() -> None:
    wrong = ScalarFunction("mish", sympy.tanh(T) / 1000, nn.functional.mish)
    with pytest.raises(ParameterError, match=r"'mish'.*by evaluate.*by the expression"):
        cg.trace(network(nn.Mish()), torch.zeros(2, 4), functions={nn.Mish: wrong})


def test_measurements_of_another_loss_are_refused() -> None:
    model, loader = network(), DataLoader(sample(), 8)
    zero = cg.LipschitzLoss(lambda h, y: torch.zeros(len(h), dtype=h.dtype), 1e-6)
    sigmoid = cg.LipschitzLoss(lambda h, y: torch.sigmoid(h[:, 0]), 0.25)
    measured = cg.measure(path(model, zero), model, loader)
    with pytest.raises(ParameterError, match="of the loss"):
        path(model, sigmoid).evaluate(measured)


def test_a_loss_that_mixes_samples_is_refused() -> None:
    mixing = cg.LipschitzLoss(lambda h, y: torch.softmax(h[:, 0], 0), 1.0)
    model = network()
    with pytest.raises(BatchMixingError, match="separately"):
        cg.measure(path(model, mixing), model, DataLoader(sample(), 8))


def test_trained_weights_are_no_reference() -> None:
    model, loader = network(), DataLoader(sample(), 8)
    with pytest.raises(ParameterError, match="shares its weights"):
        cg.analyze(model, loader, init_model=model)
    with pytest.raises(ParameterError, match="same weights"):
        cg.analyze(model, loader, init_model=copy.deepcopy(model))


def test_changed_parameters_are_paid_for() -> None:
    model = network()
    analysis = cg.analyze(model, DataLoader(sample(), 8))
    p = analysis.parameters
    lower = dataclasses.replace(p, kappa={pair: 0.99 * value for pair, value in p.kappa.items()})
    with pytest.raises(ParameterError, match="not on the grid"):
        analysis.bound.evaluate(analysis.measurements, lower)
    with pytest.raises(ParameterError, match="union cost"):
        analysis.bound.evaluate(analysis.measurements, dataclasses.replace(p, union_cost=p.union_cost / 2))
    fixed = dataclasses.replace(lower, grid=None, quantile=None)
    assert analysis.bound.evaluate(analysis.measurements, fixed).value > 0


def test_a_model_that_looks_at_the_batch_size_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x) if x.shape[0] <= 8 else torch.sin(self.layers(x))

    model = Branching()
    bound = cg.derive(cg.augment(cg.trace(model, torch.zeros(2, 4))))
    data = sample(40)
    loader = [data[:8], data[8:40]]
    with pytest.raises(ForeignModelError, match="starts at sample 8"):
        cg.measure(bound, model, loader)


def test_tiny_inputs_do_not_vanish() -> None:
    """Their squares are 0 in double precision; the root mean square is not."""
    model = network().double()
    x, y = sample().tensors
    tiny = TensorDataset(x.double() * 1e-170, y)
    found = cg.measure(path(model), model, DataLoader(tiny, 8))
    expected = 1e-170 * float(x.double().norm() / len(x) ** 0.5)
    (name,) = found.root_mean_square
    assert found.root_mean_square[name].lower <= expected * (1 + 1e-12)
    assert found.root_mean_square[name].upper >= expected * (1 - 1e-12) > 0


def test_a_tiny_radius_does_not_vanish() -> None:
    """E is proportional to the radius, though its square is 0 in double precision."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False)).double()
    x, y = sample().tensors
    bound = path(model)
    roots = []
    for scale in (1.0, 1e-170):
        found = cg.measure(bound, model, [(x.double() * scale, y)])
        fixed = dataclasses.replace(cg.choose(bound, found), gamma=1.0, quantile=None, grid=None)
        roots.append(bound.evaluate(found, fixed).shares[0].root)
    assert roots[1] == pytest.approx(1e-170 * roots[0], rel=1e-9)


def test_the_confidence_is_never_overstated() -> None:
    model = network()
    analysis = cg.analyze(model, DataLoader(sample(), 8), delta=1e-9)
    assert "99.99 %" in analysis.certificate.explain()


def test_gamma_s_quantile_is_that_of_all_margins() -> None:
    """With most samples misclassified, the wanted quantiles are negative and gamma is another one, named as such."""
    model = network()
    x, _ = sample().tensors
    wrong = 1 - model(x).argmax(1)
    wrong[:4] = 1 - wrong[:4]
    bound = path(model)
    found = cg.measure(bound, model, [(x, wrong)])
    assert found.margins is not None and found.margin is not None and found.margin.lower < 0
    chosen = cg.choose(bound, found, quantile=0.25)
    assert chosen.gamma is not None and chosen.quantile is not None
    assert chosen.gamma > 0 and chosen.quantile >= 20 / 24


@pytest.mark.parametrize(("option", "value"), [("dtype", torch.float16), ("dtype", torch.int64), ("device", "cuda:9")])
def test_where_nothing_can_be_measured(option: str, value: object) -> None:
    model = network()
    with pytest.raises(ParameterError, match=option):
        cg.measure(path(model), model, DataLoader(sample(), 8), **{option: value})


def test_a_cut_value_has_the_shape_of_its_node() -> None:
    model = network()
    graph = cg.trace(model, torch.zeros(2, 4))
    with pytest.raises(GraphError, match=r"cut: .*'1' has shape \(2, 3\)"):
        graph.run(model, torch.zeros(2, 4), cut={"1": torch.zeros(2, 3)})


def test_a_batch_without_labels() -> None:
    with pytest.raises(LoaderChangedError, match="inputs, labels"):
        cg.analyze(network(), [torch.zeros(3, 4)])


def test_a_model_traced_with_constants_can_be_measured() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: Tensor, scale: float) -> Tensor:
            return self.layers(x) * scale

    model = Scaled()
    bound = cg.derive(cg.augment(cg.trace(model, (torch.zeros(2, 4),), {"scale": 2.0})))
    assert cg.measure(bound, model, DataLoader(sample(), 8)).n == 24


class Doubled(cg.MarginLoss):
    """A margin loss with margins of its own."""

    def margins(self, output: Tensor, labels: Tensor) -> Tensor:
        return 2 * super().margins(output, labels)


def test_measurements_of_a_derived_loss_are_its_own() -> None:
    model, loader = network(), DataLoader(sample(), 8)
    measured = cg.measure(path(model, Doubled()), model, loader)
    with pytest.raises(ParameterError, match="of the loss"):
        path(model).evaluate(measured)


def test_a_loss_that_mixes_later_samples_is_refused() -> None:
    running = cg.LipschitzLoss(lambda h, y: torch.sigmoid(h[:, 0] - h[:, 1]).cummin(0)[0], 0.5)
    model = network()
    with pytest.raises(BatchMixingError, match="separately"):
        cg.measure(path(model, running), model, DataLoader(sample(), 24))


@pytest.mark.parametrize("factor", [1e12, 1e40])
def test_huge_certificates_are_printed_and_drawn(factor: float) -> None:
    model = network().double()
    x, y = sample().tensors
    with torch.no_grad():
        model[2].weight.mul_(factor)
    analysis = cg.analyze(model, [(x.double(), y)])
    low = dataclasses.replace(analysis.parameters, gamma=1e-3, grid=None, quantile=None)
    certificate = analysis.bound.evaluate(analysis.measurements, low)
    assert certificate.vacuous and "vacuous" in certificate.explain()
    assert certificate.plot().axes


def test_arrays_of_another_precision_are_cast() -> None:
    x, y = sample().tensors
    batches = [(x.numpy().astype("float64"), y.numpy())]
    assert cg.analyze(network(), batches).measurements.n == 24
    assert cg.analyze(network().double(), [(x, y)]).measurements.n == 24


def test_a_model_that_fails_on_a_batch() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 9:
                raise TypeError("too many")
            return self.layers(x)

    model = Picky()
    bound = path(model)
    with pytest.raises(ForeignModelError, match=r"batch of 12 samples.*too many"):
        cg.measure(bound, model, DataLoader(sample(), 12))


@pytest.mark.parametrize("grid", [1.0, 0.0, -1.05, float("nan"), float("inf")])
def test_the_grid_of_parameters_is_a_ratio(grid: float) -> None:
    analysis = cg.analyze(network(), DataLoader(sample(), 8))
    with pytest.raises(ParameterError, match="the grid is"):
        analysis.bound.evaluate(analysis.measurements, dataclasses.replace(analysis.parameters, grid=grid))


def test_a_quantile_of_the_data_is_not_fixed_in_advance() -> None:
    analysis = cg.analyze(network(), DataLoader(sample(), 8))
    free = dataclasses.replace(analysis.parameters, grid=None, union_cost=0.0)
    with pytest.raises(ParameterError, match="read off the data"):
        analysis.bound.evaluate(analysis.measurements, free)


def test_an_expression_in_another_symbol() -> None:
    with pytest.raises(ParameterError, match=r"expected .*functions\.T"):
        ScalarFunction("tanh", sympy.tanh(sympy.Symbol("t")), torch.tanh)


def test_a_function_that_torch_cannot_differentiate() -> None:
    row = ScalarFunction("tanh", sympy.tanh(T), lambda x: torch.as_tensor(x.detach().numpy()).tanh())
    with pytest.raises(ParameterError, match=r"cannot be differentiated|by evaluate"):
        row.check()
