"""Reference weights must be of the same network and must not depend on the sample, or the user vouches for them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import covergraph as cg
from covergraph.errors import ForeignModelError, ParameterError
from covergraph.values import Measurements

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def trained(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).train()
    chosen = [p for p in model.parameters() if p.requires_grad]
    for _ in range(2):
        F.cross_entropy(model(X), Y).backward()
        with torch.no_grad():
            for p in chosen:
                p -= 0.1 * p.grad
                p.grad = None
    return model.eval()


def measured(model: nn.Module, start: Any, **options: Any) -> Measurements:
    bound = cg.derive(cg.augment(cg.trace(model, X[:2])))
    return cg.measure(bound, model, [(X, Y)], init_model=start, fill=True, **options)


@cache
def after() -> nn.Module:
    return trained(network())


def passed(model: nn.Module) -> nn.Module:
    """After one forward pass in train mode, without a step."""
    model.train()(X)
    return model.eval()


def changed(model: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(model[1], name, value)
    return model


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def reset(model: Any) -> Any:
    model[1].reset_running_stats()
    return model


Start = Callable[[], Any]
REFUSED: dict[str, tuple[Start, str]] = {
    "the model": (after, "shares its weights"),
    "a view of its weights": (lambda: dict(after().state_dict(keep_vars=True)), "shares its weights"),
    "a copy made after": (lambda: copy.deepcopy(after()), r"same weights .*copy\.deepcopy.*before.*never trained"),
    "its state": (lambda: {k: v.clone() for k, v in after().state_dict().items()}, "same weights"),
    "a copy with new statistics": (lambda: reset(copy.deepcopy(after())), "same weights"),
    "a copy in half precision": (lambda: reset(copy.deepcopy(after()).half()), "same weights"),
    "wrapped": (lambda: nn.DataParallel(copy.deepcopy(after())), "same weights"),
    "statistics": (lambda: passed(network()), "'1' of init_model has statistics of 1 batch,"),
    "cumulative statistics": (lambda: passed(changed(network(), momentum=None)), "statistics of 1 batch,"),
    "uncounted": (lambda: changed(passed(network()), num_batches_tracked=torch.tensor(0)), "that it did not count"),
    "another variance": (lambda: changed(network(), running_var=torch.full((5,), 2.0)), "that it did not count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_reference_that_may_depend_on_the_sample_is_refused_unless_the_user_vouches_for_it(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ParameterError, match=f"(?s)measure: .*{words}.*trust_init=True"):
        measured(after(), make())
    found = measured(after(), make(), trust_init=True)
    assert len(found.assumed) >= 1 and "the reference does not depend on the sample, although" in found.assumed[0]


def test_a_copy_of_a_frozen_model_is_a_copy() -> None:
    model = frozen(trained(network()))
    with pytest.raises(ParameterError, match="same weights"):
        measured(model, copy.deepcopy(model))
    assert measured(model, network(1)).assumed == ()


def test_frozen_parts_may_be_equal() -> None:
    start = network()
    start[0].requires_grad_(False)
    found = measured(trained(start), start)
    assert found.layers["0"].a.upper == 0 < found.layers["3"].a.lower
    (words,) = found.assumed
    assert words.startswith("0.weight, 0.bias of init_model, frozen and equal to the model's, do not depend")


def rounded(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy with other weights, and new statistics."""
    model = reset(copy.deepcopy(model))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(change(p))
    return model


def steps(p: Tensor) -> Tensor:
    """Eight bits."""
    size = p.abs().max() / 127
    return (p / size).round() * size


NARROW = (torch.float16, torch.bfloat16, torch.float8_e5m2)


@pytest.mark.parametrize("kind", NARROW)
def test_weights_that_were_saved_in_another_precision_are_the_trained_ones(kind: torch.dtype) -> None:
    with pytest.raises(ParameterError, match="same weights"):
        measured(after(), rounded(after(), lambda p: p.to(kind).to(p.dtype)))


MADE = {"scaled": lambda p: 0.999 * p, "eight bits": steps}


@pytest.mark.parametrize("case", MADE)
def test_what_is_nearly_the_trained_network_is_an_assumption(case: str) -> None:
    with pytest.warns(UserWarning, match=r"0\.weight.* of init_model, within 2%.*copy\.deepcopy"):
        found = measured(after(), rounded(after(), MADE[case]))
    assert found.assumed[0].startswith("0.weight, ") and "do not depend on the sample" in found.assumed[0]


