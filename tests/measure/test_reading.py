"""Batches in the forms that users have are all read alike; what is none of them is refused with what it is."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import covergraph as cg
from covergraph.errors import CovergraphError, LabelError, LoaderChangedError, NonFiniteError, TracingError
from covergraph.graph.losses import LipschitzLoss

N = 12
GENERATOR = torch.Generator().manual_seed(0)
LEFT, RIGHT = torch.randn(N, 3, generator=GENERATOR), torch.randn(N, 2, generator=GENERATOR)
Y = torch.randint(0, 3, (N,), generator=GENERATOR)
Named = namedtuple("Named", ["left", "right", "label"])


class Two(nn.Module):
    """Two inputs by name, and one that is never given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, ignored: Tensor | None = None, right: Tensor | None = None) -> Tensor:
        return torch.tanh(self.a(left)) + (0 if right is None else torch.tanh(self.b(right)))


class Listed(Two):
    """The same inputs in one list."""

    def forward(self, views: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(views[0], None, views[1])


@dataclass
class Record:
    left: Any
    right: Any
    labels: Any


class Odd:
    """A batch that is none of the forms."""

    left, right, y = LEFT, RIGHT, Y


class Rows(Dataset[Any]):
    def __init__(self, kind: Callable[[dict[str, Any], Any], Any]) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return self.kind({"left": LEFT[i], "right": RIGHT[i]}, int(Y[i]))


def value(model: nn.Module, loader: Any, **options: Any) -> float:
    return cg.analyze(model, loader, fill=True, progress=False, **options).certificate.value


EXPECTED = value(Two(), [({"left": LEFT, "right": RIGHT}, Y)])
FIELDS: dict[str, Any] = {"left": LEFT, "right": RIGHT}
FORMS: dict[str, Any] = {
    "mapping": [FIELDS | {"labels": Y}],
    "ordered, other key": [OrderedDict(target=Y, **FIELDS)],
    "user dict": [UserDict(FIELDS | {"label": Y})],
    "arrays": [{"left": LEFT.numpy(), "right": RIGHT.numpy(), "y": Y.numpy()}],
    "data frames": [({"left": pd.DataFrame(LEFT.numpy()), "right": pd.DataFrame(RIGHT.numpy())}, pd.Series(Y.numpy()))],
    "data class": [Record(LEFT, RIGHT, Y)],
    "named tuple": [Named(LEFT, RIGHT, Y)],
    "none among them": [FIELDS | {"ignored": None, "labels": Y}],
    "data set of mappings": Rows(lambda x, y: x | {"labels": y}),
    "data set of pairs": Rows(lambda x, y: (x, y)),
    "a part of one": Subset(Rows(lambda x, y: (x, y)), range(N)),
    "loader": DataLoader(Rows(lambda x, y: x | {"labels": y}), 5),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_by_name(form: str) -> None:
    assert value(Two(), FORMS[form]) == EXPECTED


@pytest.mark.parametrize(
    "batch", [([LEFT, RIGHT], Y), (([LEFT, RIGHT],), Y), ({"views": [LEFT, RIGHT]}, Y)], ids=["list", "tuple", "name"]
)
def test_one_argument_that_is_a_list(batch: Any) -> None:
    assert value(Listed(), [batch]) == EXPECTED


def test_an_odd_batch_has_its_own_function() -> None:
    for batch_to in (
        lambda b: ({"left": b.left, "right": b.right}, b.y),
        lambda b: ((b.left, None, b.right), b.y),
    ):
        assert value(Two(), [Odd()], batch_to=batch_to) == EXPECTED
    with pytest.raises(LoaderChangedError, match=r"a Odd, expected batches.*batch_to"):
        value(Two(), [Odd()])
    with pytest.raises(LoaderChangedError, match="batch_to gave a Tensor of shape"):
        value(Two(), [Odd()], batch_to=lambda b: b.left)


PLAIN = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
PLAIN_VALUE = value(PLAIN, [(LEFT, Y)])
MIXED: dict[str, Any] = {
    "whole arrays": (LEFT, Y),
    "whole data frames": (pd.DataFrame(LEFT.numpy()), pd.Series(Y.numpy())),
    "tensor data set": TensorDataset(LEFT, Y),
    "int and float labels": [(LEFT[:5], Y[:5]), (LEFT[5:], Y[5:].double())],
    "int64 and int32 labels": [(LEFT[:5], Y[:5]), (LEFT[5:], Y[5:].int())],
    "single and double inputs": [(LEFT[:5], Y[:5]), (LEFT[5:].double(), Y[5:])],
    "a column and a row of labels": [(LEFT[:5], Y[:5, None]), (LEFT[5:], Y[5:])],
    "one-hot and classes": [(LEFT[:5], nn.functional.one_hot(Y[:5], 3)), (LEFT[5:], Y[5:])],
    "another key": [{"image": LEFT, "label": Y}],
    "the first of three": DataLoader(TensorDataset(LEFT, Y, torch.arange(N)), 5),
    "list of samples": list(TensorDataset(LEFT, Y)),
    "list of samples with numbers": [(x, int(y)) for x, y in zip(LEFT, Y, strict=True)],
    "list of samples of arrays": [(x.numpy(), y.numpy()) for x, y in zip(LEFT, Y, strict=True)],
    "list of samples by name": [{"input": x, "labels": y} for x, y in zip(LEFT, Y, strict=True)],
}


@pytest.mark.parametrize("form", MIXED)
def test_types_do_not_count_if_the_values_are_the_same(form: str) -> None:
    options = {"batch_to": lambda b: (b[0], b[1])} if form == "the first of three" else {}
    assert value(PLAIN, MIXED[form], **options) == PLAIN_VALUE


SOFT = torch.full((N, 3), 1 / 3)


@pytest.mark.parametrize(
    ("loader", "error", "pattern"),
    [
        ([(LEFT, Y, torch.arange(N))], LoaderChangedError, r"2 inputs .*forward.*takes.*batch_to"),
        ([FIELDS | {"labels": Y}], TracingError, r"'input.right': \(2, 2\).*if that is wrong, pass batch_to"),
        (
            [FIELDS | {"labels": Y}], TracingError,
            r"forward has no argument 'left', 'right' .its arguments are 'input'..*rename keys",
        ),
        (DataLoader(TensorDataset(LEFT, Y), batch_size=None), LabelError, r"one sample and no batch.*DataLoader\("),
        ([(x, SOFT[0]) for x in LEFT[:, None]], LabelError, r"one sample and no batch.*DataLoader\("),
        ([(LEFT[0], 0), (LEFT[1, :2], 1)], LoaderChangedError, r"cannot be joined to a batch.*collate_fn"),
        ([(object(), 0)] * N, LoaderChangedError, r"a tuple of object, int cannot be joined.*convert them in the data"),
        ([{"left": LEFT}], LoaderChangedError, r"a dict with the keys 'left', expected a key for the labels"),
        ([(LEFT, SOFT)], LabelError, r"sample 0 has the label .*expected a class or a one-hot row"),
        ([(LEFT.to_sparse(), Y)], LoaderChangedError, r"sparse_coo.*expected dense tensors"),
        ((LEFT * 255).byte().numpy(), LoaderChangedError, r"the loader is a ndarray, expected inputs.*pair \(X, Y\)"),
        ([LEFT, Y], LoaderChangedError, r"the loader is a list of arrays, .*pair \(X, Y\)"),
        (pd.DataFrame(LEFT.numpy()), LoaderChangedError, r"the loader is a DataFrame.*frame\.drop"),
        (PLAIN, LoaderChangedError, "the loader is of type Sequential"),
        ("data.npz", LoaderChangedError, "the loader is of type str"),
        (5, LoaderChangedError, "the loader is of type int"),
        ([(LEFT, [*Y.tolist()[:-1], "cat"])], LoaderChangedError, "labels .*list"),
    ],
    ids=[
        "index", "keys", "names", "samples", "soft samples", "ragged samples", "odd samples", "no labels", "soft",
        "sparse", "array", "arrays", "frame", "model", "path", "number", "words",
    ],
)
def test_what_is_none_of_the_forms_is_named(loader: Any, error: type[CovergraphError], pattern: str) -> None:
    with pytest.raises(error, match=pattern):
        value(PLAIN, loader)


def test_bytes_are_to_be_converted_as_in_training() -> None:
    pixels = torch.randint(0, 256, (N, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with pytest.raises(CovergraphError, match=r"uint8.*batch_to=.*/ 255"):
        value(PLAIN, [(pixels, Y)])
    scaled = value(PLAIN, [(pixels / 255, Y)])
    assert value(PLAIN, [(pixels, Y)], batch_to=lambda b: (b[0] / 255, b[1])) == scaled


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("first", [nn.ReLU(), nn.Hardtanh(), nn.Identity()], ids=["relu", "hardtanh", "identity"])
def test_inputs_that_are_not_finite_are_errors_on_every_network(first: nn.Module, bad: float) -> None:
    """Also where a clamp makes them finite again."""
    x = LEFT.clone()
    x[7, 1] = bad
    net = nn.Sequential(first, nn.Hardtanh(), copy.deepcopy(PLAIN))
    with pytest.raises(NonFiniteError, match=r"node 'input' is (NaN|infinite) on sample 7"):
        value(net, [(x[:5], Y[:5]), (x[5:], Y[5:])])


def test_labels_of_one_s_own_loss_are_finite_and_its_values_in_the_unit_interval() -> None:
    target = LEFT[:, 0].clone()
    loss = LipschitzLoss(lambda h, y: ((h[:, 0] - y).abs() / 10).clamp(max=1), 0.1)
    assert value(PLAIN, [(LEFT, target)], loss=loss) > 0
    target[3] = float("nan")
    with pytest.raises(NonFiniteError, match="the label is NaN on sample 3"):
        value(PLAIN, [(LEFT, target)], loss=loss)
    with pytest.raises(LabelError, match=r"the first outside being 1\.\d+, expected one value in \[0, 1\]"):
        value(PLAIN, [(LEFT, Y)], loss=LipschitzLoss(lambda h, y: h[:, 0] * 0 + 1.5, 1.0))


class Mixing(Listed):
    """Samples look at each other as soon as there are more than eight."""

    def forward(self, views: list[Tensor]) -> Tensor:  # type: ignore[override]
        left = views[0] - views[0].mean(0) if len(views[0]) > 8 else views[0]
        return super().forward([left, views[1]])


def test_a_model_is_compared_with_its_graph_however_it_is_called() -> None:
    with pytest.raises(CovergraphError, match="computes another function"):
        value(Mixing(), [([LEFT, RIGHT], Y)])
    one, other = Listed(), Listed()
    with torch.no_grad():
        other.a.weight.mul_(1.5)
    assert value(one, [([LEFT, RIGHT], Y)], init_model=other) != EXPECTED


def test_labels_that_forward_would_take_for_an_optional_argument_are_asked_for() -> None:
    """(x, y, index) must not become forward(x, y) with the index as labels; a column that forward needs may."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.o = nn.Linear(3, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.tanh(self.o(x)) if mask is None else torch.tanh(self.o(x)) * mask[:, None]

    class Needed(Masked):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, mask)

    with pytest.raises(LoaderChangedError, match=r"the last two may both be labels.*batch_to"):
        value(Masked(), [(LEFT, Y, torch.arange(N) % 3)])
    weights = torch.rand(N, generator=torch.Generator().manual_seed(2)) + 1
    assert value(Masked(), [(LEFT, weights, Y)]) == value(Needed(), [(LEFT, weights, Y)])
    assert value(Needed(), [(LEFT, torch.ones(N), Y)]) > 0


def in_parts() -> Iterator[Any]:
    yield from zip(LEFT.split(5), Y.split(5), strict=True)


ONCE: dict[str, Callable[[], Iterable[Any]]] = {
    "generator": in_parts,
    "expression": lambda: (batch for batch in in_parts()),
    "zip": lambda: zip(LEFT.split(5), Y.split(5), strict=True),
    "map": lambda: map(tuple, in_parts()),
    "iterator of a list": lambda: iter(list(in_parts())),
    "iterator of a loader": lambda: iter(DataLoader(TensorDataset(LEFT, Y), 5)),
    "chain": lambda: chain(in_parts()),
}


@pytest.mark.parametrize("kind", ONCE)
def test_what_can_be_read_once_is_refused_before_anything_is_read(kind: str) -> None:
    loader = ONCE[kind]()
    with pytest.raises(LoaderChangedError, match=r"gives its batches once.*list\(loader\).*DataLoader"):
        value(PLAIN, loader)
    assert value(PLAIN, list(loader)) == PLAIN_VALUE


class Again:
    """An iterator that begins again."""

    def __iter__(self) -> Again:
        self.parts = in_parts()
        return self

    def __next__(self) -> Any:
        return next(self.parts)


def test_an_iterator_that_begins_again_is_read_again() -> None:
    assert value(PLAIN, Again()) == PLAIN_VALUE


class Whole(Two):
    """One mapping as its argument, whatever its keys."""

    def forward(self, batch: Any) -> Tensor:  # type: ignore[override]
        return super().forward(batch["left"], None, batch["right"])


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_a_forward_of_one_mapping_takes_it_whole(kind: type) -> None:
    assert value(Whole(), [kind(FIELDS | {"labels": Y})]) == EXPECTED
    assert value(Whole(), [(kind(FIELDS), Y)]) == EXPECTED


def test_a_key_that_forward_lacks_is_named_with_the_arguments_that_it_has() -> None:
    renamed = {"left": LEFT, "wrong": RIGHT, "labels": Y}
    with pytest.raises(CovergraphError, match=r"no argument 'wrong' .its arguments are 'left', 'ignored', 'right'."):
        value(Two(), [renamed])
    bound = cg.derive(cg.augment(cg.trace(Two(), (LEFT, None, RIGHT))))
    with pytest.raises(CovergraphError, match=r"no argument 'wrong' .its arguments are 'left', 'ignored', 'right'."):
        cg.measure(bound, Two(), [renamed], fill=True)
