"""Arguments, outputs, modes and batch sizes of a trace."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from covergraph.errors import TracingError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.operations import Elementwise, Input, Linear, Reshape
from covergraph.tracers import trace
from covergraph.tracers.tracing import (
    WAYS,
    Way,
    trace_by_export,
    trace_by_make_fx,
    trace_report,
)


def by(way: Way, model: nn.Module, *example: Any, **options: Any) -> ComputationGraph:
    """The graph by one way of tracing."""
    return trace_report(model, *example, ways=(way,), **options).graph


class Several(nn.Module):
    """Takes tensors by position and by keyword, with constants between them; returns a nested dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(
        self,
        x: Tensor,
        flag: bool,
        y: Tensor,
        unused: Tensor | None = None,
        *,
        scale: float = 1.0,
        z: Tensor | None = None,
    ) -> dict[str, Any]:
        h = self.left(x) + self.right(y) if flag else self.left(x)
        h = h * scale
        return {"sum": h, "parts": (torch.tanh(h), h if z is None else h * z), "none": None, "count": 3}


@pytest.mark.parametrize("way", WAYS)
def test_inputs_come_in_the_order_of_forward(way: Way) -> None:
    """Keywords in any order; an unused tensor stays an input; constants are none."""
    model = Several()
    x, y, z, unused = torch.randn(3, 3), torch.randn(3, 2), torch.randn(3, 4), torch.randn(3, 7)
    kwargs = {"z": z, "scale": 0.5, "unused": unused}
    graph = by(way, model, (x, True, y), kwargs, output="parts.1")
    assert [node.name for node in graph.inputs] == ["x", "y", "unused", "z"]
    assert [node.name for node in graph.nodes[:4]] == ["x", "y", "unused", "z"]
    found = graph.run(model, x, y, unused, z)[graph.output]
    torch.testing.assert_close(found, model(x, True, y, **kwargs)["parts"][1])
    assert isinstance(graph["z"].operation, Input)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("output", "last"), [("sum", "add"), ("parts.0", "tanh"), ("parts.1", "add")])
def test_one_of_several_outputs(way: Way, output: str, last: str) -> None:
    graph = by(way, Several(), (torch.randn(3, 3), True, torch.randn(3, 2)), output=output)
    assert graph.output == last


@pytest.mark.parametrize("output", [None, "parts", "other", 7])
def test_an_unclear_output_lists_the_choices(output: str | int | None) -> None:
    with pytest.raises(TracingError, match=re.escape("['parts.0', 'parts.1', 'sum']")):
        trace(Several(), (torch.randn(3, 3), True, torch.randn(3, 2)), output=output)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x, torch.sin(x), x.argmax(1)


@pytest.mark.parametrize("way", WAYS)
def test_an_index_picks_from_a_tuple(way: Way) -> None:
    x = torch.randn(3, 3)
    assert by(way, Pair(), x, output=1).output == "sin"
    assert by(way, Pair(), x, output=0).output == "x"
    with pytest.raises(TracingError, match="expected floats"):
        by(way, Pair(), x, output=2)


class Index(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.sin(x), index, x + index


@pytest.mark.parametrize("way", WAYS)
def test_integers_are_inputs_but_no_output(way: Way) -> None:
    """They are nodes of their own kind, and become floats where they meet floats."""
    model, example = Index(), (torch.randn(3, 2), torch.arange(6).view(3, 2))
    assert len(by(way, model, example, output=0).inputs) == 2
    with pytest.raises(TracingError, match="expected floats"):
        by(way, model, example, output=1)
    graph = by(way, model, example, output=2)
    assert [(node.name, node.kind) for node in graph.inputs] == [("x", "float"), ("index", "integer")]
    found = graph.run({}, *example)[graph.output]
    torch.testing.assert_close(found, model(*example)[2], check_dtype=False)


class Noisy(nn.Module):
    """Behaves differently in train mode, counts its calls in a buffer, and stores what it saw."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(3, 3), nn.Dropout()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        y: Tensor = self.drop(self.fc(x))
        return 2 * y if self.training else y


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(way: Way, training: bool) -> None:
    """Modes (also mixed ones), buffers, parameters and gradients are the same after tracing."""
    model = Noisy().train(training)
    model.drop.train(not training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = by(way, model, torch.randn(2, 3))
    assert [type(node.operation) for node in graph.nodes] == [Input, Linear]
    assert (model.training, model.fc.training, model.drop.training) == (training, training, not training)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Uncopyable(Noisy):
    """Refuses to be copied, so that the model itself is traced."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no copies")


