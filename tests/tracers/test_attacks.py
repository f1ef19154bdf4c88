"""Models that a check of numbers alone lets through: each is refused, or traced as what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import covergraph as cg
from covergraph.errors import BatchMixingError, ForeignModelError, TracingError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.tracers import trace
from covergraph.tracers.tracing import WAYS, Way, trace_report

FILLS = {"-1e9": -1e9, "finfo.min": torch.finfo(torch.float32).min, "-inf": -torch.inf}
LAST = torch.tensor([False, False, False, True])

Forward = Callable[..., Any]


class Body(nn.Module):
    """A linear layer, further attributes as given, and a function as forward."""

    def __init__(self, function: Forward, **attributes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.function = nn.Linear(4, 4), function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor, *rest: Tensor) -> Any:
        return self.function(self, x, *rest)


def buffered(function: Forward, **buffers: Tensor) -> Body:
    body = Body(function)
    for name, value in buffers.items():
        body.register_buffer(name, value)
    return body


def example(*shape: int) -> Tensor:
    return torch.randn(*(shape or (5, 4)), generator=torch.Generator().manual_seed(0))


def assert_follows(graph: ComputationGraph, model: nn.Module, *inputs: Tensor) -> None:
    """The graph computes what the model computes, NaN and infinite entries included."""
    model.double()
    inputs = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    with torch.no_grad():
        found, expected = graph.run(model, *inputs)[graph.output], model(*inputs)
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-9, atol=1e-9, equal_nan=True)


# What the outputs hide


@pytest.mark.parametrize("fill", FILLS)
def test_masked_outputs_do_not_hide_samples_that_meet(fill: str) -> None:
    """Beside -1e9, a difference of 1 is 1e-9 of the largest entry."""
    body = Body(lambda m, x: m.fc(x - x.mean(0)).masked_fill(LAST, FILLS[fill]))
    with pytest.raises(BatchMixingError, match="depends on the other samples"):
        trace(body, example())


@pytest.mark.parametrize("fill", FILLS)
def test_masked_outputs_are_traced(fill: str) -> None:
    body = Body(lambda m, x: m.fc(x).masked_fill(LAST, FILLS[fill]))
    assert_follows(trace(body, example()), body, example(3, 4))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_example_without_a_finite_output_is_refused(value: float) -> None:
    body = Body(lambda m, x: m.fc(x - x.mean(0)))
    with pytest.raises(TracingError, match="every output of the model on the example is NaN or infinite; pass"):
        trace(body, torch.full((5, 4), value))


# What training changes, but the state does not show


def trained(*shape: int) -> Tensor:
    return example(*shape).requires_grad_()


HIDDEN: dict[str, Callable[[], Body]] = {
    "attribute": lambda: Body(lambda m, x: F.linear(torch.tanh(m.fc(x)), m.w), w=trained(3, 4)),
    "list": lambda: Body(lambda m, x: F.linear(torch.tanh(m.fc(x)), m.w[0]), w=[nn.Parameter(example(3, 4))]),
    "dictionary": lambda: Body(lambda m, x: m.fc(x) * m.w["scale"], w={"scale": trained(4)}),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_what_may_be_trained_must_be_in_the_state(case: str) -> None:
    with pytest.raises(TracingError, match=r"requires gradients and is not in its state .*; register it"):
        trace(HIDDEN[case](), example())


def test_a_constant_attribute_is_a_constant() -> None:
    graph = trace(Body(lambda m, x: m.fc(x) * m.w, w=example(4)), example())
    assert graph.state_names == ("fc.weight", "fc.bias")
    assert len(graph.weights.constants) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_alias_of_a_parameter_is_the_parameter(dtype: torch.dtype) -> None:
    """The float64 copy of a float32 model has new memory, in which the alias must stay one."""
    body = Body(lambda m, x: F.linear(torch.tanh(m.fc(x)), m.alias), other=nn.Linear(4, 3)).to(dtype)
    body.alias = body.other.weight.data
    graph = trace(body, example().to(dtype))
    assert graph[graph.output].parameters == (("weight", "other.weight"),)


def test_a_complex_parameter_is_state() -> None:
    body = Body(lambda m, x: F.linear(m.fc(x), m.c.real), c=nn.Parameter(torch.randn(3, 4, dtype=torch.complex64)))
    graph = trace(body, example())
    assert graph.state_names == ("fc.weight", "fc.bias", "c")
    assert graph[graph.output].learned
    x = example(3, 4)
    with torch.no_grad():
        body.c.mul_(2 - 1j)
        expected = body(x)
    torch.testing.assert_close(graph.run(body, x)[graph.output], expected)


# Numbers that are read from the state


READS: dict[str, Forward] = {
    "float": lambda m, x: m.fc(x) * float(m.p),
    "item": lambda m, x: m.fc(x) * m.p.item(),
    "int": lambda m, x: m.fc(x) * int(m.p),
    "tolist": lambda m, x: m.fc(x) * m.p.tolist(),
    "numpy": lambda m, x: m.fc(x) * m.p.detach().numpy().item(),
    "branch on a number": lambda m, x: m.fc(x) if float(m.p) > 0 else torch.sin(m.fc(x)),
    "branch that other weights seldom take": lambda m, x: m.fc(x) if float(m.p.abs()) > 1e-3 else torch.sin(m.fc(x)),
    "branch": lambda m, x: m.fc(x) if m.p > 0 else torch.sin(m.fc(x)),
    "branch on a bool": lambda m, x: m.fc(x) if bool(m.p > 0) else torch.sin(m.fc(x)),
}


@pytest.mark.parametrize("way", [WAYS, *((way,) for way in WAYS)], ids=["all", *(way.__name__ for way in WAYS)])
@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("case", READS)
def test_a_number_read_from_the_state_is_refused(case: str, kind: str, way: tuple[Way, ...]) -> None:
    """A graph would keep its present value, and not follow training."""
    value = torch.tensor(2.0)
    made = Body(READS[case], p=nn.Parameter(value)) if kind == "parameter" else buffered(READS[case], p=value)
    with pytest.raises(TracingError):
        trace_report(made, example(), ways=way)


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_the_refusal_says_what_to_do(kind: str) -> None:
    value = torch.tensor(2.0)
    body = Body(READS["float"], p=nn.Parameter(value)) if kind == "parameter" else buffered(READS["float"], p=value)
    with pytest.raises(TracingError, match=r"depends on values of the data or of parameters.*; replace .*use no .item"):
        trace(body, example())


# Samples that meet where the example does not show it


CONSTANT_MASKS: dict[str, tuple[Forward, Tensor]] = {
    "integers": (lambda m, x, f: m.fc(x) * f.amax(0, keepdim=True).to(x.dtype), torch.ones(5, 4, dtype=torch.long)),
    "floats": (lambda m, x, f: m.fc(x) * f.amax(0, keepdim=True), torch.ones(5, 4)),
    "booleans": (lambda m, x, f: m.fc(x) * f.all().to(x.dtype), torch.ones(5, dtype=torch.bool)),
}


@pytest.mark.parametrize("case", CONSTANT_MASKS)
def test_a_mask_that_is_the_same_everywhere_is_varied(case: str) -> None:
    """An example without padding; real batches have some."""
    function, mask = CONSTANT_MASKS[case]
    with pytest.raises(BatchMixingError):
        trace(Body(function), (example(), mask))


RARELY: dict[str, Forward] = {
    "where": lambda m, x: m.fc(torch.where(x.abs() > 50, x.mean(0, keepdim=True), x)),
    "relu": lambda m, x: m.fc(x) + torch.relu(x.mean(0) - 20),
    "sigmoid": lambda m, x: m.fc(x) + torch.sigmoid(x.mean(0) - 1000),
}


@pytest.mark.parametrize("case", RARELY)
def test_samples_that_meet_at_large_values_only(case: str) -> None:
    with pytest.raises(BatchMixingError, match="seen with a large third sample"):
        trace(Body(RARELY[case]), example())


def test_samples_that_meet_at_the_batch_size_of_the_example_only() -> None:
    body = Body(lambda m, x: m.fc(x - x.mean(0) if x.shape[0] > 3 else x))
    with pytest.raises(BatchMixingError, match="depends on the other samples"):
        trace(body, example())


def attention(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    """With an additive mask of the narrowest float."""
    q = m.fc(x)
    bias = (1.0 - mask[:, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
    return torch.softmax(q @ q.mT + bias, -1) @ x


def causal(m: Any, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.fc(x), x, x, is_causal=True)


def sequence_first(m: Any, x: Tensor) -> Tensor:
    result: Tensor = m.rnn(m.fc(x).transpose(0, 1))[0].transpose(0, 1)
    return result


def last_state(m: Any, x: Tensor) -> Tensor:
    """Of shape (1, batch, 3): the samples lie side by side, but not in dim 0."""
    result: Tensor = m.rnn(m.fc(x).transpose(0, 1))[1]
    return result


def layers(*modules: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*modules).eval()


MASKS = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
LEGITIMATE: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "batch norm": (lambda: layers(nn.Linear(4, 4), nn.BatchNorm1d(4)), (example(),)),
    "layer norm": (lambda: layers(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU()), (example(),)),
    "instance norm": (lambda: layers(nn.Conv1d(4, 4, 1), nn.InstanceNorm1d(4)), (example(3, 4, 5),)),
    "softmax": (lambda: layers(nn.Linear(4, 4), nn.Softmax(-1)), (example(),)),
    "exponential": (lambda: Body(lambda m, x: m.fc(x).exp()), (example(),)),
    "polynomial": (lambda: Body(lambda m, x: m.fc(x) ** 3 / (1 + m.fc(x).abs())), (example(),)),
    "attention with masks": (lambda: Body(attention), (example(3, 3, 4), MASKS)),
    "causal attention": (lambda: Body(causal), (example(3, 3, 4),)),
    "tokens": (lambda: layers(nn.Embedding(7, 4), nn.LSTM(4, 3, batch_first=True)), (torch.arange(6).reshape(2, 3),)),
    "equal tokens": (lambda: layers(nn.Embedding(1, 4)), (torch.zeros(3, 5, dtype=torch.long),)),
    "sequence first inside": (lambda: Body(sequence_first, rnn=nn.GRU(4, 3)), (example(3, 3, 4),)),
    "sequence first, of length 1": (lambda: Body(last_state, rnn=nn.GRU(4, 3)), (example(3, 3, 4),)),
}


@pytest.mark.parametrize("case", LEGITIMATE)
def test_models_that_keep_their_samples_apart_are_traced(case: str) -> None:
    make, inputs = LEGITIMATE[case]
    report = trace_report(make(), inputs, output=0 if case == "tokens" else None)
    assert 0.0 <= report.error <= 1e-9


# Masks and numbers that are not finite


TWO = torch.tensor([False, False, True, True])
MASKED: dict[str, tuple[Forward, int]] = {
    "where": (lambda m, x: torch.where(LAST, 1 / x, torch.zeros_like(x)), 0),
    "where the other way": (lambda m, x: torch.where(~LAST, 2.0, 1 / x), 0),
    "where of a parameter": (lambda m, x: torch.where(LAST, 1 / x, m.fc.bias), 0),
    "where of both": (lambda m, x: torch.where(LAST, 1 / x, x), 0),
    "masked_fill": (lambda m, x: (1 / x).masked_fill(~LAST, 2.0), 0),
    "logarithm": (lambda m, x: torch.where(LAST, torch.log(x * x), x), 0),
}


@pytest.mark.parametrize("case", MASKED)
def test_what_a_mask_drops_may_be_infinite(case: str) -> None:
    """0 * inf is NaN; torch.where does not multiply."""
    function, column = MASKED[case]
    body = Body(function)
    x = example(3, 4)
    x[:, column] = 0
    graph = trace(body, example())
    assert_follows(graph, body, x)
    assert bool(graph.run(body, x.double())[graph.output].isfinite().all())


def test_masks_may_overlap() -> None:
    body = Body(lambda m, x: m.fc(x).masked_fill(LAST, -torch.inf).masked_fill(TWO, 0.0))
    graph = trace(body, example())
    assert_follows(graph, body, example(3, 4))
    assert graph.run(body, example(3, 4).double())[graph.output][:, 2:].tolist() == [[0.0, 0.0]] * 3


# What a model keeps


def center(m: Any, x: Tensor) -> Tensor:
    if m.kept is None:
        m.kept = x.mean()
    result: Tensor = m.fc(x) - m.kept
    return result


def standardize(m: Any, x: Tensor) -> Tensor:
    h = m.fc(x)
    if not m.started:
        m.scale.data.copy_(1 / (h.std(0) + 1e-6))
        m.started = True
    result: Tensor = h * m.scale
    return result


@pytest.mark.parametrize(
    ("function", "attributes", "name"),
    [(center, {"kept": None}, "kept"), (standardize, {"started": False, "scale": nn.Parameter(torch.ones(4))}, "")],
    ids=["attribute", "parameter"],
)
def test_what_the_first_batch_sets_is_refused(function: Forward, attributes: dict[str, Any], name: str) -> None:
    with pytest.raises(TracingError, match=f"the model keeps '{name}.*' from the first batch that it sees.*; run"):
        trace(Body(function, **attributes), example())


def positional(m: Any, x: Tensor) -> Tensor:
    """The table of a rotary embedding, made at the first call."""
    if m.table is None or m.table.shape[0] != x.shape[1]:
        m.table = torch.arange(x.shape[1], dtype=x.dtype).cos()[:, None]
    m.calls += 1
    result: Tensor = m.fc(x * m.table)
    return result


def test_a_cache_that_depends_on_shapes_alone_is_fine() -> None:
    body = Body(positional, table=None, calls=0)
    graph = trace(body, example(5, 3, 4))
    assert (body.table, body.calls) == (None, 0)
    fresh = Body(positional, table=None, calls=0)
    assert_follows(graph, fresh, example(2, 3, 4))


# What is computed from the state


def test_casts_of_the_state_to_integers_are_kept() -> None:
    """Rounding of a buffer, and quantization of a weight, follow the state."""

    def forward(m: Any, x: Tensor) -> Tensor:
        weight = (m.fc.weight * 10).to(torch.int8).to(x.dtype) / 10
        return F.linear(F.linear(x, m.w.to(torch.int8).to(x.dtype)), weight)

    body = buffered(forward, w=torch.tensor([[1.5, -2.5, 0.3, 2.0]] * 4))
    graph = trace(body, example())
    assert set(graph.state_names) == {"w", "fc.weight"}
    assert_follows(graph, body, example(3, 4))
    body.w.add_(0.75)
    assert_follows(graph, body, example(3, 4))


TRIANGLE: dict[str, Forward] = {
    "masked_fill": lambda m, x: (m.fc(x) @ x.mT).masked_fill(m.tril == 0, -torch.inf).softmax(-1) @ x,
    "masked_fill of a part": lambda m, x: (m.fc(x) @ x.mT).masked_fill(m.tril[:3, :3] == 0, -torch.inf).softmax(-1) @ x,
    "where": lambda m, x: torch.where(m.tril.bool(), m.fc(x) @ x.mT, torch.tensor(-1e9)).softmax(-1) @ x,
    "attention": lambda m, x: F.scaled_dot_product_attention(m.fc(x), x, x, attn_mask=m.tril.bool()),
}


@pytest.mark.parametrize("case", TRIANGLE)
def test_masks_made_of_a_float_buffer(case: str) -> None:
    """They are constants, as masks of booleans are; with another one the model is another function."""
    body = buffered(lambda m, x: TRIANGLE[case](m, x).flatten(1), tril=torch.tril(torch.ones(3, 3)))
    sample = [(example(9, 3, 4), torch.arange(9))]
    graph = trace(body, example(2, 3, 4))
    assert "tril" not in graph.state_names
    assert_follows(graph, body, example(2, 3, 4))
    bound = cg.derive(cg.augment(graph))
    cg.measure(bound, body, sample, fill=True)
    body.tril[0, 2] = 1.0
    with pytest.raises(ForeignModelError, match="computes another function"):
        cg.measure(bound, body, sample, fill=True)


def test_a_recurrence_of_thirty_steps_stays_a_graph() -> None:
    """Written out, the polynomial of step k has 2^k terms: regions of steps are capped."""

    def chebyshev(m: Any, x: Tensor) -> Tensor:
        x = torch.tanh(m.fc(x))
        before, last = torch.ones_like(x), x
        total = x
        for k in range(30):
            before, last = last, 2 * x * last - before
            total = total + last / (k + 2)
        return total

    body = Body(chebyshev)
    graph = trace(body, example())
    assert len(graph) > 60
    assert_follows(graph, body, example(3, 4))


@pytest.mark.parametrize("shape", [(1,), (4,), (1, 4)], ids=str)
def test_addmm_with_a_bias_that_broadcasts(shape: tuple[int, ...]) -> None:
    body = Body(lambda m, x: torch.addmm(m.b, x, m.w), b=nn.Parameter(example(*shape)), w=nn.Parameter(example(4, 4)))
    graph = trace(body, example())
    assert isinstance(graph[graph.output].operation, (op.Linear, op.Affine))
    assert graph.state(body)[graph[graph.output].parameter["bias"]].shape == (4,)
    assert_follows(graph, body, example(3, 4))


# No error but our own


def circular() -> nn.Module:
    module = nn.Linear(4, 4)
    module.me = module
    return module


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 // 0)


ODD: dict[str, Callable[[], Any]] = {
    "lazy": lambda: nn.Sequential(nn.LazyLinear(3)),
    "script": lambda: torch.jit.script(nn.Linear(4, 4)),
    "circular": circular,
    "failing": Failing,
    "not a module": lambda: torch.tanh,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ODD)
def test_odd_models_are_refused_as_such(case: str) -> None:
    with pytest.raises(TracingError, match=r";|expected") as caught:
        trace(ODD[case](), example())
    assert len(str(caught.value)) <= 600
    assert str(caught.value).count("\n") <= 1


def test_a_call_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from covergraph.tracers import convert

    def failing(call: Any) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr(convert, "RULES", {**convert.RULES, "tanh": failing})
    with pytest.raises(TracingError, match=r"'last'.*operation 'tanh' could not be read \(KeyError.*\); write it in"):
        trace(Body(lambda m, x: m.last(m.fc(x)), last=nn.Tanh()), example())
