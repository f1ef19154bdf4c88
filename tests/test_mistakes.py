"""Wrong kinds of arguments anywhere in the public API end in covergraph's own errors, which say what was expected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg
from covergraph.errors import CovergraphError
from covergraph.trajectory import corollary1, theorem1

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
SAMPLE = [(X, Y)]


@cache
def made() -> SimpleNamespace:
    """A network, and everything that an analysis of it makes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    analysis = cg.analyze(net, SAMPLE, fill=True)
    start = copy.deepcopy(net)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    return SimpleNamespace(net=net, start=start, sgd=sgd, **vars(analysis))


def analyze(**options: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: cg.analyze(a.net, SAMPLE, **options)


def measure(**options: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: cg.measure(a.bound, a.net, SAMPLE, **options)


ANALYZE = {
    "loss": [nn.CrossEntropyLoss(), "cross_entropy", cg.MarginLoss, lambda h, y: h[:, 0]],
    "init_model": ["init.pt", 3, nn.Linear, [1], nn.Linear(4, 3)],
    "delta": ["0.05", 5, None, float("nan"), torch.tensor([0.1, 0.2])],
    "mode": ["full", None, ["paper"]],
    "output": ["logits", 1.5, object()],
    "device": ["gpu", 99, object()],
    "memory": ["1GB", -1, None, 1.5],
    "width": ["1.01", 0.5, None],
    "failure": ["small", 2],
    "budget": ["10", -1],
    "checkpoint": [5, __file__],
    "fill": ["yes", None],
    "exact": ["no", 1],
    "trust_init": ["yes", 3, None],
    "progress": ["no"],
    "condition_quantile": ["max", 2],
    "batch_to": ["inputs"],
    "duplicates": [True, "allow"],
}
MEASURE = {"dtype": ["float32", torch.float16], "seed": ["x", 1.5], "init_model": ["init.pt"]}
CALLS: dict[str, Callable[[SimpleNamespace], Any]] = {
    **{f"analyze {key} {i}": analyze(**{key: v}) for key, values in ANALYZE.items() for i, v in enumerate(values)},
    **{f"measure {key} {i}": measure(**{key: v}) for key, values in MEASURE.items() for i, v in enumerate(values)},
    "a class": lambda a: cg.analyze(nn.Linear, SAMPLE),
    "a function": lambda a: cg.analyze(lambda x: x, SAMPLE),
    "a table": lambda a: cg.analyze(a.net, pd.DataFrame(X.numpy())),
    "a list of two arrays": lambda a: cg.analyze(a.net, [X, Y]),
    "a name": lambda a: cg.analyze("resnet18", SAMPLE),
    "swapped": lambda a: cg.analyze(SAMPLE, a.net),
    "no model": lambda a: cg.analyze(None, SAMPLE),
    "no loader": lambda a: cg.analyze(a.net, None),
    "a number": lambda a: cg.analyze(a.net, 3),
    "trace a name": lambda a: cg.trace("resnet18", X),
    "trace without example": lambda a: cg.trace(a.net, None),
    "trace an example that is text": lambda a: cg.trace(a.net, "x"),
    "trace a loader": lambda a: cg.trace(a.net, DataLoader(TensorDataset(X, Y))),
    "trace keywords in a list": lambda a: cg.trace(a.net, X, [1]),
    "trace functions in a list": lambda a: cg.trace(a.net, X, functions=[1]),
    "trace functions of torch": lambda a: cg.trace(a.net, X, functions={nn.Tanh: torch.tanh}),
    "trace blocks": lambda a: cg.trace(a.net, X, blocks=3),
    "trace a script": lambda a: cg.trace(torch.jit.trace(a.net, X), X),
    "augment a model": lambda a: cg.augment(a.net),
    "augment nothing": lambda a: cg.augment(None),
    "augment with a name": lambda a: cg.augment(a.graph, "margin"),
    "augment in a mode": lambda a: cg.augment(a.graph, mode="full"),
    "derive a graph": lambda a: cg.derive(a.graph),
    "derive a model": lambda a: cg.derive(a.net),
    "measure an analysis": lambda a: cg.measure(a, a.net, SAMPLE),
    "measure a graph": lambda a: cg.measure(a.graph, a.net, SAMPLE),
    "measure no model": lambda a: cg.measure(a.bound, None, SAMPLE),
    "measure a name": lambda a: cg.measure(a.bound, "model.pt", SAMPLE),
    "choose, swapped": lambda a: cg.choose(a.measurements, a.bound),
    "choose of a graph": lambda a: cg.choose(a.graph, a.measurements),
    "choose of nothing": lambda a: cg.choose(a.bound, None),
    "choose on a grid": lambda a: cg.choose(a.bound, a.measurements, grid="fine"),
    "evaluate, swapped": lambda a: a.bound.evaluate(a.parameters, a.measurements),
    "evaluate nothing": lambda a: a.bound.evaluate(None),
    "evaluate at a text": lambda a: a.bound.evaluate(a.measurements, a.parameters, delta="x"),
    "evaluate a dictionary": lambda a: a.bound.evaluate(a.measurements, {}),
    "coarsen a model": lambda a: cg.coarsen(a.net, ["0"]),
    "coarsen by number": lambda a: cg.coarsen(a.graph, 3),
    "blocks of a model": lambda a: cg.blocks(a.net, 1),
    "blocks at no depth": lambda a: cg.blocks(a.graph, "1"),
    "merge chains of a model": lambda a: cg.merge_chains(a.net),
    "a loss of a text": lambda a: cg.LipschitzLoss(lambda h, y: h, "x"),
    "a loss of a number": lambda a: cg.LipschitzLoss(3, 1.0),
    "a loss of a nan": lambda a: cg.LipschitzLoss(lambda h, y: h, float("nan")),
    "a theorem of a path": lambda a: theorem1("run.trajectory"),
    "a corollary of a model": lambda a: corollary1(a.net),
    "no file": lambda a: cg.Trajectory.load("nowhere"),
    "no path": lambda a: cg.Trajectory.load(3),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_kind_is_refused_with_what_was_expected(name: str) -> None:
    with pytest.raises(CovergraphError) as caught:
        CALLS[name](made())
    message = str(caught.value)
    assert any(word in message for word in ("expected", "pass ", "names", "takes", "one of", "try ")), message


def test_messages_say_what_to_do_instead() -> None:
    for name, words in {
        "analyze loss 0": "loss is of type CrossEntropyLoss, expected a loss of covergraph, or None; .*LipschitzLoss",
        "analyze init_model 0": "init_model is 'init.pt', expected a module.*a file has to be loaded first",
        "analyze delta 0": "delta is '0.05', expected a number",
        "choose, swapped": "bound is of type Measurements, expected a Bound; make it with covergraph.derive",
        "trace a script": "expected the nn.Module that it was made from",
    }.items():
        with pytest.raises(CovergraphError, match=words):
            CALLS[name](made())


def test_all_errors_have_one_name() -> None:
    with pytest.raises(cg.CovergraphError):
        cg.trace("resnet18", X)  # type: ignore[arg-type]
