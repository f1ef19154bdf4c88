"""Is the model that is measured the graph? Asked over the real numbers, on every batch, whatever the model's type."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import covergraph as cg
from covergraph.errors import ForeignModelError
from covergraph.graph.interpreter import Context
from covergraph.measure.measure import measure
from covergraph.measure.rounding import rounding_of_output

Forward = Callable[[Any, Tensor], Tensor]
X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
LATE = torch.cat([1.7e9 + 1e3 * X[:, :1], X[:, 1:]], 1)
"""With a time in seconds among its features."""
CENTER, SCALE = torch.tensor([1.7e9, 0, 0, 0]), torch.tensor([1e-9, 1, 1, 1])


class Body(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.hidden, self.out = function, nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("center", CENTER.clone(), persistent=False)
        self.register_buffer("scale", SCALE.clone(), persistent=False)

    def plain(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.tanh(self.hidden(x)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def crowded(x: Tensor) -> Tensor:
    """Samples that meet in batches of more than eight, of which tracing makes none."""
    return x - x.mean(0, keepdim=True) if x.shape[0] > 8 else x


def found(function: Forward, x: Tensor, dtype: torch.dtype = torch.float32, batch: int = 12) -> None:
    model, labels = Body(function).to(dtype), torch.arange(len(x)) % 3
    bound = cg.derive(cg.augment(cg.trace(model, x[:2].to(dtype))))
    loader = [(x[i : i + batch], labels[i : i + batch]) for i in range(0, len(x), batch)]
    measure(bound, model, loader, fill=True)


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_that_meet_in_large_batches_are_found_in_every_type(dtype: torch.dtype) -> None:
    """By a hundred-thousandth of the output: less than half precision can tell."""
    with pytest.raises(ForeignModelError, match=r"starts at sample 0, off by .* beyond rounding"):
        found(lambda m, x: m.plain(x) + 1e-5 * crowded(m.plain(x)), X, dtype)


APART: dict[str, Forward] = {
    "scaled down": lambda m, x: m.plain(torch.cat([x[:, :1] * 1e-9, crowded(x[:, 1:])], 1)),
    "of saturated units": lambda m, x: m.out(torch.tanh(m.hidden(x[:, :1] + 1e6 * m.scale))) + crowded(x[:, 1:]),
    "standardized": lambda m, x: m.plain(crowded((x - m.center) * 1e-3)),
    "never read": lambda m, x: m.plain(crowded(x) * (m.scale == 1)),
}


@pytest.mark.parametrize("case", APART)
def test_one_huge_feature_does_not_hide_what_the_others_do(case: str) -> None:
    with pytest.raises(ForeignModelError, match="computes another function"):
        found(APART[case], LATE)


def test_a_huge_entry_of_the_output_does_not_hide_the_others() -> None:
    masked: Forward = lambda m, x: m.plain(crowded(x)).masked_fill(m.scale[:3] != 1, -1e9)  # noqa: E731
    with pytest.raises(ForeignModelError, match="computes another function"):
        found(masked, X)


def test_the_last_small_batch_is_compared_too() -> None:
    with pytest.raises(ForeignModelError, match="starts at sample 18"):
        found(lambda m, x: m.plain(x) + 1e-6 * x.sum() * (x.shape[0] == 6), X, batch=9)


def casting(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.plain(x).float()  # type: ignore[no-any-return]


RIGHT: dict[str, tuple[Forward, Tensor, torch.dtype]] = {
    "half precision": (lambda m, x: m.plain(x), X, torch.float16),
    "a huge feature": (lambda m, x: m.plain(x), LATE, torch.float32),
    "differences of huge numbers": (lambda m, x: m.plain(F.layer_norm(x, (4,))), LATE, torch.float32),
    "a huge mean": (lambda m, x: m.plain((x - m.center) * 1e-3), LATE, torch.float32),
    "autocast": (casting, X, torch.float32),
    "a cast by hand": (lambda m, x: m.plain(x.half()).float(), X, torch.float16),
    "an output of zeros": (lambda m, x: F.relu(m.plain(x) - 1e3) * 2, X, torch.float32),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_model_that_is_its_graph_is_let_through(case: str) -> None:
    found(*RIGHT[case])


def test_one_copy_of_the_model_serves_all_batches() -> None:
    class Counted(Body):
        copies = 0

        def __deepcopy__(self, memo: Any) -> Counted:
            Counted.copies += 1
            made = Counted(self.function)
            made.load_state_dict(self.state_dict())
            return made

    model = Counted(lambda m, x: m.plain(x))
    bound = cg.derive(cg.augment(cg.trace(model, X[:2])))
    before = Counted.copies
    measure(bound, model, [(X[i : i + 2], torch.arange(2)) for i in range(0, 24, 2)], fill=True)
    assert Counted.copies == before + 1


def exact(layer: nn.Linear, h: list[Fraction]) -> list[Fraction]:
    rows = [[Fraction(w) for w in row] for row in layer.weight.tolist()]
    start = [Fraction(b) for b in layer.bias.tolist()]
    return [b + sum(w * v for w, v in zip(row, h, strict=True)) for row, b in zip(rows, start, strict=True)]


@pytest.mark.parametrize("size", [1.0, 1e6, 1e12])
def test_rounding_is_within_what_is_allowed_and_what_is_allowed_is_not_much_more(size: float) -> None:
    """Against rational numbers: a layer that reads numbers of the given size, which cancel."""
    layer = nn.Linear(8, 3).double()
    torch.manual_seed(1)
    with torch.no_grad():
        layer.weight[:, 4:] = -layer.weight[:, :4]
    model = nn.Sequential(layer).double()
    graph = cg.trace(model, torch.zeros(2, 8))
    near = size * torch.randn(5, 4, dtype=torch.float64)
    x = torch.cat([near, near + torch.randn(5, 4, dtype=torch.float64)], 1)
    context = Context.of({k: v.detach() for k, v in model.state_dict().items()}, graph)
    allowed = rounding_of_output(graph, context, {"input": x})
    output = graph.run(model, x)[graph.output].detach()
    for row, value, limit in zip(x.tolist(), output.tolist(), allowed.tolist(), strict=True):
        for true, own, most in zip(exact(layer, [Fraction(v) for v in row]), value, limit, strict=True):
            assert abs(Fraction(own) - true) <= Fraction(most)
            assert most <= 4 * 40 * 2.0**-52 * 2 * 17 * (size * 4 + 4)  # every term at its largest, moved twice


def test_what_is_allowed_is_of_the_path_to_the_output() -> None:
    """A feature of 1e12 that is scaled by 1e-12 counts as one of size 1."""
    model = copy.deepcopy(Body(lambda m, x: m.plain(x * m.scale**(4 / 3)))).double()
    graph = cg.trace(model, X[:2])
    x = torch.cat([1e12 * X[:, :1], X[:, 1:]], 1).double()
    allowed = rounding_of_output(graph, Context.of(model, graph), {"x": x})
    assert float(allowed.max()) <= 1e-12
