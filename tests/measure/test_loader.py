"""Bad input of every kind: each has its own error, which says where and what to do."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import MLP, NETWORKS, mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from covergraph.bound.derive import derive
from covergraph.errors import (
    CovergraphError,
    EmptyLoaderError,
    ForeignModelError,
    GraphError,
    LabelError,
    LoaderChangedError,
    NonFiniteError,
    UnsupportedOperationError,
)
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.functions import TANH
from covergraph.graph.losses import LipschitzLoss
from covergraph.graph.node import Node
from covergraph.measure.loader import Batch, Census, census
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment

NET = mlp()
BOUND = NET.bound()
(X,), Y = NET.sample(12)


def refused(error: type[CovergraphError], pattern: str, loader: Any, **options: Any) -> None:
    with pytest.raises(error, match=pattern):
        measure(BOUND, NET.module, loader, **options)


def in_two(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x[:8], y[:8]), (x[8:], y[8:])]


def changed(tensor: Tensor, at: int | tuple[int, int], value: float) -> Tensor:
    result = tensor.clone()
    result[at] = value
    return result


def test_the_sample_itself_is_accepted() -> None:
    assert measure(BOUND, NET.module, in_two(X, Y)).n == 12


@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
def test_data_that_are_not_finite_name_the_node_and_the_sample(value: float, word: str) -> None:
    refused(
        NonFiniteError,
        rf"node 'x' is {word} on sample 9,.*clean the data",
        in_two(changed(X, (9, 2), value), Y),
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    net = mlp()
    with torch.no_grad():
        net.module.f2.weight[1, 1] = value
    graph = ComputationGraph(net.graph.nodes, "f3", fingerprint(net.graph.nodes, net.module))
    with pytest.raises(NonFiniteError, match=r"entry 'f2.weight' of the model's state holds (NaN|infinite)"):
        measure(derive(augment(graph)), net.module, in_two(X, Y))


@pytest.mark.parametrize("loader", [[], [(X[:0], Y[:0])]], ids=["no batch", "an empty batch"])
def test_empty_loader(loader: Any) -> None:
    refused(EmptyLoaderError, "0 samples, expected at least 1", loader)


def test_batches_without_samples_are_skipped() -> None:
    assert measure(BOUND, NET.module, [(X[:0], Y[:0]), (X, Y), (X[:0], Y[:0])]).n == 12


def test_generator_that_is_used_up() -> None:
    refused(LoaderChangedError, "gives its batches once", iter(in_two(X, Y)))


@dataclass
class Passes:
    """Gives another list of batches in each pass."""

    make: Callable[[int], list[Any]]
    count: int = 0

    def __iter__(self) -> Iterator[Any]:
        self.count += 1
        return iter(self.make(self.count))


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda k: in_two(X + 1e-12 * k, Y), "changed samples.*random augmentation"),
        (lambda k: in_two(X, Y if k == 1 else 2 - Y), "changed samples"),
        (lambda k: [(X, Y.roll(k))], "changed samples"),
        (lambda k: in_two(X, Y)[:k], "8 samples in the first pass and 12 in the second"),
        (lambda k: in_two(X, Y)[: 3 - k], "12 samples in the first pass and 8 in the second"),
        (
            lambda k: [(X[[0, 0, 1, 1]], Y[[0, 0, 1, 1]]) if k == 1 else (X[[0, 0, 0, 1]], Y[[0, 0, 0, 1]])],
            "changed",
        ),
    ],
    ids=["noise", "labels", "labels shuffled alone", "more", "fewer", "multiplicity"],
)
def test_passes_must_give_the_same_samples(make: Callable[[int], list[Any]], pattern: str) -> None:
    refused(LoaderChangedError, pattern, Passes(make), duplicates="iid")


def test_dropping_the_last_batch_of_a_shuffle_changes_the_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(X, Y), 5, shuffle=True, drop_last=True, generator=generator)
    refused(LoaderChangedError, "over its 10 samples.*drop_last", loader)


def test_another_order_and_other_batches_are_the_same_samples() -> None:
    order = torch.randperm(12)
    loader = Passes(
        lambda k: in_two(X, Y) if k == 1 else [(X[order][:5], Y[order][:5]), (X[order][5:], Y[order][5:])]
    )
    assert measure(BOUND, NET.module, loader).n == 12
    assert loader.count == 2


def test_census_tells_which_label_belongs_to_which_sample() -> None:
    one = census(Census(0, 0), Batch((X[:2],), torch.tensor([0, 1]), 0))
    other = census(Census(0, 0), Batch((X[:2],), torch.tensor([1, 0]), 0))
    turned = census(Census(0, 0), Batch((X[[1, 0]],), torch.tensor([1, 0]), 0))
    assert one != other and one == turned


@pytest.mark.parametrize("value", [3, -1, 2**40])
def test_labels_out_of_range_name_the_sample(value: int) -> None:
    refused(
        LabelError,
        rf"starts at sample 8: .*sample 2 of the batch has label {value}.*0\.\.2",
        in_two(X, changed(Y, 10, value)),
    )


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf])
def test_labels_must_be_whole(value: float) -> None:
    refused(LabelError, "sample 2 of the batch", in_two(X, changed(Y.double(), 10, value)))


@pytest.mark.parametrize(
    "labels",
    [Y[:11], torch.cat([Y, Y]), nn.functional.one_hot(Y, 4), torch.tensor(1)],
    ids=["fewer", "more", "one-hot of other classes", "scalar"],
)
def test_one_label_per_sample(labels: Tensor) -> None:
    refused(LabelError, "one label per sample", [(X, labels)])


def test_labels_of_other_forms_that_are_right() -> None:
    expected = measure(BOUND, NET.module, [(X, Y)]).margins
    hot = nn.functional.one_hot(Y, 3)
    rows: list[Any] = [hot, hot.bool(), hot.numpy() * 1.0]
    for labels in (Y.to(torch.uint8), Y.double(), Y[:, None], Y.numpy(), Y.tolist(), *rows):
        np.testing.assert_array_equal(measure(BOUND, NET.module, [(X, labels)]).margins, expected)


def test_losses_of_the_user_must_lie_in_the_unit_interval() -> None:
    bound = NET.bound(loss=LipschitzLoss(lambda h, y: h[:, 0].abs() + (y == 7) * 2.0, 1.0, "mine"))
    with pytest.raises(LabelError, match=r"starts at sample 8: loss 'mine'.*expected one value in \[0, 1\]"):
        measure(bound, NET.module, in_two(X, changed(Y, 10, 7)))


@pytest.mark.parametrize(
    ("item", "error", "pattern"),
    [
        (X, LoaderChangedError, "a Tensor of shape .*, expected batches"),
        ({"x": X, "z": Y}, LoaderChangedError, "a dict with the keys 'x', 'z', expected a key for the labels"),
        ((X,), LoaderChangedError, "a tuple of .*, expected batches"),
        ((X, ["cat"] * 12), LoaderChangedError, "labels of the batch that starts at sample 0 .*list"),
        (("cat", Y), LoaderChangedError, "inputs of the batch that starts at sample 0 .*str"),
        ((X.long(), Y), LoaderChangedError, r"torch\.int64; expected floating point"),
        ((X, X, Y), LoaderChangedError, "2 inputs .*expected what forward"),
        ((X[:, :4], Y), GraphError, r"'x' has shape \(12, 4\), expected \(batch, 5\)"),
        ((X[None], Y), GraphError, r"'x' has shape \(1, 12, 5\)"),
    ],
    ids=["tensor", "dict", "no labels", "words", "word", "integers", "two inputs", "width", "axes"],
)
def test_batches_of_another_form(item: Any, error: type[CovergraphError], pattern: str) -> None:
    refused(error, pattern, [item])


def test_inputs_of_unequal_length() -> None:
    net = NETWORKS["two inputs"]()
    (left, right), y = net.sample(6)
    with pytest.raises(LoaderChangedError, match="same number of samples"):
        measure(net.bound(), net.module, [(left, right[:5], y)])


@pytest.mark.parametrize("pack", [tuple, list])
def test_several_inputs_may_come_packed_or_flat(pack: Callable[[Any], Any]) -> None:
    net = NETWORKS["two inputs"]()
    inputs, y = net.sample(6)
    packed = measure(net.bound(), net.module, [(pack(inputs), y)])
    flat = measure(net.bound(), net.module, [[*inputs, y]])
    np.testing.assert_array_equal(packed.margins, flat.margins)


def test_arrays_are_taken_as_tensors() -> None:
    found = measure(BOUND, NET.module, [(X.numpy(), Y.numpy())])
    np.testing.assert_array_equal(found.margins, measure(BOUND, NET.module, [(X, Y)]).margins)


class Sine(MLP):
    """The same weights, another function."""

    def forward(self, x: Tensor) -> Tensor:
        self.activation = torch.sin
        return super().forward(x)


def test_foreign_models() -> None:
    moved = copy.deepcopy(NET.module)
    with torch.no_grad():
        moved.f2.weight[0, 0] += 1e-12
    for other, pattern in (
        (moved, "weights or shapes differ"),
        (mlp(seed=1).module, "weights or shapes differ"),
    ):
        with pytest.raises(ForeignModelError, match=pattern):
            measure(BOUND, other, in_two(X, Y))
    with pytest.raises(ForeignModelError, match=r"'f1'.*no parameter 'f1\.weight'"):
        measure(BOUND, nn.Linear(5, 3), in_two(X, Y))
    sine = Sine((5, 6, 4, 3), False, torch.tanh).double()
    sine.load_state_dict(NET.module.state_dict())
    with pytest.raises(ForeignModelError, match="computes another function on the batch that starts at sample 0"):
        measure(BOUND, sine, in_two(X, Y))
    wide = mlp((5, 6, 4, 4))
    with pytest.raises(ForeignModelError):
        measure(BOUND, wide.module, in_two(X, Y))


def test_measurements_of_another_model_are_refused_by_the_bound() -> None:
    other = mlp(seed=1)
    found = measure(other.bound(), other.module, in_two(X, Y))
    with pytest.raises(ForeignModelError, match="fingerprint"):
        BOUND.evaluate(found)


def test_reference_model_of_other_shapes() -> None:
    refused(ForeignModelError, r"'f3'.*\(4, 4\).*\(3, 4\)", in_two(X, Y), init_model=mlp((5, 6, 4, 4)).module)


@dataclass(frozen=True)
class Cumulative(op.Operation):
    """An operation that covergraph does not know."""


def test_operations_without_rule_are_refused_by_name() -> None:
    nodes = [
        *NET.graph.nodes[:3],
        replace(
            NET.graph["t1"], name="strange", operation=Cumulative(), inputs=("t1",), origin="block.strange"
        ),
        replace(NET.graph["f2"], inputs=("strange",)),
    ]
    graph = ComputationGraph(nodes, "f2")
    with pytest.raises(
        UnsupportedOperationError, match=r"'strange' \(block\.strange\).*'cumulative'.*adding_an_op"
    ):
        augment(graph)


def test_inputs_only_and_nothing_learned_are_refused() -> None:
    nodes = [Node("x", op.Input(), (), (3,)), Node("t", op.Elementwise(TANH), ("x",), (3,))]
    with pytest.raises(GraphError, match="no learned parameter"):
        augment(ComputationGraph(nodes, "t"))