def test_modes_are_restored_on_a_model_that_cannot_be_copied_and_after_errors() -> None:
    model = Uncopyable().train()
    model.fc.eval()
    trace(model, torch.randn(2, 3))
    assert (model.training, model.fc.training, model.drop.training) == (True, False, True)
    with pytest.raises(TracingError):
        trace(model, torch.randn(2, 4))
    assert (model.training, model.fc.training, model.drop.training) == (True, False, True)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_of_the_example_gives_one_graph(batch: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 2), nn.Tanh())
    assert trace(model, torch.randn(batch, 5)) == trace(model, torch.randn(3, 5))


@pytest.mark.parametrize(
    "example",
    [(torch.tensor(1.0),), (torch.randn(0, 3),), (torch.randn(2, 3), torch.randn(3, 3)), (), (2.0,)],
)
def test_examples_need_one_batch_in_dim_0(example: tuple[Any, ...]) -> None:
    class First(nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return values[0]

    with pytest.raises(TracingError, match="dim 0 of all"):
        trace(First(), example)


def test_arguments_that_do_not_fit_forward() -> None:
    with pytest.raises(TracingError, match="does not fit forward"):
        trace(Pair(), (torch.randn(2, 3), torch.randn(2, 3)))


class Containers(nn.Module):
    def forward(self, parts: list[Tensor], **more: Tensor) -> Tensor:
        return parts[0] * parts[1] + more["third"]


def test_tensors_in_containers_are_inputs_too() -> None:
    parts, third = [torch.randn(2, 3), torch.randn(2, 3)], torch.randn(2, 3)
    graph = trace(Containers(), (parts,), {"third": third})
    assert [node.name for node in graph.inputs] == ["parts.0", "parts.1", "more.third"]
    torch.testing.assert_close(graph.run({}, *parts, third)[graph.output], parts[0] * parts[1] + third)


class Changing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1).tanh_()


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_changes_its_argument_leaves_the_example_alone(way: Way) -> None:
    x = torch.randn(2, 3)
    before = x.clone()
    graph = by(way, Changing(), x)
    assert torch.equal(x, before)
    torch.testing.assert_close(graph.run({}, before)[graph.output], torch.tanh(before + 1))


@pytest.mark.parametrize("example", [torch.randn(2, 3), (torch.randn(2, 3),)])
def test_a_tensor_or_a_tuple(example: Any) -> None:
    assert len(trace(nn.Linear(3, 1), example)) == 2


class Threshold(nn.Module):
    """A branch on the batch size, for which torch.export allows no symbol."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 100 else torch.sin(x).reshape(x.shape[0], -1)


@pytest.mark.parametrize("way", [trace_by_export, trace_by_make_fx])
def test_a_branch_on_the_batch_size_is_followed(way: Way) -> None:
    """The graph is the model's for the few samples of the check; `measure` compares on every batch."""
    graph = by(way, Threshold(), torch.randn(1, 3, 2))
    assert [type(node.operation) for node in graph.nodes] == [Input, Elementwise, Reshape]


class OnlyFx(nn.Module):
    """A class of its own between two operations."""

    def forward(self, x: Tensor) -> Tensor:
        return Wrapped(torch.sin(x)).value  # type: ignore[no-any-return]


class Wrapped:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_the_ways_are_tried_in_order_and_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of torch.export fails here; that of torch.fx's graph succeeds."""
    export, calls = torch.export.export, []

    def failing_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise ValueError("no export today")
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", failing_once)
    report = trace_report(OnlyFx(), torch.randn(2, 3))
    assert [node.name for node in report.graph.nodes] == ["x", "sin"]
    assert report.way == "fx"
    assert report.failures == ("trace_by_export: ValueError: no export today",)
    assert "failed before: trace_by_export" in str(report)
    assert "traced by fx: 1 torch calls -> 2 nodes" in str(report)


def test_the_report_of_a_first_success() -> None:
    report = trace_report(nn.Linear(3, 2), torch.randn(2, 3))
    assert (report.way, report.failures, report.traced_nodes) == ("export", (), 1)
    assert 0 <= report.error <= 1e-9
    assert report.export_seconds > 0 < report.own_seconds


