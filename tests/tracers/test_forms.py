"""Models in the forms that people have: wrapped, with gradients, not to be copied, without parameters, oddly named."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import covergraph as cg
from covergraph.errors import TracingError
from covergraph.graph.home import home

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
SAMPLE = [(X, torch.arange(20) % 3)]


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


def value(model: nn.Module) -> float:
    return cg.analyze(model, SAMPLE, fill=True, progress=False).certificate.value


class Around(nn.Module):
    """As wrappers of many libraries are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        return self.inner(*args, **kwargs)


class Keyed(nn.Module):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.layers, self.key = nn.ModuleDict({key: plain()[0], "last": plain()[2]}), key

    def forward(self, x: Tensor) -> Tensor:
        return self.layers["last"](torch.tanh(self.layers[self.key](x)))


class First(nn.Module):
    """A first parameter that is no real number, and perhaps picks."""

    def __init__(self, first: Tensor, picks: bool = False) -> None:
        super().__init__()
        self.first, self.picks = nn.Parameter(first, requires_grad=False), picks
        self.body = plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x[:, self.first] if self.picks else x)


class Buffers(nn.Module):
    """All weights are buffers."""

    def __init__(self) -> None:
        super().__init__()
        for i in (0, 2):
            self.register_buffer(f"w{i}", plain()[i].weight.detach().clone())
            self.register_buffer(f"b{i}", plain()[i].bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w0.T + self.b0) @ self.w2.T + self.b2


def stores(model: nn.Sequential) -> nn.Module:
    """Keeps an activation, which deepcopy refuses, and a lock."""
    model[1].register_forward_hook(lambda module, args, out: setattr(module, "kept", out))
    model.lock = threading.Lock()
    model(X)
    return model


FORMS: dict[str, Callable[[], nn.Module]] = {
    "DataParallel": lambda: nn.DataParallel(plain()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(plain()),
    "a wrapper": lambda: Around(plain()),
    "two wrappers": lambda: Around(nn.DataParallel(plain())),
    "a key that is a word of Python": lambda: Keyed("class"),
    "a key with a space": lambda: Keyed("the first"),
    "an integer parameter": lambda: First(torch.tensor([1, 2])),
    "an integer parameter that picks": lambda: First(torch.tensor([0, 1, 2, 3]), True),
    "a complex parameter": lambda: First(torch.ones(2, dtype=torch.complex64)),
    "buffers alone": Buffers,
    "not to be copied": lambda: stores(plain()),
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_the_certificate_of_the_plain_network(form: str, trained: bool) -> None:
    model = FORMS[form]()
    if trained and form != "buffers alone":
        model(X).sum().backward()  # gradients are kept
    before = {name: p.grad for name, p in model.named_parameters()}
    assert value(model) == pytest.approx(value(plain()), rel=1e-9)
    assert all(p.grad is before[name] for name, p in model.named_parameters())


@pytest.mark.parametrize("key", ["class", "the first", "1"])
def test_module_paths_survive_every_way(key: str) -> None:
    assert [node.name for node in cg.trace(Keyed(key), X[:2]).nodes] == ["x", f"layers.{key}", "tanh", "layers.last"]


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.mix, x.T).T


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (Sparse, r"'mix' of the model is torch.sparse_coo.*expected a dense tensor"),
        (quantized, r"module '0' is torch\.ao\.nn\.quantized.*from before quantization"),
        (lambda: torch.jit.script(plain()), r"torch\.jit, whose Python code is gone; expected the nn\.Module"),
        (lambda: torch.jit.trace(plain(), X), r"torch\.jit, whose Python code is gone; expected the nn\.Module"),
        (lambda: nn.Linear, r"the class Linear, expected a module; make one: Linear\(\.\.\.\)"),
    ],
    ids=["sparse", "quantized", "scripted", "traced by jit", "class"],
)
def test_what_cannot_be_traced_is_refused_by_name(make: Callable[[], nn.Module], pattern: str) -> None:
    with pytest.raises(TracingError, match=pattern):
        cg.trace(make(), X[:2])


def test_a_model_without_tensors_lives_where_torch_does() -> None:
    assert home(nn.Tanh()) == (torch.device("cpu"), torch.get_default_dtype())
    assert home(First(torch.tensor([1]))) == (torch.device("cpu"), torch.float32)
    assert home(plain().half())[1] == torch.float16
