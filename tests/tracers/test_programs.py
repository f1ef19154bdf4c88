"""Exported programs are inputs like modules: from memory and from a .pt2 file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from covergraph.errors import BatchMixingError, TracingError
from covergraph.tracers import trace


class Net(nn.Module):
    """A norm, a buffer, a constant, a tied layer and a view that names the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("offset", torch.randn(6))
        self.table = torch.randn(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x)).relu()
        h = h.view(x.shape[0], 2, 3).transpose(1, 2).reshape(x.shape[0], -1)
        return self.last(h * self.table) + self.offset  # type: ignore[no-any-return]


def net() -> Net:
    """A net whose statistics matter, in eval mode."""
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(9, 6) + 1)
    return model.eval()


def exported(model: nn.Module, x: Tensor, dynamic: bool = True) -> torch.export.ExportedProgram:
    """The program, with a batch of any size if `dynamic`."""
    shapes = {"x": {0: torch.export.Dim("batch")}} if dynamic else None
    return torch.export.export(model, (x,), dynamic_shapes=shapes)


def test_a_saved_program_gives_the_graph_of_its_module(tmp_path: Path) -> None:
    """The same operations and groups; it runs on the module, on the program's own, and on its state alone."""
    model, x = net(), torch.randn(3, 6)
    torch.export.save(exported(model, x), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    graph, own = trace(program, x), trace(model, x)  # type: ignore[arg-type]
    assert [node.operation for node in graph.nodes] == [node.operation for node in own.nodes]
    assert [node.shape for node in graph.nodes] == [node.shape for node in own.nodes]
    assert [len(group) for group in graph.groups] == [len(group) for group in own.groups] == [2, 1]
    assert set(graph.state_names) <= set(program.state_dict)
    expected = model(x)
    for state in (model, program.module(), dict(program.state_dict)):
        torch.testing.assert_close(graph.run(state, x)[graph.output], expected)


def test_a_program_of_one_sample_is_taken_where_it_runs_with_more() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).eval(), torch.randn(3, 6)
    program = torch.export.export(model, (x[:1],))
    graph = trace(program, x)  # type: ignore[arg-type]
    assert [node.operation for node in graph.nodes] == [node.operation for node in trace(model, x).nodes]
    torch.testing.assert_close(graph.run(model, x)[graph.output], model(x))


def test_a_program_of_a_fixed_batch_is_refused_with_the_remedy() -> None:
    program = exported(net(), torch.randn(3, 6), dynamic=False)
    with pytest.raises(TracingError, match=r"fixed batch sizes \{'x': 3\}.*dynamic_shapes=\{'x': \{0: .*Dim"):
        trace(program, torch.randn(3, 6))  # type: ignore[arg-type]


def test_a_program_exported_in_train_mode_mixes_samples() -> None:
    program = exported(net().train(), torch.randn(3, 6))
    with pytest.raises(BatchMixingError):
        trace(program, torch.randn(3, 6))  # type: ignore[arg-type]
