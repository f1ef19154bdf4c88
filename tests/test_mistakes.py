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
from covergraph import trajectory as tr
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
    relu = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    steps = torch.optim.SGD(relu.parameters(), lr=0.1)
    with cg.TrajectoryRecorder(relu, steps) as recorder:
        for x in X.split(1):
            steps.zero_grad()
            relu(x).sum().backward()
            steps.step()
    regions = SimpleNamespace(net=relu, graph=recorder._graph, run=recorder.trajectory, costs=[1.0] * len(X))
    return SimpleNamespace(net=net, start=start, sgd=sgd, regions=regions, **vars(analysis))


def recorder(**options: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: cg.TrajectoryRecorder(a.net, a.sgd, **options)


def resumed(state: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: cg.TrajectoryRecorder(a.net, a.sgd).load_state_dict(state)


def of_a_run(name: str, **options: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: getattr(tr, name)(a.regions.run, **options)


def of_regions(name: str, **options: Any) -> Callable[[SimpleNamespace], Any]:
    """theorem2, theorem3 and lipschitz_map, of good arguments but one."""
    def call(a: SimpleNamespace) -> Any:
        known = {"graph": a.regions.graph, "model": a.regions.net, "points": X, "beta": 9.0, "gamma": 0.0}
        if name == "theorem3":
            known |= {"phi": 1.0, "zeta": 0.1}
        else:
            known |= {"costs": a.regions.costs}
        if name == "lipschitz_map":
            known |= {"origin": X[0], "u": X[1], "v": X[2], "extent": 1.0, "resolution": 2}
        elif name != "theorem3":
            known |= {"x": X[:2]}
        return getattr(tr, name)(**(known | options))

    return call


def analyze(**options: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: cg.analyze(a.net, SAMPLE, **options)


def measure(**options: Any) -> Callable[[SimpleNamespace], Any]:
    return lambda a: cg.measure(a.bound, a.net, SAMPLE, **options)


ANALYZE = {
    "loss": [nn.CrossEntropyLoss(), "cross_entropy", cg.MarginLoss, lambda h, y: h[:, 0]],
    "init_model": ["init.pt", 3, nn.Linear, [1], nn.Linear(4, 3)],
    "delta": ["0.05", 5, None, float("nan"), torch.tensor([0.1, 0.2])],
    "trust_init": ["a", 1, None],
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
    "progress": ["no"],
    "condition_quantile": ["max", 2],
    "batch_to": ["inputs"],
    "duplicates": [True, "allow"],
}
RECORD = {
    "active_rows": ["a", 1, None],
    "strict": ["yes", None],
    "overwrite": ["no", 0],
    "graph": [nn.Linear(4, 3), "graph"],
    "path": [".", f"{__file__}/below/run", "a\0b", 3],
}
RUNS = {
    "theorem1": {"steps": ["a", 5, slice("a", None)]},
    "theorem1_gradient": {"steps": [5]},
    "theorem1_batches": {"steps": [(0, 1)]},
    "corollary1": {"tau": ["a", None, 0.5, True]},
    "corollary2": {"start": ["a", None], "stop": ["a", 1.5]},
    "corollary3": {"steps": ["a"]},
    "first_layer_balance": {"second": ["run", None]},
}
REGION = {
    "theorem2": {
        "graph": [None], "model": [None, 3], "x": [None, [1.0]], "points": ["X"], "costs": ["a", ["a"] * 20, None],
        "beta": ["a", None], "gamma": ["a"], "consistent": [True], "trajectory": ["run"], "rows": [3],
    },
    "theorem2_sum": {"x": [None], "costs": [3]},
    "theorem3": {
        "phi": ["a"], "zeta": [None], "delta": ["a"], "sample": ["a"], "cover": [3], "dimension": ["a"], "gap": ["a"],
        "beta": ["a"], "gamma": [None], "points": [None], "rows": [None], "trajectory": [1],
    },
    "lipschitz_map": {
        "origin": [None], "u": [1.0], "v": ["a"], "extent": ["a"], "resolution": ["a", 2.5], "beta": ["a"],
    },
}
MEASURE = {
    "trust_init": ["a", None], "dtype": ["float32", torch.float16], "seed": ["x", 1.5], "init_model": ["init.pt"],
}
CALLS: dict[str, Callable[[SimpleNamespace], Any]] = {
    **{f"analyze {key} {i}": analyze(**{key: v}) for key, values in ANALYZE.items() for i, v in enumerate(values)},
    **{f"measure {key} {i}": measure(**{key: v}) for key, values in MEASURE.items() for i, v in enumerate(values)},
    **{f"record {key} {i}": recorder(**{key: v}) for key, values in RECORD.items() for i, v in enumerate(values)},
    **{
        f"{name} {key} {i}": way(name, **{key: v})
        for way, table in ((of_a_run, RUNS), (of_regions, REGION))
        for name, keys in table.items() for key, values in keys.items() for i, v in enumerate(values)
    },
    "a state of nothing": resumed(None),
    "a state of a text": resumed("state.pt"),
    "a state of a model": lambda a: cg.TrajectoryRecorder(a.net, a.sgd).load_state_dict(a.net.state_dict()),
    "a state of too little": resumed({"step": 3}),
    "a state of a text step": resumed({"step": "3"}),
    "a balance of a path": lambda a: tr.first_layer_balance("run", "run"),
    "a norm of a path": lambda a: tr.first_layer_norm("run"),
    "instances of one": lambda a: tr.count_instances(theorem1(a.regions.run)),
    "instances of texts": lambda a: tr.count_instances(["a"]),
    "a cover of a text": lambda a: tr.greedy_cover("a", 1.0),
    "a cover of texts": lambda a: tr.greedy_cover([["a"]], 1.0),
    "a cover by a text": lambda a: tr.greedy_cover(X, "a"),
    "a manifold of a text": lambda a: tr.manifold_cover(1.0, "a", 1.0),
    "a dimension of nothing": lambda a: tr.intrinsic_dimension(None),
    "a dimension of a share": lambda a: tr.intrinsic_dimension(X, kept=3),
    "an assumption on a model": lambda a: tr.assumption1(a.regions.graph, a.regions.net, X),
    "an assumption on every": lambda a: tr.assumption1(a.regions.graph, [a.regions.net], X, every="a"),
    "an assumption at nothing": lambda a: tr.assumption1(a.regions.graph, [a.regions.net], None),
    "patterns at a text": lambda a: tr.patterns(a.regions.graph, a.regions.net, "a"),
    "patterns of a model": lambda a: tr.patterns(a.regions.net, a.regions.net, X),
    "dropout of a list": lambda a: tr.Dropout([nn.Linear(4, 3)]),
    "dropout by a text": lambda a: tr.Dropout(nn.Sequential(nn.Linear(4, 3)), p="a"),
    "dropout of one type": lambda a: tr.Dropout(nn.Sequential(nn.Linear(4, 3)), affine=nn.Tanh),
    "a column of a list": lambda a: a.regions.run[["loss"]],
    "a variance from a text": lambda a: a.regions.run.variance("a"),
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REGION)
def test_the_table_of_regions_starts_from_what_is_taken(name: str) -> None:
    of_regions(name)(made())


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
