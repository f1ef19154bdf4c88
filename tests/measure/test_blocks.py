"""Blocks: the same samples together, whatever batches they come in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from handmade import NETWORKS, mlp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from covergraph.errors import LoaderChangedError
from covergraph.measure.blocks import Order, Top, blocks, same_bits, tops_of
from covergraph.measure.loader import Batch

TWO = NETWORKS["two inputs"]()
N = 23
sizes = st.lists(st.integers(0, 9), max_size=12)


def cut(sizes: Sequence[int], *columns: Tensor) -> list[Any]:
    """Batches of these sizes, then one of the rest."""
    ends = [0]
    for size in sizes:
        ends.append(min(ends[-1] + size, len(columns[0])))
    ends.append(len(columns[0]))
    return [tuple(column[i:j] for column in columns) for i, j in pairwise(ends)]


@given(sizes, st.integers(1, 30), st.booleans())
def test_any_batches_give_the_same_blocks(sizes: list[int], size: int, packed: bool) -> None:
    (left, right), y = TWO.sample(N)
    loader = [((a, b), c) if packed else (a, b, c) for a, b, c in cut(sizes, left, right, y)]
    found = list(blocks(loader, TWO.graph, size))
    expected = [range(start, min(start + size, N)) for start in range(0, N, size)]
    assert [range(block.start, block.start + len(block)) for block in found] == expected
    for block, rows in zip(found, expected, strict=True):
        for part, whole in zip((*block.inputs, block.labels), (left, right, y), strict=True):
            assert torch.equal(part, whole[rows.start : rows.stop]) and part.dtype == whole.dtype


@given(sizes, st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_blocks_lie_in_memory_in_the_same_way(sizes: list[int], layout: torch.memory_format) -> None:
    """Views at odd places, or of other strides, could change the bits of products."""
    net = NETWORKS["convolutional"]()
    (x,), y = net.sample(N)
    for block in blocks(cut(sizes, x.contiguous(memory_format=layout), y), net.graph, 4):
        (image,) = block.inputs
        assert image.is_contiguous() and image.storage_offset() == 0
        assert image.untyped_storage().nbytes() == image.nbytes


def test_what_the_loader_overwrites_later_is_kept() -> None:
    """A loader may fill the same tensor again and again."""
    (x,), y = mlp().sample(8)
    buffer = torch.empty(2, 5, dtype=x.dtype)

    def loader() -> Any:
        for i in range(0, 8, 2):
            buffer.copy_(x[i : i + 2])
            yield buffer, y[i : i + 2]

    found = list(blocks(loader(), mlp().graph, 3))
    assert torch.equal(torch.cat([block.inputs[0] for block in found]), x)


@pytest.mark.parametrize("labels", [lambda y: y[:, None], lambda y: y.double()[:, None]])
def test_labels_of_another_form_in_a_later_batch(labels: Any) -> None:
    (x,), y = mlp().sample(8)
    with pytest.raises(LoaderChangedError, match=r"from sample 0 to 4 do not fit together.*convert the dataset"):
        list(blocks([(x[:4], y[:4]), (x[4:], labels(y[4:]))], mlp().graph, 8))


@given(sizes, sizes)
def test_the_digest_of_an_order_does_not_depend_on_batches(one: list[int], other: list[int]) -> None:
    (left, right), y = TWO.sample(N)
    digests = {digest_of(cut(sizes, left, right, y)) for sizes in (one, other)}
    assert len(digests) == 1


@given(st.permutations(range(6)))
def test_the_digest_of_an_order_tells_orders_apart(order: list[int]) -> None:
    (left, right), y = TWO.sample(6)
    plain, turned = (digest_of([(left[rows], right[rows], y[rows])]) for rows in (slice(None), order))
    assert (plain == turned) == (order == sorted(order))


@pytest.mark.parametrize("column", range(3))
def test_the_digest_of_an_order_reads_every_column(column: int) -> None:
    (left, right), y = TWO.sample(6)
    columns = [left, right, y]
    columns[column] = columns[column].flip(0)
    assert digest_of([columns]) != digest_of([(left, right, y)])


def digest_of(batches: Sequence[Sequence[Tensor]]) -> str:
    order = Order()
    for *inputs, labels in batches:
        if len(labels):
            order.add(Batch(tuple(inputs), labels, 0))
    return order.digest()


tops = st.builds(Top, st.floats(0, 5), st.floats(5, 9), st.integers(0, 99))


@given(st.lists(tops, min_size=1, max_size=6))
def test_the_largest_of_several(found: list[Top]) -> None:
    top = found[0]
    for other in found[1:]:
        top = top.or_larger(other)
    assert top.upper == max(one.upper for one in found)
    assert top.lower == max(one.lower for one in found)
    assert top.sample == next(one.sample for one in found if one.upper == top.upper)


def test_tops_name_the_sample_in_the_loader() -> None:
    found = tops_of({("w", "a"): torch.tensor([1.0, 3.0, 2.0])}, {("w", "a"): 2.5}, start=10)
    assert found == {("w", "a"): Top(2.5, 3.0, 11)}


def test_settings_of_cudnn_are_restored() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with same_bits():
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert (cudnn.deterministic, cudnn.benchmark) == before