class Own(nn.Module):
    """Asks for other types and makes tensors by itself; one of them is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.table = nn.Linear(3, 3), torch.randn(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.float()).to(torch.bfloat16) + torch.full((3,), 1 / 3, dtype=torch.float32)
        return h.half() @ self.table + torch.ones(3).type_as(h) / 3


@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_real_numbers(way: Way) -> None:
    """The graph is what the code says without rounding: a third has all the digits of float64."""
    torch.manual_seed(0)
    model, x = Own(), torch.randn(2, 3)
    graph = by(way, model, x)
    weight, bias = model.fc.weight.double(), model.fc.bias.double()
    expected = (x.double() @ weight.T + bias + 1 / 3) @ model.table.double() + 1 / 3
    found = graph.run({"fc.weight": weight, "fc.bias": bias}, x.double())[graph.output]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Frozen(nn.Module):
    """A plain attribute that is no parameter makes copying fail, as torch.nn.utils.weight_norm's does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.utils.weight_norm(nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_model_that_cannot_be_copied_is_restored() -> None:
    """It is traced itself, in float64, and has its own tensors afterwards."""
    model = Frozen()
    tensors = {name: (value, value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    x = torch.randn(2, 3)
    graph = trace(model, x)
    for name, value in model.state_dict().items():
        before, address, entries = tensors[name]
        assert value.dtype == before.dtype == torch.float32
        assert value.data_ptr() == address
        assert torch.equal(value, entries)
    torch.testing.assert_close(graph.run(model, x)[graph.output], model(x))
    assert graph.weights.read(graph[graph.output].parameter["weight"]) == ("fc.weight_v", "fc.weight_g")


@pytest.mark.parametrize("model", [lambda x: x, "model", None])
def test_what_is_no_module(model: Any) -> None:
    with pytest.raises(TracingError, match=r"expected an nn\.Module or an ExportedProgram"):
        trace(model, torch.randn(2, 3))


SHIFT, MIX = torch.tensor([0.1, -0.3, 0.7]), torch.linspace(-1, 1, 9).reshape(3, 3).half()
TRAINED = (torch.ones(3, requires_grad=True), nn.Parameter(torch.ones(3)))


class Around(nn.Module):
    """Computes with tensors that it does not hold."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.function = nn.Linear(3, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x))


@pytest.mark.parametrize("way", WAYS)
def test_tensors_around_the_model_are_real_numbers(way: Way) -> None:
    """Of the module that its code stands in, in any floating type."""
    model, x = Around(lambda h: torch.cat([torch.tanh(h + SHIFT), h @ MIX], 1).to(SHIFT.dtype)), torch.randn(2, 3)
    held = Around(lambda h: torch.cat([torch.tanh(h + SHIFT.double()), h @ MIX.double()], 1)).double()
    graph = by(way, model, x)
    found = graph.run(held, x.double())[graph.output]
    torch.testing.assert_close(found, held(x.double()), rtol=1e-12, atol=1e-12)
    assert SHIFT.dtype == torch.float32 and MIX.dtype == torch.float16


def added(h: Tensor) -> Tensor:
    SHIFT.add_(1)
    return h + SHIFT


def set_in_part(h: Tensor) -> Tensor:
    SHIFT[:2] = h.sum()
    return h + SHIFT


def a_view(h: Tensor) -> Tensor:
    first = SHIFT.data[0]
    first.mul_(2)
    return h + first


@pytest.mark.parametrize("function", [added, set_in_part, a_view])
def test_tensors_around_the_model_may_not_be_changed(function: Callable[[Tensor], Tensor]) -> None:
    before = SHIFT.clone()
    with pytest.raises(TracingError, match=r"^forward changes a tensor of shape \(3,\).*a copy: tensor\.clone\(\)"):
        trace(Around(function), torch.randn(2, 3))
    assert torch.equal(SHIFT, before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trained", TRAINED, ids=["tensor", "parameter"])
def test_a_trained_tensor_around_the_model_is_to_be_registered(way: Way, trained: Tensor) -> None:
    """To ask for its shape is no computation."""
    with pytest.raises(TracingError, match=r"^the model computes with .* requires gradients.*nn\.Parameter"):
        by(way, Around(lambda h: h * trained), torch.randn(2, 3))
    assert len(by(way, Around(lambda h: h * len(trained.shape)), torch.randn(2, 3))) == 2