def test_a_mask_that_pruning_chose_is_an_assumption() -> None:
    start, model = network(), trained(network())
    for one in (start, model):
        prune.custom_from_mask(one[0], "weight", model[0].weight.detach().abs() > 0.3)
    with pytest.warns(UserWarning, match=r"supposes that 0\.weight_mask, 0\.bias of init_model"):
        assert any("0.weight_mask" in words for words in measured(model, start).assumed)


def test_the_assumption_is_printed() -> None:
    loader = [(X, Y)]
    analysis = cg.analyze(after(), loader, passed(network()), trust_init=True, fill=True)
    words = "This supposes that the reference does not depend on the sample, although the BatchNorm '1'"
    assert words in analysis.explain()
    assert "supposes" not in cg.analyze(after(), loader, network(1), fill=True).explain()


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": nn.DataParallel,
    "averaged": AveragedModel,
    "compiled": partial(torch.compile, backend="eager"),
    "twice": lambda m: nn.DataParallel(AveragedModel(m)),
    "state": lambda m: nn.DataParallel(m).state_dict(),
    "a module around it": Around,
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_wrapper_around_the_reference_changes_nothing(case: str) -> None:
    plain, wrapped = measured(after(), network()), measured(after(), WRAPPED[case](network()))
    assert wrapped.layers == plain.layers


def test_a_module_around_the_model_changes_nothing() -> None:
    found = measured(Around(after()).eval(), network()).layers
    assert [size.a for size in found.values()] == [size.a for size in measured(after(), network()).layers.values()]


