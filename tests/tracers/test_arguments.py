"""Arguments, outputs, modes and batch sizes of a trace."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from covergraph.errors import TracingError, UnsupportedOperationError
from covergraph.graph.operations import Input
from covergraph.tracers import trace
from covergraph.tracers.export import trace_by_export
from covergraph.tracers.symbolic import trace_by_fx
from covergraph.tracers.tracing import Way, trace_by

WAYS = [trace_by_export, trace_by_fx]


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
    graph = trace_by((way,), model, (x, True, y), kwargs, output="parts.1")
    assert [node.name for node in graph.inputs] == ["x", "y", "unused", "z"]
    assert [node.name for node in graph.nodes[:4]] == ["x", "y", "unused", "z"]
    found = graph.run(model, x, y, unused, z)[graph.output]
    torch.testing.assert_close(found, model(x, True, y, **kwargs)["parts"][1])
    assert isinstance(graph["z"].operation, Input)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("output", "last"), [("sum", "add"), ("parts.0", "tanh"), ("parts.1", "add")])
def test_one_of_several_outputs(way: Way, output: str, last: str) -> None:
    graph = trace_by((way,), Several(), (torch.randn(3, 3), True, torch.randn(3, 2)), output=output)
    assert graph.output == ("affine" if last == "add" else last)


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
    assert trace_by((way,), Pair(), x, output=1).output == "sin"
    assert trace_by((way,), Pair(), x, output=0).output == "x"
    with pytest.raises(UnsupportedOperationError, match="argmax"):
        trace_by((way,), Pair(), x, output=2)


class Index(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.sin(x), index, x + index


@pytest.mark.parametrize("way", WAYS)
def test_integers_are_no_data(way: Way) -> None:
    example = (torch.randn(3, 2), torch.arange(6).view(3, 2))
    assert len(trace_by((way,), Index(), example, output=0).inputs) == 2
    with pytest.raises(TracingError, match="expected floats"):
        trace_by((way,), Index(), example, output=1)
    with pytest.raises(UnsupportedOperationError, match=r"torch\.int64"):
        trace_by((way,), Index(), example, output=2)


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
    graph = trace_by((way,), model, torch.randn(2, 3))
    assert [node.name for node in graph.nodes] == ["x", "fc"]
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
    graph = trace_by((way,), Changing(), x)
    assert torch.equal(x, before)
    assert [node.name for node in graph.nodes] == ["x", "affine", "tanh"]


def test_tied_parameters_keep_a_name_of_the_state() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    graph = trace(model, torch.randn(2, 3))
    names = {name for node in graph.nodes for _, name in node.parameters}
    assert names <= set(model.state_dict())
    assert graph["2"].parameter["weight"] in ("0.weight", "2.weight")


@pytest.mark.parametrize("example", [torch.randn(2, 3), (torch.randn(2, 3),)])
def test_a_tensor_or_a_tuple(example: Any) -> None:
    assert len(trace(nn.Linear(3, 1), example)) == 2


class Threshold(nn.Module):
    """A branch on the batch size, for which torch.export allows no symbol."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 100 else torch.sin(x).reshape(x.shape[0], -1)


def test_export_falls_back_to_the_batch_size_of_the_example() -> None:
    graph = trace_by((trace_by_export,), Threshold(), torch.randn(1, 3, 2))
    assert [node.text() for node in graph.nodes] == [
        "x = input() : 3x2",
        "sin = sin(x) : 3x2",
        "reshape = reshape(sin) : 6",
    ]


class OnlyFx(nn.Module):
    """torch.export refuses an unknown class of output; torch.fx follows it."""

    def forward(self, x: Tensor) -> Tensor:
        return Wrapped(torch.sin(x)).value  # type: ignore[no-any-return]


class Wrapped:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_fx_is_tried_after_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise ValueError("no export today")

    monkeypatch.setattr(torch.export, "export", failing)
    assert [node.name for node in trace(OnlyFx(), torch.randn(2, 3)).nodes] == ["x", "sin"]
