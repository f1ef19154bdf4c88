"""A user's own element-wise functions, named by operation, function or module class."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covergraph.errors import TracingError, UnsupportedOperationError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import ScalarFunction, T
from covergraph.graph.operations import Add, Call, Elementwise, Input, Linear
from covergraph.tracers import trace
from covergraph.tracers.tracing import WAYS, Way, trace_by_export, trace_by_fx, trace_by_make_fx, trace_report

MISH = ScalarFunction("mish", T * sympy.tanh(sympy.log(1 + sympy.exp(T))), F.mish)
SAW = ScalarFunction("saw", T - 3 * sympy.sign(T) * sympy.floor(sympy.Abs(T) / 3), lambda t: torch.fmod(t, 3.0))
BUMP = ScalarFunction("bump", sympy.exp(-(T**2)), lambda t: torch.exp(-t * t))


def by(way: Way, model: nn.Module, x: Tensor, **options: Any) -> ComputationGraph:
    """The graph by one way of tracing."""
    return trace_report(model, x, ways=(way,), **options).graph


class Mished(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(3, 3), nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x)) + F.mish(x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", [torch.ops.aten.mish.default, torch.ops.aten.mish, F.mish])
def test_an_operation_in_any_form(way: Way, key: Any) -> None:
    graph = by(way, Mished(), torch.randn(2, 3), functions={key: MISH})
    kinds = [type(node.operation) for node in graph.nodes]
    assert kinds == [Input, Linear, Elementwise, Elementwise, Add]
    assert graph.nodes[2].operation == graph.nodes[3].operation == Elementwise(MISH)


class Sawtooth(nn.Module):
    """An operation that the table does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fmod(x, 3.0)


def test_an_operation_of_the_users_own_stays_a_call_without_a_row() -> None:
    """It is traced and computed; only bounds need the row."""
    model = nn.Sequential(nn.Linear(3, 3), Sawtooth())
    operation = trace(model, torch.randn(2, 3))["1"].operation
    assert isinstance(operation, Call)
    assert operation.label == "fmod"
    graph = trace(model, torch.randn(2, 3) / 9, functions={torch.fmod: SAW})
    assert graph["1"].operation == Elementwise(SAW)


class Bump(nn.Module):
    """Several torch operations, one function; nothing of it is in the table."""

    def forward(self, t: Tensor) -> Tensor:
        square = t.pow(2)
        return torch.exp(-square)


class Bumped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(3, 3), Bump()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(self.act(x)))


@pytest.mark.parametrize("way", [trace_by_export, trace_by_fx, trace_by_make_fx])
def test_a_module_class_stands_for_all_that_it_does(way: Way) -> None:
    """The same module is used twice, and each use is one node."""
    graph = by(way, Bumped(), torch.randn(2, 3), functions={Bump: BUMP})
    assert [node.name for node in graph.nodes] == ["x", "act.bump", "fc", "act.bump_1"]
    assert graph["act.bump"].operation == Elementwise(BUMP)


@pytest.mark.parametrize("way", [trace_by_export, trace_by_fx])
def test_a_class_of_torch(way: Way) -> None:
    graph = by(
        way, nn.Sequential(nn.Linear(3, 3), nn.Mish()), torch.randn(2, 3), functions={nn.Mish: MISH}
    )
    assert graph["1"].operation == Elementwise(MISH)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_the_user_comes_before_the_table(way: Way) -> None:
    mine = ScalarFunction("mine", sympy.tanh(T), torch.tanh)
    graph = by(way, nn.Sequential(nn.Tanh()), torch.randn(2, 3), functions={torch.tanh: mine})
    assert graph[graph.output].operation == Elementwise(mine)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_is_another_function_is_found_out(way: Way) -> None:
    wrong = ScalarFunction("mish", T, lambda t: t)
    with pytest.raises(TracingError, match="does not compute"):
        by(way, Mished(), torch.randn(2, 3), functions={F.mish: wrong})


class Learned(nn.Module):
    """Not a fixed function: its slope is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * x)


def test_a_class_with_parameters_is_no_fixed_function() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Learned())
    with pytest.raises(TracingError, match=r"'1'.*reads 2 tensors"):
        trace(model, torch.randn(2, 3), functions={Learned: MISH})


@pytest.mark.parametrize("way", WAYS)
def test_an_operation_with_a_parameter_is_no_fixed_function(way: Way) -> None:
    """Even where the row agrees with the parameter's present value."""
    leaky = ScalarFunction(
        "leaky", sympy.Piecewise((T / 4, T < 0), (T, True)), lambda t: F.leaky_relu(t, 0.25)
    )
    with pytest.raises(UnsupportedOperationError, match="takes 2 tensors"):
        by(way, Prelu(), torch.randn(2, 3), functions={torch.ops.aten.prelu.default: leaky})


class Prelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.25]))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope)


@pytest.mark.parametrize("functions", [{"mish": MISH}, {F.mish: torch.tanh}])
def test_keys_and_rows_are_checked(functions: Any) -> None:
    with pytest.raises(TracingError, match="expected"):
        trace(Mished(), torch.randn(2, 3), functions=functions)