class Adapted(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(4, 1, bias=False), nn.Linear(1, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + self.up(self.down(x))
        return result


def test_a_reference_from_before_an_adapter_is_named_as_what_is_wrong() -> None:
    model = network()
    model[0] = Adapted(model[0])
    words = r"'0\.base\.weight', and init_model \(Sequential\) has no such.*'0\.w"
    with pytest.raises(ForeignModelError, match=words) as e:
        measured(model.eval(), network())
    assert "the model that was traced" not in str(e.value) and "as the trained model was" in str(e.value)


def test_a_reference_of_other_shapes_is_refused_before_anything_is_measured() -> None:
    other = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    words = r"'0'.*'0\.weight' of init_model has shape \(6, 4\), expected \(5, 4\)"
    with pytest.raises(ForeignModelError, match=words):
        measured(after(), other)


# Constants that training may have chosen


class Scaled(nn.Module):
    """A network whose first layer multiplies by a constant of any kind; its head may hide what stands before it."""

    def __init__(self, kind: str, value: float, seed: int, head: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.out, self.kind = nn.Linear(4, 5), nn.Linear(5, 3), kind
        with torch.no_grad():
            self.out.weight.mul_(head)
        if kind == "buffer":
            self.register_buffer("s", torch.full((4,), value), persistent=False)
        self.s: Any = {
            "number": value, "attribute": torch.tensor([value, 1, 1, 1]), "list": [torch.tensor(value)],
            "index": torch.arange(4).roll(int(value)), "mask": torch.arange(4) < value,
        }.get(kind, getattr(self, "s", None))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.hidden.weight
        s = self.s[0] if self.kind == "list" else self.s
        weight = weight[:, s] if self.kind == "index" else weight * s
        result: Tensor = self.out(torch.tanh(F.linear(x, weight)))
        return result


KINDS = ("number", "attribute", "list", "buffer", "index", "mask")


@pytest.mark.parametrize("head", [1.0, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_with_other_constants_is_refused(kind: str, head: float) -> None:
    """Also where the new network's head is 0, so that its outputs show nothing."""
    with pytest.raises(ParameterError, match="init_model has other constants than the trained model"):
        measured(Scaled(kind, 3.0, seed=1), Scaled(kind, 2.0, seed=2, head=head))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_with_the_same_constants_is_taken(kind: str) -> None:
    model, start = Scaled(kind, 3.0, seed=1), Scaled(kind, 3.0, seed=2)
    found = measured(model, start).layers["linear"].a
    factor = start.s[0] if kind == "list" else start.s
    change = model.hidden.weight - start.hidden.weight
    change = (change[:, factor] if kind == "index" else change * factor).detach().double()
    expected = float(change.norm(dim=1).sum())
    assert found.lower <= expected * (1 + 1e-6) and found.upper >= expected * (1 - 1e-6)  # a float32 difference


def test_the_constant_is_named() -> None:
    with pytest.raises(ParameterError, match=r"\(s is 3 in the trained model and 2 in init_model\)"):
        measured(Scaled("number", 3.0, 1), Scaled("number", 2.0, 2))


# Integers of the state


class Integers(nn.Module):
    """A layer of the weights `codes` times a scale, in one of the ways in which they are kept."""

    def __init__(self, codes: Tensor, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out, self.kind = nn.Linear(4, 6), nn.Linear(6, 3), kind
        if kind == "float":
            self.weight = nn.Parameter(codes.float() / 8)
        elif kind == "packed":
            low, high = (codes + 8).to(torch.uint8).unbind(1)
            self.register_buffer("weight", low | (high << 4))
        else:
            self.register_buffer("weight", codes.to(torch.int8), persistent=kind != "not kept")
        self.register_buffer("zero", torch.tensor(0, dtype=torch.int8))

    def matrix(self, like: Tensor) -> Tensor:
        if self.kind == "float":
            return self.weight
        if self.kind == "packed":
            pairs = torch.stack([self.weight & 15, self.weight >> 4], 1)
            return ((pairs.to(like.dtype) - 8) / 8).reshape(6, 6)
        if self.kind == "shifted":
            return ((self.weight.int() - self.zero).to(like.dtype) / 8).reshape(6, 6)
        return (self.weight * 0.125 if self.kind == "promoted" else self.weight.to(like.dtype) / 8).reshape(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        matrix = self.matrix(h).reshape(6, 6)
        result: Tensor = self.out(torch.tanh(F.linear(h, matrix)))
        return result


def codes(seed: int) -> Tensor:
    return torch.randint(-8, 8, (18, 2), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["kept", "not kept", "promoted", "shifted", "packed"])
@pytest.mark.parametrize("start", [False, True], ids=["reference 0", "reference init"])
def test_integers_that_become_weights_are_learned(kind: str, start: bool) -> None:
    """An eighth of an integer is a float, so both networks and both certificates are the same."""
    values = []
    for way in ("float", kind):
        before = Integers(codes(1), way) if start else None
        if before is not None:
            with torch.no_grad():
                for p in (*before.first.parameters(), *before.out.parameters()):
                    p.mul_(0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            analysis = cg.analyze(Integers(codes(0), way), [(X, Y)], before, fill=True)
        values.append(analysis.certificate.C)
        assert analysis.measurements.assumed == ()
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_a_table_of_integers_is_learned() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("rows", torch.randint(-8, 8, (7, 4)))
            self.out = nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            result: Tensor = self.out(torch.tanh(F.embedding(tokens, self.rows).to(self.out.weight.dtype)))
            return result

    model = Table()
    found = cg.analyze(model, [(torch.arange(16) % 7, Y)], fill=True).measurements.layers["embedding"].a
    expected = float(model.rows.double().norm(dim=0).sum())
    assert found.lower <= expected <= found.upper


class Selecting(nn.Module):
    """Integers and masks that only say which entries are taken."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("places", torch.arange(4).reshape(1, 4))
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("kept", torch.ones(4, 4, dtype=torch.bool).tril())
        self.table, self.query, self.out = nn.Embedding(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.query(x).unsqueeze(1) + self.table(self.places)
        h = F.scaled_dot_product_attention(h, h, h[..., self.order], attn_mask=self.kept)
        scores = (h @ h.mT).masked_fill(~self.kept, -1e9).softmax(-1)
        result: Tensor = self.out((scores @ h).mean(1))
        return result


def test_what_only_selects_is_a_constant_of_the_architecture() -> None:
    graph = cg.trace(Selecting(), X)
    assert graph.weights.factors == ()
    assert not {"places", "order", "kept"} & set(graph.state_names)


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.values = {k: v.detach().clone() for k, v in self.out.named_parameters()}
        self.gain, self.order = torch.tensor(2.0), torch.tensor([1, 0, 2, 3, 4])
        self.register_buffer("shift", torch.rand(5), persistent=False)
        self.register_buffer("channels", torch.arange(5) < 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x) * self.gain + self.shift.cos())[:, self.order] * self.channels
        return torch.func.functional_call(self.out, self.values, h) * torch.tensor([1.0, 2.0, 3.0])  # type: ignore


def test_constants_that_the_model_holds_are_named_where_they_enter_arithmetic() -> None:
    with pytest.warns(UserWarning, match=r"measure: .* the tensors gain, shift, channels, values\['weight'\], values"):
        analysis = cg.analyze(Constants(), [(X, Y)], fill=True)
    for name in ("gain", "shift", "channels", "values['weight']"):
        assert name in analysis.explain()
    assert "order" not in analysis.explain()
